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

/** Between the two nearest samples in proportion, as R's type 7 does it. */
function quantile(sorted: readonly number[], q: number): number {
  const position = (sorted.length - 1) * q;
  const below = sorted[Math.floor(position)] ?? NaN;
  const above = sorted[Math.ceil(position)] ?? NaN;
  return below + (above - below) * (position - Math.floor(position));
}
