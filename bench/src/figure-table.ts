/**
 * Figures as people and programs read them: an aligned table, and the JSON that the issue of this benchmark fixed.
 */
import type { Figure, Goal } from './figure.ts';
import type { Limits } from './limits.ts';

const LIMIT_WORDS: Readonly<Record<keyof Limits, string>> = {
  signsPerSecond: 'P-256 signatures/s, one core',
  verifiesPerSecond: 'P-256 verifications/s, one core',
  fsyncsPerSecond: 'fsyncs/s of 4 KiB appended',
  commitsPerSecond: 'commits/s, SQLite WAL synchronous=FULL',
};

/** Limits and figures in aligned columns. */
export function figureTable(limits: Limits, figures: readonly Figure[]): string {
  const known = Object.entries(LIMIT_WORDS).map(([name, words]) => [shown(limits[name as keyof Limits]), words]);
  const rows = figures.map(({ name, value, unit, ratio, goal, met }) => [
    name,
    value === null ? '-' : shown(value),
    unit,
    ratio === null ? '' : ratio.toFixed(2),
    goal === null ? '' : goalText(goal),
    met === null ? '' : met ? 'met' : 'MISSED',
  ]);
  return [
    'Limits of this machine, measured in this run',
    ...aligned(known, [true, false]),
    '',
    ...aligned([['figure', 'value', 'unit', 'ratio', 'goal', ''], ...rows], [false, true, false, true, false, false]),
  ].join('\n');
}

/** Limits and figures as one JSON object. A goal is of the ratio where there is one, else of the value. */
export function figureJson(limits: Limits, figures: readonly Figure[]): string {
  const rows = figures.map(({ name, value, unit, ratio, goal, met }) => ({
    name,
    value: rounded(value),
    unit,
    ratio: rounded(ratio),
    goal: goal === null ? null : amountOf(goal),
    met,
  }));
  const known = Object.fromEntries(Object.entries(limits).map(([name, rate]) => [name, rounded(rate)]));
  return JSON.stringify({ limits: known, figures: rows }, null, 2);
}

function amountOf(goal: Goal): number {
  return 'atLeast' in goal ? goal.atLeast : goal.atMost;
}

function goalText(goal: Goal): string {
  return `at ${'atLeast' in goal ? 'least' : 'most'} ${amountOf(goal)}`;
}

/** Four significant digits: more would say nothing. */
function rounded(value: number | null): number | null {
  return value === null ? null : Number(value.toPrecision(4));
}

function shown(value: number): string {
  return Number(value.toPrecision(4)).toLocaleString('en-US', { maximumFractionDigits: 3 });
}

/** Pads each column to its widest entry. `right`: whether a column stands to the right. */
function aligned(rows: readonly (readonly string[])[], right: readonly boolean[]): string[] {
  const widths = right.map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  return rows.map((row) =>
    row
      .map((entry, column) => {
        const width = widths[column] ?? 0;
        return right[column] === true ? entry.padStart(width) : entry.padEnd(width);
      })
      .join('  ')
      .trimEnd(),
  );
}
