import type { Logger } from "pino";
import { reason } from "../errors.ts";

/** Milliseconds until what failed is tried again; twice as long each time that it fails again, up to a minute. */
const RETRY_MS = 1000;
const LONGEST_RETRY_MS = 60_000;

/** Work that was asked for. */
interface Work {
  readonly afterMs: number;
  readonly fn: () => Promise<unknown>;
  /** How long after it failed it is tried again. */
  readonly retryMs: number;
}

/** Work that waits. */
interface Waiting {
  readonly timer: NodeJS.Timeout;
  /** By performance.now(). */
  readonly due: number;
}

/** Work under way. */
interface Running {
  end: Promise<void>;
  /** What was asked for since it began, and is to wait from its end. */
  next?: Work;
}

/**
 * Work that is done once after a while, however often it was asked for until then, and never beside itself: what is
 * asked for faster than it can be done makes no queue.
 */
export class Schedule {
  readonly #log: Logger;
  readonly #waiting = new Map<string, Waiting>();
  readonly #running = new Map<string, Running>();
  /** Why what is under a key failed the last time, while it does. */
  readonly #failures = new Map<string, string>();
  #stopped = false;

  constructor(log: Logger) {
    this.#log = log;
  }

  /**
   * Runs something after a while, and again when it failed: a second later, and then later and later, unless it is
   * asked for meanwhile. While that waits, a second call under its key changes nothing but for a nearer time; while it
   * runs, a call is for the time after.
   */
  soon(key: string, afterMs: number, fn: () => Promise<unknown>): void {
    this.#ask(key, { afterMs, fn, retryMs: RETRY_MS });
  }

  /** Runs something at once. What is asked for under its key meanwhile waits for its end; nothing of it may be under way. */
  async now(key: string, fn: () => Promise<unknown>): Promise<void> {
    await this.#begin(key, { afterMs: 0, fn, retryMs: RETRY_MS });
  }

  /** Runs something a second from now. */
  later(key: string, fn: () => Promise<unknown>): void {
    this.soon(key, RETRY_MS, fn);
  }

  /** Drops what waits, and waits for what is under way. */
  async stop(): Promise<void> {
    this.#stopped = true;
    for (const { timer } of this.#waiting.values()) clearTimeout(timer);
    await Promise.all([...this.#running.values()].map(({ end }) => end));
  }

  #ask(key: string, work: Work): void {
    if (this.#stopped) return;
    const { afterMs } = work;
    const underWay = this.#running.get(key);
    if (underWay) {
      if (!underWay.next || afterMs < underWay.next.afterMs) underWay.next = work;
      return;
    }
    const due = performance.now() + afterMs;
    const waiting = this.#waiting.get(key);
    if (waiting && waiting.due <= due) return;
    clearTimeout(waiting?.timer);
    const timer = setTimeout(() => {
      this.#waiting.delete(key);
      void this.#begin(key, work);
    }, afterMs);
    this.#waiting.set(key, { timer, due });
  }

  #begin(key: string, work: Work): Promise<void> {
    // It may ask for more before it is waited for.
    const running: Running = { end: Promise.resolve() };
    this.#running.set(key, running);
    running.end = this.#run(key, work);
    return running.end;
  }

  async #run(key: string, { fn, retryMs }: Work): Promise<void> {
    try {
      await fn();
      this.#failures.delete(key);
    } catch (error) {
      // A log that says the same for hours hides what else it says.
      if (reason(error) !== this.#failures.get(key))
        this.#log.error({ err: error }, "repair failed; will try again");
      this.#failures.set(key, reason(error));
      this.#ask(key, { afterMs: retryMs, fn, retryMs: Math.min(2 * retryMs, LONGEST_RETRY_MS) });
    }
    const next = this.#running.get(key)?.next;
    this.#running.delete(key);
    if (next) this.#ask(key, next);
  }
}
