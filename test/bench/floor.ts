import type { BenchLab } from "./lab.ts";
import { type Place, onHost, runIn } from "./place.ts";
import { table } from "./report.ts";
import { median } from "./statistics.ts";

const TIMES = 20;

/**
 * What no driver can be faster than: the kernel calls in which it waits for all processors (rcu_barrier(),
 * net/core/dev.c and net/bridge/br_multicast.c). The engine moves a plugin's link into the sandbox and back out;
 * its own bridge driver makes it there from 28.0 on.
 */
export async function kernelFloor(lab: BenchLab): Promise<string> {
  const host = onHost(lab.host);
  const elsewhere = String(lab.neighbour.pid);
  const nothing: number[] = [];
  const move: number[] = [];
  const pair: number[] = [];
  const bridge: number[] = [];
  for (let round = 0; round < TIMES; round += 1) {
    await ip(host, "link add bench0 type veth peer name bench1");
    nothing.push(await ip(host, "link show bench1"));
    move.push(await ip(host, `link set bench1 netns ${elsewhere}`));
    pair.push(await ip(host, "link delete bench0"));
    await ip(host, "link add bench0 type bridge");
    bridge.push(await ip(host, "link delete bench0"));
  }
  const net = (samples: readonly number[]): string => (median(samples) - median(nothing)).toFixed(1);
  return table(
    ["kernel call", "ms", "where it counts"],
    [
      ["move a link to another namespace", net(move), "start, connect, disconnect"],
      ["delete a veth pair", net(pair), "disconnect"],
      ["delete a bridge", net(bridge), "network remove"],
    ],
  );
}

/** @returns how long it took, the start of the program included */
async function ip(place: Place, command: string): Promise<number> {
  const start = performance.now();
  await runIn(place, ["ip", ...command.split(" ")]);
  return performance.now() - start;
}
