import { mkdirSync } from "node:fs";
import { TsnetError } from "../errors.ts";
import type { DirectoryLock } from "./directory-lock.ts";
import type { Records } from "./migration.ts";
import { seal, unseal } from "./sealed.ts";
import { isLasting, lasting, liveFile, prepare, savedFile } from "./state-directory.ts";
import { type OpenStoreFile, discard, openStoreFile, writeStoreFile } from "./store-file.ts";
import { mustHaveSpace, storeError } from "./trouble.ts";

/**
 * Where desired state is kept: ordered keys to JSON values, in LMDB, in the state directory.
 *
 *   run-BOOT.mdb   every record. A write is one transaction that is not flushed to the disk: 0.1 ms instead of 0.7 ms.
 *                  It survives the process, killed at any instant; but not the machine, hence the boot's id in its name.
 *   tsnet.mdb      what must survive the machine, the networks: here a write is on the disk when it is done. What is
 *                  deleted may come back with the machine, and then goes like all that the engine does not know.
 *
 * Everything is read and checked before LMDB is let near it (see lmdb-file.ts), and written through LMDB's synchronous
 * calls only: its asynchronous ones end the process when the disk is full.
 */
export class Store {
  readonly #directory: string;
  readonly #lock: Pick<DirectoryLock, "keep">;
  /** Every record. */
  #live: OpenStoreFile;
  /** Those that last. */
  #saved: OpenStoreFile;
  /** Keys of what is deleted, but still saved. */
  readonly #stillSaved = new Set<string>();

  /**
   * Opens or makes the store.
   *
   * @param boot changes each time the machine starts
   * @param lock that keeps others out of the directory
   * @throws {TsnetError} in one line: damaged, newer, read-only, no space
   */
  constructor(directory: string, boot: string, lock: Pick<DirectoryLock, "keep">) {
    this.#directory = directory;
    this.#lock = lock;
    try {
      mkdirSync(directory, { recursive: true, mode: 0o700 });
      prepare(directory, boot);
      this.#live = openStoreFile(liveFile(directory, boot));
      this.#saved = openStoreFile(savedFile(directory), { flush: true });
    } catch (cause) {
      throw storeError(`store ${directory}`, directory, cause);
    }
  }

  /** Everything whose key starts with the prefix, in the order of the keys. */
  list(prefix: string): { key: string; value: unknown }[] {
    const range = this.#live.records.getRange({ start: prefix, end: `${prefix}\uffff` });
    return [...range].map(({ key, value }) => ({ key, value: unseal(key, value) }));
  }

  /**
   * Writes one value. It survives the daemon, killed at any instant, and if it lasts, the machine. If it is only saved,
   * the next start makes what is saved like the rest.
   */
  put(key: string, value: unknown): void {
    this.#write(`write ${key}`, () => {
      mustHaveSpace(this.#directory);
      const sealed = seal(key, value);
      if (isLasting(key)) this.#saved.records.putSync(key, sealed);
      this.#live.records.putSync(key, sealed);
      this.#stillSaved.delete(key);
    });
  }

  /** Deletes one value; being gone already is success. Who asked for it need not wait until it is saved. */
  delete(key: string): void {
    this.#write(`delete ${key}`, () => {
      this.#live.records.removeSync(key);
    });
    if (!isLasting(key)) return;
    this.#stillSaved.add(key);
    setImmediate(() => {
      this.#save();
    });
  }

  /** Why nothing can be written, as far as the files tell; undefined if it can. */
  trouble(): string | undefined {
    return this.#troubleWith(this.#atTheirPaths());
  }

  /** What is found where the files were opened. */
  #atTheirPaths() {
    return [this.#live, this.#saved].map((file) => file.atItsPath());
  }

  #troubleWith(found: ReturnType<OpenStoreFile["atItsPath"]>[]): string | undefined {
    if (!found.includes("another")) return undefined;
    return `store ${this.#directory} is another than the one that was opened, as when a disk is mounted over it or a copy put in its place; restart tsnet, which then goes by what is there`;
  }

  /** Closes the files. */
  async close(): Promise<void> {
    this.#save();
    this.#stillSaved.clear();
    await this.#live.root.close();
    await this.#saved.root.close();
  }

  /** Deletes where it lasts what is deleted. */
  #save(): void {
    try {
      for (const key of this.#stillSaved) {
        this.#saved.records.removeSync(key);
        this.#stillSaved.delete(key);
      }
    } catch {
      // It is tried again with the next one, and the next start makes this file like the other.
    }
  }

  /**
   * Somebody has deleted a file: what is written to it would be found by nobody. All of it is here still. What others
   * have put in its place stays.
   */
  #restore(): void {
    const found = this.#atTheirPaths();
    const trouble = this.#troubleWith(found);
    if (trouble) throw new TsnetError("store", trouble);
    this.#lock.keep();
    if (!found.includes("nothing")) return;
    mkdirSync(this.#directory, { recursive: true, mode: 0o700 });
    const records = new Map(this.list("").map(({ key, value }) => [key, value]));
    this.#live = madeAgain(this.#live, records);
    this.#saved = madeAgain(this.#saved, lasting(records), { flush: true });
  }

  #write(what: string, fn: () => void): void {
    try {
      this.#restore();
      fn();
    } catch (cause) {
      throw storeError(`store ${this.#directory}: ${what}`, this.#directory, cause);
    }
  }
}

/** A file as it was opened, or made anew where somebody has deleted it: the other one may be all that there is on the disk. */
function madeAgain(file: OpenStoreFile, records: Records, options?: { flush: boolean }): OpenStoreFile {
  const { path, root } = file;
  if (file.atItsPath() !== "nothing") return file;
  try {
    writeStoreFile(path, records);
    const again = openStoreFile(path, options);
    // It waits for nothing, since nothing is written behind the scenes.
    void root.close();
    return again;
  } catch (error) {
    // Else it would be taken for somebody else's.
    discard(path);
    throw error;
  }
}
