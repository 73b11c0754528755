/**
 * Whether batch statistics agree with themselves (design, invariants 2 and 3).
 *
 * Guarantees, where it finds no reason: the counts are those of the registers, cells are in canonical order and belong
 * to the declaration, spoiled numbers are pieces of the batch.
 * Does not re-rate cells (`tariff`), and does not see other records (`chain.ts`).
 */
import { cellKeyBytes } from '@countermark/protocol/cell';
import type { BatchStatistics } from '@countermark/protocol/messages/batch-statistics';
import { balanced } from '@countermark/protocol/registers';
import { type Rejection, rejection } from '@countermark/protocol/rejection';
import { SCHEME } from '@countermark/protocol/scheme';

/** The first contradiction as `inconsistent` (or `unsupported-version` for an unknown scheme), or null. */
export function contradiction(statistics: BatchStatistics): Rejection | null {
  const { declaration, closing, observed, device, sequence } = statistics;
  const { opened, closed, cells } = observed;
  if (declaration.scheme !== SCHEME) {
    return rejection('unsupported-version', { type: 'scheme', version: declaration.scheme, supported: SCHEME });
  }
  const because = (reason: string): Rejection => rejection('inconsistent', { device, sequence, reason });
  const postage = cells.reduce((sum, cell) => sum + cell.postageMills, 0n);
  const pieces = cells.reduce((sum, cell) => sum + cell.pieces, 0);

  if (!balanced(closed, observed.funds))
    return because('the registers at closing are not funds received minus returned');
  if (closed.pieces - opened.pieces !== observed.pieces)
    return because('the piece counter moved by another number than pieces');
  if (closed.ascendingMills < opened.ascendingMills) return because('the ascending register went down');
  if (observed.firstPieceNumber !== opened.pieces + 1)
    return because('the first piece number does not follow the piece counter');
  if (observed.pieces > declaration.expectedPieces) return because('more pieces than the declaration reserved');
  if (cells.length > declaration.expectedCells) return because('more rate cells than the declaration reserved');
  if (
    declaration.currency.code !== observed.currency.code ||
    declaration.currency.exponent !== observed.currency.exponent
  ) {
    return because('declaration and device name different currencies');
  }
  if (observed.incomplete) {
    return cells.length === 0 &&
      observed.spoiledPieces === 0 &&
      observed.spoiledPostageMills === 0n &&
      closing.spoiled.length === 0
      ? null
      : because('an incomplete record has cells or spoiled pieces');
  }
  if (pieces + observed.spoiledPieces !== observed.pieces)
    return because('cells and spoiled pieces are not all pieces');
  if (postage + observed.spoiledPostageMills !== closed.ascendingMills - opened.ascendingMills) {
    return because('cells and spoiled postage are not what the ascending register moved by');
  }
  if (closing.spoiled.length !== observed.spoiledPieces)
    return because('another number of spoiled pieces than declared');
  if (
    !closing.spoiled.every(
      (n, i) => n > (closing.spoiled[i - 1] ?? observed.firstPieceNumber - 1) && n <= closed.pieces,
    )
  ) {
    return because('spoiled numbers are not ascending pieces of the batch');
  }
  for (const [i, cell] of cells.entries()) {
    if (cell.pieces === 0) return because('an empty rate cell');
    if (cell.key.product !== declaration.product || cell.key.entry !== declaration.entry) {
      return because('a rate cell of another product or entry than declared');
    }
    const before = cells[i - 1];
    if (before !== undefined && compareBytes(cellKeyBytes(before.key), cellKeyBytes(cell.key)) >= 0) {
      return because('rate cells out of order or twice');
    }
  }
  return null;
}

/** Lexicographic order of byte strings, the order of cells in a record. */
export function compareBytes(a: Uint8Array, b: Uint8Array): number {
  const length = Math.min(a.length, b.length);
  for (let i = 0; i < length; i++) {
    const difference = (a[i] as number) - (b[i] as number);
    if (difference !== 0) return difference;
  }
  return a.length - b.length;
}
