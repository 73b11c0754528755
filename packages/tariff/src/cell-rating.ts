/**
 * Re-rating a cell of a batch's statistics: is it paid exactly in full at its tariff, and how much lies between the
 * affixed price and the declared level's price.
 *
 * Guarantees: exact integers; a cell whose dimensions the tariff does not have is `unpriced`, one whose postage is not
 * pieces x affixed price is `mispaid`, and only `paid` carries a difference, so that a programme cannot count anything
 * else by oversight. The difference is what the declared level was worth, not a discount: programmes decide that.
 * Does not check that the mail was made up as declared.
 */
import type { Cell, CellKey } from '@countermark/protocol/cell';
import { type Mills, mills } from '@countermark/protocol/money';
import type { Tariff } from './tariff.ts';

export type CellRating =
  | {
      readonly verdict: 'paid';
      /** For one piece. */
      readonly affixedMills: Mills;
      /** For one piece. */
      readonly declaredMills: Mills;
      /** (affixed - declared) x pieces. */
      readonly differenceMills: Mills;
    }
  | { readonly verdict: 'mispaid'; readonly expectedMills: Mills; readonly postageMills: Mills }
  | {
      readonly verdict: 'unpriced';
      /** The first dimension that the tariff does not have. */
      readonly dimension: keyof CellKey;
      readonly value: string;
    };

/**
 * Re-rates one cell of verified statistics.
 * @param tariff the one that the declaration names by its digest.
 */
export function rateCell(tariff: Tariff, cell: Cell): CellRating {
  const { key } = cell;
  const product = tariff.products.get(key.product);
  if (product === undefined) return unpriced('product', key.product);
  if (product.shape !== key.shape) return unpriced('shape', key.shape);
  const affixed = product.affixed.get(key.affixed);
  if (affixed === undefined) return unpriced('affixed', key.affixed);
  const entries = product.declared.get(key.level);
  if (entries === undefined) return unpriced('level', key.level);
  const declared = entries.get(key.entry);
  if (declared === undefined) return unpriced('entry', key.entry);
  const step = product.weightSteps.indexOf(key.weightStep);
  const affixedMills = affixed[step];
  const declaredMills = declared[step];
  if (affixedMills === undefined || declaredMills === undefined) return unpriced('weightStep', String(key.weightStep));

  const pieces = BigInt(cell.pieces);
  const expectedMills = mills(affixedMills * pieces);
  if (expectedMills !== cell.postageMills) {
    return { verdict: 'mispaid', expectedMills, postageMills: cell.postageMills };
  }
  const differenceMills = mills((affixedMills - declaredMills) * pieces);
  return { verdict: 'paid', affixedMills, declaredMills, differenceMills };
}

function unpriced(dimension: keyof CellKey, value: string): CellRating {
  return { verdict: 'unpriced', dimension, value };
}
