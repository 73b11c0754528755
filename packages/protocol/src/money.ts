/**
 * Exact amounts of money.
 *
 * Guarantees: an amount is a `bigint` in the smallest unit that a tariff uses ("mills", 10^-3 of the currency unit
 * where `exponent` is 3), never a float, and never beyond a signed 64-bit integer, so that every store holds it exactly.
 * Does not know exchange rates or rounding rules of programmes.
 */
import type { Brand } from './brand.ts';

/** An amount of at least zero, in mills. */
export type Mills = Brand<bigint, 'Mills'>;

/** The largest amount that every store holds exactly: 2^63 - 1. */
export const MAX_MILLS = (1n << 63n) - 1n;

/**
 * Brands an amount.
 * @throws RangeError for an amount below zero or above {@link MAX_MILLS}: amounts inside the program are computed from
 * checked ones, so this is a broken invariant and not bad input.
 */
export function mills(amount: bigint): Mills {
  if (amount < 0n || amount > MAX_MILLS) {
    throw new RangeError(`An amount of ${amount} mills is outside 0..2^63-1.`);
  }
  return amount as Mills;
}

/** A currency: ISO 4217 code, and how many decimal places a mill has. */
export type Currency = { readonly code: string; readonly exponent: number };

/** Formats an amount for people: `USD 1,234.560` for 1234560 mills at exponent 3. Negative amounts carry a minus. */
export function formatMills(amount: bigint, currency: Currency): string {
  return `${currency.code} ${decimalMills(amount, currency.exponent, true)}`;
}

/** The amount as a decimal number, `1234.560`, with thousands separators if asked. */
export function decimalMills(amount: bigint, exponent: number, grouped = false): string {
  const digits = (amount < 0n ? -amount : amount).toString().padStart(exponent + 1, '0');
  const whole = digits.slice(0, digits.length - exponent);
  const fraction = digits.slice(digits.length - exponent);
  const shown = grouped ? whole.replace(/\B(?=(\d{3})+$)/g, ',') : whole;
  return `${amount < 0n ? '-' : ''}${shown}${exponent === 0 ? '' : `.${fraction}`}`;
}

/**
 * Reads a decimal amount of currency units (`250`, `250.00`, `0.74`) into mills.
 * @returns null for anything that is not such a number, has more places than the exponent, or is beyond {@link MAX_MILLS}.
 */
export function parseDecimalMills(text: string, exponent: number): Mills | null {
  const match = /^(\d{1,15})(?:\.(\d+))?$/.exec(text.trim());
  const whole = match?.[1];
  const fraction = match?.[2] ?? '';
  if (whole === undefined || fraction.length > exponent) return null;
  const amount = BigInt(whole) * 10n ** BigInt(exponent) + BigInt(fraction.padEnd(exponent, '0') || '0');
  return amount <= MAX_MILLS ? mills(amount) : null;
}
