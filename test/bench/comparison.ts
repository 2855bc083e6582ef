import type { Side } from "./lab.ts";
import { type Summary, ratioInterval, summarize } from "./statistics.ts";

/** Something both sides are measured at. */
export interface Measure {
  readonly what: string;
  readonly unit: "ms" | "µs" | "Gbit/s" | "1/s";
  /** What tsnet should have of the engine's figure: at most that for a time, at least that for a rate. */
  readonly goal: number;
  /** What the engine's own driver needed on the reference machine, where that is known. */
  readonly reference?: number;
}

/** A measure with every sample of each side. */
export interface Comparison extends Measure {
  readonly samples: Readonly<Record<Side, readonly number[]>>;
}

/** What a comparison comes to. */
export interface Verdict {
  readonly tsnet: Summary;
  readonly engine: Summary;
  /** tsnet's median over the engine's. */
  readonly ratio: number;
  /** Where that lies with 95 % confidence. */
  readonly interval: readonly [low: number, high: number];
  /** `even` where the goal is parity and chance alone may be what is missing. */
  readonly outcome: "met" | "even" | "missed";
}

/** Collects the samples of a section. */
export class Samples {
  readonly #comparisons = new Map<string, Measure & { samples: Record<Side, number[]> }>();

  add(measure: Measure, side: Side, value: number): void {
    const found = this.#comparisons.get(measure.what) ?? { ...measure, samples: { tsnet: [], engine: [] } };
    found.samples[side].push(value);
    this.#comparisons.set(measure.what, found);
  }

  /** In the order in which they were first added. */
  comparisons(): Comparison[] {
    return [...this.#comparisons.values()];
  }
}

/** Whether a measure is a time, of which less is better. */
export function isTime({ unit }: Measure): boolean {
  return unit === "ms" || unit === "µs";
}

/** Compares the medians. */
export function judge(comparison: Comparison): Verdict {
  const { goal, samples } = comparison;
  const tsnet = summarize(samples.tsnet);
  const engine = summarize(samples.engine);
  const ratio = tsnet.median / engine.median;
  const interval = ratioInterval(samples.tsnet, samples.engine);
  const met = isTime(comparison) ? ratio <= goal : ratio >= goal;
  const even = goal === 1 && interval[0] <= 1 && interval[1] >= 1;
  return { tsnet, engine, ratio, interval, outcome: met ? "met" : even ? "even" : "missed" };
}
