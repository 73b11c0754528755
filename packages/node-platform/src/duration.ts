/**
 * Durations as people write them: `1d`, `36h`, `1d12h`, `90m`, `30s`, `500ms`. A day has 24 hours.
 *
 * A bare number is refused, because nobody knows its unit.
 */

const UNITS = [
  ['d', 86_400_000],
  ['h', 3_600_000],
  ['m', 60_000],
  ['s', 1_000],
  ['ms', 1],
] as const;

/** Milliseconds, or undefined where the text is no duration or beyond 2^53. Units stand from the greatest to the smallest, each once. */
export function parseDuration(text: string): number | undefined {
  const parts = /^(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?(?:(\d+)ms)?$/.exec(text);
  if (parts === null || text === '') return undefined;
  const durationMs = UNITS.reduce((sum, [, unitMs], index) => sum + Number(parts[index + 1] ?? 0) * unitMs, 0);
  return Number.isSafeInteger(durationMs) ? durationMs : undefined;
}

/** The text that `parseDuration` reads back: `93600000` is `1d2h`. @throws RangeError for what is no whole number of milliseconds. */
export function formatDuration(durationMs: number): string {
  if (!Number.isSafeInteger(durationMs) || durationMs < 0) throw new RangeError(`${String(durationMs)} is no duration`);
  let leftMs = durationMs;
  let text = '';
  for (const [unit, unitMs] of UNITS) {
    const count = Math.floor(leftMs / unitMs);
    leftMs -= count * unitMs;
    if (count > 0) text += `${String(count)}${unit}`;
  }
  return text === '' ? '0s' : text;
}
