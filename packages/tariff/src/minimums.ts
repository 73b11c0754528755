/**
 * The minimums of presort: pieces of a product in one mailing, and pieces in one ZIP group of a level.
 *
 * Guarantees: what is counted is what was declared at a presort level; single-piece rows are free of minimums and do
 * not help to reach one. Memory grows with the number of distinct groups, not with the number of pieces.
 * A shortfall is a warning about the mailing, never a defect of a row: any part of a mailing can be franked alone, and
 * the rest may follow. Does not check ADC, AADC or scheme groups: which ZIP Codes they hold is not in our data, so these
 * levels are declared only.
 */
import { SINGLE_PIECE, type Tariff } from './tariff.ts';

/** One row as far as minimums go. `zip5` is the ZIP Code's first five digits. */
export type CountedPiece = {
  readonly customer: string;
  readonly product: string;
  readonly level: string;
  readonly zip5: string;
};

export type Shortfall = {
  readonly minimum: 'mailing' | 'group';
  /** Empty for the licensee's own mail. */
  readonly customer: string;
  readonly product: string;
  /** The level whose group is short; null for a mailing's minimum, which all presort levels share. */
  readonly level: string | null;
  /** The group's ZIP digits; null for a mailing's minimum. */
  readonly group: string | null;
  readonly pieces: number;
  readonly minimumPieces: number;
};

export type MinimumCheck = {
  /** Counts one piece. One check is for one mailing: one mailing date, any number of customers and products. */
  readonly count: (piece: CountedPiece) => void;
  /** What is short so far, in the order in which customers, products and groups first appeared. */
  readonly shortfalls: () => Shortfall[];
};

type Posting = {
  readonly customer: string;
  readonly product: string;
  pieces: number;
  /** For each group minimum of the product: group digits -> pieces. */
  readonly groups: readonly Map<string, number>[];
};

/** Starts a check of one mailing. Products that the tariff does not have are not counted: rating refuses them. */
export function startMinimumCheck(tariff: Tariff): MinimumCheck {
  const postings = new Map<string, Map<string, Posting>>();
  return {
    count(piece) {
      const product = tariff.products.get(piece.product);
      if (product === undefined || piece.level === SINGLE_PIECE) return;
      let products = postings.get(piece.customer);
      if (products === undefined) postings.set(piece.customer, (products = new Map<string, Posting>()));
      let posting = products.get(piece.product);
      if (posting === undefined) {
        const groups = product.groupMinimums.map(() => new Map<string, number>());
        products.set(
          piece.product,
          (posting = { customer: piece.customer, product: piece.product, pieces: 0, groups }),
        );
      }
      posting.pieces += 1;
      for (const [index, minimum] of product.groupMinimums.entries()) {
        const group = posting.groups[index];
        if (minimum.level !== piece.level || group === undefined) continue;
        const digits = piece.zip5.slice(0, minimum.zipDigits);
        group.set(digits, (group.get(digits) ?? 0) + 1);
      }
    },
    shortfalls() {
      return [...postings.values()].flatMap((products) =>
        [...products.values()].flatMap((posting) => shortfallsOf(tariff, posting)),
      );
    },
  };
}

/** A shortfall as a sentence, with what it means and what can be done. */
export function describeShortfall(shortfall: Shortfall): string {
  const { product, level, group, pieces, minimumPieces } = shortfall;
  const customer = shortfall.customer === '' ? 'Own mail' : shortfall.customer;
  if (shortfall.minimum === 'mailing') {
    return (
      `${customer}: ${pieces} presorted pieces of ${product}, and a mailing needs ${minimumPieces}. ` +
      'The post may price them as single pieces: add pieces, or declare them single-piece.'
    );
  }
  return (
    `${customer}: ${pieces} pieces of ${product} declared ${level ?? ''} for ZIP ${group ?? ''}, and a group needs ` +
    `${minimumPieces}. Declare these pieces at the next coarser level, or add pieces.`
  );
}

function shortfallsOf(tariff: Tariff, posting: Posting): Shortfall[] {
  const product = tariff.products.get(posting.product);
  if (product === undefined) return [];
  const { customer } = posting;
  const short: Shortfall[] = [];
  if (posting.pieces < product.mailingMinimumPieces) {
    short.push({
      minimum: 'mailing',
      customer,
      product: posting.product,
      level: null,
      group: null,
      pieces: posting.pieces,
      minimumPieces: product.mailingMinimumPieces,
    });
  }
  for (const [index, minimum] of product.groupMinimums.entries()) {
    for (const [group, pieces] of posting.groups[index] ?? []) {
      if (pieces >= minimum.pieces) continue;
      short.push({
        minimum: 'group',
        customer,
        product: posting.product,
        level: minimum.level,
        group,
        pieces,
        minimumPieces: minimum.pieces,
      });
    }
  }
  return short;
}
