/**
 * One operation at a time per key, in the order they came. Operations on different keys run side by side.
 * There is only one kind of lock in tsnet and it is never taken twice by one operation, so it cannot deadlock.
 */
export class KeyedLock {
  readonly #tails = new Map<string, Promise<unknown>>();

  /** Runs `fn` once everything queued before it under `key` has ended, however that ended. */
  async run<T>(key: string, fn: () => Promise<T>): Promise<T> {
    const before = this.#tails.get(key) ?? Promise.resolve();
    const mine = before.then(fn, fn);
    const tail = mine.catch(() => undefined);
    this.#tails.set(key, tail);
    try {
      return await mine;
    } finally {
      if (this.#tails.get(key) === tail) this.#tails.delete(key);
    }
  }
}

/** So many operations at a time and no more; the others wait in the order they came. */
export class Limit {
  #free: number;
  readonly #waiting: (() => void)[] = [];

  constructor(most: number) {
    this.#free = most;
  }

  /** Runs `fn` once there is room. */
  async run<T>(fn: () => Promise<T>): Promise<T> {
    if (this.#free > 0) this.#free--;
    else await new Promise<void>((resolve) => this.#waiting.push(resolve));
    try {
      return await fn();
    } finally {
      const next = this.#waiting.shift();
      if (next) next();
      else this.#free++;
    }
  }

  /** Runs `fn` for every item. When one fails, the others are still done; then the first failure is thrown. */
  async each<T>(items: readonly T[], fn: (item: T) => Promise<void>): Promise<void> {
    const ends = await Promise.allSettled(items.map((item) => this.run(() => fn(item))));
    const failed = ends.find((end) => end.status === "rejected");
    if (failed) throw failed.reason;
  }
}
