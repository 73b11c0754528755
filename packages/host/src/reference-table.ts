/**
 * A table of 16-byte references with a number for each, in memory of a fixed size, and partitioning for more than fit.
 *
 * Guarantees exact answers: references are compared whole. Open addressing; a reference is itself a digest, so its first
 * bytes are the hash. Whoever has more than fit goes over all of them once per partition.
 */
import { REFERENCE_BYTES } from '@countermark/protocol/messages/piece-record';

const CAPACITY = 1 << 18;
const SLOTS = CAPACITY * 2;

/** How many passes it takes for so many references. Partitions are even, because references are digests. */
export function partitionsFor(references: number): number {
  return Math.max(1, Math.ceil((references * 1.1) / CAPACITY));
}

/** Which partition a reference at `offset` belongs to. */
export function partitionOf(bytes: Uint8Array, offset: number, partitions: number): number {
  return (((bytes[offset + 15] as number) << 8) | (bytes[offset + 14] as number)) % partitions;
}

export class ReferenceTable {
  /** Index of the reference + 1, 0 for a free slot. */
  readonly #slots = new Int32Array(SLOTS);
  readonly #references = Buffer.alloc(CAPACITY * REFERENCE_BYTES);
  readonly #numbers = new Uint32Array(CAPACITY);
  #count = 0;

  clear(): void {
    this.#slots.fill(0);
    this.#count = 0;
  }

  /** The index of the reference at `offset`; -1 where it was not there: it is then, with this number. */
  put(bytes: Uint8Array, offset: number, number: number): number {
    const view = bytes;
    let slot =
      (((view[offset] as number) << 16) | ((view[offset + 1] as number) << 8) | (view[offset + 2] as number)) % SLOTS;
    for (;;) {
      const index = (this.#slots[slot] as number) - 1;
      if (index < 0) break;
      if (this.#same(index, bytes, offset)) return index;
      slot = (slot + 1) % SLOTS;
    }
    if (this.#count === this.#numbers.length) throw new RangeError('The table of references is full.');
    this.#slots[slot] = this.#count + 1;
    this.#references.set(bytes.subarray(offset, offset + REFERENCE_BYTES), this.#count * REFERENCE_BYTES);
    this.#numbers[this.#count] = number;
    this.#count += 1;
    return -1;
  }

  number(index: number): number {
    return this.#numbers[index] as number;
  }

  setNumber(index: number, number: number): void {
    this.#numbers[index] = number;
  }

  #same(index: number, bytes: Uint8Array, offset: number): boolean {
    const at = index * REFERENCE_BYTES;
    for (let i = 0; i < REFERENCE_BYTES; i++) {
      if (this.#references[at + i] !== bytes[offset + i]) return false;
    }
    return true;
  }
}
