/**
 * Strict settings: building blocks for the operator's TOML file and for the JSON files that the supervisor writes for the parties.
 *
 * Guarantees: an unknown setting is refused, with the one that was probably meant; every problem is told at once, each with its path;
 * what comes out has the type that the blocks say. Values are never guessed: no text becomes a number.
 * Does not know what the settings mean together: the reader of the result checks that.
 */
import { readFile } from 'node:fs/promises';
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { formatDuration, parseDuration } from './duration.ts';
import { errorText } from './fault.ts';

/** Collects what is wrong, in words. */
type Tell = (path: string, problem: string) => void;

/** A value that could not be read; its problem has been told. */
const WRONG = Symbol('wrong');

/** Reads one value. */
export interface Setting<T> {
  /** The value where the setting is absent; without it, the setting must be there. */
  readonly absent?: { readonly value: T };
  read(value: unknown, path: string, tell: Tell): T | typeof WRONG;
}

type Fields = Readonly<Record<string, Setting<unknown>>>;
type ValueOf<S> = S extends Setting<infer T> ? T : never;

/** One of the texts. */
export function oneOf<const T extends string>(...choices: readonly T[]): Setting<T> {
  return {
    read: (value, path, tell) => {
      const choice = choices.find((known) => known === value);
      if (choice !== undefined) return choice;
      const meant = typeof value === 'string' ? nearest(value, choices) : undefined;
      return wrong(tell, path, `must be ${listed(choices)}${meant === undefined ? '' : `; did you mean "${meant}"?`}`);
    },
  };
}

/** A text that is not empty and, where a pattern is given, matches it (`described` says how in words). */
export function text(pattern?: RegExp, described = 'of another form'): Setting<string> {
  return {
    read: (value, path, tell) => {
      if (typeof value !== 'string' || value === '') return wrong(tell, path, 'must be a text that is not empty');
      if (pattern !== undefined && !pattern.test(value)) return wrong(tell, path, `must be ${described}`);
      return value;
    },
  };
}

/** A whole number within the bounds, both included. */
export function wholeNumber(least: number, most: number): Setting<number> {
  return {
    read: (value, path, tell) =>
      typeof value === 'number' && Number.isInteger(value) && value >= least && value <= most
        ? value
        : wrong(tell, path, `must be a whole number from ${String(least)} to ${String(most)}`),
  };
}

/** An amount in mills: a text of digits (JSON has no exact integers) or a whole number. */
export function amountMills(): Setting<bigint> {
  return {
    read: (value, path, tell) => {
      if (typeof value === 'string' && /^\d{1,18}$/.test(value)) return BigInt(value);
      if (typeof value === 'number' && Number.isSafeInteger(value) && value >= 0) return BigInt(value);
      return wrong(tell, path, 'must be a whole number of mills, not negative');
    },
  };
}

/** true or false. */
export function flag(): Setting<boolean> {
  return {
    read: (value, path, tell) => (typeof value === 'boolean' ? value : wrong(tell, path, 'must be true or false')),
  };
}

/** A duration such as "36h", in milliseconds, within the bounds. */
export function duration(leastMs: number, mostMs: number): Setting<number> {
  return {
    read: (value, path, tell) => {
      const durationMs = typeof value === 'string' ? parseDuration(value) : undefined;
      if (durationMs === undefined) return wrong(tell, path, 'must be a duration such as "1d", "36h" or "90m"');
      if (durationMs < leastMs || durationMs > mostMs) {
        return wrong(tell, path, `must be from ${formatDuration(leastMs)} to ${formatDuration(mostMs)}`);
      }
      return durationMs;
    },
  };
}

/** A list of values of one kind, of at most `most`. */
export function list<T>(item: Setting<T>, most = 1_000): Setting<readonly T[]> {
  return {
    read: (value, path, tell) => {
      if (!Array.isArray(value) || value.length > most)
        return wrong(tell, path, `must be a list of at most ${String(most)}`);
      const items = value.map((entry: unknown, index) => item.read(entry, `${path}[${String(index)}]`, tell));
      return items.includes(WRONG) ? WRONG : (items as T[]);
    },
  };
}

/** Named values of one kind, whose names match the pattern: for instance a baseline for each customer. */
export function named<T>(name: RegExp, item: Setting<T>): Setting<ReadonlyMap<string, T>> {
  return {
    read: (value, path, tell) => {
      if (!isTable(value)) return wrong(tell, path, 'must be a table');
      const entries = new Map<string, T>();
      let whole = true;
      for (const [key, entry] of Object.entries(value)) {
        const read = name.test(key)
          ? item.read(entry, join(path, key), tell)
          : wrong(tell, join(path, key), 'is not a name that may stand here');
        if (read === WRONG) whole = false;
        else entries.set(key, read);
      }
      return whole ? entries : WRONG;
    },
  };
}

/** A table of exactly these settings. */
export function table<F extends Fields>(fields: F): Setting<{ readonly [K in keyof F]: ValueOf<F[K]> }> {
  return {
    read: (value, path, tell) => {
      if (!isTable(value)) return wrong(tell, path, 'must be a table');
      const read: Record<string, unknown> = {};
      let whole = true;
      for (const key of Object.keys(value)) {
        if (Object.hasOwn(fields, key)) continue;
        whole = false;
        const meant = nearest(key, Object.keys(fields));
        tell(join(path, key), `is not a setting${meant === undefined ? '' : `; did you mean ${meant}?`}`);
      }
      for (const [key, setting] of Object.entries(fields)) {
        const entry = Object.hasOwn(value, key)
          ? setting.read(value[key], join(path, key), tell)
          : setting.absent === undefined
            ? wrong(tell, join(path, key), 'is missing')
            : setting.absent.value;
        if (entry === WRONG) whole = false;
        else if (entry !== undefined) read[key] = entry;
      }
      return whole ? (read as { readonly [K in keyof F]: ValueOf<F[K]> }) : WRONG;
    },
  };
}

/** The setting may be absent, and then has this value. */
export function withDefault<T>(setting: Setting<T>, value: T): Setting<T> {
  return { absent: { value }, read: setting.read.bind(setting) };
}

/** The setting may be absent, and then is undefined. */
export function optional<T>(setting: Setting<T>): Setting<T | undefined> {
  return { absent: { value: undefined }, read: setting.read.bind(setting) };
}

/** Reads a value that was parsed already, for instance from JSON. Rejection: `config-invalid`, with every problem. */
export function readConfig<T>(schema: Setting<T>, value: unknown, file: string): Result<T> {
  const problems: string[] = [];
  const read = schema.read(value, '', (path, problem) =>
    problems.push(`${path === '' ? 'the file' : path} ${problem}`),
  );
  if (read !== WRONG) return accept(read);
  return refuse(rejection('config-invalid', { file, reason: problems.join('; ') }));
}

/** Reads a TOML file. Rejections: `config-invalid`, also where it is missing or no TOML (with line and column). */
export async function readTomlFile<T>(schema: Setting<T>, file: string): Promise<Result<T>> {
  let value: unknown;
  try {
    const content = await readFile(file, 'utf8');
    value = (await import('smol-toml')).parse(content);
  } catch (error) {
    return refuse(rejection('config-invalid', { file, reason: errorText(error).trim() }));
  }
  return readConfig(schema, value, file);
}

function wrong(tell: Tell, path: string, problem: string): typeof WRONG {
  tell(path, problem);
  return WRONG;
}

function isTable(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value) && !(value instanceof Date);
}

function join(path: string, key: string): string {
  return path === '' ? key : `${path}.${key}`;
}

function listed(choices: readonly string[]): string {
  return choices.map((choice) => `"${choice}"`).join(' or ');
}

/** The known word that differs least, where that is little: at most a third of its letters. */
function nearest(word: string, known: readonly string[]): string | undefined {
  const ranked = known
    .map((candidate) => ({
      candidate,
      distance: editDistance(word.toLowerCase().slice(0, 64), candidate.toLowerCase()),
    }))
    .filter(({ candidate, distance }) => distance <= Math.max(1, Math.floor(candidate.length / 3)))
    .sort((one, other) => one.distance - other.distance);
  return ranked[0]?.candidate;
}

/** Levenshtein's distance. */
function editDistance(one: string, other: string): number {
  let row = Array.from({ length: other.length + 1 }, (_, index) => index);
  for (const [index, letter] of Array.from(one).entries()) {
    const next = [index + 1];
    for (const [column, otherLetter] of Array.from(other).entries()) {
      next.push(
        Math.min(
          (next[column] ?? 0) + 1,
          (row[column + 1] ?? 0) + 1,
          (row[column] ?? 0) + (letter === otherLetter ? 0 : 1),
        ),
      );
    }
    row = next;
  }
  return row[other.length] ?? one.length;
}
