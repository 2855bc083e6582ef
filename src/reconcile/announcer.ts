import type { Logger } from "pino";
import type { Engine } from "../docker/engine.ts";
import { announce } from "../kernel/announce.ts";
import { Sandbox } from "../kernel/sandbox.ts";
import { type Endpoint, bareAddresses } from "../model.ts";
import { linkAlias } from "../names.ts";

/** From this version on the engine announces addresses itself. */
const ENGINE_ANNOUNCES = 28;
const VERSION_MS = 60_000;
/** As often as that engine does it by default, in case a packet is lost. */
const ROUNDS = 3;
const ROUND_MS = 1000;
/** The engine takes some milliseconds from moving a link to bringing it up; it is waited for 5 s. */
const LOOK_MS = 25;
const LOOKS = 200;

/**
 * Tells a LAN that a container's address is at its MAC now, for engines that do not. Otherwise whoever spoke to a
 * former owner of the address, or to the container on another host, would go on sending there for minutes.
 */
export class Announcer {
  readonly #engine: Pick<Engine, "version">;
  readonly #log: Logger;
  /** Asked again after a while: the engine may be another one after it was restarted. */
  #version: { readonly asked: number; readonly text: Promise<string> } | undefined;
  readonly #timers = new Set<NodeJS.Timeout>();
  #stopped = false;

  constructor(engine: Pick<Engine, "version">, log: Logger) {
    this.#engine = engine;
    this.#log = log;
  }

  /** The engine has moved the endpoint's link into the sandbox. */
  moved(endpoint: Endpoint): void {
    this.#after(0, async () => {
      if (!(await this.#engineAnnounces())) await this.#look(endpoint, LOOKS);
    });
  }

  /** Announces nothing more. */
  stop(): void {
    this.#stopped = true;
    for (const timer of this.#timers) clearTimeout(timer);
  }

  async #engineAnnounces(): Promise<boolean> {
    const now = performance.now();
    if (!this.#version || now - this.#version.asked > VERSION_MS)
      this.#version = { asked: now, text: this.#engine.version() };
    try {
      return Number.parseInt(await this.#version.text) >= ENGINE_ANNOUNCES;
    } catch {
      // No answer: once too often does no harm.
      this.#version = undefined;
      return false;
    }
  }

  async #look(endpoint: Endpoint, looks: number): Promise<void> {
    if (await tell(endpoint))
      for (let round = 1; round < ROUNDS; round += 1)
        this.#after(round * ROUND_MS, async () => {
          await tell(endpoint);
        });
    else if (looks > 1) this.#after(LOOK_MS, () => this.#look(endpoint, looks - 1));
  }

  #after(ms: number, fn: () => Promise<void>): void {
    if (this.#stopped) return;
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      fn().catch((error: unknown) => {
        this.#log.warn({ err: error }, "a container's address could not be announced");
      });
    }, ms);
    this.#timers.add(timer);
  }
}

/** Resolves to false while the link is not up. */
async function tell(endpoint: Endpoint): Promise<boolean> {
  const told = await Sandbox.within(endpoint.sandbox ?? "", async (inside) => {
    const link = (await inside.links.list()).find(
      ({ alias }) => alias === linkAlias("endpoint", endpoint.id),
    );
    if (!link?.up) return false;
    announce(inside.netns, link, bareAddresses(endpoint));
    return true;
  });
  return told ?? false;
}
