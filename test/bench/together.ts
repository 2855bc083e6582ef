import type Docker from "dockerode";
import { type Comparison, type Measure, Samples } from "./comparison.ts";
import { BRIDGES, type BenchLab, type Contender, using } from "./lab.ts";
import { type Plan, inRounds } from "./rounds.ts";
import { median } from "./statistics.ts";

/** Containers that start at once, as those of a compose file do. */
const CONTAINERS = 32;
const FIRST_PORT = 23_000;

const MEASURES = {
  start: { what: `${String(CONTAINERS)} containers started at once less on none`, unit: "ms", goal: 1 },
  remove: { what: `${String(CONTAINERS)} containers removed at once less on none`, unit: "ms", goal: 1 },
} as const satisfies Record<string, Measure>;
type Operation = keyof typeof MEASURES;

/** What the engine needs for many containers at once, each with a published port, until the last of them is done. */
export async function measureTogether(lab: BenchLab, plan: Plan): Promise<Comparison[]> {
  const timings: { side: Contender["side"] | "none"; operation: Operation; ms: number }[] = [];
  await inRounds("at once", plan, [...BRIDGES, "none" as const], async (item, counts) => {
    const side = item === "none" ? item : item.side;
    const times =
      item === "none"
        ? await startAndRemove(lab, "none")
        : await using(
            await lab.createNetwork(item, `net-${side}`),
            (network) => network.remove(),
            () => startAndRemove(lab, `net-${side}`),
          );
    if (!counts) return;
    for (const [operation, ms] of Object.entries(times) as [Operation, number][])
      timings.push({ side, operation, ms });
  });
  const samples = new Samples();
  for (const [operation, measure] of Object.entries(MEASURES)) {
    const mine = timings.filter((timing) => timing.operation === operation);
    const none = median(mine.filter(({ side }) => side === "none").map(({ ms }) => ms));
    for (const { side, ms } of mine) if (side !== "none") samples.add(measure, side, ms - none);
  }
  return samples.comparisons();
}

async function startAndRemove(lab: BenchLab, network: string): Promise<Record<Operation, number>> {
  const containers: Docker.Container[] = [];
  const remove = () => together(containers, (container) => container.remove({ force: true }));
  try {
    for (let number = 0; number < CONTAINERS; number += 1)
      containers.push(
        await lab.createContainer(`crowd-${String(number)}`, network, {
          "80/tcp": [{ HostPort: String(FIRST_PORT + number) }],
        }),
      );
    const start = await together(containers, (container) => container.start());
    return { start, remove: await remove() };
  } catch (error) {
    await remove();
    throw error;
  }
}

/** @returns milliseconds until the last of them is done */
async function together(
  containers: readonly Docker.Container[],
  act: (container: Docker.Container) => Promise<unknown>,
): Promise<number> {
  const start = performance.now();
  await Promise.all(containers.map(act));
  return performance.now() - start;
}
