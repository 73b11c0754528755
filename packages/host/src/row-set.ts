/**
 * A set of row numbers as bits: an eighth of a byte a row, however many are in it.
 */
const PAGE_BYTES = 8_192;

export class RowSet {
  readonly #pages: (Uint8Array | undefined)[] = [];
  #size = 0;

  get size(): number {
    return this.#size;
  }

  add(row: number): void {
    const index = Math.floor(row / (PAGE_BYTES * 8));
    const page = (this.#pages[index] ??= new Uint8Array(PAGE_BYTES));
    const byte = (row >> 3) % PAGE_BYTES;
    const before = page[byte] as number;
    const after = before | (1 << (row & 7));
    if (after === before) return;
    page[byte] = after;
    this.#size += 1;
  }

  has(row: number): boolean {
    const page = this.#pages[Math.floor(row / (PAGE_BYTES * 8))];
    return page !== undefined && ((page[(row >> 3) % PAGE_BYTES] as number) & (1 << (row & 7))) !== 0;
  }
}
