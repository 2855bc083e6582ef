import { readFileSync, writeFileSync } from "node:fs";
import { KernelError, errnoOf, isErrno } from "../errors.ts";

/**
 * Reads a setting of the daemon's network namespace.
 *
 * @param name as in sysctl(8) but with slashes, since a link's name may hold a dot: `net/ipv4/ip_forward`
 * @returns undefined where the kernel has no such setting
 */
export function readSysctl(name: string): string | undefined {
  try {
    // At once: procfs keeps nobody waiting, and a turn through the thread pool takes ten times as long.
    return readFileSync(`/proc/sys/${name}`, "utf8").trim();
  } catch (error) {
    if (isErrno(error, "ENOENT")) return undefined;
    throw new KernelError(`sysctl ${name}`, errnoOf(error), "", { cause: error });
  }
}

/**
 * Writes a setting of the daemon's network namespace. One that the kernel lacks, or whose link has gone, is left out.
 */
export function writeSysctl(name: string, value: string): void {
  try {
    writeFileSync(`/proc/sys/${name}`, value);
  } catch (error) {
    const errno = errnoOf(error);
    if (errno === "ENOENT") return;
    const advice =
      errno === "EROFS" ? "a service needs /proc/sys as it is, without ProtectKernelTunables=" : "";
    throw new KernelError(`sysctl ${name}=${value}`, errno, advice, { cause: error });
  }
}

/**
 * Whether the kernel has IPv6: it may be built or started without (`ipv6.disable=1`), and then has no settings for it.
 */
export function kernelHasIpv6(): boolean {
  return readSysctl("net/ipv6/conf/all/disable_ipv6") !== undefined;
}
