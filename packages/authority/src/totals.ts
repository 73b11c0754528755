/**
 * Totals by any dimension: which there are, and how a question for them is put.
 *
 * Totals follow the intake cursor as rollups and keep everything that was debited apart by its standing, so that the sum
 * over all standings is what the registers moved by. Absent values (no customer; no level of a spoiled piece) are null.
 */
import { DAY } from '@countermark/protocol/id';
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';

/** Dimension -> its column. */
export const DIMENSIONS = {
  licensee: 'licensee',
  customer: 'customer',
  device: 'device',
  mailingDate: 'mailing_date',
  product: 'product',
  shape: 'shape',
  affixed: 'affixed',
  level: 'level',
  entry: 'entry',
  weightStep: 'weight_step',
  submitter: 'submitter',
  preparer: 'preparer',
  tariff: 'tariff',
  currency: 'currency',
  authentication: 'authentication',
  specimen: 'specimen',
  standing: 'standing',
} as const;
export type Dimension = keyof typeof DIMENSIONS;
export const DIMENSION_NAMES = Object.keys(DIMENSIONS) as readonly Dimension[];

export type TotalsQuery = {
  readonly by: readonly Dimension[];
  /** Dimension -> the value asked for; empty: absent. */
  readonly where: ReadonlyMap<Dimension, string>;
  readonly mailingDateFrom: string | null;
  readonly mailingDateTo: string | null;
};

export type TotalsRow = {
  /** In the order asked for; null: absent. Whole numbers of weight steps as texts. */
  readonly values: readonly (string | null)[];
  readonly pieces: bigint;
  readonly postageMills: bigint;
  readonly declaredMills: bigint;
};

/** Reads a question from query parameters. Rejection: `malformed`. */
export function parseTotalsQuery(parameters: Readonly<Record<string, string>>): Result<TotalsQuery> {
  const bad = (path: string, reason: string) => refuse(rejection('malformed', { path, reason }));
  const where = new Map<Dimension, string>();
  const by: Dimension[] = [];
  const days = new Map<string, string>();
  for (const [name, value] of Object.entries(parameters)) {
    if (name === 'by') {
      for (const word of value === '' ? [] : value.split(',')) {
        const dimension = dimensionOf(word);
        if (dimension === null) return bad('by', `${word.slice(0, 40)} is none of ${DIMENSION_NAMES.join(', ')}`);
        if (by.includes(dimension)) return bad('by', `${dimension} stands twice`);
        by.push(dimension);
      }
    } else if (name === 'mailingDateFrom' || name === 'mailingDateTo') {
      if (!DAY.test(value)) return bad(name, 'a day as YYYY-MM-DD is expected');
      days.set(name, value);
    } else {
      const dimension = dimensionOf(name);
      if (dimension === null) return bad(name.slice(0, 40), 'there is no such dimension');
      if (dimension === 'weightStep' && !/^\d{1,7}$/.test(value)) return bad(name, 'a whole number is expected');
      if (dimension === 'specimen' && value !== 'true' && value !== 'false')
        return bad(name, 'true or false is expected');
      where.set(dimension, value);
    }
  }
  return accept({
    by,
    where,
    mailingDateFrom: days.get('mailingDateFrom') ?? null,
    mailingDateTo: days.get('mailingDateTo') ?? null,
  });
}

function dimensionOf(word: string): Dimension | null {
  return DIMENSION_NAMES.find((name) => name === word) ?? null;
}
