/**
 * CBOR (RFC 8949) in the core deterministic encoding of section 4.2.1, and nothing else.
 *
 * Guarantees: one walk over the heads, without recursion, bounds size, nesting and number of lists and maps, and refuses every form but the
 * deterministic one before anything is decoded; what is accepted, re-encodes to the same bytes, so two byte strings never
 * mean the same value. Only integers of 64 bits, byte and text strings, arrays, maps, booleans and null exist here: no
 * floats, tags, indefinite lengths, undefined, or other simple values; map keys are integers or texts.
 * Values are built and encoded by the library cborg; the walk is ours, because no library refuses all that it refuses
 * (docs/decisions/cbor.md). Does not know messages: `schema.ts` does.
 */
import { decode as cborgDecode, encode as cborgEncode, rfc8949EncodeOptions } from 'cborg';
import { type Rejection, rejection } from './rejection.ts';
import { accept, type Result, refuse } from './result.ts';

export type CborValue =
  | number
  | bigint
  | string
  | boolean
  | null
  | Uint8Array
  | readonly CborValue[]
  | ReadonlyMap<CborValue, CborValue>;

export type CborLimits = { readonly maxBytes: number; readonly maxDepth: number };

/** Bounds of a message: enough for a record of 1,024 cells and 10,000 spoiled numbers. */
export const MESSAGE_LIMITS: CborLimits = { maxBytes: 256 * 1024, maxDepth: 8 };

/** Bounds of a local frame. */
export const FRAME_LIMITS: CborLimits = { maxBytes: 4 * 1024 * 1024, maxDepth: 12 };

/**
 * Lists and maps that any input may have, and one more for each so many bytes: an empty one takes a byte here and some 200
 * in memory, so that a frame of nothing else would take a gigabyte. No message comes near it.
 */
const CONTAINERS_FREE = 4_096;
const BYTES_PER_CONTAINER = 16;

/** No text begins with it: decoders leave it out, and two byte strings would mean the same value. */
const BYTE_ORDER_MARK = 0xfeff;

// The library's own order of keys, by major type and then as encoded, is that of section 4.2.1 for the keys that exist here,
// integers and texts. Its sorter for RFC 8949 encodes every key to compare it, and so takes twice as long.
const { mapSorter: _, ...libraryOptions } = rfc8949EncodeOptions;

const encodeOptions = {
  ...libraryOptions,
  typeEncoders: {
    number: (value: number): null => {
      if (!Number.isSafeInteger(value)) throw new TypeError(`${value} is no integer that CBOR carries here.`);
      return null;
    },
    string: (value: string): null => {
      if (value.charCodeAt(0) === BYTE_ORDER_MARK) throw new TypeError('A text begins with no byte order mark.');
      return null;
    },
    undefined: (): never => {
      throw new TypeError('An undefined has no encoding.');
    },
  },
} as const;

// What the walk has refused needs no second check.
const decodeOptions = { useMaps: true, allowIndefinite: false, allowUndefined: false } as const;
const strictUtf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/**
 * The deterministic encoding. Numbers must be integers, keys of maps integers or texts, each once (schemas see to that).
 * @throws TypeError for what has no such encoding
 */
export function encode(value: CborValue): Uint8Array {
  const bytes = cborgEncode(value, encodeOptions);
  // The library answers a Buffer under Node; a plain view is the same type everywhere.
  return new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/**
 * Decodes strictly. Integers within 2^53 become `number`, larger ones `bigint`; maps become `Map`.
 * Rejections: `cbor-too-large`, `cbor-too-deep`, `cbor-duplicate-key`, `cbor-malformed`, `cbor-not-deterministic`.
 */
export function decode(bytes: Uint8Array, limits: CborLimits = MESSAGE_LIMITS): Result<CborValue> {
  if (bytes.length > limits.maxBytes) {
    return refuse(rejection('cbor-too-large', { bytes: bytes.length, limitBytes: limits.maxBytes }));
  }
  const defect = new Walk(bytes, limits.maxDepth).defect();
  return defect === null ? accept(cborgDecode(bytes, decodeOptions) as CborValue) : refuse(defect);
}

/** A list or map that the walk is in. */
type Level = {
  /** Items that are still to come; in a map, keys and values count each. */
  left: number;
  readonly isMap: boolean;
  /** Where the last key stands, to compare the next with; `keyEnd` 0 before the first. */
  keyStart: number;
  keyEnd: number;
};

/** One walk over the heads of a byte string. */
class Walk {
  readonly #bytes: Uint8Array;
  readonly #maxDepth: number;
  readonly #levels: Level[] = [];
  #offset = 0;
  #containersLeft: number;

  constructor(bytes: Uint8Array, maxDepth: number) {
    this.#bytes = bytes;
    this.#maxDepth = maxDepth;
    this.#containersLeft = CONTAINERS_FREE + Math.floor(bytes.length / BYTES_PER_CONTAINER);
  }

  /** Why the bytes are not exactly one item in the deterministic encoding, or null. */
  defect(): Rejection | null {
    do {
      const level = this.#levels.at(-1);
      const isKey = level?.isMap === true && level.left % 2 === 0;
      if (level !== undefined) level.left -= 1;
      const start = this.#offset;
      const defect = this.#item(isKey) ?? (isKey ? this.#keyOrder(level, start) : null);
      if (defect !== null) return defect;
      while (this.#levels.at(-1)?.left === 0) this.#levels.pop();
    } while (this.#levels.length > 0);
    return this.#offset === this.#bytes.length ? null : malformed('bytes after the item');
  }

  #item(isKey: boolean): Rejection | null {
    const head = this.#bytes[this.#offset++];
    if (head === undefined) return malformed('truncated');
    const major = head >> 5;
    const info = head & 31;
    if (info === 31) return rejection('cbor-not-deterministic', {});
    if (info > 27) return malformed('reserved head');
    if (major === 6) return malformed('a tag where none may stand');
    if (isKey && major !== 0 && major !== 1 && major !== 3) return malformed('a key that is no integer or text');
    if (major === 7) return info >= 20 && info <= 22 ? null : malformed('a float, undefined or other simple value');
    const argument = info < 24 ? info : this.#argument(info);
    if (typeof argument !== 'number') return argument;
    if (major <= 1) return null;
    if (major <= 3) return this.#string(argument, major === 3);
    return this.#enter(argument, major === 5);
  }

  /** An argument of 1, 2, 4 or 8 bytes that needs them. Beyond 2^53 it is not exact: no length is, and none is accepted. */
  #argument(info: number): number | Rejection {
    const length = 1 << (info - 24);
    if (length > this.#bytes.length - this.#offset) return malformed('truncated');
    let argument = 0;
    for (let i = 0; i < length; i++) argument = argument * 256 + (this.#bytes[this.#offset + i] as number);
    this.#offset += length;
    const least = length === 1 ? 24 : 256 ** (length / 2);
    return argument < least ? rejection('cbor-not-deterministic', {}) : argument;
  }

  #string(length: number, isText: boolean): Rejection | null {
    if (length > this.#bytes.length - this.#offset) return malformed('truncated');
    const start = this.#offset;
    this.#offset += length;
    if (!isText) return null;
    const bytes = this.#bytes;
    const marked = length >= 3 && bytes[start] === 0xef && bytes[start + 1] === 0xbb && bytes[start + 2] === 0xbf;
    if (marked) return malformed('a text that begins with a byte order mark');
    return isUtf8(bytes, start, this.#offset) ? null : malformed('a text that is not UTF-8');
  }

  #enter(count: number, isMap: boolean): Rejection | null {
    const items = isMap ? count * 2 : count;
    // Every item takes at least a byte: a longer count is a lie, refused before anything is allocated.
    if (items > this.#bytes.length - this.#offset) return malformed('truncated');
    if (this.#levels.length >= this.#maxDepth) return rejection('cbor-too-deep', { limit: this.#maxDepth });
    this.#containersLeft -= 1;
    if (this.#containersLeft < 0) return malformed('more lists and maps than its size warrants');
    this.#levels.push({ left: items, isMap, keyStart: 0, keyEnd: 0 });
    return null;
  }

  /** Keys rise in the order of their encodings, which makes each unique. */
  #keyOrder(level: Level, start: number): Rejection | null {
    const order = level.keyEnd === 0 ? -1 : this.#compare(level.keyStart, level.keyEnd, start, this.#offset);
    level.keyStart = start;
    level.keyEnd = this.#offset;
    if (order < 0) return null;
    return order === 0
      ? rejection('cbor-duplicate-key', { reason: `at byte ${start}` })
      : rejection('cbor-not-deterministic', {});
  }

  #compare(start: number, end: number, otherStart: number, otherEnd: number): number {
    const length = Math.min(end - start, otherEnd - otherStart);
    for (let i = 0; i < length; i++) {
      const difference = (this.#bytes[start + i] as number) - (this.#bytes[otherStart + i] as number);
      if (difference !== 0) return difference;
    }
    return end - start - (otherEnd - otherStart);
  }
}

function malformed(reason: string): Rejection {
  return rejection('cbor-malformed', { reason });
}

function isUtf8(bytes: Uint8Array, start: number, end: number): boolean {
  for (let at = start; at < end; at++) {
    if ((bytes[at] as number) < 0x80) continue;
    try {
      strictUtf8.decode(bytes.subarray(at, end));
      return true;
    } catch {
      return false;
    }
  }
  return true;
}
