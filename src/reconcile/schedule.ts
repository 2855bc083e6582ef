import type { Logger } from "pino";

/** Milliseconds until what failed is tried again. */
const RETRY_MS = 1000;

/** Work that waits. */
interface Waiting {
  readonly timer: NodeJS.Timeout;
  /** By performance.now(). */
  readonly due: number;
}

/** Work under way. */
interface Running {
  end: Promise<void>;
  /** What was asked for since it began, and how long after its end. */
  next?: { readonly afterMs: number; readonly fn: () => Promise<unknown> };
}

/**
 * Work that is done once after a while, however often it was asked for until then, and never beside itself: what is
 * asked for faster than it can be done makes no queue.
 */
export class Schedule {
  readonly #log: Logger;
  readonly #waiting = new Map<string, Waiting>();
  readonly #running = new Map<string, Running>();
  #stopped = false;

  constructor(log: Logger) {
    this.#log = log;
  }

  get stopped(): boolean {
    return this.#stopped;
  }

  /**
   * Runs something after a while, and again a second after it failed. While that waits, a second call under its key
   * changes nothing but for a nearer time; while it runs, a call is for the time after.
   */
  soon(key: string, afterMs: number, fn: () => Promise<unknown>): void {
    if (this.#stopped) return;
    const underWay = this.#running.get(key);
    if (underWay) {
      if (!underWay.next || afterMs < underWay.next.afterMs) underWay.next = { afterMs, fn };
      return;
    }
    const due = performance.now() + afterMs;
    const waiting = this.#waiting.get(key);
    if (waiting && waiting.due <= due) return;
    clearTimeout(waiting?.timer);
    const timer = setTimeout(() => {
      this.#waiting.delete(key);
      // It may ask for more before it is waited for.
      const running: Running = { end: Promise.resolve() };
      this.#running.set(key, running);
      running.end = this.#run(key, fn);
    }, afterMs);
    this.#waiting.set(key, { timer, due });
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

  async #run(key: string, fn: () => Promise<unknown>): Promise<void> {
    try {
      await fn();
    } catch (error) {
      this.#log.error({ err: error }, "repair failed; will try again");
      this.later(key, fn);
    }
    const next = this.#running.get(key)?.next;
    this.#running.delete(key);
    if (next) this.soon(key, next.afterMs, next.fn);
  }
}
