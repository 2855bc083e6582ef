import {
  type Stats,
  closeSync,
  fstatSync,
  fsyncSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
} from "node:fs";
import { dirname } from "node:path";
import { type Database, type RootDatabase, open } from "lmdb";
import { TsnetError, isErrno, reason } from "../errors.ts";
import { DamageError, must } from "./damage.ts";
import { type Contents, readLmdb } from "./lmdb-file.ts";
import { type Records, VERSION, migrate } from "./migration.ts";
import { seal, unseal } from "./sealed.ts";
import { mustHaveSpace, storeError } from "./trouble.ts";

/** Name of the database within the file, and key of the version beside it. */
const RECORDS = "records";
const VERSION_KEY = "version";

/** How often a file is read until a daemon has not written to it meanwhile. */
const ATTEMPTS = 200;

/** What a store's file has in it, brought to today's version. */
export interface StoreFile {
  /** The version that it was written with. */
  readonly version: number;
  readonly records: Records;
}

/** A store's file, open in LMDB. Values are sealed. */
export interface OpenStoreFile {
  readonly path: string;
  readonly root: RootDatabase<string, string>;
  readonly records: Database<string, string>;
  /** What is at its path by now: it, nothing, or another file, as when a disk was mounted over it. */
  readonly atItsPath: () => "itself" | "nothing" | "another";
}

/**
 * Reads a store's file without LMDB and checks all of it. Works beside a daemon that writes to it.
 *
 * @returns undefined if there is no such file
 * @throws {TsnetError} in one line: damaged, or of a newer version
 */
export function readStoreFile(path: string): StoreFile | undefined {
  const file = readQuiet(path);
  if (!file) return undefined;
  try {
    return parse(readLmdb(file));
  } catch (cause) {
    if (cause instanceof DamageError) throw new DamageError(`store ${path} is damaged: ${reason(cause)}`);
    throw cause instanceof TsnetError ? new TsnetError("store", `store ${path} ${cause.message}`) : cause;
  }
}

/**
 * Writes a file anew, whole or not at all however the program or the machine ends.
 *
 * @throws {TsnetError} in one line: read-only, no space
 */
export function writeStoreFile(path: string, records: Records): void {
  const draft = `${path}.new`;
  discard(draft);
  try {
    writeRecords(draft, records);
    flush(draft);
    renameSync(draft, path);
    flush(dirname(path));
  } catch (cause) {
    // While the draft is there: without it there may be room again.
    throw storeError(`store ${dirname(path)}`, dirname(path), cause);
  } finally {
    discard(draft);
  }
}

function writeRecords(path: string, records: Records): void {
  const { root, records: database } = openStoreFile(path);
  try {
    root.transactionSync(() => {
      for (const [key, value] of records) database.putSync(key, seal(key, value));
    });
  } finally {
    // It waits for nothing, since nothing is written behind the scenes.
    void root.close();
  }
}

/**
 * Opens or makes a file in LMDB, which trusts what is in it: it must have been read before.
 *
 * @param flush whether a write is on the disk when it is done
 */
export function openStoreFile(path: string, { flush = false } = {}): OpenStoreFile {
  // LMDB's lock file is memory of this process: without room for it the process would end by a signal.
  mustHaveSpace(dirname(path));
  // Nobody else has it open, so a daemon that was killed has left this file.
  rmSync(`${path}-lock`, { force: true });
  // Where LMDB cannot make one of them, as when no inode is left, its binding ends the process by a signal.
  const { dev, ino } = made(path);
  made(`${path}-lock`);
  // Overlapping, it would be on the disk some time later.
  const options = flush ? { overlappingSync: false } : { noSync: true };
  const root = open<string, string>({ path, noSubdir: true, encoding: "string", ...options });
  if (root.get(VERSION_KEY) === undefined) root.putSync(VERSION_KEY, String(VERSION));
  return {
    path,
    root,
    records: root.openDB<string, string>({ name: RECORDS, encoding: "string" }),
    atItsPath: () => {
      const there = fileAt(path);
      if (!there) return "nothing";
      return there.ino === ino && there.dev === dev ? "itself" : "another";
    },
  };
}

function fileAt(path: string): Stats | undefined {
  try {
    return statSync(path, { throwIfNoEntry: false });
  } catch {
    // What leads there is no directory any more.
    return undefined;
  }
}

/** Makes a file if it is not there. */
function made(path: string): Stats {
  const fd = openSync(path, "a");
  try {
    return fstatSync(fd);
  } finally {
    closeSync(fd);
  }
}

/** Deletes a file and what LMDB has beside it. */
export function discard(path: string): void {
  rmSync(path, { force: true });
  rmSync(`${path}-lock`, { force: true });
}

function parse({ plain, databases }: Contents): StoreFile {
  const sealed = databases.get(RECORDS);
  const others = [...plain.keys(), ...databases.keys()].filter(
    (name) => name !== VERSION_KEY && name !== RECORDS,
  );
  must(
    sealed !== undefined && others.length === 0,
    () => `it has ${others.join(" and ") || "nothing"} instead of records`,
  );
  const version = Number(plain.get(VERSION_KEY) ?? 1);
  must(Number.isSafeInteger(version) && version > 0, () => "its version is not a number");
  if (version > VERSION)
    throw new TsnetError(
      "store",
      `is of version ${version}, but this tsnet knows up to ${VERSION}; start the newer tsnet, or move the file away`,
    );
  const read = version === 1 ? parseJson : unseal;
  const records = [...sealed].map(([key, value]) => [key, read(key, value)] as const);
  return { version, records: migrate(new Map(records), version) };
}

function parseJson(key: string, text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new DamageError(`record ${key} is not JSON`);
  }
}

/** The whole file at one instant: read twice, it is the same. */
function readQuiet(path: string): Buffer | undefined {
  for (let attempt = 0; attempt < ATTEMPTS; attempt += 1) {
    const [once, again] = [read(path), read(path)];
    if (!once || !again) return undefined;
    if (once.equals(again)) return once;
  }
  throw new TsnetError("busy", `${path} is being written to all the time; try again`);
}

function read(path: string): Buffer | undefined {
  try {
    return readFileSync(path);
  } catch (error) {
    if (isErrno(error, "ENOENT")) return undefined;
    throw error;
  }
}

function flush(path: string): void {
  const fd = openSync(path, "r");
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}
