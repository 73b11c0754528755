/**
 * Seeded randomness: one stream for each concern, so that a new fault does not reshuffle what the others do.
 *
 * Guarantees that the same seed and name give the same numbers, on every machine: sfc32 (Chris Doty-Humphrey, PractRand) over
 * integers of 32 bits, seeded by an avalanche of the name (MurmurHash3's finaliser). Not for secrets.
 */

/** A stream of random numbers. */
export class RandomStream {
  #a: number;
  #b: number;
  #c: number;
  #counter = 1;

  /** `seed`: any text; equal texts are equal streams. */
  constructor(seed: string) {
    const mix = mixer(seed);
    this.#a = mix();
    this.#b = mix();
    this.#c = mix();
    for (let i = 0; i < 12; i += 1) this.uint32();
  }

  /** 0 to 2^32 - 1. */
  uint32(): number {
    const sum = (this.#a + this.#b + this.#counter) | 0;
    this.#counter = (this.#counter + 1) | 0;
    this.#a = this.#b ^ (this.#b >>> 9);
    this.#b = (this.#c + (this.#c << 3)) | 0;
    this.#c = (this.#c << 21) | (this.#c >>> 11);
    this.#c = (this.#c + sum) | 0;
    return sum >>> 0;
  }

  /** 0 up to, not including, 1. */
  fraction(): number {
    return this.uint32() / 4_294_967_296;
  }

  /** A whole number from `least` to `most`, both included. */
  whole(least: number, most: number): number {
    return least + Math.floor(this.fraction() * (most - least + 1));
  }

  /** True with the probability. Draws nothing where it is 0, so that what is switched off takes no numbers. */
  chance(probability: number): boolean {
    return probability > 0 && this.fraction() < probability;
  }

  /** One of them. @throws RangeError for none. */
  pick<T>(from: readonly T[]): T {
    const picked = from[this.whole(0, from.length - 1)];
    if (picked === undefined) throw new RangeError('nothing to pick from');
    return picked;
  }

  bytes(count: number): Buffer {
    const bytes = Buffer.allocUnsafe(count);
    for (let at = 0; at < count; at += 4) {
      const word = this.uint32();
      for (let i = at; i < Math.min(at + 4, count); i += 1) bytes[i] = (word >>> (8 * (i - at))) & 0xff;
    }
    return bytes;
  }
}

/** Numbers of 32 bits out of a text. */
function mixer(text: string): () => number {
  let state = 0x9e37_79b9;
  for (let i = 0; i < text.length; i += 1) {
    state = Math.imul(state ^ text.charCodeAt(i), 0x85eb_ca6b);
    state = (state << 13) | (state >>> 19);
  }
  return () => {
    state = (state + 0x6d2b_79f5) | 0;
    let mixed = state;
    mixed = Math.imul(mixed ^ (mixed >>> 16), 0x85eb_ca6b);
    mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2_ae35);
    return (mixed ^ (mixed >>> 16)) >>> 0;
  };
}
