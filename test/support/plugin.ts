import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Router } from "express";
import { type Listener, listen } from "../../src/api/listen.ts";
import { networkDriver } from "../../src/api/network-driver.ts";
import { createServer } from "../../src/api/server.ts";
import { Driver } from "../../src/driver.ts";
import { State } from "../../src/store/state.ts";
import type { Store } from "../../src/store/store.ts";
import { FakeBackend } from "./fake-backend.ts";
import { ALL_KNOWN } from "./known.ts";
import { type LogLine, memoryLog } from "./log.ts";
import { openStore } from "./store.ts";
import { World } from "./world.ts";

/** Nothing is ever on the host that no record is of. */
const NO_ORPHANS = { deleted: () => Promise.resolve() };

/** The daemon's server, driver and store on a socket of its own, with a {@link World} for a host. */
export class Plugin {
  readonly world = new World();
  readonly socket: string;
  /** What it logged, the newest last. */
  readonly lines: LogLine[];
  readonly #dir: string;
  readonly #store: Store;
  readonly #server: Listener;

  private constructor(parts: {
    dir: string;
    store: Store;
    server: Listener;
    world: World;
    lines: LogLine[];
  }) {
    this.#dir = parts.dir;
    this.socket = join(parts.dir, "tsnet.sock");
    this.#store = parts.store;
    this.#server = parts.server;
    this.world = parts.world;
    this.lines = parts.lines;
  }

  static async start(): Promise<Plugin> {
    const dir = await mkdtemp(join(tmpdir(), "tsnet-test-"));
    const { log, lines } = memoryLog();
    const world = new World();
    const store = openStore(join(dir, "state"));
    const driver = new Driver(new State(store), { bridge: new FakeBackend(world) }, ALL_KNOWN, log);
    const server = await listen(
      createServer(networkDriver(driver, NO_ORPHANS), log, Router()),
      join(dir, "tsnet.sock"),
      log,
    );
    return new Plugin({ dir, store, server, world, lines });
  }

  /** All there is: records by key without their times, and things. */
  contents(): { records: Record<string, unknown>; things: string[] } {
    const records = this.#store
      .list("")
      .map(({ key, value }) => [key, { ...(value as object), createdAt: 0 }] as const);
    return { records: Object.fromEntries(records), things: [...this.world.things].sort() };
  }

  /** Stops listening and lets requests in flight finish, as the daemon does at SIGTERM. */
  async close(): Promise<void> {
    await this.#server.close();
  }

  /** Ends it and removes its files. */
  async stop(): Promise<void> {
    this.world.pause = () => Promise.resolve();
    await this.close();
    await this.#store.close();
    await rm(this.#dir, { recursive: true });
  }
}
