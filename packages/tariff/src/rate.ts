/**
 * Rating one piece: which rate cell it belongs to, what it is franked with, and what its declared level costs.
 *
 * Guarantees: exact comparison with the weight steps (a piece of exactly the bound is within the step), and a defect
 * that names field, value and cure where the tariff has no price. The level is what the mailer declares; nothing here
 * checks that the mail was made up so. Allocates nothing for a piece that can be rated.
 */
import { type Checked, defective, passed } from './defect.ts';
import { type RatedCell, type Tariff, type TariffProduct, formatWeightStep } from './tariff.ts';
import type { WeightFg } from './weight.ts';

export type PieceToRate = {
  readonly product: string;
  readonly weightFg: WeightFg;
  readonly level: string;
  readonly entry: string;
};

/** Rates a piece at the product's usual affixed price. */
export function ratePiece(tariff: Tariff, piece: PieceToRate): Checked<RatedCell> {
  const product = tariff.products.get(piece.product);
  if (product === undefined) {
    return defective('unknown-product', 'product', piece.product, `write one of ${list(tariff.products.keys())}`);
  }
  const entries = product.rated.get(piece.level);
  if (entries === undefined) {
    return defective(
      'unknown-level',
      'level',
      piece.level,
      `for ${product.product} write one of ${list(product.rated.keys())}`,
    );
  }
  const steps = entries.get(piece.entry);
  if (steps === undefined) {
    return defective(
      'unknown-entry',
      'entry',
      piece.entry,
      `for ${product.product}, ${piece.level} write one of ${list(entries.keys())}`,
    );
  }
  const cell = steps[stepIndex(product, piece.weightFg)];
  if (cell === undefined) return tooHeavy(tariff, product, piece.weightFg);
  return passed(cell);
}

function stepIndex(product: TariffProduct, weightFg: WeightFg): number {
  return product.weightStepsFg.findIndex((bound) => weightFg <= bound);
}

function tooHeavy(tariff: Tariff, product: TariffProduct, weightFg: WeightFg): Checked<RatedCell> {
  const highest = formatWeightStep(product.weightSteps.at(-1) ?? 0, tariff.weightStepUnit);
  const cure = `${product.product} ends at ${highest}: correct the weight or its unit, or choose another product`;
  return defective('weight-above-highest-step', 'weight', grams(weightFg), cure);
}

function grams(weightFg: bigint): string {
  const digits = weightFg.toString().padStart(16, '0');
  const fraction = digits.slice(-15).replace(/0+$/, '');
  return `${digits.slice(0, -15)}${fraction === '' ? '' : `.${fraction}`} g`;
}

function list(words: Iterable<string>): string {
  return [...words].join(', ');
}
