/**
 * Counting piece records by rate cell, to compare with the cells of a record: for whoever examines a store.
 *
 * Pieces declared spoiled are in no cell. Order of counting does not matter.
 */
import { type Cell, cellKeyBytes } from './cell.ts';

export class CellTally {
  readonly #spoiled: ReadonlySet<number>;
  readonly #cells = new Map<string, { pieces: number; postageMills: bigint }>();

  /** `spoiled`: piece numbers. */
  constructor(spoiled: readonly number[]) {
    this.#spoiled = new Set(spoiled);
  }

  /** Counts a piece of the cell with these key bytes. */
  count(key: Uint8Array, pieceNumber: number, postageMills: bigint): void {
    if (this.#spoiled.has(pieceNumber)) return;
    const name = String.fromCharCode(...key);
    const cell = this.#cells.get(name);
    if (cell === undefined) this.#cells.set(name, { pieces: 1, postageMills });
    else {
      cell.pieces += 1;
      cell.postageMills += postageMills;
    }
  }

  /** In what the cells of a record are not those that were counted, in words; null where they are. */
  difference(cells: readonly Cell[]): string | null {
    for (const cell of cells) {
      const counted = this.#cells.get(String.fromCharCode(...cellKeyBytes(cell.key)));
      if (counted?.pieces !== cell.pieces || counted.postageMills !== cell.postageMills) {
        const { product, level, weightStep } = cell.key;
        return `its record has ${cell.pieces} pieces for ${cell.postageMills} mills in the cell ${product}, ${level}, weight step ${weightStep}; its piece records ${counted?.pieces ?? 0} for ${counted?.postageMills ?? 0n}`;
      }
    }
    return cells.length === this.#cells.size ? null : 'its piece records have a rate cell that its record lacks';
  }
}
