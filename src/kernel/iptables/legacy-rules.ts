import { readFileSync } from "node:fs";
import { AF, SOCK, close, getsockopt, socket } from "../libc.ts";

/** Milliseconds between two looks; a look is a few system calls. */
const INTERVAL_MS = 250;

const IPPROTO_RAW = 255;
/**
 * Bytes of struct ipt_getinfo: name, hooks in use, where they begin and end, entries, size
 * (linux/netfilter_ipv4/ip_tables.h).
 */
const INFO_SIZE = 84;
const NAME = 32;

/** IPT_SO_GET_INFO and IP6T_SO_GET_INFO. */
const GET_INFO = 64;

/** For each family its sockets' domain, the level of its options, and where the kernel lists its tables in use. */
const BY_FAMILY = [
  { domain: AF[4], level: 0, names: "/proc/net/ip_tables_names" },
  { domain: AF[6], level: 41, names: "/proc/net/ip6_tables_names" },
] as const;

/**
 * Calls back after a change to the rules of iptables-legacy, which the kernel does not announce: looks at the size and
 * the hooks of each table in use. A change that keeps both is found by the reconciler's timer.
 *
 * @returns stops it
 */
export function watchLegacyRules(onChange: () => void): () => void {
  const sockets = BY_FAMILY.map(({ domain }) => socket(domain, SOCK.RAW, IPPROTO_RAW));

  const look = () =>
    BY_FAMILY.flatMap(({ level, names }, index) =>
      tablesInUse(names).map((table) => {
        const info = Buffer.alloc(INFO_SIZE);
        info.write(table, 0, NAME - 1);
        return getsockopt(sockets[index] ?? -1, level, GET_INFO, info, [info.length]) === 0
          ? info.toString("hex")
          : "";
      }),
    ).join();

  let before = look();
  const timer = setInterval(() => {
    const now = look();
    if (now !== before) onChange();
    before = now;
  }, INTERVAL_MS).unref();
  return () => {
    clearInterval(timer);
    for (const fd of sockets) if (fd >= 0) close(fd);
  };
}

/** Only tables that somebody uses: asking for another would make it. */
function tablesInUse(names: string): string[] {
  try {
    return readFileSync(names, "utf8").split("\n").filter(Boolean);
  } catch {
    return [];
  }
}
