import { type Comparison, type Measure, Samples } from "./comparison.ts";
import { type BenchLab, type Contender, using } from "./lab.ts";
import { type Place, type Server, inContainer, onHost } from "./place.ts";
import { type Plan, inRounds } from "./rounds.ts";
import { roundTrip, serve, stopAll, throughput } from "./traffic.ts";

/** Numbers of TCP streams at once. */
const STREAMS = [1, 4] as const;

/** Two containers of one network, and the address of the second. */
interface Pair {
  readonly contender: Contender;
  readonly client: Place;
  readonly server: Place;
  readonly address: string;
}

/** What is measured, and between whom. */
export interface Traffic {
  /** What progress is reported as. */
  readonly name: string;
  readonly contenders: readonly Contender[];
  /** Added to what every measure is called. */
  readonly note?: string;
  /** What the neighbour host is called, and its address for each contender. Absent: containers only. */
  readonly neighbour?: { readonly name: string; readonly address: (contender: Contender) => string };
}

/**
 * TCP throughput and round-trip time between two containers, and between a container and the neighbour host, by
 * NAT where the network has it: all connections are the container's, only the bytes go one way or the other.
 */
export async function measureThroughput(
  lab: BenchLab,
  { name, contenders, note = "", neighbour }: Traffic,
  plan: Plan,
): Promise<Comparison[]> {
  const samples = new Samples();
  const outside = onHost(lab.neighbour);
  await withPairs(lab, contenders, async (pairs) => {
    const servers: Server[] = [];
    await using(servers, stopAll, async () => {
      for (const place of [outside, ...pairs.map(({ server }) => server)])
        servers.push(...(await serve(place)));
      await inRounds(name, plan, pairs, async ({ contender, client, address }, counts) => {
        const add = (what: string, unit: Measure["unit"], value: number): void => {
          if (counts) samples.add({ what: what + note, unit, goal: 1 }, contender.side, value);
        };
        const inside = { from: client, to: address, seconds: plan.seconds };
        for (const streams of STREAMS)
          add(`container → container, ${many(streams)}`, "Gbit/s", await throughput({ ...inside, streams }));
        add("round trip, container – container", "µs", await roundTrip(inside));
        if (neighbour === undefined) return;
        const out = { ...inside, to: neighbour.address(contender) };
        const far = neighbour.name;
        for (const streams of STREAMS) {
          const from = { ...out, streams, reverse: true };
          add(`container → ${far}, ${many(streams)}`, "Gbit/s", await throughput({ ...out, streams }));
          add(`${far} → container, ${many(streams)}`, "Gbit/s", await throughput(from));
        }
        add(`round trip, container – ${far}`, "µs", await roundTrip(out));
      });
    });
  });
  return samples.comparisons();
}

function many(streams: number): string {
  return `${String(streams)} ${streams === 1 ? "stream" : "streams"}`;
}

async function withPairs(
  lab: BenchLab,
  contenders: readonly Contender[],
  use: (pairs: readonly Pair[]) => Promise<void>,
): Promise<void> {
  const undo: (() => Promise<unknown>)[] = [];
  try {
    const pairs: Pair[] = [];
    for (const contender of contenders) {
      const name = `net-${contender.side}`;
      const network = await lab.createNetwork(contender, name);
      undo.push(() => network.remove());
      const ends = [`client-${contender.side}`, `server-${contender.side}`] as const;
      for (const end of ends) {
        const container = await lab.createContainer(end, name);
        undo.push(() => container.remove({ force: true }));
        await container.start();
      }
      const { NetworkSettings: settings } = await lab.api.getContainer(ends[1]).inspect();
      pairs.push({
        contender,
        client: await inContainer(lab.host, ends[0]),
        server: await inContainer(lab.host, ends[1]),
        address: settings.Networks[name]?.IPAddress ?? "",
      });
    }
    await use(pairs);
  } finally {
    for (const step of undo.reverse()) await step();
  }
}
