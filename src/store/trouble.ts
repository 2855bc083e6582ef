import { statfsSync } from "node:fs";
import { constants } from "node:os";
import { TsnetError, errnoOf, reason } from "../errors.ts";

/** Bytes that must be free for a write to be tried. */
const SPARE = 128 * 1024;

/** What to tell an operator, by errno. */
const ADVICE: Readonly<Record<string, string>> = {
  ENOSPC: "no space left on its file system; free some and try again",
  EDQUOT: "its quota is used up; free some space and try again",
  EROFS: "its file system is read-only; remount it or choose another --state-dir",
  EACCES: "permission denied; run as root or choose another --state-dir",
  EPERM: "permission denied; run as root or choose another --state-dir",
  ENOTDIR: "not a directory; choose another --state-dir",
  EEXIST: "not a directory; choose another --state-dir",
  EIO: "the disk failed (input/output error); look at the kernel's log",
};

/**
 * One line of what keeps the store from being used.
 *
 * @param what was tried, and on what
 * @param directory the state directory
 */
export function storeError(what: string, directory: string, cause: unknown): TsnetError {
  if (cause instanceof TsnetError) return cause;
  // LMDB answers EIO when only part of a page could be written.
  const errno = storeErrno(cause) === "EIO" && isFull(directory) ? "ENOSPC" : storeErrno(cause);
  return new TsnetError("store", `${what}: ${ADVICE[errno] ?? reason(cause)}`, { cause });
}

/** @throws {Error} ENOSPC before LMDB finds out, which would write lines of its own about it */
export function mustHaveSpace(directory: string): void {
  if (isFull(directory)) throw Object.assign(new Error("too little space"), { code: "ENOSPC" });
}

function isFull(directory: string): boolean {
  const { bfree, bsize } = statfsSync(directory);
  return bfree * bsize < SPARE;
}

/** LMDB's binding gives the number. */
function storeErrno(cause: unknown): string {
  const { code } = cause as { code?: unknown };
  if (typeof code !== "number") return errnoOf(cause);
  return Object.entries(constants.errno).find(([, number]) => number === code)?.[0] ?? "";
}
