/**
 * Changes to an input that know nothing of its form: bits, bytes, ranges, words, and pieces of other inputs.
 */
import type { Random } from './random.ts';

/** What a mutation may draw on besides the input. */
export type Material = {
  readonly random: Random;
  /** Texts that the sources mention. */
  readonly words: readonly string[];
  /** Another input of the corpus. */
  readonly other: () => Uint8Array;
  readonly maxBytes: number;
};

/** Returns a changed copy. */
export type Mutation = (input: Uint8Array, material: Material) => Uint8Array;

const NUMBERS = [
  0n,
  1n,
  23n,
  24n,
  127n,
  128n,
  255n,
  256n,
  65_535n,
  65_536n,
  (1n << 31n) - 1n,
  1n << 31n,
  (1n << 32n) - 1n,
];
/** Bounds at which parsers go wrong. */
export const BOUNDS: readonly bigint[] = [
  ...NUMBERS,
  1n << 32n,
  (1n << 53n) - 1n,
  1n << 53n,
  (1n << 63n) - 1n,
  1n << 63n,
  (1n << 64n) - 1n,
];

const encoder = new TextEncoder();

export function join(...parts: readonly Uint8Array[]): Uint8Array {
  let length = 0;
  for (const part of parts) length += part.length;
  const joined = new Uint8Array(length);
  let at = 0;
  for (const part of parts) {
    joined.set(part, at);
    at += part.length;
  }
  return joined;
}

/** One change of any of these kinds. */
export const mutateBytes: Mutation = (input, { random, words, other, maxBytes }) => {
  const at = random.below(input.length + 1);
  const length = Math.min(input.length - at, 1 + random.below(random.pick([1, 4, 16, 256])));
  const insert = (bytes: Uint8Array): Uint8Array => join(input.subarray(0, at), bytes, input.subarray(at));
  const write = (bytes: Uint8Array): Uint8Array => {
    const copy = Uint8Array.from(input);
    copy.set(bytes.subarray(0, copy.length - at), at);
    return copy;
  };
  const number = (): Uint8Array => {
    const size = random.pick([1, 2, 4, 8]);
    const bytes = Buffer.alloc(8);
    bytes.writeBigUInt64BE(random.pick(BOUNDS));
    const cut = bytes.subarray(8 - size);
    return Uint8Array.from(random.once(2) ? cut : cut.reverse());
  };
  const word = (): Uint8Array => encoder.encode(words.length === 0 ? '' : random.pick(words));
  const changed = (): Uint8Array => {
    switch (random.below(15)) {
      case 0:
      case 1: {
        const copy = Uint8Array.from(input);
        if (at < copy.length) copy[at] = (copy[at] as number) ^ (1 << random.below(8));
        return copy;
      }
      case 2:
        return write(random.bytes(1));
      case 3: {
        const copy = Uint8Array.from(input);
        if (at < copy.length) copy[at] = (copy[at] as number) + random.pick([1, -1, 16, -16]);
        return copy;
      }
      case 4:
        return write(number());
      case 5:
        return insert(number());
      case 6:
        return insert(random.bytes(1 + random.below(8)));
      case 7:
      case 8:
        return join(input.subarray(0, at), input.subarray(at + length));
      case 9:
        return insert(input.slice(at, at + length));
      case 10:
        return insert(word());
      case 11:
        return write(word());
      case 12: {
        const from = other();
        const start = random.below(from.length + 1);
        return insert(from.slice(start, start + 1 + random.below(64)));
      }
      case 13: {
        const from = other();
        return join(input.subarray(0, at), from.subarray(random.below(from.length + 1)));
      }
      default:
        return input.slice(0, at);
    }
  };
  return changed().slice(0, maxBytes);
};

/** Changes of a decimal number somewhere in a text, which single bytes seldom make. */
export const mutateNumbers: Mutation = (input, material) => {
  const { random, maxBytes } = material;
  const text = Buffer.from(input).toString('latin1');
  const numbers = [...text.matchAll(/\d+/g)];
  if (numbers.length === 0) return mutateBytes(input, material);
  const { index, 0: digits } = random.pick(numbers);
  const value = BigInt(digits.slice(0, 40));
  const next = random.pick([
    () => String(random.pick(BOUNDS)),
    () => String(value + 1n),
    () => String(value === 0n ? 0n : value - 1n),
    () => `-${digits}`,
    () => `0${digits}`,
    () => `${digits}.5`,
    () => `${digits}e3`,
    () => digits.repeat(1 + random.below(4)),
    () => '',
  ])();
  const changed = text.slice(0, index) + next + text.slice(index + digits.length);
  return Uint8Array.from(Buffer.from(changed, 'latin1')).slice(0, maxBytes);
};
