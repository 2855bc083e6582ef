import { randomUUID } from "node:crypto";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { install } from "../lab/debian.ts";
import type { LabHost } from "../lab/host.ts";

const BOOT_ID = "/proc/sys/kernel/random/boot_id";

/**
 * Does to a host what a loss of power and a new start do: nothing runs, and of what the kernel held only `eth0` is
 * as its operating system sets it up. What is on the disk stays. Engine and tsnet are not started.
 */
export async function powerCycle(host: LabHost): Promise<void> {
  await install("conntrack");
  await Promise.all([host.killEngine(), host.killTsnet()]);
  // All of the host's PID namespace but its first process and the shell.
  await host.exec(["sh", "-c", "kill -KILL -1"]);
  await host.exec(["sh", "-ec", FORGET, join(host.dir, "docker")]);
  const file = join(host.dir, "boot-id");
  await writeFile(file, `${randomUUID()}\n`);
  await host.exec(["sh", "-ec", `mountpoint -q ${BOOT_ID} || mount --bind "$0" ${BOOT_ID}`, file]);
}

/** Gives the host the machine's boot id back. */
export async function endPowerCycles(host: LabHost): Promise<void> {
  await host.stopTsnet();
  await host.exec(["sh", "-c", `umount ${BOOT_ID}`], { allowFailure: true });
  await host.startTsnet();
}

/** Told where the engine's data is. */
const FORGET = `
  awk '{ print $2 }' /proc/mounts | grep -e '^/run/docker/' -e "^$0/" | sort -r | xargs -r umount -l
  rm -rf /run/docker /run/docker.pid /run/docker.sock /run/containerd
  mkdir -p /run/docker/plugins
  for link in $(ls /sys/class/net); do
    case $link in lo | eth0) ;; *) ip link delete "$link" 2>/dev/null || true ;; esac
  done
  for program in iptables ip6tables; do
    for chain in INPUT FORWARD OUTPUT; do $program -P $chain ACCEPT; done
    for table in raw mangle nat filter; do
      $program -t $table -F
      $program -t $table -X
    done
  done
  conntrack -F 2>/dev/null
  echo 0 >/proc/sys/net/ipv4/ip_forward
  echo 0 >/proc/sys/net/ipv6/conf/all/forwarding`;
