import { existsSync, readFileSync, readdirSync, readlinkSync, statSync } from "node:fs";
import { basename } from "node:path";
import type { Family } from "../ip.ts";
import { processIds } from "./processes.ts";

/** A process that has a socket open. */
export interface SocketOwner {
  /** `process 123 (nginx)`. */
  readonly what: string;
  readonly isRoots: boolean;
}

/**
 * Which other process has a socket open: looks for it among every process's descriptors (proc(5)).
 *
 * @param inode of the socket, as the tables below /proc/net show it
 * @returns undefined where no process can be seen to have it
 */
function socketOwner(inode: string): SocketOwner | undefined {
  const link = `socket:[${inode}]`;
  for (const pid of processIds().filter((pid) => Number(pid) !== process.pid)) {
    try {
      const descriptors = readdirSync(`/proc/${pid}/fd`);
      if (descriptors.some((fd) => targetOf(`/proc/${pid}/fd/${fd}`) === link))
        return { what: `process ${pid} (${programOf(pid)})`, isRoots: statSync(`/proc/${pid}`).uid === 0 };
    } catch {
      // The process ended meanwhile.
    }
  }
  return undefined;
}

/** What a descriptor is of; undefined if it was closed meanwhile, as one of a busy process may be. */
function targetOf(descriptor: string): string | undefined {
  try {
    return readlinkSync(descriptor);
  } catch {
    return undefined;
  }
}

/** What a process was started as. Its `comm` is what the first thread calls itself: MainThread, from Node 24 on. */
function programOf(pid: string): string {
  const [program = ""] = readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");
  return basename(program);
}

/** Who has a Unix socket's path, or its name with a `@` where that is no path. */
export function unixSocketOwner(path: string): SocketOwner | undefined {
  const lines = readFileSync("/proc/net/unix", "utf8").split("\n");
  const inodes = lines
    .filter((line) => line.endsWith(` ${path}`))
    .map((line) => line.trim().split(/\s+/)[6] ?? "");
  return inodes.map(socketOwner).find((owner) => owner !== undefined);
}

/** Which other process is bound to a port, whatever the address. A socket of IPv6 may have an IPv4 port as well. */
export function portOwner(protocol: "tcp" | "udp", port: number, family: Family): SocketOwner | undefined {
  const suffix = `:${port.toString(16).toUpperCase().padStart(4, "0")}`;
  const tables = family === 4 ? [protocol, `${protocol}6`] : [`${protocol}6`];
  const inodes = tables
    .flatMap(socketsIn)
    .filter(([, local, remote]) => local?.endsWith(suffix) && remote?.endsWith(":0000"))
    .map((columns) => columns[9] ?? "");
  return inodes.map(socketOwner).find((owner) => owner !== undefined);
}

/** The columns of a table of sockets below /proc/net. There is none of IPv6 where the kernel is without it. */
function socketsIn(table: string): string[][] {
  const path = `/proc/net/${table}`;
  if (!existsSync(path)) return [];
  const [, ...rows] = readFileSync(path, "utf8").trim().split("\n");
  return rows.map((row) => row.trim().split(/\s+/));
}
