import { setTimeout as sleep } from "node:timers/promises";
import type { Logger } from "pino";
import { reason } from "../errors.ts";
import type { Engine } from "./engine.ts";

/** Milliseconds until an engine that does not answer is tried again. */
const RETRY_MS = 1000;
/** Milliseconds between two comparisons with the same engine. */
const INTERVAL_MS = 60_000;

/**
 * Compares with the engine as soon as one has started, and every minute while it lives: it forgets networks and
 * endpoints when it is killed, and tells nobody.
 */
export class EngineWatch {
  readonly #engine: Pick<Engine, "live">;
  readonly #compare: (end: AbortSignal) => Promise<number | undefined>;
  readonly #log: Logger;
  readonly #stopping = new AbortController();
  #running: Promise<void> = Promise.resolve();

  /** @param compare resolves to the milliseconds after which it has more to say, if that is soon */
  constructor(
    engine: Pick<Engine, "live">,
    compare: (end: AbortSignal) => Promise<number | undefined>,
    log: Logger,
  ) {
    this.#engine = engine;
    this.#compare = compare;
    this.#log = log;
  }

  start(): void {
    this.#running = this.#run(this.#stopping.signal);
  }

  /** Stops, and waits for a comparison under way. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#running;
  }

  async #run(stopping: AbortSignal): Promise<void> {
    while (!stopping.aborted) {
      const life = await this.#engine.live(stopping).catch(() => undefined);
      if (life) await this.#accompany(AbortSignal.any([stopping, life]));
      else await pause(RETRY_MS, stopping);
    }
  }

  /** @param end of this engine */
  async #accompany(end: AbortSignal): Promise<void> {
    let told = "";
    while (!end.aborted) {
      let again: number | undefined;
      try {
        again = await this.#compare(end);
        told = "";
      } catch (error) {
        const why = reason(error);
        if (why !== told)
          this.#log.info({ reason: why }, "could not compare with the engine; will try again");
        told = why;
        again = RETRY_MS;
      }
      await pause(again ?? INTERVAL_MS, end);
    }
  }
}

async function pause(ms: number, end: AbortSignal): Promise<void> {
  await sleep(ms, undefined, { signal: end }).catch(() => undefined);
}
