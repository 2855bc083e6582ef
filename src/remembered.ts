/**
 * What takes a while to read and is kept until it is forgotten. What is forgotten while it is being read has changed
 * since, perhaps, so it is not kept.
 */
export class Remembered<T> {
  #value: T | undefined;
  #forgotten = 0;

  /** Undefined where nothing is kept. */
  get value(): T | undefined {
    return this.#value;
  }

  /** Reads it anew. */
  async fill(read: () => Promise<T>): Promise<T> {
    const before = this.#forgotten;
    const value = await read();
    if (this.#forgotten === before) this.#value = value;
    return value;
  }

  /** Somebody has changed, or may have changed, what was read. */
  forget(): void {
    this.#forgotten += 1;
    this.#value = undefined;
  }
}
