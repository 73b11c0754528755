// The committed sample mailing is what the documents say of it, and its reckoning agrees with samples/expected.json,
// which an independent script made (samples/expected.py).
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { cellKeyText } from '@countermark/protocol/cell';
import { CUSTOMER_ID } from '@countermark/protocol/id';
import { decimalMills, mills } from '@countermark/protocol/money';
import { rateCell } from './cell-rating.ts';
import { startMinimumCheck } from './minimums.ts';
import { ratePiece } from './rate.ts';
import { SHIPPED_TARIFFS } from './shipped.ts';
import type { RatedCell, Tariff } from './tariff.ts';
import { parseWeight, weightUnitOf } from './weight.ts';
import { checkZip } from './zip.ts';

const SAMPLES = new URL('../../../samples/', import.meta.url);
const usps = SHIPPED_TARIFFS[0]?.tariff as Tariff;
const csv = readFileSync(new URL('bureau-mailing.csv', SAMPLES), 'utf8');

type Row = Record<string, string>;

/** Enough CSV for a file that we write ourselves: fields, quoted where they hold commas or quotes, on one line each. */
function parseRows(text: string): { header: string[]; rows: Row[] } {
  const lines = text.trimEnd().split('\n');
  const fieldsOf = (line: string): string[] =>
    [...line.matchAll(/(?:^|,)(?:"((?:[^"]|"")*)"|([^",]*))/g)].map(
      ([, quoted, bare]) => quoted?.replaceAll('""', '"') ?? bare ?? '',
    );
  const header = fieldsOf(lines[0] ?? '');
  const rows = lines.slice(1).map((line) => {
    const fields = fieldsOf(line);
    expect(fields.length, line).toBe(header.length);
    return Object.fromEntries(header.map((name, index) => [name, fields[index] ?? '']));
  });
  return { header, rows };
}

const { header, rows } = parseRows(csv);
const value = (row: Row, name: string): string => row[name] ?? '';
const distinct = (name: string, of: readonly Row[] = rows): string[] =>
  [...new Set(of.map((row) => value(row, name)))].sort();

function rated(row: Row): RatedCell {
  const weight = parseWeight(value(row, 'weight_oz'), 'oz');
  if (!weight.ok) throw new Error(weight.defect.cure);
  const piece = { product: value(row, 'product'), weightFg: weight.value, level: value(row, 'level'), entry: 'none' };
  const checked = ratePiece(usps, piece);
  if (!checked.ok) throw new Error(checked.defect.cure);
  return checked.value;
}

describe('the sample mailing', () => {
  it('is what its generator writes, so that anyone can see how it was made', async () => {
    const generator = (await import(new URL('generate.mjs', SAMPLES).href)) as { generateMailing: () => string };
    expect(generator.generateMailing() === csv, 'run: npm run generate && python3 samples/expected.py').toBe(true);
  });

  it('is a bureau’s: at least 2,500 pieces for three customers, each piece with its own reference', () => {
    expect(rows.length).toBeGreaterThanOrEqual(2_500);
    expect(distinct('customer')).toEqual(['alder-press', 'birch-mutual', 'cedar-clinic']);
    expect(distinct('customer').every((customer) => CUSTOMER_ID.test(customer))).toBe(true);
    expect(distinct('piece_ref')).toHaveLength(rows.length);
  });

  it('has the columns that the documents name, and the unit of the weight in its header', () => {
    expect(header).toEqual([
      'piece_ref',
      'customer',
      'product',
      'level',
      'weight_oz',
      'name',
      'address',
      'city',
      'state',
      'zip',
    ]);
    expect(header.map(weightUnitOf).filter((unit) => unit !== null)).toEqual(['oz']);
  });

  it('has letters and flats at every presort level, the flats in two weight steps, and a weight on each bound', () => {
    const letters = rows.filter((row) => value(row, 'product') === 'usps-fcm-letter');
    const flats = rows.filter((row) => value(row, 'product') === 'usps-fcm-flat');
    expect(letters.length + flats.length).toBe(rows.length);
    expect(distinct('level', letters)).toEqual(['5-digit', 'aadc', 'mixed-aadc']);
    expect(distinct('level', flats)).toEqual(['3-digit', '5-digit', 'adc', 'mixed-adc']);
    expect(new Set(letters.map((row) => rated(row).key.weightStep))).toEqual(new Set([10, 20]));
    expect(new Set(flats.map((row) => rated(row).key.weightStep))).toEqual(new Set([30, 40]));
    expect(distinct('weight_oz')).toEqual(
      expect.arrayContaining(['1', '1.0', '1.01', '2.0', '3', '3.00', '3.01', '4.0']),
    );
  });

  it('meets every minimum', () => {
    const check = startMinimumCheck(usps);
    for (const row of rows) {
      const [customer, product, level] = [value(row, 'customer'), value(row, 'product'), value(row, 'level')];
      check.count({ customer, product, level, zip5: value(row, 'zip').slice(0, 5) });
    }
    expect(check.shortfalls()).toEqual([]);
  });

  it('has real ZIP prefixes, some with a leading zero, some with four digits more', () => {
    for (const zip of distinct('zip')) expect(checkZip(zip), zip).toEqual({ ok: true, value: zip });
    expect(distinct('zip').some((zip) => zip.startsWith('0'))).toBe(true);
    expect(distinct('zip').some((zip) => /^\d{5}-\d{4}$/.test(zip))).toBe(true);
  });

  it('exercises a CSV reader, and holds nothing that a spreadsheet would run', () => {
    const names = distinct('name');
    expect(names.some((name) => name.includes(',')) && names.some((name) => name.includes('"'))).toBe(true);
    expect(names.some((name) => /\P{ASCII}/u.test(name))).toBe(true);
    expect(
      rows.flatMap((row) => Object.values(row)).filter((field) => field === '' || /^[=+\-@\t]/.test(field)),
    ).toEqual([]);
    expect(csv).not.toMatch(/\r|\uFEFF|[ \t]\n/);
  });
});

describe('the independent reckoning', () => {
  type ExpectedCell = Record<'product' | 'shape' | 'affixed' | 'level' | 'entry', string> & {
    weightStep: number;
    pieces: number;
    postageMills: string;
    declaredMills: string;
    differenceMills: string;
  };
  type ExpectedCustomer = {
    customer: string;
    pieces: number;
    bandPercent: number;
    differenceMills: string;
    discountMills: string;
    postageMills: string;
    declaredMills: string;
    cells: ExpectedCell[];
  };
  const expected = JSON.parse(readFileSync(new URL('expected.json', SAMPLES), 'utf8')) as {
    pieces: number;
    postageMills: string;
    customers: ExpectedCustomer[];
  };

  it.each(expected.customers)(
    'of $customer agrees, cell by cell',
    ({ customer, pieces, postageMills, differenceMills, cells }) => {
      const own = rows.filter((row) => value(row, 'customer') === customer);
      const counted = new Map<string, { one: RatedCell; pieces: number }>();
      for (const row of own) {
        const one = rated(row);
        const cell = counted.get(cellKeyText(one.key));
        counted.set(cellKeyText(one.key), { one, pieces: (cell?.pieces ?? 0) + 1 });
      }
      const ours = [...counted.values()].map(({ one, pieces: inCell }) => {
        const total = mills(one.affixedMills * BigInt(inCell));
        const again = rateCell(usps, { key: one.key, pieces: inCell, postageMills: total });
        if (again.verdict !== 'paid') throw new Error(again.verdict);
        return {
          ...one.key,
          pieces: inCell,
          postageMills: String(total),
          declaredMills: String(again.declaredMills * BigInt(inCell)),
          differenceMills: String(again.differenceMills),
        };
      });
      const byKey = (a: ExpectedCell, b: ExpectedCell): number => (cellKeyText(a) < cellKeyText(b) ? -1 : 1);
      expect(ours.sort(byKey)).toEqual(cells.toSorted(byKey));
      expect(own.length).toBe(pieces);
      expect(String(ours.reduce((sum, cell) => sum + BigInt(cell.postageMills), 0n))).toBe(postageMills);
      expect(String(ours.reduce((sum, cell) => sum + BigInt(cell.differenceMills), 0n))).toBe(differenceMills);
    },
  );

  it('meets the steps of the bands from both sides, and rounding matters', () => {
    expect(expected.customers.map(({ pieces, bandPercent }) => [pieces, bandPercent])).toEqual([
      [749, 3],
      [1200, 10],
      [750, 6],
    ]);
    const fractions = expected.customers.map(
      ({ differenceMills, bandPercent }) => (BigInt(differenceMills) * BigInt(bandPercent)) % 100n,
    );
    expect(fractions.some((fraction) => fraction > 50n)).toBe(true);
    expect(expected.pieces).toBe(rows.length);
  });

  it('is what docs/tariff.md tells', () => {
    const doc = readFileSync(new URL('../docs/tariff.md', SAMPLES), 'utf8');
    const usd = (amount: string): string => decimalMills(BigInt(amount), 3, true);
    for (const { customer, pieces, bandPercent, cells, ...sums } of expected.customers) {
      for (const cell of cells) {
        const amounts = [cell.postageMills, cell.declaredMills, cell.differenceMills].map(usd);
        const line = [customer, cell.product, cell.level, cell.weightStep, cell.pieces, ...amounts];
        expect(doc).toContain(`\n| ${line.join(' | ')} |\n`);
      }
      const amounts = [sums.postageMills, sums.declaredMills, sums.differenceMills].map(usd);
      const counted = pieces.toLocaleString('en-US');
      const line = [customer, counted, ...amounts, `${bandPercent} %`, usd(sums.discountMills)];
      expect(doc).toContain(`\n| ${line.join(' | ')} |\n`);
    }
  });
});
