import type { CustomerId, LicenseeId } from '@countermark/protocol/id';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { parseProgramme, type Programme } from './programme.ts';
import { periodDays, periodOf, type ProgrammeCell, reckon, selects } from './programme-reckoning.ts';

const BANDS = [
  { fromPieces: 500, rate: '3 %' },
  { fromPieces: 750, rate: '6 %' },
  { fromPieces: 1000, rate: '10 %' },
  { fromPieces: 1500, rate: '14 %' },
  { fromPieces: 2000, rate: '18 %' },
];
const CONTENT = {
  format: 1,
  id: 'test',
  version: 1,
  title: 'Test',
  demonstration: true,
  kind: 'discount',
  currency: 'USD',
  exponent: 3,
  beneficiary: 'customer',
  mailingDates: { from: '2026-01-01', to: '2026-12-31' },
  select: {},
  requires: { authentication: 'attestation', certified: false },
  period: { kind: 'posting' },
  base: 'difference',
  rate: { bands: BANDS },
};
const GROWTH = {
  period: { kind: 'calendar', unit: 'year' },
  base: 'growth',
  rate: '30 %',
  baselines: [
    { licensee: null, customer: 'alder-press', pieces: 500 },
    { licensee: 'lic_small', customer: 'alder-press', pieces: 10 },
    { licensee: null, customer: null, pieces: 700 },
  ],
};

function programme(changes: object = {}): Programme {
  const result = parseProgramme(JSON.stringify({ ...CONTENT, ...changes }));
  if (!result.ok) throw new Error(`${result.path} ${result.problem}`);
  return result.programme;
}

function cell(
  pieces: number,
  changes: Omit<Partial<ProgrammeCell>, 'customer'> & { level?: string; customer?: string | null } = {},
): ProgrammeCell {
  const { level = '5-digit', ...others } = changes;
  return {
    key: {
      product: 'usps-fcm-letter',
      shape: 'letter',
      affixed: 'single-piece-metered',
      level,
      entry: 'none',
      weightStep: 10,
    },
    licensee: 'lic_bureau' as LicenseeId,
    mailingDate: '2026-03-02',
    submitter: 's',
    preparer: 'p',
    authentication: 'signature',
    specimen: true,
    currency: { code: 'USD', exponent: 3 },
    pieces,
    postageMills: 740n * BigInt(pieces),
    declaredMills: 593n * BigInt(pieces),
    ...others,
    customer: (others.customer === undefined ? 'alder-press' : others.customer) as CustomerId | null,
  };
}

const owed = (of: Programme, cells: ProgrammeCell[]): bigint =>
  reckon(of, cells).reduce((sum, { entitlementMills }) => sum + entitlementMills, 0n);

describe('bands on the number of pieces', () => {
  test.each([
    [499, 0n],
    [500, 3n],
    [749, 3n],
    [750, 6n],
    [1000, 10n],
    [1499, 10n],
    [1500, 14n],
    [2000, 18n],
    [90_000, 18n],
  ])('%i pieces earn that band for all of them, rounded down once', (pieces, percent) => {
    expect(owed(programme(), [cell(pieces)])).toBe((147n * BigInt(pieces) * percent) / 100n);
  });

  test('count the posting of each customer by itself', () => {
    const cells = [
      cell(300),
      cell(300, { level: 'aadc' }),
      cell(450, { customer: 'birch-mutual' }),
      cell(450, { mailingDate: '2026-03-03' }),
      cell(450, { licensee: 'lic_other' as LicenseeId }),
    ];
    const reckonings = reckon(programme(), cells);
    expect(reckonings.map(({ licensee, customer, period, pieces }) => [licensee, customer, period, pieces])).toEqual([
      ['lic_bureau', 'alder-press', '2026-03-02', 600],
      ['lic_bureau', 'alder-press', '2026-03-03', 450],
      ['lic_bureau', 'birch-mutual', '2026-03-02', 450],
      ['lic_other', 'alder-press', '2026-03-02', 450],
    ]);
    expect(reckonings.map(({ entitlementMills }) => entitlementMills > 0n)).toEqual([true, false, false, false]);
  });

  test('give reasons that can be followed', () => {
    const [reckoning] = reckon(programme(), [cell(500), cell(249, { level: 'aadc', declaredMills: 641n * 249n })]);
    expect(reckoning!.reasons).toEqual([
      'alder-press (lic_bureau), posting of 2026-03-02: 749 pieces paid in full, postage USD 554.260.',
      'At the declared levels they cost USD 456.109; the difference is USD 98.151.',
      '749 pieces: the band from 500 pieces is reached, 3 % (6 % begins at 750 pieces).',
      '3 % of USD 98.151 is USD 2.944, rounded down once.',
      'usps-fcm-letter 5-digit: 500 pieces, postage USD 370.000, difference USD 73.500.',
      'usps-fcm-letter aadc: 249 pieces, postage USD 184.260, difference USD 24.651.',
    ]);
    expect(reckon(programme(), [cell(1)])[0]!.reasons[2]).toBe(
      '1 piece: no band is reached; 3 % begins at 500 pieces.',
    );
  });
});

describe('growth above a baseline', () => {
  const growth = programme(GROWTH);

  test('earns the part of the average price paid, exactly', () => {
    // 740 x 600 + 1030 x 149 = 597,470 for 749 pieces: 30 % of 597,470 x 249 / 749.
    const cells = [cell(600), cell(149, { postageMills: 1030n * 149n, mailingDate: '2026-11-01' })];
    expect(owed(growth, cells)).toBe((597_470n * 249n * 30n) / (749n * 100n));
  });

  test('earns nothing at or below it, and nothing for whom none is named', () => {
    expect(owed(growth, [cell(500)])).toBe(0n);
    expect(owed(growth, [cell(9_000, { customer: 'cedar-clinic' })])).toBe(0n);
    const [unnamed] = reckon(growth, [cell(9_000, { customer: 'cedar-clinic' })]);
    expect(unnamed!.reasons[1]).toBe('The programme names no baseline for cedar-clinic (lic_bureau).');
  });

  test('takes the baseline that names the licensee before one for any, and own mail by itself', () => {
    expect(owed(growth, [cell(20, { licensee: 'lic_small' as LicenseeId })])).toBe((740n * 10n * 30n) / 100n);
    expect(owed(growth, [cell(701, { customer: null })])).toBe((740n * 701n * 30n) / (701n * 100n));
  });

  test('adds up the year, and the next one anew', () => {
    const wide = programme({ ...GROWTH, mailingDates: { from: '2026-01-01', to: null } });
    const cells = [cell(400), cell(400, { mailingDate: '2026-12-31' }), cell(400, { mailingDate: '2027-01-01' })];
    expect(reckon(wide, cells).map(({ period, pieces }) => [period, pieces])).toEqual([
      ['2026', 800],
      ['2027', 400],
    ]);
  });
});

describe('what a programme selects', () => {
  test.each<[string, object, Partial<ProgrammeCell>]>([
    ['mail before its first day', {}, { mailingDate: '2025-12-31' }],
    ['mail after its last day', {}, { mailingDate: '2027-01-01' }],
    ['specimens', { requires: { authentication: 'attestation', certified: true } }, { specimen: true }],
    ['records by MAC', { requires: { authentication: 'signature', certified: false } }, { authentication: 'mac' }],
    ['another currency', {}, { currency: { code: 'EUR', exponent: 3 } }],
    ['another exponent', {}, { currency: { code: 'USD', exponent: 2 } }],
    ['another product', { select: { product: ['usps-fcm-flat'] } }, {}],
    ['another weight step', { select: { weightStep: [20, 30] } }, {}],
    ['another submitter', { select: { submitter: ['x'] } }, {}],
    ['own mail, where customers are selected', { select: { customer: ['alder-press'] } }, { customer: null }],
    ['mail outside its range', { period: { kind: 'range', from: '2026-05-01', to: '2026-05-31' } }, {}],
  ])('leaves out %s', (_, changes, of) => {
    expect(selects(programme(changes), cell(1, of))).toBe(false);
    expect(reckon(programme(changes), [cell(1_000, of)])).toEqual([]);
  });

  test('takes what matches every dimension', () => {
    const select = { product: ['usps-fcm-letter', 'usps-fcm-flat'], weightStep: [10], customer: ['alder-press'] };
    expect(selects(programme({ select }), cell(1))).toBe(true);
  });

  test('gives the licensee all its customers’ mail where the licensee is the beneficiary', () => {
    const all = programme({ beneficiary: 'licensee' });
    const reckonings = reckon(all, [cell(400), cell(400, { customer: 'birch-mutual' }), cell(10, { customer: null })]);
    expect(reckonings.map(({ customer, pieces }) => [customer, pieces])).toEqual([[null, 810]]);
  });
});

describe('periods', () => {
  test.each<[object, string, string, string, string]>([
    [{ kind: 'posting' }, '2026-05-17', '2026-05-17', '2026-05-17', '2026-05-17'],
    [{ kind: 'calendar', unit: 'year' }, '2026-05-17', '2026', '2026-01-01', '2026-12-31'],
    [{ kind: 'calendar', unit: 'quarter' }, '2026-05-17', '2026-q2', '2026-04-01', '2026-06-31'],
    [{ kind: 'calendar', unit: 'quarter' }, '2026-12-31', '2026-q4', '2026-10-01', '2026-12-31'],
    [{ kind: 'calendar', unit: 'month' }, '2026-02-28', '2026-02', '2026-02-01', '2026-02-31'],
    [
      { kind: 'range', from: '2026-03-01', to: '2026-09-30' },
      '2026-05-17',
      '2026-03-01-to-2026-09-30',
      '2026-03-01',
      '2026-09-30',
    ],
  ])('%j has %s in %s', (period, day, name, from, to) => {
    const of = programme({ period });
    expect(periodOf(of, day)).toBe(name);
    expect(name).toMatch(/^[a-z0-9-]{1,64}$/);
    expect(periodDays(of, day)).toEqual({ from, to });
  });
});

describe('for any cells', () => {
  const cells = fc.array(
    fc.record({
      pieces: fc.integer({ min: 1, max: 900 }),
      affixed: fc.bigInt({ min: 0n, max: 3_000n }),
      saved: fc.bigInt({ min: 0n, max: 3_000n }),
      level: fc.constantFrom('5-digit', 'aadc', 'mixed-aadc'),
      customer: fc.constantFrom('alder-press', 'birch-mutual', null),
      mailingDate: fc.constantFrom('2026-03-02', '2026-03-03'),
    }),
    { maxLength: 12 },
  );
  const made = (of: {
    pieces: number;
    affixed: bigint;
    saved: bigint;
    level: string;
    customer: string | null;
    mailingDate: string;
  }) =>
    cell(of.pieces, {
      level: of.level,
      customer: of.customer,
      mailingDate: of.mailingDate,
      postageMills: (of.affixed + of.saved) * BigInt(of.pieces),
      declaredMills: of.affixed * BigInt(of.pieces),
    });
  const any = fc.constantFrom(
    programme(),
    programme({ rate: '1/3' }),
    programme({ base: 'postage', rate: '0.5 %' }),
    programme(GROWTH),
    programme({ ...GROWTH, rate: { bands: BANDS } }),
    programme({ beneficiary: 'licensee' }),
  );

  test('order and grouping do not matter', () => {
    fc.assert(
      fc.property(any, cells, fc.infiniteStream(fc.nat(100)), (of, given, order) => {
        const all = given.map(made);
        const keys = all.map(() => order.next().value as number);
        const shuffled = all
          .map((one, i) => ({ one, at: keys[i]! }))
          .sort((a, b) => a.at - b.at)
          .map(({ one }) => one);
        const split = shuffled.flatMap((one) =>
          one.pieces < 2 || one.postageMills % BigInt(one.pieces) !== 0n
            ? [one]
            : [1, one.pieces - 1].map((pieces) => ({
                ...one,
                pieces,
                postageMills: (one.postageMills / BigInt(one.pieces)) * BigInt(pieces),
                declaredMills: (one.declaredMills / BigInt(one.pieces)) * BigInt(pieces),
              })),
        );
        expect(reckon(of, split)).toEqual(reckon(of, all));
      }),
    );
  });

  test('more mail never lowers an entitlement, and nobody earns more than was paid', () => {
    fc.assert(
      fc.property(any, cells, cells, (of, given, more) => {
        const before = reckon(of, given.map(made));
        const after = reckon(of, [...given, ...more].map(made));
        for (const one of before) {
          const then = after.find(
            ({ licensee, customer, period }) =>
              licensee === one.licensee && customer === one.customer && period === one.period,
          );
          expect(then!.entitlementMills).toBeGreaterThanOrEqual(one.entitlementMills);
        }
        for (const one of after) {
          expect(one.entitlementMills).toBeLessThanOrEqual(one.postageMills);
          expect(one.lines.reduce((sum, line) => sum + line.pieces, 0)).toBe(one.pieces);
          expect(one.lines.reduce((sum, line) => sum + line.differenceMills, 0n)).toBe(one.differenceMills);
          expect(one.reasons.every((reason) => Buffer.byteLength(reason) <= 300)).toBe(true);
        }
        // Nothing is lost between the groups.
        const counted = [...given, ...more].map(made).filter((one) => selects(of, one));
        expect(after.reduce((sum, one) => sum + one.pieces, 0)).toBe(counted.reduce((sum, one) => sum + one.pieces, 0));
      }),
    );
  });
});
