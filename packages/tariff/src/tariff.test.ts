// The tariff parser is strict, and the shipped prices are the published figures.
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { utf8 } from '@countermark/protocol/bytes';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { canonicalText } from './canonical-text.ts';
import { SHIPPED_TARIFFS, shippedTariff } from './shipped.ts';
import { formatWeightStep, isInEffect, parseTariff, type Tariff } from './tariff.ts';
import { USPS_2025_07_13 } from './usps-2025-07-13.ts';
import { USPS_ZIP_PREFIXES } from './usps-zip-prefixes.ts';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
const SHARED = process.env.COUNTERMARK_SHARED_DATA ?? join(ROOT, '../shared/data');
const FIGURES = join(SHARED, 'tariffs/usps-2025-07-13.json');

type Json = { [name: string]: Json } & Json[];

/** The shipped file with one thing changed. */
function altered(change: (file: Json) => void): ReturnType<typeof parseTariff> {
  const file = JSON.parse(USPS_2025_07_13) as Json;
  change(file);
  return parseTariff(utf8(canonicalText(file)));
}

function usps(): Tariff {
  const shipped = shippedTariff('usps-2025-07-13');
  if (shipped === undefined) throw new Error('The USPS tariff is not shipped.');
  return shipped.tariff;
}

describe('the shipped tariff', () => {
  it('is read from exact bytes, for its digest', () => {
    expect(SHIPPED_TARIFFS.map(({ tariff }) => tariff.id)).toEqual(['usps-2025-07-13']);
    expect(new TextDecoder().decode(SHIPPED_TARIFFS[0]?.bytes)).toBe(USPS_2025_07_13);
    expect(usps().currency).toEqual({ code: 'USD', exponent: 3 });
    expect(shippedTariff('usps-1863')).toBeUndefined();
  });

  it.each([
    ['usps-2025-07-13', USPS_2025_07_13],
    ['usps-zip-prefixes', USPS_ZIP_PREFIXES],
  ])('module of data/%s.json is generated from it', (name, text) => {
    const file = readFileSync(new URL(`../data/${name}.json`, import.meta.url), 'utf8');
    expect(canonicalText(JSON.parse(file)), 'run: npm run generate').toBe(text);
  });

  it('is in effect from its first day to its last', () => {
    expect(['2025-07-12', '2025-07-13', '2026-07-11', '2026-07-12'].map((day) => isInEffect(usps(), day))).toEqual([
      false,
      true,
      true,
      false,
    ]);
  });

  it('has the shapes, levels and steps of the mission', () => {
    const shown = [...usps().products.values()].map((product) => ({
      product: product.product,
      shape: product.shape,
      affixed: product.usualAffixed,
      levels: [...product.declared.keys()],
      steps: product.weightSteps.map((step) => formatWeightStep(step, 'tenth-ounce')),
    }));
    expect(shown).toEqual([
      {
        product: 'usps-fcm-letter',
        shape: 'letter',
        affixed: 'single-piece-metered',
        levels: ['single-piece', '5-digit', 'aadc', 'mixed-aadc'],
        steps: ['1 oz', '2 oz', '3 oz', '3.5 oz'],
      },
      {
        product: 'usps-fcm-card',
        shape: 'card',
        affixed: 'single-piece',
        levels: ['single-piece', '5-digit', 'aadc', 'mixed-aadc'],
        steps: ['3.5 oz'],
      },
      {
        product: 'usps-fcm-flat',
        shape: 'flat',
        affixed: 'single-piece',
        levels: ['single-piece', '5-digit', '3-digit', 'adc', 'mixed-adc'],
        steps: Array.from({ length: 13 }, (_, index) => `${index + 1} oz`),
      },
    ]);
  });
});

describe.skipIf(!existsSync(FIGURES))(`the published figures (skipped where the shared data is missing)`, () => {
  type Row = {
    class: string;
    shape: string;
    category: string;
    weightNotOver: number | null;
    unit: string;
    mills: number;
  };

  /** Our level, and whether it is the affixed price, for a category of the figures; null for what we do not sell. */
  function levelOf(row: Row): { affixed: boolean; level: string } | null {
    if (row.unit !== 'piece') return null;
    if (row.category === 'single-piece metered') return { affixed: true, level: 'single-piece-metered' };
    if (row.category === 'single-piece') return { affixed: true, level: 'single-piece' };
    const automation = /^(5-digit|3-digit|AADC|ADC|mixed AADC|mixed ADC) automation$/.exec(row.category)?.[1];
    return automation === undefined ? null : { affixed: false, level: automation.toLowerCase().replace(' ', '-') };
  }

  it('are ours, each of them, and we have no price beyond them', () => {
    const figures = (JSON.parse(readFileSync(FIGURES, 'utf8')) as { rows: Row[] }).rows;
    const compared = new Set<string>();
    for (const row of figures.filter((figure) => figure.class === 'First-Class Mail')) {
      const place = levelOf(row);
      const product = usps().products.get(`usps-fcm-${row.shape}`);
      if (place === null || product === undefined) continue;
      const prices = place.affixed ? product.affixed.get(place.level) : product.declared.get(place.level)?.get('none');
      expect(prices, `${row.shape} ${row.category}`).toBeDefined();
      // A card has no weight step, and an automation letter one price for all: the figure holds for each of our steps.
      const flatRate = row.weightNotOver === null || (row.shape === 'letter' && !place.affixed);
      const steps = product.weightSteps.filter((step) => flatRate || step === Number(row.weightNotOver) * 10);
      expect(steps.length, `${row.shape} ${row.category} ${row.weightNotOver}`).toBeGreaterThan(0);
      for (const step of steps) {
        const name = `${product.product} ${place.level} ${step}`;
        expect(prices?.[product.weightSteps.indexOf(step)], name).toBe(BigInt(row.mills));
        compared.add(name);
        if (place.affixed) {
          const undiscounted = product.declared.get('single-piece')?.get('none');
          expect(undiscounted?.[product.weightSteps.indexOf(step)], `${name} undiscounted`).toBe(BigInt(row.mills));
          compared.add(`${product.product} single-piece ${step}`);
        }
      }
    }
    const ours = [...usps().products.values()].flatMap((product) =>
      [...product.affixed.keys(), ...product.declared.keys()].flatMap((level) =>
        product.weightSteps.map((step) => `${product.product} ${level} ${step}`),
      ),
    );
    expect(new Set(ours)).toEqual(compared);
  });
});

describe('the parser', () => {
  it('refuses bytes that are not canonical JSON', () => {
    const spaced = JSON.stringify(JSON.parse(USPS_2025_07_13), null, 1);
    const twice = USPS_2025_07_13.replace('{"authority":"USPS"', '{"authority":"USPS","authority":"USPS"');
    const broken = [spaced, twice, '', '{', '1.5', `${USPS_2025_07_13}\n`, `\uFEFF${USPS_2025_07_13}`];
    for (const text of broken) expect(parseTariff(utf8(text))).toMatchObject({ ok: false, path: '$' });
    expect(parseTariff(Uint8Array.of(0xff))).toMatchObject({ ok: false, path: '$', problem: 'is not JSON in UTF-8' });
    expect(parseTariff(new Uint8Array(2 ** 20 + 1))).toMatchObject({ ok: false, problem: 'is longer than 1 MiB' });
  });

  it.each<[string, string, (file: Json) => void]>([
    ['an unknown field', '$.colour', (file) => Object.assign(file, { colour: 'red' })],
    ['a missing field', '$.currency', (file) => Reflect.deleteProperty(file, 'currency')],
    ['another format', '$.format', (file) => Object.assign(file, { format: 2 })],
    ['an unknown unit', '$.weightStepUnit', (file) => Object.assign(file, { weightStepUnit: 'stone' })],
    ['a last day before the first', '$.effectiveTo', (file) => Object.assign(file, { effectiveTo: '2020-01-01' })],
    ['a product twice', '$.products', (file) => file.products?.push(file.products[0] as Json)],
    [
      'steps that do not ascend',
      '$.products[0].weightSteps[1]',
      (file) => Object.assign(at(file).weightSteps ?? {}, { 1: 10 }),
    ],
    ['a price too few', '$.products[0].levels[1].prices', (file) => at(file).levels?.[1]?.prices?.pop()],
    [
      'a price that falls with weight',
      '$.products[0].affixed[0].prices[1]',
      (file) => Object.assign(at(file).affixed?.[0]?.prices ?? {}, { 1: 739 }),
    ],
    [
      'a price of nothing',
      '$.products[0].levels[1].prices[0]',
      (file) => Object.assign(at(file).levels?.[1]?.prices ?? {}, { 0: 0 }),
    ],
    [
      'a level above the affixed price',
      '$.products[0].levels',
      (file) => Object.assign(at(file).levels?.[1] ?? {}, { prices: [741, 741, 741, 741] }),
    ],
    ['a level twice', '$.products[0].levels', (file) => at(file).levels?.push(at(file).levels?.[1] as Json)],
    ['no affixed price', '$.products[0].affixed', (file) => Object.assign(at(file), { affixed: [] })],
    [
      'an unknown source',
      '$.products[0].levels[1].source',
      (file) => Object.assign(at(file).levels?.[1] ?? {}, { source: 'hearsay' }),
    ],
    [
      'a minimum for an unpriced level',
      '$.products[0].groupMinimums[0].level',
      (file) => Object.assign(at(file).groupMinimums?.[0] ?? {}, { level: 'carrier-route' }),
    ],
    [
      'a level that is no slug',
      '$.products[0].levels[1].level',
      (file) => Object.assign(at(file).levels?.[1] ?? {}, { level: '5 Digit' }),
    ],
  ])('refuses %s and names its place', (_, path, change) => {
    expect(altered(change)).toMatchObject({ ok: false, path });
  });

  it('answers every change of one character with a tariff or a path, and never throws', () => {
    fc.assert(
      fc.property(fc.nat(USPS_2025_07_13.length - 1), fc.integer({ min: 32, max: 126 }), (index, code) => {
        const text = USPS_2025_07_13.slice(0, index) + String.fromCharCode(code) + USPS_2025_07_13.slice(index + 1);
        const parsed = parseTariff(utf8(text));
        if (!parsed.ok) expect(parsed.path).toMatch(/^\$/);
      }),
    );
  });
});

describe('canonical text', () => {
  it('is the same for any order of keys, and is read back as the same value', () => {
    const value = fc.letrec((tie) => ({
      value: fc.oneof(fc.string(), fc.maxSafeInteger(), fc.boolean(), fc.constant(null), tie('list'), tie('object')),
      list: fc.array(tie('value'), { maxLength: 4 }),
      object: fc.dictionary(fc.string(), tie('value'), { maxKeys: 4, noNullPrototype: true }),
    })).object;
    fc.assert(
      fc.property(value, (object) => {
        const members = Object.entries(object);
        const text = canonicalText(object);
        expect(canonicalText(Object.fromEntries(members.toReversed()))).toBe(text);
        expect(canonicalText(JSON.parse(text))).toBe(text);
      }),
    );
  });

  it.each([0.5, Number.NaN, 2 ** 53, undefined, 1n])('refuses %s', (value) => {
    expect(() => canonicalText(value)).toThrow(TypeError);
  });
});

/** The first product of a tariff file. */
function at(file: Json): Json {
  return file.products?.[0] as Json;
}
