import { mkdirSync, renameSync } from "node:fs";
import { open } from "node:fs/promises";
import { seal, unseal } from "./sealed.ts";
import { currentBoot, liveFile, prepare, savedFile } from "./state-directory.ts";
import { type OpenStoreFile, discard, openStoreFile } from "./store-file.ts";
import { mustHaveSpace, storeError } from "./trouble.ts";

/**
 * Where desired state is kept: ordered keys to JSON values, in LMDB, in the state directory.
 *
 *   run-BOOT.mdb   every record. A write is one transaction that is not flushed to the disk: 0.1 ms instead of 4 ms.
 *                  It survives the process, killed at any instant; but not the machine, hence the boot's id in its name.
 *   tsnet.mdb      LMDB's copy of that file, flushed, replaced whole after each change to a network.
 *
 * Everything is read and checked before LMDB is let near it (see lmdb-file.ts), and written through LMDB's synchronous
 * calls only: its asynchronous ones end the process when the disk is full.
 */
export class Store {
  readonly #directory: string;
  readonly #file: OpenStoreFile;
  /** The newest copy, made or being made. */
  #saving: Promise<void> = Promise.resolve();
  /** A copy that has not begun yet. */
  #next: Promise<void> | undefined;

  /**
   * Opens or makes the store.
   *
   * @param boot changes each time the machine starts
   * @throws {TsnetError} in one line: damaged, newer, read-only, no space
   */
  constructor(directory: string, boot = currentBoot()) {
    this.#directory = directory;
    try {
      mkdirSync(directory, { recursive: true, mode: 0o700 });
      // LMDB's lock file is memory of this process: without room for it the process would end by a signal.
      mustHaveSpace(directory);
      prepare(directory, boot);
      this.#file = openStoreFile(liveFile(directory, boot));
    } catch (cause) {
      throw storeError(`store ${directory}`, directory, cause);
    }
  }

  /** Everything whose key starts with the prefix, in the order of the keys. */
  list(prefix: string): { key: string; value: unknown }[] {
    const range = this.#file.records.getRange({ start: prefix, end: `${prefix}\uffff` });
    return [...range].map(({ key, value }) => ({ key, value: unseal(key, value) }));
  }

  /** Writes one value. It survives the daemon, killed at any instant, and the machine once saved. */
  async put(key: string, value: unknown): Promise<void> {
    this.#write(`write ${key}`, () => {
      mustHaveSpace(this.#directory);
      this.#file.records.putSync(key, seal(key, value));
    });
  }

  /** Deletes one value; being gone already is success. */
  async delete(key: string): Promise<void> {
    this.#write(`delete ${key}`, () => {
      this.#file.records.removeSync(key);
    });
  }

  /** Waits until the networks as they are now survive the machine. Calls that come while one is under way share the next. */
  save(): Promise<void> {
    const begin = () => {
      this.#next = undefined;
      return this.#copy();
    };
    this.#next ??= this.#saving = this.#saving.then(begin, begin);
    return this.#next;
  }

  /** Closes the files. */
  async close(): Promise<void> {
    await Promise.allSettled([this.#saving]);
    await this.#file.root.close();
  }

  async #copy(): Promise<void> {
    const saved = savedFile(this.#directory);
    const draft = `${saved}.new`;
    try {
      discard(draft);
      await this.#file.root.backup(draft, true);
      await flush(draft);
      renameSync(draft, saved);
      await flush(this.#directory);
    } catch (cause) {
      const error = storeError(`save ${saved}`, this.#directory, cause);
      discard(draft);
      throw error;
    }
  }

  #write(what: string, fn: () => void): void {
    try {
      fn();
    } catch (cause) {
      throw storeError(`store ${this.#directory}: ${what}`, this.#directory, cause);
    }
  }
}

async function flush(path: string): Promise<void> {
  const file = await open(path, "r");
  try {
    await file.sync();
  } finally {
    await file.close();
  }
}
