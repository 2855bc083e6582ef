/** Where the middle half of a set of samples lies. */
export interface Summary {
  readonly median: number;
  /** First and third quartile. */
  readonly q1: number;
  readonly q3: number;
  readonly n: number;
}

/** Median and quartiles; NaN where there are no samples. */
export function summarize(samples: readonly number[]): Summary {
  const sorted = [...samples].sort((a, b) => a - b);
  return {
    median: quantile(sorted, 0.5),
    q1: quantile(sorted, 0.25),
    q3: quantile(sorted, 0.75),
    n: sorted.length,
  };
}

/** Median; NaN where there are no samples. */
export function median(samples: readonly number[]): number {
  return summarize(samples).median;
}

/** The value that the share `q` of the samples does not exceed; NaN where there are no samples. */
export function percentile(samples: readonly number[], q: number): number {
  return quantile(
    [...samples].sort((a, b) => a - b),
    q,
  );
}

/** How often samples are drawn anew. */
const DRAWS = 2000;

/**
 * Where the ratio of the medians of what was sampled lies with 95 % confidence: a percentile bootstrap (Efron, 1979).
 *
 * @returns its ends; NaN where there are no samples
 */
export function ratioInterval(
  over: readonly number[],
  under: readonly number[],
): [low: number, high: number] {
  const ratios = Array.from({ length: DRAWS }, () => median(drawn(over)) / median(drawn(under)));
  return [percentile(ratios, 0.025), percentile(ratios, 0.975)];
}

/** As many of the samples, each of them any number of times. */
function drawn(samples: readonly number[]): number[] {
  return samples.map(() => samples[Math.floor(Math.random() * samples.length)] ?? NaN);
}

/** Between the two nearest samples in proportion, as R's type 7 does it. */
function quantile(sorted: readonly number[], q: number): number {
  const position = (sorted.length - 1) * q;
  const below = sorted[Math.floor(position)] ?? NaN;
  const above = sorted[Math.ceil(position)] ?? NaN;
  return below + (above - below) * (position - Math.floor(position));
}
