/**
 * A tariff: prices of one post for one period, read from data.
 *
 * Guarantees: a `Tariff` came from canonical bytes (so that its digest names exactly these prices), has no unknown
 * field, and is consistent: steps ascend, every row has one price for each step, prices never fall with weight, and no
 * declared level costs more than the affixed price. Amounts are `bigint` mills.
 * Does not compute digests (the caller has the hash), does not decide which tariff is in force for whom, and says
 * nothing of surcharges, fees or prices that its data leaves out.
 */
import type { CellKey } from '@countermark/protocol/cell';
import { CODE, DAY } from '@countermark/protocol/id';
import { type Currency, type Mills, mills } from '@countermark/protocol/money';
import { canonicalText } from './canonical-text.ts';
import { stepBoundFg } from './weight.ts';

/** What a piece of a cell is franked with, and what the declared level would have cost. */
export type RatedCell = { readonly key: CellKey; readonly affixedMills: Mills; readonly declaredMills: Mills };

export type GroupMinimum = { readonly level: string; readonly zipDigits: number; readonly pieces: number };

export type TariffProduct = {
  readonly product: string;
  readonly shape: string;
  /** Upper bounds, ascending, in the tariff's `weightStepUnit`; a piece of exactly the bound is within the step. */
  readonly weightSteps: readonly number[];
  /** The same bounds in femtograms. */
  readonly weightStepsFg: readonly bigint[];
  /** The price level that pieces are franked with where nothing else is asked. */
  readonly usualAffixed: string;
  /** Affixed level -> price for each step. */
  readonly affixed: ReadonlyMap<string, readonly Mills[]>;
  /** Level -> entry -> price for each step. */
  readonly declared: ReadonlyMap<string, ReadonlyMap<string, readonly Mills[]>>;
  /** Level -> entry -> the rated cell for each step, at the usual affixed price: shared, so that rating allocates nothing. */
  readonly rated: ReadonlyMap<string, ReadonlyMap<string, readonly RatedCell[]>>;
  /** Fewest presorted pieces of the product in one mailing. */
  readonly mailingMinimumPieces: number;
  readonly groupMinimums: readonly GroupMinimum[];
};

export type WeightStepUnit = 'tenth-ounce' | 'gram';

export type Tariff = {
  readonly id: string;
  readonly authority: string;
  readonly title: string;
  readonly currency: Currency;
  /** First day, ISO 8601. */
  readonly effectiveFrom: string;
  /** Last day, or null where it is not known. */
  readonly effectiveTo: string | null;
  readonly weightStepUnit: WeightStepUnit;
  readonly products: ReadonlyMap<string, TariffProduct>;
};

export type TariffParsing =
  | { readonly ok: true; readonly tariff: Tariff }
  | { readonly ok: false; readonly path: string; readonly problem: string };

/** The level of a piece that claims no workshare; the minimums do not ask anything of it. */
export const SINGLE_PIECE = 'single-piece';

const MAX_TARIFF_BYTES = 1 << 20;

/**
 * Parses a tariff file strictly.
 * @param bytes canonical text (see canonical-text.ts) in UTF-8, at most 1 MiB. Other spellings of the same value are
 * refused: two digests would name the same prices.
 * @returns the tariff, or the path of the first thing that is wrong.
 */
export function parseTariff(bytes: Uint8Array): TariffParsing {
  try {
    if (bytes.length > MAX_TARIFF_BYTES) throw new TariffProblem('$', 'is longer than 1 MiB');
    return { ok: true, tariff: readTariff(parseCanonical(bytes)) };
  } catch (problem) {
    if (problem instanceof TariffProblem) return { ok: false, path: problem.path, problem: problem.message };
    throw problem;
  }
}

/** Whether a day (ISO 8601) is within the tariff's period. */
export function isInEffect(tariff: Tariff, day: string): boolean {
  return day >= tariff.effectiveFrom && (tariff.effectiveTo === null || day <= tariff.effectiveTo);
}

/** A step's bound for people: `3.5 oz`, `50 g`. */
export function formatWeightStep(step: number, unit: WeightStepUnit): string {
  if (unit === 'gram') return `${step} g`;
  return `${Math.trunc(step / 10)}${step % 10 === 0 ? '' : `.${step % 10}`} oz`;
}

class TariffProblem extends Error {
  readonly path: string;
  constructor(path: string, problem: string) {
    super(problem);
    this.path = path;
  }
}

function parseCanonical(bytes: Uint8Array): unknown {
  let text: string;
  let value: unknown;
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
    value = JSON.parse(text);
  } catch {
    throw new TariffProblem('$', 'is not JSON in UTF-8');
  }
  let canonical: string;
  try {
    canonical = canonicalText(value);
  } catch {
    throw new TariffProblem('$', 'has a number that is not a whole number');
  }
  if (canonical !== text)
    throw new TariffProblem('$', 'is not in canonical form (sorted keys, no white space, no key twice)');
  return value;
}

const TARIFF_FIELDS = [
  'format',
  'id',
  'authority',
  'title',
  'currency',
  'exponent',
  'effectiveFrom',
  'effectiveTo',
  'weightStepUnit',
  'sources',
  'products',
] as const;

function readTariff(value: unknown): Tariff {
  const fields = readObject(value, '$', TARIFF_FIELDS);
  if (fields.format !== 1) throw new TariffProblem('$.format', 'is not 1, the only format that this version reads');
  const unit = readText(fields.weightStepUnit, '$.weightStepUnit');
  if (unit !== 'tenth-ounce' && unit !== 'gram') {
    throw new TariffProblem('$.weightStepUnit', 'is neither tenth-ounce nor gram');
  }
  const sources = new Set(readList(fields.sources, '$.sources', readSource));
  const products = new Map<string, TariffProduct>();
  for (const product of readList(fields.products, '$.products', (item, path) =>
    readProduct(item, path, unit, sources),
  )) {
    if (products.has(product.product)) throw new TariffProblem('$.products', `names ${product.product} twice`);
    products.set(product.product, product);
  }
  const effectiveFrom = readMatching(fields.effectiveFrom, '$.effectiveFrom', DAY, 'a day as YYYY-MM-DD');
  const effectiveTo =
    fields.effectiveTo === null ? null : readMatching(fields.effectiveTo, '$.effectiveTo', DAY, 'a day as YYYY-MM-DD');
  if (effectiveTo !== null && effectiveTo < effectiveFrom) {
    throw new TariffProblem('$.effectiveTo', 'is before the first day');
  }
  return {
    id: readSlug(fields.id, '$.id'),
    authority: readText(fields.authority, '$.authority'),
    title: readText(fields.title, '$.title'),
    currency: {
      code: readMatching(fields.currency, '$.currency', /^[A-Z]{3}$/, 'an ISO 4217 code'),
      exponent: readWhole(fields.exponent, '$.exponent', 0, 6),
    },
    effectiveFrom,
    effectiveTo,
    weightStepUnit: unit,
    products,
  };
}

function readSource(value: unknown, path: string): string {
  const fields = readObject(value, path, ['id', 'title', 'url']);
  readText(fields.title, `${path}.title`);
  readText(fields.url, `${path}.url`);
  return readSlug(fields.id, `${path}.id`);
}

const PRODUCT_FIELDS = [
  'product',
  'shape',
  'weightSteps',
  'mailingMinimumPieces',
  'groupMinimums',
  'affixed',
  'levels',
] as const;

function readProduct(value: unknown, path: string, unit: WeightStepUnit, sources: ReadonlySet<string>): TariffProduct {
  const fields = readObject(value, path, PRODUCT_FIELDS);
  const product = readSlug(fields.product, `${path}.product`);
  const shape = readSlug(fields.shape, `${path}.shape`);
  const weightSteps = readList(fields.weightSteps, `${path}.weightSteps`, (item, at) =>
    readWhole(item, at, 1, 1_000_000),
  );
  weightSteps.forEach((step, index) => {
    const before = weightSteps[index - 1];
    if (before !== undefined && step <= before)
      throw new TariffProblem(`${path}.weightSteps[${index}]`, 'does not ascend');
  });

  const affixed = new Map<string, readonly Mills[]>();
  for (const row of readList(fields.affixed, `${path}.affixed`, (item, at) =>
    readPrices(item, at, weightSteps.length, sources, ['level', 'prices', 'source', 'note']),
  )) {
    if (affixed.has(row.level)) throw new TariffProblem(`${path}.affixed`, `names ${row.level} twice`);
    affixed.set(row.level, row.prices);
  }
  const usual = affixed.entries().next().value;
  if (usual === undefined) throw new TariffProblem(`${path}.affixed`, 'is empty');
  const [usualAffixed, usualPrices] = usual;

  const declared = new Map<string, Map<string, readonly Mills[]>>();
  const rated = new Map<string, Map<string, readonly RatedCell[]>>();
  for (const row of readList(fields.levels, `${path}.levels`, (item, at) =>
    readPrices(item, at, weightSteps.length, sources, ['level', 'entry', 'prices', 'source', 'note']),
  )) {
    const { level, entry, prices } = row;
    if (declared.get(level)?.has(entry)) throw new TariffProblem(`${path}.levels`, `names ${level}, ${entry} twice`);
    for (const [affixedLevel, affixedPrices] of affixed) {
      if (prices.some((price, step) => price > (affixedPrices[step] ?? 0n))) {
        throw new TariffProblem(`${path}.levels`, `prices ${level}, ${entry} above affixed ${affixedLevel}`);
      }
    }
    const cells = weightSteps.map((weightStep, step): RatedCell => {
      const affixedMills = usualPrices[step];
      const declaredMills = prices[step];
      if (affixedMills === undefined || declaredMills === undefined) throw new TariffProblem(path, 'lacks a price');
      return { key: { product, shape, affixed: usualAffixed, level, entry, weightStep }, affixedMills, declaredMills };
    });
    declared.set(level, (declared.get(level) ?? new Map<string, readonly Mills[]>()).set(entry, prices));
    rated.set(level, (rated.get(level) ?? new Map<string, readonly RatedCell[]>()).set(entry, cells));
  }
  if (declared.size === 0) throw new TariffProblem(`${path}.levels`, 'is empty');

  const groupMinimums = readList(fields.groupMinimums, `${path}.groupMinimums`, (item, at): GroupMinimum => {
    const minimum = readObject(item, at, ['level', 'zipDigits', 'pieces']);
    const level = readSlug(minimum.level, `${at}.level`);
    if (!declared.has(level)) throw new TariffProblem(`${at}.level`, `names ${level}, which has no price`);
    return {
      level,
      zipDigits: readWhole(minimum.zipDigits, `${at}.zipDigits`, 1, 5),
      pieces: readWhole(minimum.pieces, `${at}.pieces`, 1, 1_000_000),
    };
  });

  return {
    product,
    shape,
    weightSteps,
    weightStepsFg: weightSteps.map((step) => stepBoundFg(step, unit)),
    usualAffixed,
    affixed,
    declared,
    rated,
    mailingMinimumPieces: readWhole(fields.mailingMinimumPieces, `${path}.mailingMinimumPieces`, 0, 1_000_000_000),
    groupMinimums,
  };
}

function readPrices(
  value: unknown,
  path: string,
  steps: number,
  sources: ReadonlySet<string>,
  allowed: readonly ('level' | 'entry' | 'prices' | 'source' | 'note')[],
): { level: string; entry: string; prices: readonly Mills[] } {
  const fields = readObject(value, path, allowed);
  const source = readSlug(fields.source, `${path}.source`);
  if (!sources.has(source))
    throw new TariffProblem(`${path}.source`, `names ${source}, which is not among the sources`);
  readText(fields.note, `${path}.note`);
  const prices = readList(fields.prices, `${path}.prices`, (item, at) =>
    mills(BigInt(readWhole(item, at, 1, 1_000_000_000))),
  );
  if (prices.length !== steps)
    throw new TariffProblem(`${path}.prices`, `has ${prices.length} prices for ${steps} steps`);
  prices.forEach((price, step) => {
    if (price < (prices[step - 1] ?? 0n)) throw new TariffProblem(`${path}.prices[${step}]`, 'falls with weight');
  });
  return {
    level: readSlug(fields.level, `${path}.level`),
    entry: allowed.includes('entry') ? readSlug(fields.entry, `${path}.entry`) : '',
    prices,
  };
}

function readObject<Name extends string>(
  value: unknown,
  path: string,
  names: readonly Name[],
): Partial<Record<Name, unknown>> {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new TariffProblem(path, 'is not an object');
  const known: readonly string[] = names;
  for (const key of Object.keys(value)) {
    if (!known.includes(key)) throw new TariffProblem(`${path}.${key}`, 'is not known');
  }
  for (const name of names) {
    if (!Object.hasOwn(value, name)) throw new TariffProblem(`${path}.${name}`, 'is missing');
  }
  return value;
}

function readList<T>(value: unknown, path: string, read: (item: unknown, path: string) => T): T[] {
  if (!Array.isArray(value)) throw new TariffProblem(path, 'is not a list');
  return value.map((item, index) => read(item, `${path}[${index}]`));
}

function readText(value: unknown, path: string): string {
  if (typeof value !== 'string' || value === '') throw new TariffProblem(path, 'is not a text');
  return value;
}

function readMatching(value: unknown, path: string, pattern: RegExp, wanted: string): string {
  const text = readText(value, path);
  if (!pattern.test(text)) throw new TariffProblem(path, `is not ${wanted}`);
  return text;
}

function readSlug(value: unknown, path: string): string {
  return readMatching(value, path, CODE, 'a slug of lower-case letters, digits and hyphens');
}

function readWhole(value: unknown, path: string, least: number, most: number): number {
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < least || value > most) {
    throw new TariffProblem(path, `is not a whole number of ${least} to ${most}`);
  }
  return value;
}
