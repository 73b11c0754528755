/**
 * What a programme owes for given cells: the one reckoning by which the authority grants and by which the host's dry
 * run expects.
 *
 * Guarantees: exact. Everything is a fraction of integers until the end, where the entitlement of a beneficiary and
 * period is rounded down once to a whole mill; the order and the grouping of the cells do not matter; more cells never
 * lower an entitlement. Beneficiaries never mix. The reasons are sentences that a clerk can follow with a pocket
 * calculator.
 * The caller gives only cells that are paid in full at their tariff (`cell-rating.ts`), and subtracts what was granted
 * before.
 */
import type { CellKey } from '@countermark/protocol/cell';
import type { CustomerId, LicenseeId } from '@countermark/protocol/id';
import { type Currency, formatMills, type Mills, mills } from '@countermark/protocol/money';
import type { Band, Baseline, Programme, Rate, Selectable } from './programme.ts';

/** Cells of the same key and circumstances added up: counts, postage paid, and what the declared levels cost. */
export type ProgrammeCell = {
  readonly key: CellKey;
  readonly licensee: LicenseeId;
  /** Null: the licensee's own mail. */
  readonly customer: CustomerId | null;
  readonly mailingDate: string;
  readonly submitter: string;
  readonly preparer: string;
  readonly authentication: 'signature' | 'mac';
  /** The device was not certified. */
  readonly specimen: boolean;
  readonly currency: Currency;
  readonly pieces: number;
  readonly postageMills: bigint;
  readonly declaredMills: bigint;
};

export type Beneficiary = { readonly licensee: LicenseeId; readonly customer: CustomerId | null };

/** The part of a reckoning that one product and level make up. */
export type LevelLine = {
  readonly product: string;
  readonly level: string;
  readonly pieces: number;
  readonly postageMills: Mills;
  readonly declaredMills: Mills;
  readonly differenceMills: Mills;
};

export type Reckoning = Beneficiary & {
  readonly period: string;
  readonly pieces: number;
  readonly postageMills: Mills;
  readonly declaredMills: Mills;
  readonly differenceMills: Mills;
  /** All that the programme owes for this period so far, rounded down. */
  readonly entitlementMills: Mills;
  /** By product and level, in that order. */
  readonly lines: readonly LevelLine[];
  readonly reasons: readonly string[];
};

/** Whether a programme counts cells with these circumstances at all. */
export function selects(programme: Programme, cell: Omit<ProgrammeCell, 'pieces' | 'postageMills' | 'declaredMills'>) {
  const { mailingDates, requires, currency, period } = programme;
  if (cell.mailingDate < mailingDates.from || (mailingDates.to !== null && cell.mailingDate > mailingDates.to))
    return false;
  if (period.kind === 'range' && (cell.mailingDate < period.from || cell.mailingDate > period.to)) return false;
  if (requires.certified && cell.specimen) return false;
  if (requires.authentication === 'signature' && cell.authentication !== 'signature') return false;
  if (cell.currency.code !== currency.code || cell.currency.exponent !== currency.exponent) return false;
  for (const [dimension, values] of programme.select) {
    const value = dimensionOf(cell, dimension);
    if (value === null || !values.has(value)) return false;
  }
  return true;
}

function dimensionOf(
  cell: Omit<ProgrammeCell, 'pieces' | 'postageMills' | 'declaredMills'>,
  dimension: Selectable,
): string | null {
  switch (dimension) {
    case 'licensee':
    case 'customer':
    case 'submitter':
    case 'preparer':
      return cell[dimension];
    default:
      return String(cell.key[dimension]);
  }
}

/** The period that a mailing date falls in, as it stands in grants: `2026-11-22`, `2026-11`, `2026-q4`, `2026`. */
export function periodOf(programme: Programme, mailingDate: string): string {
  const { period } = programme;
  if (period.kind === 'posting') return mailingDate;
  if (period.kind === 'range') return `${period.from}-to-${period.to}`;
  const [year = '', month = ''] = mailingDate.split('-');
  if (period.unit === 'year') return year;
  return period.unit === 'month' ? `${year}-${month}` : `${year}-q${Math.ceil(Number(month) / 3)}`;
}

/** First and last mailing date of a period, both inclusive. The last may be a day that no calendar has. */
export function periodDays(programme: Programme, mailingDate: string): { readonly from: string; readonly to: string } {
  const { period } = programme;
  if (period.kind === 'posting') return { from: mailingDate, to: mailingDate };
  if (period.kind === 'range') return { from: period.from, to: period.to };
  const [year = '', month = ''] = mailingDate.split('-');
  if (period.unit === 'year') return { from: `${year}-01-01`, to: `${year}-12-31` };
  if (period.unit === 'month') return { from: `${year}-${month}-01`, to: `${year}-${month}-31` };
  const first = Math.ceil(Number(month) / 3) * 3 - 2;
  const two = (n: number): string => String(n).padStart(2, '0');
  return { from: `${year}-${two(first)}-01`, to: `${year}-${two(first + 2)}-31` };
}

/** Who is granted what the cells earn. */
export function beneficiaryOf(programme: Programme, cell: Beneficiary): Beneficiary {
  return { licensee: cell.licensee, customer: programme.beneficiary === 'customer' ? cell.customer : null };
}

/**
 * Reckons a programme over cells, for each beneficiary and period that they touch; those to whom nothing is owed are
 * there with their reasons. Ordered by licensee, customer and period.
 */
export function reckon(programme: Programme, cells: Iterable<ProgrammeCell>): readonly Reckoning[] {
  const groups = new Map<string, { beneficiary: Beneficiary; period: string; lines: Map<string, Sums> }>();
  for (const cell of cells) {
    if (!selects(programme, cell)) continue;
    const beneficiary = beneficiaryOf(programme, cell);
    const period = periodOf(programme, cell.mailingDate);
    const id = `${beneficiary.licensee} ${beneficiary.customer ?? ''} ${period}`;
    const group = groups.get(id) ?? { beneficiary, period, lines: new Map<string, Sums>() };
    groups.set(id, group);
    const { product, level } = cell.key;
    const line = group.lines.get(`${product} ${level}`) ?? {
      product,
      level,
      pieces: 0n,
      postageMills: 0n,
      declaredMills: 0n,
    };
    group.lines.set(`${product} ${level}`, line);
    line.pieces += BigInt(cell.pieces);
    line.postageMills += cell.postageMills;
    line.declaredMills += cell.declaredMills;
  }
  return [...groups.entries()]
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([, group]) => reckonGroup(programme, group.beneficiary, group.period, [...group.lines.values()]));
}

type Sums = {
  readonly product: string;
  readonly level: string;
  pieces: bigint;
  postageMills: bigint;
  declaredMills: bigint;
};

function reckonGroup(programme: Programme, beneficiary: Beneficiary, period: string, sums: Sums[]): Reckoning {
  const lines = sums
    .sort((a, b) => (`${a.product} ${a.level}` < `${b.product} ${b.level}` ? -1 : 1))
    .map(
      (line): LevelLine => ({
        product: line.product,
        level: line.level,
        pieces: Number(line.pieces),
        postageMills: mills(line.postageMills),
        declaredMills: mills(line.declaredMills),
        differenceMills: mills(line.postageMills - line.declaredMills),
      }),
    );
  const total = (of: (line: LevelLine) => bigint): Mills => mills(lines.reduce((sum, line) => sum + of(line), 0n));
  const pieces = lines.reduce((sum, line) => sum + line.pieces, 0);
  const postageMills = total((line) => line.postageMills);
  const declaredMills = total((line) => line.declaredMills);
  const differenceMills = total((line) => line.differenceMills);
  const totals = { pieces, postageMills, declaredMills, differenceMills };
  const { entitlementMills, sentences } = entitlement(programme, beneficiary, totals);
  return {
    ...beneficiary,
    period,
    ...totals,
    entitlementMills,
    lines,
    reasons: [
      `${nameOf(beneficiary)}, ${periodWords(programme, period)}: ${count(pieces)} paid in full, postage ${formatMills(postageMills, programme.currency)}.`,
      ...sentences,
      ...lineSentences(programme, lines),
    ],
  };
}

type Totals = Pick<Reckoning, 'pieces' | 'postageMills' | 'declaredMills' | 'differenceMills'>;

function entitlement(
  programme: Programme,
  beneficiary: Beneficiary,
  totals: Totals,
): { readonly entitlementMills: Mills; readonly sentences: readonly string[] } {
  const { pieces, postageMills, declaredMills, differenceMills } = totals;
  const amount = (value: bigint): string => formatMills(value, programme.currency);
  const nothing = (...sentences: string[]) => ({ entitlementMills: mills(0n), sentences });
  const { rate, sentence } = rateFor(programme, pieces);

  if (programme.base === 'growth') {
    const baseline = baselineOf(programme.baselines, beneficiary);
    if (baseline === null) return nothing(`The programme names no baseline for ${nameOf(beneficiary)}.`);
    const above = pieces - baseline.pieces;
    const named = `The programme names a baseline of ${count(baseline.pieces)} for ${nameOf(beneficiary)}`;
    if (above <= 0) return nothing(`${named}; it is not exceeded.`);
    const growth = [
      `${named}; above it: ${count(above)}.`,
      `The average price paid is ${amount(postageMills)} / ${pieces}, about ${amount(postageMills / BigInt(pieces))} a piece.`,
    ];
    if (rate === null) return nothing(...growth, sentence);
    const numerator = postageMills * BigInt(above) * rate.numerator;
    const entitlementMills = mills(numerator / (BigInt(pieces) * rate.denominator));
    return {
      entitlementMills,
      sentences: [
        ...growth,
        ...(sentence === '' ? [] : [sentence]),
        `${rate.text} of ${amount(postageMills)} x ${above} / ${pieces} is ${amount(entitlementMills)}, rounded down once.`,
      ],
    };
  }

  const base = programme.base === 'difference' ? differenceMills : postageMills;
  const baseSentence =
    programme.base === 'difference'
      ? `At the declared levels they cost ${amount(declaredMills)}; the difference is ${amount(differenceMills)}.`
      : `The whole postage counts: ${amount(postageMills)}.`;
  if (rate === null) return nothing(baseSentence, sentence);
  const entitlementMills = mills((base * rate.numerator) / rate.denominator);
  return {
    entitlementMills,
    sentences: [
      baseSentence,
      ...(sentence === '' ? [] : [sentence]),
      `${rate.text} of ${amount(base)} is ${amount(entitlementMills)}, rounded down once.`,
    ],
  };
}

function rateFor(programme: Programme, pieces: number): { readonly rate: Rate | null; readonly sentence: string } {
  const bands = bandsOf(programme);
  if (bands === null) return { rate: programme.rate as Rate, sentence: '' };
  const reached = bands.findLast((band) => pieces >= band.fromPieces);
  const next = bands.find((band) => pieces < band.fromPieces);
  const begins = next === undefined ? '' : `${next.rate.text} begins at ${count(next.fromPieces)}`;
  if (reached === undefined) return { rate: null, sentence: `${count(pieces)}: no band is reached; ${begins}.` };
  return {
    rate: reached.rate,
    sentence: `${count(pieces)}: the band from ${count(reached.fromPieces)} is reached, ${reached.rate.text}${begins === '' ? '' : ` (${begins})`}.`,
  };
}

function bandsOf(programme: Programme): readonly Band[] | null {
  return 'text' in programme.rate ? null : programme.rate;
}

/** The baseline that names the licensee goes before one for any licensee. */
function baselineOf(baselines: readonly Baseline[], { licensee, customer }: Beneficiary): Baseline | null {
  const named = (wanted: string | null): Baseline | undefined =>
    baselines.find((baseline) => baseline.licensee === wanted && baseline.customer === customer);
  return named(licensee) ?? named(null) ?? null;
}

/** So many lines at most: a grant has room for 64 reasons. */
const MAX_LINES = 48;

function lineSentences(programme: Programme, lines: readonly LevelLine[]): readonly string[] {
  const amount = (value: bigint): string => formatMills(value, programme.currency);
  const shown = lines
    .slice(0, MAX_LINES)
    .map(
      (line) =>
        `${line.product} ${line.level}: ${count(line.pieces)}, postage ${amount(line.postageMills)}, difference ${amount(line.differenceMills)}.`,
    );
  return lines.length > MAX_LINES ? [...shown, `And ${lines.length - MAX_LINES} more products and levels.`] : shown;
}

function nameOf({ licensee, customer }: Beneficiary): string {
  return customer === null ? licensee : `${customer} (${licensee})`;
}

function periodWords(programme: Programme, period: string): string {
  return programme.period.kind === 'posting' ? `posting of ${period}` : `period ${period}`;
}

function count(pieces: number): string {
  return `${pieces.toLocaleString('en-US')} ${pieces === 1 ? 'piece' : 'pieces'}`;
}
