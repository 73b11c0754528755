/**
 * What a benchmark is given and what it gives back.
 *
 * Guarantees that a goal is judged in one place: it is of the ratio to a limit where there is one, else of the value itself.
 */
import type { Limits } from './limits.ts';

/** One measured figure. */
export type Figure = {
  /** `mailing`, or for a part or variant `frank-chunks:mac:psd`. */
  readonly name: string;
  /** Null where it could not be measured here. */
  readonly value: number | null;
  readonly unit: string;
  /** The value against the limit that belongs to it, measured in the same run; null where there is none. */
  readonly ratio: number | null;
  readonly goal: Goal | null;
  /** Null without a goal, or where it could not be judged. */
  readonly met: boolean | null;
};

/** What a ratio, or without one the value, should be. */
export type Goal = { readonly atLeast: number } | { readonly atMost: number };

/**
 * How much is measured. `smoke` shows that it runs, in a second or less; `standard` is `npm run bench`; `full` has everything, and
 * is meant where a benchmark was asked for by name.
 */
export type Size = 'smoke' | 'standard' | 'full';

/** What each benchmark is given. */
export type BenchmarkRun = {
  readonly size: Size;
  readonly limits: Limits;
  /** An empty folder of this benchmark alone, on a real disk, removed afterwards. */
  readonly folder: string;
  /** Says on stderr what is going on. */
  readonly note: (line: string) => void;
};

/** Measures; the first figure bears the benchmark's name. Throws where it could not run. */
export type Benchmark = (run: BenchmarkRun) => Promise<readonly Figure[]>;

/** A figure whose goal, if it has one, is of the value. */
export function figure(name: string, value: number, unit: string, goal: Goal | null = null): Figure {
  return { name, value, unit, ratio: null, goal, met: goal === null ? null : isMet(goal, value) };
}

/** A figure against a limit; the goal is of the ratio. */
export function figureOfLimit(
  name: string,
  value: number,
  unit: string,
  limit: number,
  goal: Goal | null = null,
): Figure {
  const ratio = value / limit;
  return { name, value, unit, ratio, goal, met: goal === null ? null : isMet(goal, ratio) };
}

/** A figure that cannot be measured on this machine. */
export function unmeasured(name: string, unit: string, goal: Goal | null): Figure {
  return { name, value: null, unit, ratio: null, goal, met: null };
}

function isMet(goal: Goal, value: number): boolean {
  return 'atLeast' in goal ? value >= goal.atLeast : value <= goal.atMost;
}
