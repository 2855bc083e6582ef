import {
  closeSync,
  fstatSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readFileSync,
  statSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { TsnetError } from "../errors.ts";
import { failure, flock } from "../kernel/libc.ts";
import { storeError } from "./trouble.ts";

const LOCK_EX_NB = 6;

/** The state directory is this process's, until it ends however it ends (flock(2)). */
export class DirectoryLock {
  readonly #directory: string;
  #fd: number;

  /** @throws {TsnetError} that names the process that has it */
  constructor(directory: string) {
    this.#directory = directory;
    this.#fd = take(directory);
  }

  /**
   * Takes the directory once more where somebody has deleted it or the file in it: what is locked then, nobody else
   * would find.
   *
   * @throws {TsnetError} that names the process that has taken it meanwhile
   */
  keep(): void {
    const there = statSync(pathIn(this.#directory), { throwIfNoEntry: false });
    const { dev, ino } = fstatSync(this.#fd);
    if (there?.ino === ino && there.dev === dev) return;
    const lost = this.#fd;
    this.#fd = take(this.#directory);
    closeSync(lost);
  }

  /** Gives it back. */
  release(): void {
    closeSync(this.#fd);
  }
}

function pathIn(directory: string): string {
  return join(directory, "lock");
}

/** @returns the descriptor that holds the lock */
function take(directory: string): number {
  const path = pathIn(directory);
  const fd = openLock(directory, path);
  if (flock(fd, LOCK_EX_NB) !== 0) {
    const error = failure(`flock ${path}`);
    const holder = readFileSync(path, "utf8").trim();
    closeSync(fd);
    if (error.errno !== "EAGAIN")
      throw new TsnetError(
        "store",
        `state directory ${directory} cannot be locked (${error.message}); choose another --state-dir`,
      );
    throw new TsnetError(
      "busy",
      `state directory ${directory} is in use by another tsnet daemon, process ${holder}`,
    );
  }
  try {
    ftruncateSync(fd);
    writeSync(fd, `${process.pid}\n`);
  } catch {
    // It is ours although the disk is full; only the process's number is missing from another daemon's refusal.
  }
  return fd;
}

function openLock(directory: string, path: string): number {
  try {
    mkdirSync(directory, { recursive: true, mode: 0o700 });
    return openSync(path, "a+");
  } catch (cause) {
    throw storeError(`state directory ${directory}`, directory, cause);
  }
}
