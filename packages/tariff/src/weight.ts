/**
 * Exact weights: what a mailer wrote, in the unit it was written in, compared with a weight step without rounding.
 *
 * Guarantees: a weight is a whole number of femtograms (10^-15 g), as `bigint`. The avoirdupois ounce is exactly
 * 28.349523125 g (international yard and pound agreement, 1959), so a decimal of up to six places in oz, lb, g or mg is
 * a whole number of femtograms: a piece of 1.0 oz is never pushed into the next step and one of 1.000001 oz never left
 * out of it. Does not weigh anything: the weight is what the mailer declares.
 */
import type { Brand } from '@countermark/protocol/brand';
import { type Checked, defective, passed } from './defect.ts';

/** A weight of more than zero, in femtograms. */
export type WeightFg = Brand<bigint, 'WeightFg'>;

export type WeightUnit = 'oz' | 'lb' | 'g' | 'mg';

const OUNCE_FG = 28_349_523_125_000_000n;
const MILLIGRAM_FG = 1_000_000_000_000n;

const UNIT_FG: Readonly<Record<WeightUnit, bigint>> = {
  oz: OUNCE_FG,
  lb: 16n * OUNCE_FG,
  g: 1_000n * MILLIGRAM_FG,
  mg: MILLIGRAM_FG,
};

/** The unit that a header ends with (`weight_oz`), or null where it names none: a weight without a unit is refused. */
export function weightUnitOf(header: string): WeightUnit | null {
  const unit = /^weight_(oz|lb|g|mg)$/.exec(header)?.[1];
  return (unit as WeightUnit | undefined) ?? null;
}

/**
 * Reads a decimal weight: up to nine digits, a point, up to six decimals. No sign, exponent or thousands separator.
 * @returns a defect of `weight` for anything else, and for zero.
 */
export function parseWeight(text: string, unit: WeightUnit): Checked<WeightFg> {
  const match = /^(\d{1,9})(?:\.(\d{1,6}))?$/.exec(text);
  if (match?.[1] === undefined) {
    if (/^-\d/.test(text)) return notPositive(text, unit);
    return defective('weight-not-a-number', 'weight', text, cureOf(text, unit));
  }
  const millionths = BigInt(match[1]) * 1_000_000n + BigInt((match[2] ?? '').padEnd(6, '0'));
  if (millionths === 0n) return notPositive(text, unit);
  return passed(((millionths * UNIT_FG[unit]) / 1_000_000n) as WeightFg);
}

/**
 * A tariff's step bound in femtograms.
 * @param unit `tenth-ounce` (35 is 3.5 oz) or `gram`.
 */
export function stepBoundFg(step: number, unit: 'tenth-ounce' | 'gram'): bigint {
  return unit === 'gram' ? BigInt(step) * UNIT_FG.g : (BigInt(step) * OUNCE_FG) / 10n;
}

function notPositive(text: string, unit: WeightUnit): Checked<WeightFg> {
  return defective('weight-not-positive', 'weight', text, `write the weight of one piece in ${unit}, more than zero`);
}

function cureOf(text: string, unit: WeightUnit): string {
  if (/^\d+,\d+$/.test(text)) return `write ${text.replace(',', '.')}: decimals are separated by a point`;
  return `write the weight of one piece in ${unit} as a number, such as 0.95, with at most six decimals`;
}
