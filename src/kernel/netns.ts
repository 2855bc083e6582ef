import { openSync, readlinkSync } from "node:fs";
import { failure, setns } from "./libc.ts";
import { processIds } from "./processes.ts";

const CLONE_NEWNET = 0x4000_0000;

/** The namespace that the daemon was started in, held open. */
export const home = openSync("/proc/self/ns/net", "r");

/**
 * Runs something in another network namespace, at once and on this thread, and returns to the own one. Whatever
 * it opens stays in that namespace. It may do nothing but open sockets and files of /proc/sys: a promise, a stream or
 * a call to the thread pool that began here would go on elsewhere.
 *
 * @param netns open descriptor of a network namespace
 * @throws {KernelError} EINVAL, if the descriptor is of something else
 */
export function inNetns<T>(netns: number, fn: () => T): T {
  if (setns(netns, CLONE_NEWNET) !== 0) throw failure("setns");
  try {
    return fn();
  } finally {
    // In the wrong namespace the daemon would repair the container as if it were the host.
    if (setns(home, CLONE_NEWNET) !== 0) process.abort();
  }
}

/**
 * The network namespaces of all processes, a path for each, without the own one: that of the process with the lowest
 * number, which mostly is the oldest and will be there a moment later.
 */
export function processNamespaces(): string[] {
  const own = readlinkSync("/proc/self/ns/net");
  const paths = new Map<string, string>();
  for (const pid of processIds())
    try {
      const path = `/proc/${pid}/ns/net`;
      const namespace = readlinkSync(path);
      if (!paths.has(namespace)) paths.set(namespace, path);
    } catch {
      // The process ended meanwhile.
    }
  paths.delete(own);
  return [...paths.values()];
}
