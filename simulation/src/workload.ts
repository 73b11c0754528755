/**
 * What the mailers of a world frank: mailings as files, with customers, products, levels and weights of the shipped tariff.
 *
 * Guarantees that every file is a good one: what files may be otherwise is the host's own tests.
 */
import type { RandomStream } from './random-stream.ts';

/** A mailing of one line. */
export type Mailing = {
  readonly job: string;
  readonly file: string;
  readonly content: string;
  readonly mailingDate: string;
  readonly batches: number;
  readonly pieces: number;
};

const PRODUCTS = {
  'usps-fcm-letter': { levels: ['5-digit', 'aadc', 'mixed-aadc'], mostOunces: 3 },
  'usps-fcm-flat': { levels: ['5-digit', '3-digit', 'adc', 'mixed-adc'], mostOunces: 9 },
  'usps-fcm-card': { levels: ['5-digit', 'aadc', 'mixed-aadc'], mostOunces: 1 },
} as const;
const ZIPS = ['00901', '10001', '20001', '60601', '94103'];

export const LICENSEES = ['lic_one', 'lic_two', 'lic_three'] as const;
/** Pieces of a year beyond which each customer of a licensee is credited: some soon, one never. */
const BASELINES = [3, 8, 20, 1_000];

/** The customers of a line's licensee. */
function customersOf(licensee: string): readonly string[] {
  const name = licensee.replace('lic_', '');
  return [`${name}-ash`, `${name}-birch`, `${name}-cedar`, `${name}-elder`];
}

/** A mailing of about `batches` batches: one for each customer and product that it has. */
export function makeMailing(
  random: RandomStream,
  line: { readonly line: number; readonly licensee: string },
  number: number,
  mailingDate: string,
): Mailing {
  const rows: string[] = ['piece_ref,customer,product,level,weight_oz,zip'];
  const job = `job-${line.line}-${number}`;
  const customers = customersOf(line.licensee).filter(() => random.chance(0.8));
  if (customers.length === 0) customers.push(customersOf(line.licensee)[0] as string);
  const products = (Object.keys(PRODUCTS) as (keyof typeof PRODUCTS)[]).filter(() => random.chance(0.75));
  if (products.length === 0) products.push('usps-fcm-letter');
  let piece = 0;
  for (const customer of customers) {
    for (const product of products) {
      const { levels, mostOunces } = PRODUCTS[product];
      const pieces = random.chance(0.1) ? random.whole(4, 9) : random.whole(1, 3);
      for (let i = 0; i < pieces; i += 1) {
        piece += 1;
        rows.push(
          `${job}-${piece},${customer},${product},${random.pick(levels)},${random.whole(1, mostOunces)},${random.pick(ZIPS)}`,
        );
      }
    }
  }
  return {
    job,
    file: `/mailings/${job}.csv`,
    content: `${rows.join('\n')}\n`,
    mailingDate,
    batches: customers.length * products.length,
    pieces: piece,
  };
}

/** Programmes at which a few pieces earn something: a discount in bands, and a credit for growth. */
export const PROGRAMMES: Readonly<Record<string, string>> = {
  'bands.json': JSON.stringify({
    format: 1,
    id: 'bands',
    version: 1,
    title: 'Discount in bands on the number of pieces of a posting',
    demonstration: true,
    kind: 'discount',
    currency: 'USD',
    exponent: 3,
    beneficiary: 'customer',
    mailingDates: { from: '2025-07-13', to: null },
    select: {},
    requires: { authentication: 'attestation', certified: false },
    period: { kind: 'posting' },
    base: 'difference',
    rate: {
      bands: [
        { fromPieces: 2, rate: '3 %' },
        { fromPieces: 5, rate: '10 %' },
        { fromPieces: 9, rate: '18 %' },
      ],
    },
  }),
  'growth.json': JSON.stringify({
    format: 1,
    id: 'growth',
    version: 1,
    title: 'Credit for pieces of a year above a baseline',
    demonstration: true,
    kind: 'credit',
    currency: 'USD',
    exponent: 3,
    beneficiary: 'customer',
    mailingDates: { from: '2025-07-13', to: null },
    select: {},
    requires: { authentication: 'attestation', certified: false },
    period: { kind: 'calendar', unit: 'year' },
    base: 'growth',
    rate: '30 %',
    baselines: LICENSEES.flatMap((licensee) =>
      customersOf(licensee).map((customer, i) => ({ licensee, customer, pieces: BASELINES[i] })),
    ),
  }),
};
