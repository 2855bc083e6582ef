import type { Comparison } from "./comparison.ts";
import type { BenchLab, Contender } from "./lab.ts";
import { compareLatency, measureLatency } from "./latency.ts";
import type { Plan } from "./rounds.ts";
import { measureThroughput } from "./throughput.ts";

/** Link of the host that is on the wire. */
const PARENT = "eth0";

/** On one wire, in a subnet each: the engine gives no subnet twice. */
const SUBNETS = { tsnet: "10.112.0", engine: "10.113.0" } as const;

/** A network of the engine's driver. */
export const ENGINES: Contender = {
  side: "engine",
  driver: "macvlan",
  options: { parent: PARENT },
  subnet: `${SUBNETS.engine}.0/24`,
};

const MACVLANS: readonly Contender[] = [
  {
    side: "tsnet",
    driver: "tsnet",
    options: { backend: "macvlan", parent: PARENT },
    subnet: `${SUBNETS.tsnet}.0/24`,
  },
  ENGINES,
];

/** What the engine takes is to be matched, not halved: there is no bridge and no rule to save anything on. */
const GOAL = 1;

/** The same operations on networks without a bridge, and traffic with the wire itself, where the neighbour is. */
export async function measureMacvlan(lab: BenchLab, plan: Plan, streams: Plan): Promise<Comparison[]> {
  for (const subnet of Object.values(SUBNETS))
    await lab.neighbour.exec(["ip", "address", "add", `${subnet}.254/24`, "dev", "eth0"]);
  const latency = compareLatency(await measureLatency(lab, "macvlan", MACVLANS, plan), GOAL);
  const neighbour = { name: "LAN", address: ({ side }: Contender) => `${SUBNETS[side]}.254` };
  const traffic = { name: "macvlan streams", contenders: MACVLANS, neighbour };
  return [...latency, ...(await measureThroughput(lab, traffic, streams))];
}
