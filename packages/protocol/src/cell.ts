/**
 * The rate cell of scheme 1: the combination of dimensions for which pieces and postage are counted.
 *
 * Guarantees a canonical text per key, by which cells are compared and sorted. Whether postage fits the tariff is
 * said by `tariff/cell-rating`.
 */
import { encode } from './cbor.ts';
import { CODE } from './id.ts';
import { type Of, millsSchema, pattern, tuple, uint } from './schema.ts';

const code = pattern(CODE);

/**
 * `affixed`: the price level whose postage is on the piece (`single-piece-metered`); `level`: the level of presort that
 * is declared; `entry`: where the mail is handed over; `weightStep`: upper bound of the tariff's step, in the unit that
 * the tariff names (USPS: tenths of an ounce).
 */
export const cellKeySchema = tuple('cell-key', {
  product: code,
  shape: code,
  affixed: code,
  level: code,
  entry: code,
  weightStep: uint(1_000_000),
});
export type CellKey = Of<typeof cellKeySchema>;

/** A cell with its counts. Spoiled pieces are not in it. */
export const cellSchema = tuple('cell', {
  key: cellKeySchema,
  pieces: uint(0xffff_ffff),
  postageMills: millsSchema,
});
export type Cell = Of<typeof cellSchema>;

/** The key's exact bytes as they stand in records; also what cells are sorted by. */
export function cellKeyBytes(key: CellKey): Uint8Array {
  return encode(cellKeySchema.toCbor(key));
}

/** A text that is equal exactly where keys are equal. */
export function cellKeyText(key: CellKey): string {
  return `${key.product}|${key.shape}|${key.affixed}|${key.level}|${key.entry}|${key.weightStep}`;
}
