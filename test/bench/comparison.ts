import type { Side } from "./lab.ts";
import { type Summary, summarize } from "./statistics.ts";

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
  readonly met: boolean;
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
  const tsnet = summarize(comparison.samples.tsnet);
  const engine = summarize(comparison.samples.engine);
  const ratio = tsnet.median / engine.median;
  const met = isTime(comparison) ? ratio <= comparison.goal : ratio >= comparison.goal;
  return { tsnet, engine, ratio, met };
}
