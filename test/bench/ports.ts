import type Docker from "dockerode";
import { LabError } from "../lab/command.ts";
import { type Comparison, type Measure, Samples } from "./comparison.ts";
import { BRIDGES, type BenchLab, type Contender, using } from "./lab.ts";
import { type Place, type Server, inContainer, onHost } from "./place.ts";
import { type Plan, inRounds } from "./rounds.ts";
import { median } from "./statistics.ts";
import { ACCEPT_PORT, IPERF_PORT, connectionRate, serve, stopAll, throughput } from "./traffic.ts";

/** Numbers of ports that a container publishes. */
const COUNTS = [1, 100] as const;
const FIRST_PORT = 20_000;

/** Host ports at which each side's servers are reached; both are published at once. */
const SERVER_PORTS = { tsnet: 21_000, engine: 22_000 } as const;

/** Published ports: what they cost at the start of a container, and how fast the way through them is. */
export async function measurePorts(lab: BenchLab, plan: Plan): Promise<Comparison[]> {
  return [...(await measureStarts(lab, plan)), ...(await measureTraffic(lab, plan))];
}

async function measureStarts(lab: BenchLab, plan: Plan): Promise<Comparison[]> {
  const starts: { side: Contender["side"] | "none"; ports: number; ms: number }[] = [];
  await inRounds("ports", plan, [...BRIDGES, "none" as const], async (item, counts) => {
    for (const ports of item === "none" ? [0] : COUNTS) {
      const side = item === "none" ? item : item.side;
      const ms =
        item === "none"
          ? await startTime(lab, "none", 0)
          : await using(
              await lab.createNetwork(item, `net-${side}`),
              (network) => network.remove(),
              () => startTime(lab, `net-${side}`, ports),
            );
      if (counts) starts.push({ side, ports, ms });
    }
  });
  const none = median(starts.filter(({ side }) => side === "none").map(({ ms }) => ms));
  const samples = new Samples();
  for (const { side, ports, ms } of starts) {
    const what = `start with ${String(ports)} published ${ports === 1 ? "port" : "ports"} less none`;
    if (side !== "none") samples.add({ what, unit: "ms", goal: 1 }, side, ms - none);
  }
  return samples.comparisons();
}

async function startTime(lab: BenchLab, network: string, ports: number): Promise<number> {
  const container = await lab.createContainer("publisher", network, portMap(ports));
  return await using(
    container,
    () => container.remove({ force: true }),
    async () => {
      const start = performance.now();
      await container.start();
      return performance.now() - start;
    },
  );
}

function portMap(ports: number): Docker.PortMap {
  const all = Array.from({ length: ports }, (_, index) => FIRST_PORT + index);
  return Object.fromEntries(all.map((port) => [`${String(port)}/tcp`, [{ HostPort: String(port) }]]));
}

async function measureTraffic(lab: BenchLab, plan: Plan): Promise<Comparison[]> {
  const samples = new Samples();
  const to = lab.host.address?.v4;
  if (to === undefined) throw new LabError("the host has no address on the wire");
  const from = onHost(lab.neighbour);
  await withServers(lab, async () => {
    await inRounds("published ports", plan, BRIDGES, async ({ side }, counts) => {
      const add = (measure: Measure, value: number): void => {
        if (counts) samples.add(measure, side, value);
      };
      const accept = { from, to, port: SERVER_PORTS[side] };
      const stream = { from, to, port: SERVER_PORTS[side] + 1, seconds: plan.seconds };
      add({ what: "connections to a published port", unit: "1/s", goal: 1 }, await connectionRate(accept));
      add({ what: "neighbour → published port", unit: "Gbit/s", goal: 1 }, await throughput(stream));
      add(
        { what: "published port → neighbour", unit: "Gbit/s", goal: 1 },
        await throughput({ ...stream, reverse: true }),
      );
    });
  });
  return samples.comparisons();
}

async function withServers(lab: BenchLab, use: () => Promise<void>): Promise<void> {
  const undo: (() => Promise<unknown>)[] = [];
  try {
    for (const contender of BRIDGES) {
      const name = `net-${contender.side}`;
      const network = await lab.createNetwork(contender, name);
      undo.push(() => network.remove());
      const port = SERVER_PORTS[contender.side];
      const container = await lab.createContainer(`server-${contender.side}`, name, {
        [`${String(ACCEPT_PORT)}/tcp`]: [{ HostPort: String(port) }],
        [`${String(IPERF_PORT)}/tcp`]: [{ HostPort: String(port + 1) }],
      });
      undo.push(() => container.remove({ force: true }));
      await container.start();
      const place: Place = await inContainer(lab.host, `server-${contender.side}`);
      const servers: readonly Server[] = await serve(place);
      undo.push(() => stopAll(servers));
    }
    await use();
  } finally {
    for (const step of undo.reverse()) await step();
  }
}
