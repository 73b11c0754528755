import { describe, expect, test } from 'vitest';
import { inSuccession, parseProgramme, type Programme } from './programme.ts';

const CONTENT = {
  format: 1,
  id: 'bulk-letters',
  version: 1,
  title: 'Bulk letters',
  demonstration: false,
  kind: 'discount',
  currency: 'USD',
  exponent: 3,
  beneficiary: 'customer',
  mailingDates: { from: '2026-01-01', to: null },
  select: { product: ['usps-fcm-letter'], weightStep: [10, 20] },
  requires: { authentication: 'signature', certified: true },
  period: { kind: 'posting' },
  base: 'difference',
  rate: { bands: [{ fromPieces: 500, rate: '3 %' }] },
};
const GROWTH = {
  ...CONTENT,
  base: 'growth',
  rate: '12.5 %',
  baselines: [{ licensee: 'lic_post', customer: 'alder', pieces: 100 }],
};

function parsed(content: object): Programme {
  const result = parseProgramme(JSON.stringify(content));
  if (!result.ok) throw new Error(`${result.path} ${result.problem}`);
  return result.programme;
}

describe('a programme', () => {
  test('is read with exact rates', () => {
    const { rate } = parsed({ ...CONTENT, rate: '12.50 %' });
    expect(rate).toEqual({ numerator: 1250n, denominator: 10_000n, text: '12.50 %' });
    expect(parsed({ ...CONTENT, rate: '1/3' }).rate).toEqual({ numerator: 1n, denominator: 3n, text: '1/3' });
    expect(parsed({ ...CONTENT, rate: '100%' }).rate).toMatchObject({ numerator: 100n, denominator: 100n });
  });

  test('has one canonical text, whatever the spelling of the file', () => {
    const reversed = Object.fromEntries(Object.entries(CONTENT).reverse());
    expect(parsed(reversed).canonical).toBe(parsed(CONTENT).canonical);
    expect(parsed({ ...CONTENT, title: 'Other' }).canonical).not.toBe(parsed(CONTENT).canonical);
    expect(parsed(JSON.parse(parsed(CONTENT).canonical) as object)).toEqual(parsed(CONTENT));
  });

  test.each<[string, object, string]>([
    ['an unknown field', { ...CONTENT, bonus: 1 }, '$.bonus'],
    ['a missing field', { ...CONTENT, title: undefined }, '$.title'],
    ['another format', { ...CONTENT, format: 2 }, '$.format'],
    ['a bad id', { ...CONTENT, id: 'Bulk Letters' }, '$.id'],
    ['version 0', { ...CONTENT, version: 0 }, '$.version'],
    ['another kind', { ...CONTENT, kind: 'gift' }, '$.kind'],
    ['another beneficiary', { ...CONTENT, beneficiary: 'me' }, '$.beneficiary'],
    [
      'days in the wrong order',
      { ...CONTENT, mailingDates: { from: '2026-02-01', to: '2026-01-01' } },
      '$.mailingDates.to',
    ],
    [
      'a day that no calendar has',
      { ...CONTENT, mailingDates: { from: '2026-02-30', to: null } },
      '$.mailingDates.from',
    ],
    ['an unknown dimension', { ...CONTENT, select: { colour: ['red'] } }, '$.select.colour'],
    ['an empty selection', { ...CONTENT, select: { product: [] } }, '$.select.product'],
    ['a weight step as text', { ...CONTENT, select: { weightStep: ['10'] } }, '$.select.weightStep[0]'],
    [
      'an unknown requirement',
      { ...CONTENT, requires: { authentication: 'none', certified: true } },
      '$.requires.authentication',
    ],
    ['an unknown period', { ...CONTENT, period: { kind: 'week' } }, '$.period.kind'],
    ['a posting with a unit', { ...CONTENT, period: { kind: 'posting', unit: 'year' } }, '$.period.unit'],
    [
      'a range outside the mailing dates',
      { ...CONTENT, period: { kind: 'range', from: '2025-01-01', to: '2025-02-01' } },
      '$.period',
    ],
    ['an unknown base', { ...CONTENT, base: 'weight' }, '$.base'],
    ['baselines without growth', { ...GROWTH, base: 'postage' }, '$.baselines'],
    ['growth without baselines', { ...CONTENT, base: 'growth' }, '$.baselines'],
    [
      'a baseline for any licensee, in earnest',
      { ...GROWTH, baselines: [{ licensee: null, customer: 'a', pieces: 1 }] },
      '$.baselines[0].licensee',
    ],
    ['a baseline twice', { ...GROWTH, baselines: [...GROWTH.baselines, ...GROWTH.baselines] }, '$.baselines[1]'],
    [
      'a negative baseline',
      { ...GROWTH, baselines: [{ licensee: 'lic_a', customer: 'a', pieces: -1 }] },
      '$.baselines[0].pieces',
    ],
    ['a customer’s baseline for the licensee', { ...GROWTH, beneficiary: 'licensee' }, '$.baselines[0].customer'],
    ['no bands', { ...CONTENT, rate: { bands: [] } }, '$.rate.bands'],
    ['a rate above all', { ...CONTENT, rate: '101 %' }, '$.rate'],
    ['a rate of nothing', { ...CONTENT, rate: '0 %' }, '$.rate'],
    ['a rate as a number', { ...CONTENT, rate: 0.3 }, '$.rate'],
    ['a fraction of zero', { ...CONTENT, rate: '1/0' }, '$.rate'],
    [
      'bands that do not ascend',
      {
        ...CONTENT,
        rate: {
          bands: [
            { fromPieces: 5, rate: '1 %' },
            { fromPieces: 5, rate: '2 %' },
          ],
        },
      },
      '$.rate.bands[1].fromPieces',
    ],
    [
      'rates that fall',
      {
        ...CONTENT,
        rate: {
          bands: [
            { fromPieces: 5, rate: '2 %' },
            { fromPieces: 6, rate: '1 %' },
          ],
        },
      },
      '$.rate.bands[1].rate',
    ],
  ])('with %s is refused by its path', (_, content, path) => {
    expect(parseProgramme(JSON.stringify(content))).toMatchObject({ ok: false, path });
  });

  test('that is no JSON, or too long, is refused', () => {
    expect(parseProgramme('{')).toMatchObject({ ok: false, path: '$' });
    expect(parseProgramme('null')).toMatchObject({ ok: false, path: '$' });
    expect(parseProgramme(' '.repeat(70_000))).toMatchObject({ ok: false, path: '$' });
  });
});

describe('versions of a programme', () => {
  const version = (number: number, from: string, to: string | null = null) =>
    parsed({ ...CONTENT, version: number, mailingDates: { from, to } });

  test('end the day before the next begins', () => {
    const result = inSuccession([version(2, '2026-03-01'), version(1, '2026-01-01'), version(3, '2027-01-01')]);
    expect(result.ok && result.programmes.map(({ mailingDates }) => mailingDates)).toEqual([
      { from: '2026-01-01', to: '2026-02-28' },
      { from: '2026-03-01', to: '2026-12-31' },
      { from: '2027-01-01', to: null },
    ]);
  });

  test('keep an earlier last day', () => {
    const result = inSuccession([version(1, '2026-01-01', '2026-01-31'), version(2, '2026-03-01')]);
    expect(result.ok && result.programmes[0]!.mailingDates.to).toBe('2026-01-31');
  });

  test('must not stand twice, and must begin one after the other', () => {
    expect(inSuccession([version(1, '2026-01-01'), version(1, '2026-02-01')])).toMatchObject({ ok: false });
    expect(inSuccession([version(1, '2026-02-01'), version(2, '2026-02-01')])).toMatchObject({ ok: false });
    const other = parsed({ ...CONTENT, id: 'other' });
    expect(inSuccession([version(1, '2026-01-01'), other])).toMatchObject({ ok: true });
  });
});
