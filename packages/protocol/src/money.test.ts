/** Amounts are exact, and read as they were written. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { decimalMills, formatMills, MAX_MILLS, mills, parseDecimalMills } from './money.ts';

describe('Money', () => {
  it('reads back what it wrote, at every exponent', () => {
    fc.assert(
      fc.property(fc.bigInt({ min: 0n, max: 10n ** 15n - 1n }), fc.integer({ min: 0, max: 6 }), (amount, exponent) => {
        expect(parseDecimalMills(decimalMills(amount, exponent), exponent)).toBe(amount);
      }),
    );
  });

  it('formats for people', () => {
    expect(formatMills(1_234_560n, { code: 'USD', exponent: 3 })).toBe('USD 1,234.560');
    expect(formatMills(-5n, { code: 'USD', exponent: 3 })).toBe('USD -0.005');
    expect(decimalMills(12n, 0)).toBe('12');
  });

  it.each(['', '1.2345', '-1', '1e3', '1,5', '0x1', '1234567890123456'])('refuses %j as an amount', (text) => {
    expect(parseDecimalMills(text, 3)).toBeNull();
  });

  it('stays within what every store holds', () => {
    expect(parseDecimalMills('9223372036854.775807', 6)).toBe(MAX_MILLS);
    expect(parseDecimalMills('9223372036854.775808', 6)).toBeNull();
    expect(mills(MAX_MILLS)).toBe(MAX_MILLS);
    expect(() => mills(MAX_MILLS + 1n)).toThrow(RangeError);
    expect(() => mills(-1n)).toThrow(RangeError);
  });
});
