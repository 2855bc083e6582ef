/** What was asked for under a key and has not ended. No promise here rejects. */
interface Queue {
  /** The last operation on the whole: all that come later wait for it. */
  whole: Promise<unknown>;
  /** The last operation since then on each part. */
  readonly parts: Map<string, Promise<unknown>>;
  length: number;
}

/**
 * One operation at a time per key, in the order they came. Operations on different keys run side by side, and so do
 * those on different parts of what a key stands for, unless one on the whole came between them. Whoever takes more than
 * one takes that of the network first, and none twice, so nobody waits for himself.
 */
export class KeyedLock {
  readonly #queues = new Map<string, Queue>();

  /** Runs `fn` once everything queued before it under `key` has ended, however that ended. */
  async run<T>(key: string, fn: () => Promise<T>): Promise<T> {
    return await this.#queued(key, async (queue) => {
      const mine = Promise.all([queue.whole, ...queue.parts.values()]).then(fn);
      queue.whole = ended(mine);
      queue.parts.clear();
      return await mine;
    });
  }

  /** Runs `fn`, which changes one part only, once everything queued before it on that part or the whole has ended. */
  async runPart<T>(key: string, part: string, fn: () => Promise<T>): Promise<T> {
    return await this.#queued(key, async (queue) => {
      const mine = (queue.parts.get(part) ?? queue.whole).then(fn);
      queue.parts.set(part, ended(mine));
      return await mine;
    });
  }

  /** Whether an operation under that key is under way or waits. */
  isHeld(key: string): boolean {
    return this.#queues.has(key);
  }

  async #queued<T>(key: string, run: (queue: Queue) => Promise<T>): Promise<T> {
    const queue = this.#queues.get(key) ?? { whole: Promise.resolve(), parts: new Map(), length: 0 };
    this.#queues.set(key, queue);
    queue.length += 1;
    try {
      return await run(queue);
    } finally {
      queue.length -= 1;
      if (queue.length === 0) this.#queues.delete(key);
    }
  }
}

function ended(operation: Promise<unknown>): Promise<unknown> {
  return operation.catch(() => undefined);
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
    await settled(items.map((item) => this.run(() => fn(item))));
  }
}

/** Waits for all of them to end, however they do; then throws the first failure, if there is one. */
export async function settled<T>(operations: readonly Promise<T>[]): Promise<T[]> {
  await Promise.allSettled(operations);
  return await Promise.all(operations);
}
