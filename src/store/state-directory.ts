import { existsSync, readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { DamageError } from "./damage.ts";
import { PREFIX } from "./keys.ts";
import { type Records, VERSION } from "./migration.ts";
import { type StoreFile, discard, readStoreFile, writeStoreFile } from "./store-file.ts";
import { storeError } from "./trouble.ts";

/** Name of what survives the machine. */
const SAVED = "tsnet.mdb";

const ANEW = "restart tsnet, which writes it anew";

/** The file with every record of this boot. */
export function liveFile(directory: string, boot: string): string {
  return join(directory, `run-${boot}.mdb`);
}

/** The file that survives the machine. */
export function savedFile(directory: string): string {
  return join(directory, SAVED);
}

/**
 * Whether what is kept under a key must be there after the machine has started anew. Endpoints are worth nothing then:
 * their links are gone.
 */
export function isLasting(key: string): boolean {
  return key.startsWith(PREFIX.network);
}

/** What is the same until the machine starts anew: the kernel's random(4) boot id. */
export function currentBoot(): string {
  return readFileSync("/proc/sys/kernel/random/boot_id", "utf8").replaceAll("-", "").slice(0, 16);
}

/**
 * What a daemon would find in a state directory, read without changing anything and beside a daemon that runs.
 *
 * @returns undefined if there is no store
 * @throws {TsnetError} as opening it would
 */
export function readStore(directory: string, boot: string): StoreFile | undefined {
  try {
    return readLive(directory, boot) ?? readSaved(directory);
  } catch (cause) {
    throw storeError(`store ${directory}`, directory, cause);
  }
}

/**
 * Makes sure that what survives the machine will be read, where a daemon would find something else today.
 *
 * @throws {TsnetError} in one line: damaged, newer, gone
 */
export function mustSurvive(directory: string, boot: string): void {
  if (!existsSync(liveFile(directory, boot))) return;
  const saved = advised(() => readStoreFile(savedFile(directory)), ANEW);
  if (!saved) throw new DamageError(`store ${savedFile(directory)} is gone; ${ANEW}`);
}

/**
 * Puts other records in the place of all there are. Whoever has the files open goes on with those that were there before,
 * so no daemon may be running but the one that does this and opens them anew.
 */
export function replaceStore(directory: string, records: Records, boot: string): void {
  try {
    // If it ends between the two, the next start makes the second like the first.
    writeStoreFile(liveFile(directory, boot), records);
    writeStoreFile(savedFile(directory), lasting(records));
  } catch (cause) {
    throw storeError(`store ${directory}`, directory, cause);
  }
}

/**
 * Makes both files sound, of today's version, and alike; deletes drafts, and what is of earlier boots.
 *
 * @throws {TsnetError} in one line: damaged or newer
 */
export function prepare(directory: string, boot: string): void {
  const live = liveFile(directory, boot);
  const old = readLive(directory, boot);
  const saved = old ? sound(() => readSaved(directory)) : readSaved(directory);
  const records = old?.records ?? saved?.records ?? new Map<string, unknown>();
  if (!old || isOutdated(old)) writeStoreFile(live, records);
  if (!saved || isOutdated(saved) || !isDeepStrictEqual(lasting(records), lasting(saved.records)))
    writeStoreFile(savedFile(directory), lasting(records));
  for (const name of readdirSync(directory))
    // Not a copy that somebody keeps beside it: tsnet.mdb.broken.
    if (/^(run-[^.]+|tsnet)\.mdb(\.new)?(-lock)?$/.test(name) && name !== SAVED && !live.endsWith(name))
      discard(join(directory, name));
}

/** Undefined instead of damage: a copy can be made again. */
function sound<T>(fn: () => T): T | undefined {
  try {
    return fn();
  } catch (error) {
    if (error instanceof DamageError) return undefined;
    throw error;
  }
}

function readLive(directory: string, boot: string): StoreFile | undefined {
  return advised(
    () => readStoreFile(liveFile(directory, boot)),
    `keep a copy and delete it: networks come back from ${SAVED}, containers must be restarted`,
  );
}

function readSaved(directory: string): StoreFile | undefined {
  const file = advised(
    () => readStoreFile(savedFile(directory)),
    "keep a copy and delete it, then `tsnet store import` an export or create the networks again",
  );
  // Version 1 had one file for everything.
  return file && file.version > 1 ? { ...file, records: lasting(file.records) } : file;
}

function advised<T>(fn: () => T, advice: string): T {
  try {
    return fn();
  } catch (error) {
    throw error instanceof DamageError ? new DamageError(`${error.message}; ${advice}`) : error;
  }
}

/** Those of the records that last. */
export function lasting(records: Records): Records {
  return new Map([...records].filter(([key]) => isLasting(key)));
}

function isOutdated({ version }: StoreFile): boolean {
  return version !== VERSION;
}
