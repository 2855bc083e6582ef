import type { Logger } from "pino";

/** Milliseconds until what failed is tried again. */
const RETRY_MS = 1000;

/** Work that is done once after a while, however often it was asked for until then. */
export class Schedule {
  readonly #log: Logger;
  readonly #timers = new Map<string, { readonly timer: NodeJS.Timeout; readonly due: number }>();
  readonly #running = new Set<Promise<unknown>>();
  #stopped = false;

  constructor(log: Logger) {
    this.#log = log;
  }

  get stopped(): boolean {
    return this.#stopped;
  }

  /**
   * Runs something after a while, and again a second after it failed. While that waits, a second call under its key
   * changes nothing but for a nearer time.
   */
  soon(key: string, afterMs: number, fn: () => Promise<unknown>): void {
    if (this.#stopped) return;
    const due = performance.now() + afterMs;
    const waiting = this.#timers.get(key);
    if (waiting && waiting.due <= due) return;
    clearTimeout(waiting?.timer);
    const timer = setTimeout(() => {
      this.#timers.delete(key);
      const run = fn().catch((error: unknown) => {
        this.#log.error({ err: error }, "repair failed; will try again");
        this.soon(key, RETRY_MS, fn);
      });
      this.#running.add(run);
      void run.finally(() => this.#running.delete(run));
    }, afterMs);
    this.#timers.set(key, { timer, due });
  }

  /** Runs something a second from now. */
  later(key: string, fn: () => Promise<unknown>): void {
    this.soon(key, RETRY_MS, fn);
  }

  /** Drops what waits, and waits for what is under way. */
  async stop(): Promise<void> {
    this.#stopped = true;
    for (const { timer } of this.#timers.values()) clearTimeout(timer);
    await Promise.all(this.#running);
  }
}
