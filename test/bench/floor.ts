import { once } from "node:events";
import { createServer } from "node:http";
import { join } from "node:path";
import type { LabHost } from "../lab/host.ts";
import { type BenchLab, type Contender, using } from "./lab.ts";
import { type Place, onHost, runIn } from "./place.ts";
import { table } from "./report.ts";
import { median } from "./statistics.ts";

const TIMES = 20;
/** Of links that are made for the comparison, and go together. */
const FLOOR_GROUP = 4711;

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

/**
 * What no daemon can be faster than when containers start: their veth pairs made by one program, with nothing else. The
 * kernel makes them one after the other, whoever asks (rtnl_lock(), net/core/rtnetlink.c).
 *
 * @param bridge that they become ports of
 * @returns milliseconds for all of them together
 */
export async function pairsFloor(host: LabHost, bridge: string, pairs: number): Promise<number> {
  const place = onHost(host);
  const numbers = Array.from({ length: pairs }, (_, number) => number);
  const lines = numbers.flatMap((number) => [
    `link add floor${number} group ${FLOOR_GROUP} mtu 1500 master ${bridge} up type veth peer name peer${number} mtu 1500`,
    `link set floor${number} alias floor`,
  ]);
  const batch = async (input: string) => {
    const start = performance.now();
    await runIn(place, ["ip", "-batch", "-"], { input });
    return performance.now() - start;
  };
  const nothing: number[] = [];
  const all: number[] = [];
  for (let round = 0; round < TIMES; round += 1) {
    nothing.push(await batch(""));
    all.push(await batch(lines.join("\n")));
    await runIn(place, ["ip", "link", "delete", "group", String(FLOOR_GROUP)]);
  }
  return median(all) - median(nothing);
}

/** A plugin that says yes to everything at once. */
const YES = "yes";

/**
 * What no plugin can be faster than: networks of one that does nothing, beside those of a driver of the engine's. Each
 * operation is a request or two to a plugin, and a call within the engine to its own driver.
 *
 * @param engines a network of the engine's driver
 */
export async function pluginFloor(lab: BenchLab, engines: Contender): Promise<string> {
  const server = createServer(({ url = "" }, response) => {
    response.end(JSON.stringify(ANSWERS[url] ?? {}));
  });
  server.listen(join(lab.host.runDir, `docker/plugins/${YES}.sock`));
  await once(server, "listening");
  const taken = { create: new Map<string, number[]>(), remove: new Map<string, number[]>() };
  const time = async <T>(samples: Map<string, number[]>, driver: string, act: () => Promise<T>) => {
    const start = performance.now();
    const result = await act();
    samples.set(driver, [...(samples.get(driver) ?? []), performance.now() - start]);
    return result;
  };
  await using(
    server,
    async () => {
      server.close();
      server.closeAllConnections();
      await once(server, "close");
    },
    async () => {
      for (let round = 0; round < TIMES; round += 1)
        for (const contender of [{ ...engines, driver: YES, options: {} }, engines]) {
          const { driver } = contender;
          const network = await time(taken.create, driver, () => lab.createNetwork(contender, "floor"));
          await time(taken.remove, driver, () => network.remove());
        }
    },
  );
  const row = (what: string, samples: Map<string, number[]>): string[] => {
    const [plugin, own] = [YES, engines.driver].map((driver) => median(samples.get(driver) ?? []));
    return [what, (plugin ?? 0).toFixed(2), (own ?? 0).toFixed(2), ((plugin ?? 0) / (own ?? 1)).toFixed(2)];
  };
  return table(
    ["of a plugin that does nothing", "ms", engines.driver, "ratio"],
    [row("network create", taken.create), row("network remove", taken.remove)],
  );
}

const ANSWERS: Readonly<Record<string, object>> = {
  "/Plugin.Activate": { Implements: ["NetworkDriver"] },
  "/NetworkDriver.GetCapabilities": { Scope: "local", ConnectivityScope: "local" },
};

/** @returns how long it took, the start of the program included */
async function ip(place: Place, command: string): Promise<number> {
  const start = performance.now();
  await runIn(place, ["ip", ...command.split(" ")]);
  return performance.now() - start;
}
