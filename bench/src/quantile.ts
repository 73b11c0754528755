/**
 * Quantiles of measured values, by nearest rank: every result is one of the values.
 */

/** The value below which a share of the values lies (`share` of 0.99: the 99th percentile). @throws RangeError of nothing */
export function quantile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  const found = sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)];
  if (found === undefined) throw new RangeError('There is no quantile of no values.');
  return found;
}

/** The middle value; of an even number, the lower of the two in the middle. @throws RangeError of nothing */
export function median(values: readonly number[]): number {
  return quantile(values, 0.5);
}
