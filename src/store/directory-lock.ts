import { closeSync, ftruncateSync, mkdirSync, openSync, readFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { TsnetError } from "../errors.ts";
import { libc } from "../kernel/libc.ts";
import { storeError } from "./trouble.ts";

const LOCK_EX_NB = 6;

const flock = libc.func("int flock(int, int)") as (fd: number, operation: number) => number;

/**
 * Takes the state directory for this process, until it ends however it ends (flock(2)).
 *
 * @returns gives it back
 * @throws {TsnetError} that names the process that has it
 */
export function lockDirectory(directory: string): () => void {
  const path = join(directory, "lock");
  const fd = openLock(directory, path);
  if (flock(fd, LOCK_EX_NB) !== 0) {
    const holder = readFileSync(path, "utf8").trim();
    closeSync(fd);
    throw new TsnetError(
      "busy",
      `state directory ${directory} is in use by another tsnet daemon, process ${holder}`,
    );
  }
  try {
    ftruncateSync(fd);
    writeSync(fd, `${String(process.pid)}\n`);
  } catch {
    // It is ours although the disk is full; only the process's number is missing from another daemon's refusal.
  }
  return () => {
    closeSync(fd);
  };
}

function openLock(directory: string, path: string): number {
  try {
    mkdirSync(directory, { recursive: true, mode: 0o700 });
    return openSync(path, "a+");
  } catch (cause) {
    throw storeError(`state directory ${directory}`, directory, cause);
  }
}
