/**
 * Rating the rows of a mailing: product, level, entry and weight as written, to a cell of the run and its price.
 *
 * Guarantees that equal texts get equal cells, and that a row costs one look-up where the same texts came before. What is
 * remembered is bounded. The rules are those of `tariff`.
 */
import type { Defect } from '@countermark/tariff/defect';
import { ratePiece } from '@countermark/tariff/rate';
import type { RatedCell, Tariff } from '@countermark/tariff/tariff';
import { parseWeight, type WeightUnit } from '@countermark/tariff/weight';
import type { RunCell } from './journal-rows.ts';

/** A cell's number in the run, and its postage in mills; or what is wrong. */
export type Rating =
  | { readonly ok: true; readonly cell: number; readonly postageMills: number }
  | { readonly ok: false; readonly defects: readonly Defect[] };

const REMEMBERED_MAX = 20_000;

/** Rates the rows of one run. */
export class Rater {
  readonly #tariff: Tariff;
  readonly #unit: WeightUnit;
  readonly #numbers = new Map<RatedCell, number>();
  readonly #remembered = new Map<string, Rating>();
  /** Cells in the order in which they first appeared. */
  readonly cells: RunCell[] = [];

  constructor(tariff: Tariff, unit: WeightUnit) {
    this.#tariff = tariff;
    this.#unit = unit;
  }

  rate(product: string, level: string, entry: string, weight: string): Rating {
    const texts = `${product}\t${level}\t${entry}\t${weight}`;
    const before = this.#remembered.get(texts);
    if (before !== undefined) return before;
    const rating = this.#rate(product, level, entry, weight);
    if (this.#remembered.size >= REMEMBERED_MAX) this.#remembered.clear();
    this.#remembered.set(texts, rating);
    return rating;
  }

  #rate(product: string, level: string, entry: string, weight: string): Rating {
    const parsed = parseWeight(weight, this.#unit);
    if (!parsed.ok) {
      // Any weight within the first step shows whether the rest of the row is right.
      const first = parseWeight('0.000001', this.#unit);
      const rest = first.ok ? ratePiece(this.#tariff, { product, level, entry, weightFg: first.value }) : first;
      return { ok: false, defects: rest.ok ? [parsed.defect] : [rest.defect, parsed.defect] };
    }
    const rated = ratePiece(this.#tariff, { product, level, entry, weightFg: parsed.value });
    if (!rated.ok) return { ok: false, defects: [rated.defect] };
    const { key, affixedMills, declaredMills } = rated.value;
    let cell = this.#numbers.get(rated.value);
    if (cell === undefined) {
      cell = this.cells.length;
      this.#numbers.set(rated.value, cell);
      this.cells.push({ key, affixedMills, declaredMills });
    }
    return { ok: true, cell, postageMills: Number(affixedMills) };
  }
}
