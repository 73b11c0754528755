// Weights: exact in every unit, refused with a cure otherwise.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parseWeight, stepBoundFg, type WeightUnit, weightUnitOf } from './weight.ts';

function fg(text: string, unit: WeightUnit): bigint {
  const checked = parseWeight(text, unit);
  if (!checked.ok) throw new Error(`${text} ${unit}: ${checked.defect.code}`);
  return checked.value;
}

/** A decimal with at most six places, as text and in millionths. */
const decimal = fc
  .tuple(fc.integer({ min: 0, max: 999_999_999 }), fc.integer({ min: 0, max: 999_999 }))
  .map(([whole, millionths]) => ({
    text: `${whole}.${String(millionths).padStart(6, '0')}`,
    millionths: BigInt(whole) * 1_000_000n + BigInt(millionths),
  }))
  .filter(({ millionths }) => millionths > 0n);

describe('a weight', () => {
  it('is exact: the international ounce and pound', () => {
    expect(fg('1', 'oz')).toBe(28_349_523_125_000_000n);
    expect(fg('28.349523', 'g')).toBe(28_349_523_000_000_000n);
    expect(fg('1', 'lb')).toBe(fg('16', 'oz'));
    expect(fg('1', 'lb')).toBe(453_592_370_000_000_000n);
    expect(fg('1', 'g')).toBe(fg('1000', 'mg'));
    expect(fg('0.000001', 'oz')).toBe(28_349_523_125n);
  });

  it('never loses a digit: the weight of n millionths of a unit is n times that of one', () => {
    fc.assert(
      fc.property(decimal, fc.constantFrom<WeightUnit>('oz', 'lb', 'g', 'mg'), ({ text, millionths }, unit) => {
        expect(fg(text, unit)).toBe(millionths * fg('0.000001', unit));
      }),
    );
  });

  it('does not depend on trailing zeros', () => {
    expect(fg('1', 'oz')).toBe(fg('1.0', 'oz'));
    expect(fg('1', 'oz')).toBe(fg('1.000000', 'oz'));
  });

  it.each([
    ['', 'weight-not-a-number'],
    ['heavy', 'weight-not-a-number'],
    ['1.', 'weight-not-a-number'],
    ['.5', 'weight-not-a-number'],
    ['1e3', 'weight-not-a-number'],
    ['1.0000001', 'weight-not-a-number'],
    ['NaN', 'weight-not-a-number'],
    ['+1', 'weight-not-a-number'],
    [' 1', 'weight-not-a-number'],
    ['1 oz', 'weight-not-a-number'],
    ['0', 'weight-not-positive'],
    ['0.000000', 'weight-not-positive'],
    ['-1', 'weight-not-positive'],
  ])('refuses %j as %s and says what to write', (text, code) => {
    const checked = parseWeight(text, 'oz');
    expect(checked).toMatchObject({ ok: false, defect: { code, field: 'weight', value: text } });
    expect(!checked.ok && checked.defect.cure).toMatch(/oz/);
  });

  it('recognises a decimal comma', () => {
    expect(parseWeight('0,95', 'oz')).toMatchObject({
      ok: false,
      defect: { cure: expect.stringContaining('0.95') as string },
    });
  });
});

describe('the header of a weight', () => {
  it('carries its unit', () => {
    expect(['weight_oz', 'weight_lb', 'weight_g', 'weight_mg'].map(weightUnitOf)).toEqual(['oz', 'lb', 'g', 'mg']);
  });

  it.each(['weight', 'weight_kg', 'oz', 'weight_oz '])('is not %j', (header) => {
    expect(weightUnitOf(header)).toBeNull();
  });
});

it('a step bound equals the weight that names it', () => {
  expect(stepBoundFg(35, 'tenth-ounce')).toBe(fg('3.5', 'oz'));
  expect(stepBoundFg(50, 'gram')).toBe(fg('50', 'g'));
});
