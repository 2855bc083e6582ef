import { setTimeout as sleep } from "node:timers/promises";
import type { Logger } from "pino";
import { reason } from "../errors.ts";
import type { Engine } from "./engine.ts";

/** Milliseconds until an engine that does not answer is tried again. */
const RETRY_MS = 1000;
/** Milliseconds after which that is told of: one that starts when the machine does takes some. */
const PATIENCE_MS = 30_000;
/** Milliseconds between two comparisons with the same engine. */
const INTERVAL_MS = 60_000;

/**
 * Compares with the engine as soon as one has started, and every minute while it lives: it forgets networks and
 * endpoints when it is killed, and tells nobody.
 */
export class EngineWatch {
  readonly #engine: Pick<Engine, "live">;
  readonly #compare: (end: AbortSignal) => Promise<number | undefined>;
  readonly #report: (trouble: string) => void;
  readonly #log: Logger;
  /** Since when it fails, by performance.now(). */
  #since: number | undefined;
  readonly #stopping = new AbortController();
  #running: Promise<void> = Promise.resolve();

  /**
   * @param compare resolves to the milliseconds after which it has more to say, if that is soon
   * @param report is told why no engine can be asked, once that has been so for a while, and an empty text when one can
   */
  constructor(
    engine: Pick<Engine, "live">,
    compare: (end: AbortSignal) => Promise<number | undefined>,
    report: (trouble: string) => void,
    log: Logger,
  ) {
    this.#engine = engine;
    this.#compare = compare;
    this.#report = report;
    this.#log = log;
  }

  start(): void {
    this.#since = performance.now();
    this.#running = this.#run(this.#stopping.signal);
  }

  /** Stops, and waits for a comparison under way. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#running;
  }

  async #run(stopping: AbortSignal): Promise<void> {
    while (!stopping.aborted) {
      try {
        const life = await this.#engine.live(stopping);
        await this.#accompany(AbortSignal.any([stopping, life]));
      } catch (error) {
        this.#failed(error);
      }
      // Also behind an answer: a proxy may close the connection after each.
      await pause(RETRY_MS, stopping);
    }
  }

  #failed(error: unknown): void {
    this.#since ??= performance.now();
    if (performance.now() - this.#since < PATIENCE_MS) return;
    this.#report(
      `cannot be asked (${reason(error)}); does it run, and is --docker-socket right? Until then what it forgets stays, and its own bridges are not known`,
    );
  }

  /** @param end of this engine */
  async #accompany(end: AbortSignal): Promise<void> {
    let told = "";
    while (!end.aborted) {
      let again: number | undefined;
      try {
        again = await this.#compare(end);
        told = "";
        this.#since = undefined;
        this.#report("");
      } catch (error) {
        const why = reason(error);
        if (why !== told)
          this.#log.info({ reason: why }, "could not compare with the engine; will try again");
        told = why;
        this.#failed(error);
        again = RETRY_MS;
      }
      await pause(again ?? INTERVAL_MS, end);
    }
  }
}

async function pause(ms: number, end: AbortSignal): Promise<void> {
  await sleep(ms, undefined, { signal: end }).catch(() => undefined);
}
