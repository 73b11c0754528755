// Rating a piece, and re-rating the cells that such pieces make.
import type { Cell } from '@countermark/protocol/cell';
import { mills } from '@countermark/protocol/money';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { rateCell } from './cell-rating.ts';
import { ratePiece } from './rate.ts';
import { SHIPPED_TARIFFS } from './shipped.ts';
import type { RatedCell, Tariff } from './tariff.ts';
import { parseWeight, type WeightFg, type WeightUnit } from './weight.ts';

const usps = SHIPPED_TARIFFS[0]?.tariff as Tariff;

function weight(text: string, unit: WeightUnit = 'oz'): WeightFg {
  const checked = parseWeight(text, unit);
  if (!checked.ok) throw new Error(`No weight: ${text}`);
  return checked.value;
}

function rated(product: string, weightFg: WeightFg, level: string): RatedCell {
  const checked = ratePiece(usps, { product, weightFg, level, entry: 'none' });
  if (!checked.ok) throw new Error(checked.defect.code);
  return checked.value;
}

const lines = [...usps.products.values()].flatMap((product) =>
  [...product.rated].flatMap(([level, entries]) => [...entries.keys()].map((entry) => ({ product, level, entry }))),
);
const anyLine = fc.constantFrom(...lines);

describe('rating a piece', () => {
  it('gives the cell, the affixed price and what the declared level costs', () => {
    expect(rated('usps-fcm-letter', weight('0.95'), 'aadc')).toEqual({
      key: {
        product: 'usps-fcm-letter',
        shape: 'letter',
        affixed: 'single-piece-metered',
        level: 'aadc',
        entry: 'none',
        weightStep: 10,
      },
      affixedMills: 740n,
      declaredMills: 641n,
    });
    expect(rated('usps-fcm-flat', weight('3.5'), '3-digit')).toMatchObject({
      key: { shape: 'flat', affixed: 'single-piece', weightStep: 40 },
      affixedMills: 2440n,
      declaredMills: 2045n,
    });
    expect(rated('usps-fcm-card', weight('0.2'), 'mixed-aadc')).toMatchObject({
      affixedMills: 610n,
      declaredMills: 462n,
    });
    expect(rated('usps-fcm-letter', weight('3.2'), 'single-piece')).toMatchObject({
      affixedMills: 1610n,
      declaredMills: 1610n,
    });
  });

  it.each<[string, WeightUnit, number]>([
    ['0.000001', 'oz', 10],
    ['1', 'oz', 10],
    ['1.0', 'oz', 10],
    ['1.000001', 'oz', 20],
    ['28.349523', 'g', 10],
    ['28.349524', 'g', 20],
    ['28349.523125', 'mg', 10],
    ['28349.523126', 'mg', 20],
    ['28350', 'mg', 20],
    ['0.0625', 'lb', 10],
    ['0.062501', 'lb', 20],
    ['3', 'oz', 30],
    ['3.5', 'oz', 35],
  ])('puts a letter of %s %s into the step %i', (text, unit, step) => {
    expect(rated('usps-fcm-letter', weight(text, unit), '5-digit').key.weightStep).toBe(step);
  });

  it('puts every weight into the first step whose bound it does not pass', () => {
    fc.assert(
      fc.property(anyLine, fc.integer({ min: 1, max: 13_000_000 }), ({ product, level, entry }, millionths) => {
        const ounces = `${Math.trunc(millionths / 1e6)}.${String(millionths % 1e6).padStart(6, '0')}`;
        const wanted = product.weightSteps.find((step) => millionths <= step * 100_000);
        const checked = ratePiece(usps, { product: product.product, weightFg: weight(ounces), level, entry });
        if (wanted === undefined) {
          expect(checked).toMatchObject({ ok: false, defect: { code: 'weight-above-highest-step', field: 'weight' } });
        } else {
          expect(checked).toMatchObject({ ok: true, value: { key: { weightStep: wanted, level, entry } } });
        }
      }),
    );
  });

  it('never asks less for more weight, and never declares above what is affixed', () => {
    const ounces = fc.integer({ min: 1, max: 35 }).map((tenths) => weight(`${Math.trunc(tenths / 10)}.${tenths % 10}`));
    fc.assert(
      fc.property(anyLine, ounces, ounces, ({ product, level }, one, other) => {
        const [light, heavy] = one <= other ? [one, other] : [other, one];
        const less = rated(product.product, light, level);
        const more = rated(product.product, heavy, level);
        expect(less.affixedMills <= more.affixedMills && less.declaredMills <= more.declaredMills).toBe(true);
        expect(more.declaredMills <= more.affixedMills).toBe(true);
      }),
    );
  });

  it.each([
    [{ product: 'usps-fcm-parcel' }, 'unknown-product', 'product', 'usps-fcm-parcel', /usps-fcm-letter, usps-fcm-card/],
    [{ level: '3-digit' }, 'unknown-level', 'level', '3-digit', /5-digit, aadc, mixed-aadc/],
    [{ level: 'AADC' }, 'unknown-level', 'level', 'AADC', /aadc/],
    [{ entry: 'dndc' }, 'unknown-entry', 'entry', 'dndc', /none/],
    [{ weightFg: weight('3.500001') }, 'weight-above-highest-step', 'weight', '99.223359287023125 g', /3\.5 oz/],
    [{ product: '__proto__' }, 'unknown-product', 'product', '__proto__', /usps-fcm-flat/],
  ])('refuses %o as %s, naming field, value and cure', (change, code, field, value, cure) => {
    const piece = { product: 'usps-fcm-letter', weightFg: weight('1'), level: '5-digit', entry: 'none', ...change };
    const checked = ratePiece(usps, piece);
    expect(checked).toMatchObject({ ok: false, defect: { code, field, value } });
    expect(!checked.ok && checked.defect.cure).toMatch(cure);
  });
});

describe('re-rating a cell', () => {
  const anyCell = fc
    .tuple(anyLine, fc.nat(12), fc.integer({ min: 0, max: 0xffff_ffff }))
    .map(([{ product, level, entry }, step, pieces]) => {
      const cells = product.rated.get(level)?.get(entry) ?? [];
      const one = cells[step % cells.length] as RatedCell;
      return {
        one,
        cell: { key: one.key, pieces, postageMills: mills(one.affixedMills * BigInt(pieces)) } satisfies Cell,
      };
    });

  it('pays in full what rating asked, with the exact difference', () => {
    fc.assert(
      fc.property(anyCell, ({ one, cell }) => {
        expect(rateCell(usps, cell)).toEqual({
          verdict: 'paid',
          affixedMills: one.affixedMills,
          declaredMills: one.declaredMills,
          differenceMills: (one.affixedMills - one.declaredMills) * BigInt(cell.pieces),
        });
      }),
    );
  });

  it('finds a single mill too little or too much', () => {
    fc.assert(
      fc.property(anyCell, fc.constantFrom(-1n, 1n), ({ cell }, by) => {
        fc.pre(cell.pieces > 0);
        const postageMills = mills(cell.postageMills + by);
        expect(rateCell(usps, { ...cell, postageMills })).toEqual({
          verdict: 'mispaid',
          expectedMills: cell.postageMills,
          postageMills,
        });
      }),
    );
  });

  it.each([
    ['product', 'usps-fcm-parcel'],
    ['shape', 'flat'],
    ['affixed', 'single-piece'],
    ['level', '3-digit'],
    ['entry', 'dndc'],
    ['weightStep', 15],
  ] as const)('has no price for another %s', (dimension, value) => {
    const { key, affixedMills } = rated('usps-fcm-letter', weight('1'), '5-digit');
    const cell: Cell = { key: { ...key, [dimension]: value }, pieces: 1, postageMills: affixedMills };
    expect(rateCell(usps, cell)).toEqual({ verdict: 'unpriced', dimension, value: String(value) });
  });
});
