/**
 * A programme of discounts or credits: what the postal authority pays for, read from data.
 *
 * Guarantees: a `Programme` came from JSON without unknown or missing fields, its rates are exact fractions between 0 and
 * 1, its bands ascend and never fall (so that more mail never earns less), and it has one canonical text, by which a
 * change under the same version is noticed.
 * Does not reckon (`programme-reckoning.ts`), and does not say who may write programmes.
 */
import { CODE, CUSTOMER_ID, DAY, LICENSEE_ID, PROGRAMME_ID, type ProgrammeId } from '@countermark/protocol/id';
import type { Currency } from '@countermark/protocol/money';
import { canonicalText } from './canonical-text.ts';

/** An exact part of an amount, `numerator / denominator`, with the words of the programme's file (`3 %`). */
export type Rate = { readonly numerator: bigint; readonly denominator: bigint; readonly text: string };

export type Band = { readonly fromPieces: number; readonly rate: Rate };

/** Which mail is added up: all of one mailing date, or of a stretch of the calendar. */
export type Period =
  | { readonly kind: 'posting' }
  | { readonly kind: 'calendar'; readonly unit: 'year' | 'quarter' | 'month' }
  | { readonly kind: 'range'; readonly from: string; readonly to: string };

/** Null stands for any licensee, and for the licensee's own mail. */
export type Baseline = {
  readonly licensee: string | null;
  readonly customer: string | null;
  readonly pieces: number;
};

/** Dimensions that a programme may select by. */
export const SELECTABLE = [
  'licensee',
  'customer',
  'product',
  'shape',
  'affixed',
  'level',
  'entry',
  'weightStep',
  'submitter',
  'preparer',
] as const;
export type Selectable = (typeof SELECTABLE)[number];

export type Programme = {
  readonly id: ProgrammeId;
  readonly version: number;
  readonly title: string;
  readonly demonstration: boolean;
  readonly kind: 'discount' | 'credit';
  readonly currency: Currency;
  readonly beneficiary: 'customer' | 'licensee';
  /** First and last mailing date that it is for; null: open. */
  readonly mailingDates: { readonly from: string; readonly to: string | null };
  /** Dimension -> the values that count; a dimension that is not there does not matter. */
  readonly select: ReadonlyMap<Selectable, ReadonlySet<string>>;
  /** `attestation`: a MAC record counts as well; `certified`: only pieces of certified devices count, no specimens. */
  readonly requires: { readonly authentication: 'signature' | 'attestation'; readonly certified: boolean };
  readonly period: Period;
  readonly base: 'difference' | 'postage' | 'growth';
  /** One rate for all, or bands by the number of pieces, ascending: the highest that is reached is for all pieces. */
  readonly rate: Rate | readonly Band[];
  /** For `growth` only, else empty. */
  readonly baselines: readonly Baseline[];
  /** The one text of this content. */
  readonly canonical: string;
};

export type ProgrammeParsing =
  | { readonly ok: true; readonly programme: Programme }
  | { readonly ok: false; readonly path: string; readonly problem: string };

const MAX_TEXT = 64 * 1024;

/** Parses the text of a programme file strictly: the programme, or the path of the first thing that is wrong. */
export function parseProgramme(text: string): ProgrammeParsing {
  try {
    if (text.length > MAX_TEXT) throw new ProgrammeProblem('$', 'is longer than 64 KiB');
    return { ok: true, programme: readProgramme(parseJson(text)) };
  } catch (problem) {
    if (problem instanceof ProgrammeProblem) return { ok: false, path: problem.path, problem: problem.message };
    throw problem;
  }
}

/**
 * Programmes side by side: of several versions of one, each is for mail before the first day of the next, so that no mail
 * is paid for twice. Returns them with those last days, ordered by id and version, or what is wrong in words.
 */
export function inSuccession(
  programmes: readonly Programme[],
): { readonly ok: true; readonly programmes: readonly Programme[] } | { readonly ok: false; readonly problem: string } {
  const sorted = [...programmes].sort((a, b) => (a.id === b.id ? a.version - b.version : a.id < b.id ? -1 : 1));
  const bounded: Programme[] = [];
  for (const [index, programme] of sorted.entries()) {
    const { id, version, mailingDates } = programme;
    const next = sorted[index + 1];
    if (next?.id !== id) {
      bounded.push(programme);
      continue;
    }
    if (next.version === version) return { ok: false, problem: `${id} version ${version} is given twice` };
    if (next.mailingDates.from <= mailingDates.from) {
      return { ok: false, problem: `${id} version ${next.version} must begin after version ${version} began` };
    }
    const last = dayBefore(next.mailingDates.from);
    const to = mailingDates.to !== null && mailingDates.to < last ? mailingDates.to : last;
    bounded.push({ ...programme, mailingDates: { from: mailingDates.from, to } });
  }
  return { ok: true, programmes: bounded };
}

function dayBefore(day: string): string {
  return new Date(Date.parse(`${day}T00:00:00Z`) - 86_400_000).toISOString().slice(0, 10);
}

class ProgrammeProblem extends Error {
  readonly path: string;
  constructor(path: string, problem: string) {
    super(problem);
    this.path = path;
  }
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new ProgrammeProblem('$', 'is not JSON');
  }
}

const FIELDS = [
  'format',
  'id',
  'version',
  'title',
  'demonstration',
  'kind',
  'currency',
  'exponent',
  'beneficiary',
  'mailingDates',
  'select',
  'requires',
  'period',
  'base',
  'rate',
] as const;

function readProgramme(value: unknown): Programme {
  const fields = readObject(value, '$', FIELDS, ['baselines']);
  if (fields.format !== 1) throw new ProgrammeProblem('$.format', 'is not 1, the only format that this version reads');
  const base = readOneOf(fields.base, '$.base', ['difference', 'postage', 'growth']);
  const demonstration = readBoolean(fields.demonstration, '$.demonstration');
  const beneficiary = readOneOf(fields.beneficiary, '$.beneficiary', ['customer', 'licensee']);
  const id = readMatching(fields.id, '$.id', PROGRAMME_ID, 'a slug of at most 48 letters, digits and hyphens');
  const mailingDates = readDates(fields.mailingDates);
  const period = readPeriod(fields.period);
  if (period.kind === 'range' && (period.to < mailingDates.from || period.from > (mailingDates.to ?? period.from))) {
    throw new ProgrammeProblem('$.period', 'lies outside mailingDates');
  }
  const requires = readObject(fields.requires, '$.requires', ['authentication', 'certified']);
  if (base === 'growth' && fields.baselines === undefined) throw new ProgrammeProblem('$.baselines', 'is missing');
  if (base !== 'growth' && fields.baselines !== undefined) {
    throw new ProgrammeProblem('$.baselines', 'has a meaning only with the base growth');
  }
  return {
    id: id as ProgrammeId,
    version: readWhole(fields.version, '$.version', 1, 65_535),
    title: readTitle(fields.title, '$.title'),
    demonstration,
    kind: readOneOf(fields.kind, '$.kind', ['discount', 'credit']),
    currency: {
      code: readMatching(fields.currency, '$.currency', /^[A-Z]{3}$/, 'an ISO 4217 code'),
      exponent: readWhole(fields.exponent, '$.exponent', 0, 6),
    },
    beneficiary,
    mailingDates,
    select: readSelection(fields.select),
    requires: {
      authentication: readOneOf(requires.authentication, '$.requires.authentication', ['signature', 'attestation']),
      certified: readBoolean(requires.certified, '$.requires.certified'),
    },
    period,
    base,
    rate: readRates(fields.rate),
    baselines: fields.baselines === undefined ? [] : readBaselines(fields.baselines, demonstration, beneficiary),
    canonical: canonical(value),
  };
}

function canonical(value: unknown): string {
  try {
    return canonicalText(value);
  } catch {
    throw new ProgrammeProblem('$', 'has a number that is not a whole number');
  }
}

function readDates(value: unknown): Programme['mailingDates'] {
  const fields = readObject(value, '$.mailingDates', ['from', 'to']);
  const from = readDay(fields.from, '$.mailingDates.from');
  const to = fields.to === null ? null : readDay(fields.to, '$.mailingDates.to');
  if (to !== null && to < from) throw new ProgrammeProblem('$.mailingDates.to', 'is before the first day');
  return { from, to };
}

function readPeriod(value: unknown): Period {
  const kind = readOneOf((value as { kind?: unknown } | null)?.kind, '$.period.kind', ['posting', 'calendar', 'range']);
  if (kind === 'posting') {
    readObject(value, '$.period', ['kind']);
    return { kind };
  }
  if (kind === 'calendar') {
    const fields = readObject(value, '$.period', ['kind', 'unit']);
    return { kind, unit: readOneOf(fields.unit, '$.period.unit', ['year', 'quarter', 'month']) };
  }
  const fields = readObject(value, '$.period', ['kind', 'from', 'to']);
  const from = readDay(fields.from, '$.period.from');
  const to = readDay(fields.to, '$.period.to');
  if (to < from) throw new ProgrammeProblem('$.period.to', 'is before the first day');
  return { kind, from, to };
}

function readSelection(value: unknown): Programme['select'] {
  const fields = readObject(value, '$.select', [], SELECTABLE);
  const select = new Map<Selectable, ReadonlySet<string>>();
  for (const dimension of SELECTABLE) {
    const values = fields[dimension];
    if (values === undefined) continue;
    const path = `$.select.${dimension}`;
    if (!Array.isArray(values) || values.length === 0)
      throw new ProgrammeProblem(path, 'is not a list with at least one value');
    const allowed = values.map((item: unknown, index) => readDimension(dimension, item, `${path}[${index}]`));
    select.set(dimension, new Set(allowed));
  }
  return select;
}

function readDimension(dimension: Selectable, value: unknown, path: string): string {
  if (dimension === 'weightStep') return String(readWhole(value, path, 0, 1_000_000));
  if (dimension === 'submitter' || dimension === 'preparer') return readTitle(value, path);
  const form = dimension === 'licensee' ? LICENSEE_ID : dimension === 'customer' ? CUSTOMER_ID : CODE;
  return readMatching(value, path, form, `a ${dimension} as it stands in records`);
}

function readRates(value: unknown): Programme['rate'] {
  if (typeof value === 'string') return readRate(value, '$.rate');
  const { bands } = readObject(value, '$.rate', ['bands']);
  if (!Array.isArray(bands) || bands.length === 0 || bands.length > 32) {
    throw new ProgrammeProblem('$.rate.bands', 'is not a list of 1 to 32 bands');
  }
  const read = bands.map((item: unknown, index): Band => {
    const path = `$.rate.bands[${index}]`;
    const band = readObject(item, path, ['fromPieces', 'rate']);
    return {
      fromPieces: readWhole(band.fromPieces, `${path}.fromPieces`, 1, 1_000_000_000_000),
      rate: readRate(band.rate, `${path}.rate`),
    };
  });
  for (const [index, band] of read.entries()) {
    const before = read[index - 1];
    if (before === undefined) continue;
    const path = `$.rate.bands[${index}]`;
    if (band.fromPieces <= before.fromPieces) throw new ProgrammeProblem(`${path}.fromPieces`, 'does not ascend');
    if (band.rate.numerator * before.rate.denominator < before.rate.numerator * band.rate.denominator) {
      throw new ProgrammeProblem(`${path}.rate`, 'falls: more mail would earn less');
    }
  }
  return read;
}

/** `30 %`, `12.5 %` or `1/3`, above 0 and at most 1. */
function readRate(value: unknown, path: string): Rate {
  const text = typeof value === 'string' ? value : '';
  const percent = /^(\d{1,3})(?:\.(\d{1,6}))? ?%$/.exec(text);
  const fraction = /^(\d{1,9})\/(\d{1,9})$/.exec(text);
  let numerator = 0n;
  let denominator = 0n;
  if (percent !== null) {
    const places = percent[2] ?? '';
    numerator = BigInt(`${percent[1] ?? ''}${places}`);
    denominator = 100n * 10n ** BigInt(places.length);
  } else if (fraction !== null) {
    numerator = BigInt(fraction[1] ?? '0');
    denominator = BigInt(fraction[2] ?? '0');
  }
  if (numerator === 0n || numerator > denominator) {
    throw new ProgrammeProblem(path, 'is neither a percentage ("12.5 %") nor a fraction ("1/3") above 0 and at most 1');
  }
  return { numerator, denominator, text };
}

function readBaselines(value: unknown, demonstration: boolean, beneficiary: string): readonly Baseline[] {
  if (!Array.isArray(value) || value.length === 0 || value.length > 10_000) {
    throw new ProgrammeProblem('$.baselines', 'is not a list of 1 to 10,000 baselines');
  }
  const seen = new Set<string>();
  return value.map((item: unknown, index): Baseline => {
    const path = `$.baselines[${index}]`;
    const fields = readObject(item, path, ['licensee', 'customer', 'pieces']);
    const licensee =
      fields.licensee === null
        ? null
        : readMatching(fields.licensee, `${path}.licensee`, LICENSEE_ID, 'a licensee (lic_...) or null');
    // Customers are named by their licensee: without it, anyone could call a customer by a name that has a baseline.
    if (licensee === null && !demonstration) {
      throw new ProgrammeProblem(`${path}.licensee`, 'may be null only in a demonstration');
    }
    const customer =
      fields.customer === null
        ? null
        : readMatching(fields.customer, `${path}.customer`, CUSTOMER_ID, 'a customer or null (own mail)');
    if (customer !== null && beneficiary === 'licensee') {
      throw new ProgrammeProblem(`${path}.customer`, 'must be null where the beneficiary is the licensee');
    }
    const key = `${licensee ?? '*'} ${customer ?? '*'}`;
    if (seen.has(key)) throw new ProgrammeProblem(path, 'names a beneficiary twice');
    seen.add(key);
    return { licensee, customer, pieces: readWhole(fields.pieces, `${path}.pieces`, 0, 1_000_000_000_000) };
  });
}

function readObject<Name extends string, Optional extends string = never>(
  value: unknown,
  path: string,
  names: readonly Name[],
  optional: readonly Optional[] = [],
): Partial<Record<Name | Optional, unknown>> {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new ProgrammeProblem(path, 'is not an object');
  const known: readonly string[] = [...names, ...optional];
  for (const key of Object.keys(value)) {
    if (!known.includes(key)) throw new ProgrammeProblem(`${path}.${key}`, 'is not known');
  }
  for (const name of names) {
    if (!Object.hasOwn(value, name)) throw new ProgrammeProblem(`${path}.${name}`, 'is missing');
  }
  return value;
}

function readMatching(value: unknown, path: string, form: RegExp, wanted: string): string {
  if (typeof value !== 'string' || !form.test(value)) throw new ProgrammeProblem(path, `is not ${wanted}`);
  return value;
}

function readDay(value: unknown, path: string): string {
  const day = readMatching(value, path, DAY, 'a day as YYYY-MM-DD');
  // JavaScript takes 2026-02-30 for a day of March.
  if (new Date(Date.parse(`${day}T00:00:00Z`)).toISOString().slice(0, 10) !== day) {
    throw new ProgrammeProblem(path, 'is no day of the calendar');
  }
  return day;
}

function readTitle(value: unknown, path: string): string {
  return readMatching(value, path, /^\P{Cc}{1,120}$/u, 'a text of at most 120 letters');
}

function readOneOf<const T extends readonly string[]>(value: unknown, path: string, values: T): T[number] {
  const found = values.find((known) => known === value);
  if (found === undefined) throw new ProgrammeProblem(path, `is none of ${values.join(', ')}`);
  return found;
}

function readBoolean(value: unknown, path: string): boolean {
  if (typeof value !== 'boolean') throw new ProgrammeProblem(path, 'is neither true nor false');
  return value;
}

function readWhole(value: unknown, path: string, least: number, most: number): number {
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < least || value > most) {
    throw new ProgrammeProblem(path, `is not a whole number of ${least} to ${most}`);
  }
  return value;
}
