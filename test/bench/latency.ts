import type Docker from "dockerode";
import { type Comparison, type Measure, Samples } from "./comparison.ts";
import { type BenchLab, type Contender, using } from "./lab.ts";
import { type Plan, inRounds } from "./rounds.ts";
import { median } from "./statistics.ts";

/** What is timed of each side. The reference figures are the engine's own bridge on engine 28.5. */
const MEASURES = {
  create: { what: "network create", unit: "ms", goal: 0.5, reference: 36 },
  start: { what: "container start less start on none", unit: "ms", goal: 0.5, reference: 40 },
  connect: { what: "connect", unit: "ms", goal: 0.5, reference: 50 },
  disconnect: { what: "disconnect", unit: "ms", goal: 0.5, reference: 71 },
  connectSecond: { what: "connect, as second network", unit: "ms", goal: 0.5 },
  disconnectSecond: { what: "disconnect, as second network", unit: "ms", goal: 0.5 },
  remove: { what: "network remove", unit: "ms", goal: 0.5, reference: 173 },
} as const satisfies Record<string, Measure>;
export type Operation = keyof typeof MEASURES;

/** One timed request to the engine. */
export interface Timing {
  /** "none" for the start of a container without a network. */
  readonly side: Contender["side"] | "none";
  readonly operation: Operation;
  /** Milliseconds since 1970, to find what tsnet logged meanwhile. */
  readonly from: number;
  readonly to: number;
  readonly ms: number;
}

/** Running containers that are connected and disconnected: one has no other network, one has the default network. */
const LONER = "loner";
const SETTLED = "settled";

/** Times the operations of both sides in turns, and the start without a network, which is not the driver's doing. */
export async function measureLatency(
  lab: BenchLab,
  name: string,
  contenders: readonly Contender[],
  plan: Plan,
): Promise<Timing[]> {
  const timings: Timing[] = [];
  const travellers = await makeTravellers(lab);
  await using(travellers, removeAll, async () => {
    await inRounds(name, plan, [...contenders, "none" as const], async (item, counts) => {
      const keep = (timing: Timing): void => {
        if (counts) timings.push(timing);
      };
      if (item === "none") await startOnNone(lab, keep);
      else await lifeOf(lab, item, keep);
    });
  });
  return timings;
}

/** @param goal instead of the usual half */
export function compareLatency(timings: readonly Timing[], goal?: number): Comparison[] {
  const none = median(timings.filter(({ side }) => side === "none").map(({ ms }) => ms));
  const samples = new Samples();
  for (const [operation, measure] of Object.entries(MEASURES)) {
    const less = operation === "start" ? none : 0;
    for (const timing of timings) {
      if (timing.operation !== operation || timing.side === "none") continue;
      // The reference figures belong to the usual goal.
      const { reference: _, ...plain } = measure as Measure;
      samples.add(goal === undefined ? measure : { ...plain, goal }, timing.side, timing.ms - less);
    }
  }
  return samples.comparisons();
}

/** What an operation is called in the report. */
export function nameOf(operation: Operation): string {
  return MEASURES[operation].what;
}

async function lifeOf(lab: BenchLab, contender: Contender, keep: (timing: Timing) => void): Promise<void> {
  const time = timer(contender.side, keep);
  // It sorts behind "bridge", so the settled container keeps the gateway it has.
  const name = `net-${contender.side}`;
  const network = await time("create", () => lab.createNetwork(contender, name));
  await using(
    network,
    () => time("remove", () => network.remove()),
    async () => {
      const container = await lab.createContainer(`box-${contender.side}`, name);
      await using(container, remove, () => time("start", () => container.start()));
      await time("connect", () => network.connect({ Container: LONER }));
      await time("disconnect", () => network.disconnect({ Container: LONER }));
      await time("connectSecond", () => network.connect({ Container: SETTLED }));
      await time("disconnectSecond", () => network.disconnect({ Container: SETTLED }));
    },
  );
}

async function startOnNone(lab: BenchLab, keep: (timing: Timing) => void): Promise<void> {
  const container = await lab.createContainer("box-none", "none");
  await using(container, remove, () => timer("none", keep)("start", () => container.start()));
}

async function makeTravellers(lab: BenchLab): Promise<Docker.Container[]> {
  const made = [await lab.createContainer(LONER, "bridge"), await lab.createContainer(SETTLED, "bridge")];
  for (const container of made) await container.start();
  await lab.api.getNetwork("bridge").disconnect({ Container: LONER });
  return made;
}

async function removeAll(containers: readonly Docker.Container[]): Promise<void> {
  for (const container of containers) await remove(container);
}

async function remove(container: Docker.Container): Promise<void> {
  await container.remove({ force: true });
}

function timer(side: Timing["side"], keep: (timing: Timing) => void) {
  return async <T>(operation: Operation, action: () => Promise<T>): Promise<T> => {
    const from = Date.now();
    const start = performance.now();
    const result = await action();
    keep({ side, operation, from, to: Date.now(), ms: performance.now() - start });
    return result;
  };
}
