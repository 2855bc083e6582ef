import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createBackends } from "../../src/backends/index.ts";
import { Publisher } from "../../src/backends/publisher.ts";
import { Driver } from "../../src/driver.ts";
import { Firewall } from "../../src/firewall/firewall.ts";
import type { EngineBridge } from "../../src/firewall/layout.ts";
import { Host } from "../../src/kernel/host.ts";
import type { Endpoint } from "../../src/model.ts";
import { Reconciler } from "../../src/reconcile/reconciler.ts";
import { State } from "../../src/store/state.ts";
import type { Store } from "../../src/store/store.ts";
import { Faults } from "./faults.ts";
import { ALL_KNOWN } from "./known.ts";
import { memoryLog } from "./log.ts";
import { openStore } from "./store.ts";

/** The bridge of the engine's own network. */
export const DOCKER0: EngineBridge = { name: "docker0", internal: false, subnets: ["172.17.0.0/16"] };

/** What is made anew at each start. */
interface Parts {
  readonly store: Store;
  readonly state: State;
  readonly host: Host;
  readonly firewall: Firewall;
  readonly publisher: Publisher;
  readonly driver: Driver;
  readonly reconciler: Reconciler;
}

/** Everything the daemon is made of but its server, on the namespace that the test runs in. */
export class Site {
  readonly faults = new Faults();
  readonly #log = memoryLog();
  /** What it logged, the newest last. */
  readonly lines = this.#log.lines;
  /** Bridges that an engine would have. */
  engineBridges: readonly EngineBridge[] = [];
  /** Ids of endpoints whose links the engine was seen to take, where there are neighbours beyond the host. */
  readonly moved: string[] = [];
  /** Ids of the networks and endpoints that an engine would know; without it no engine answers. */
  engineKnows: readonly string[] | undefined;
  /** A bridge that a network of the engine's own driver would have. */
  engineHasBridge: string | undefined;
  /** Ids of the networks that an engine would list when it is asked about orphans. */
  engineNetworks: ReadonlySet<string> | undefined = new Set();
  readonly #dir: string;
  #parts: Parts;

  /** @param parent where its state is kept, in a directory of its own */
  constructor(parent = tmpdir()) {
    this.#dir = mkdtempSync(join(parent, "tsnet-test-"));
    this.#parts = this.#build();
  }

  get driver(): Driver {
    return this.#parts.driver;
  }

  get reconciler(): Reconciler {
    return this.#parts.reconciler;
  }

  get firewall(): Firewall {
    return this.#parts.firewall;
  }

  get host(): Host {
    return this.#parts.host;
  }

  /** Every record by key, without its time. */
  records(): Record<string, unknown> {
    const all = this.#parts.store
      .list("")
      .map(({ key, value }) => [key, { ...(value as object), createdAt: 0 }] as const);
    return Object.fromEntries(all);
  }

  /** Repairs and sweeps, as at the daemon's start and every minute. @returns how much drift of each kind there was */
  async reconcile(): Promise<Record<string, number>> {
    const before = new Map(this.reconciler.health.drift);
    await this.reconciler.everything();
    await this.#catchUp(this.#parts);
    const counted = [...this.reconciler.health.drift].map(
      ([kind, count]) => [kind, count - (before.get(kind) ?? 0)] as const,
    );
    return Object.fromEntries(counted.filter(([, count]) => count > 0));
  }

  /** When it last repaired something, in milliseconds since 1970. */
  get repairedAt(): number {
    const repairs = this.lines.filter(({ msg }) => msg === "drift repaired");
    return Number(repairs.at(-1)?.["time"] ?? 0);
  }

  /** Ends it and starts it again on the same state. @param meanwhile what happens in between */
  async restart(meanwhile: () => Promise<unknown> = () => Promise.resolve()): Promise<void> {
    await this.#close();
    await meanwhile();
    this.#parts = this.#build();
    await this.driver.ports.reserve();
  }

  /** Ends it and removes its state. What it made on the host stays. */
  async stop(): Promise<void> {
    await this.#close();
    rmSync(this.#dir, { recursive: true });
  }

  #build(): Parts {
    const { log } = this.#log;
    const store = openStore(this.#dir);
    const state = new State(store);
    const host = new Host((error) => {
      log.error({ err: error }, "links could not be deleted");
    });
    const firewall = new Firewall();
    const publisher = new Publisher(host, firewall);
    const backends = Object.entries(
      createBackends(host, firewall, publisher, { 4: "0.0.0.0", 6: "::" }, state, {
        knowsBridge: (name) => Promise.resolve(name === this.engineHasBridge),
      }),
    ).map(([name, backend]) => [name, this.faults.wrap(backend)] as const);
    const driver = new Driver(state, Object.fromEntries(backends), ALL_KNOWN, log);
    const companions = {
      onBridge: async () => {
        firewall.setEngineBridges(this.engineBridges);
      },
      askForBridges: () => Promise.resolve(false),
      engineNetworks: () => Promise.resolve(this.engineNetworks),
      onMoved: ({ id }: Endpoint) => void this.moved.push(id),
    };
    const reconciler = new Reconciler(driver, state, host, firewall, companions, log);
    return { store, state, host, firewall, publisher, driver, reconciler };
  }

  /** As docker/catch-up.ts, without its wait for what the engine may still be making. */
  async #catchUp({ driver, state }: Parts): Promise<void> {
    const known = this.engineKnows;
    if (known === undefined) return;
    for (const { id } of state.networks()) {
      for (const endpoint of state.endpoints(id))
        if (!known.includes(endpoint.id)) await driver.deleteEndpoint(id, endpoint.id);
      if (!known.includes(id)) await driver.deleteNetwork(id);
    }
  }

  async #close(): Promise<void> {
    const { reconciler, store, firewall, publisher, host } = this.#parts;
    await reconciler.stop();
    await store.close();
    firewall.close();
    publisher.close();
    await host.close();
  }
}
