import { readFileSync } from "node:fs";
import { close, getsockopt, socket } from "./libc.ts";

/** Milliseconds between two looks; a look is a few system calls. */
const INTERVAL_MS = 250;

const SOCK_RAW_CLOEXEC = 0x80003;
const IPPROTO_RAW = 255;
/** struct ipt_getinfo: name, hooks in use, where they begin, where they end, entries, bytes (linux/netfilter_ipv4/ip_tables.h). */
const GETINFO = 84;
const NAME = 32;

const FAMILIES = [
  { domain: 2, level: 0, option: 64, names: "/proc/net/ip_tables_names" },
  { domain: 10, level: 41, option: 64, names: "/proc/net/ip6_tables_names" },
] as const;

/**
 * Calls back after a change to the rules of iptables-legacy, which the kernel does not announce: looks at the size and
 * the hooks of each table in use. A change that keeps both is found by the reconciler's timer.
 *
 * @returns stops it
 */
export function watchLegacyRules(onChange: () => void): () => void {
  const sockets = FAMILIES.map(({ domain }) => socket(domain, SOCK_RAW_CLOEXEC, IPPROTO_RAW));

  const look = () =>
    FAMILIES.flatMap(({ level, option, names }, family) =>
      tablesInUse(names).map((table) => {
        const info = Buffer.alloc(GETINFO);
        info.write(table, 0, NAME - 1);
        return getsockopt(sockets[family] ?? -1, level, option, info, [info.length]) === 0
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
