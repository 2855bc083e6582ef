import { setTimeout as sleep } from "node:timers/promises";

/** How long to measure, and who is told. */
export interface Plan {
  readonly rounds: number;
  /** Rounds that are run first and not counted. */
  readonly warmUp: number;
  /** Length of one measurement of a stream. */
  readonly seconds: number;
  readonly progress: (text: string) => void;
}

/** What one side leaves to do in the background (the engine's clean-up, tsnet's look at what changed) must not slow the next. */
const SETTLE_MS = 400;

/**
 * Runs something for every item in each round. The item that comes first changes from round to round, so that none
 * gains by its place.
 *
 * @param run told whether the round counts
 */
export async function inRounds<T>(
  name: string,
  plan: Plan,
  items: readonly T[],
  run: (item: T, counts: boolean) => Promise<void>,
): Promise<void> {
  for (let round = 0; round < plan.warmUp + plan.rounds; round += 1) {
    const counts = round >= plan.warmUp;
    const first = round % items.length;
    for (const item of [...items.slice(first), ...items.slice(0, first)]) {
      await run(item, counts);
      await sleep(SETTLE_MS);
    }
    plan.progress(
      `${name}: ${counts ? "round" : "warm-up"} ${String(counts ? round - plan.warmUp + 1 : round + 1)} of ${String(counts ? plan.rounds : plan.warmUp)}`,
    );
  }
}
