/**
 * CBOR (RFC 8949) in the core deterministic encoding of section 4.2.1, and nothing else.
 *
 * Guarantees: size and nesting are bounded while decoding (a deep input overflows a recursive decoder's stack); what
 * decodes, re-encodes to the same bytes, so two byte strings never mean the same value. Only integers of 64 bits, byte and
 * text strings, arrays, maps, booleans and null exist here: no floats, tags, indefinite lengths, undefined, or other simple
 * values; map keys are integers or texts. Written by hand because every frame and every message goes through it several times, and a general decoder has to
 * be asked twice (docs/decisions/cbor.md); the tests hold it against an independent implementation.
 * Does not know messages: `schema.ts` does.
 */
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

const MAX_UINT64 = (1n << 64n) - 1n;
const MAX_SAFE = BigInt(Number.MAX_SAFE_INTEGER);
const MAX_UINT32 = 0xffff_ffff;
const utf8Encoder = new TextEncoder();
const utf8Decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** Where the encoding grows. One for all: encoding is synchronous and never inside itself. */
let scratch = new Uint8Array(64 * 1024);
const SCRATCH_KEPT_BYTES = 8 * 1024 * 1024;

/** Byte strings up to this length (digests, ids, keys: what is kept) are copied; longer ones are views of the input. */
const COPIED_BYTES = 64;

/** The deterministic encoding. Numbers must be integers. @throws TypeError for what has no such encoding. */
export function encode(value: CborValue): Uint8Array {
  const end = write(value, 0);
  const encoded = scratch.slice(0, end);
  if (scratch.length > SCRATCH_KEPT_BYTES) scratch = new Uint8Array(64 * 1024);
  return encoded;
}

function reserve(end: number): void {
  if (end <= scratch.length) return;
  const grown = new Uint8Array(Math.max(end, scratch.length * 2));
  grown.set(scratch);
  scratch = grown;
}

/** Writes at the offset and returns the offset after it. */
function write(value: CborValue, at: number): number {
  switch (typeof value) {
    case 'number':
      if (!Number.isSafeInteger(value)) throw new TypeError(`${value} is no integer that CBOR carries here.`);
      return value < 0 ? writeHead(0x20, -1 - value, at) : writeHead(0, value, at);
    case 'bigint':
      return writeBigInt(value, at);
    case 'string':
      return writeText(value, at);
    case 'boolean':
      return writeByte(value ? 0xf5 : 0xf4, at);
    case 'object':
      break;
    default:
      throw new TypeError(`A ${typeof value} has no encoding.`);
  }
  if (value === null) return writeByte(0xf6, at);
  if (value instanceof Uint8Array) {
    const start = writeHead(0x40, value.length, at);
    reserve(start + value.length);
    scratch.set(value, start);
    return start + value.length;
  }
  if (Array.isArray(value)) {
    let end = writeHead(0x80, value.length, at);
    for (const item of value as readonly CborValue[]) end = write(item, end);
    return end;
  }
  if (value instanceof Map) return writeMap(value as ReadonlyMap<CborValue, CborValue>, at);
  throw new TypeError('An object has no encoding.');
}

function writeByte(byte: number, at: number): number {
  reserve(at + 1);
  scratch[at] = byte;
  return at + 1;
}

function writeHead(major: number, argument: number, at: number): number {
  reserve(at + 9);
  if (argument < 24) {
    scratch[at] = major | argument;
    return at + 1;
  }
  if (argument < 0x100) {
    scratch[at] = major | 24;
    scratch[at + 1] = argument;
    return at + 2;
  }
  if (argument < 0x1_0000) {
    scratch[at] = major | 25;
    scratch[at + 1] = argument >>> 8;
    scratch[at + 2] = argument & 255;
    return at + 3;
  }
  const low = argument % 0x1_0000_0000;
  let offset = at + 1;
  if (argument <= MAX_UINT32) scratch[at] = major | 26;
  else {
    scratch[at] = major | 27;
    offset = write32((argument - low) / 0x1_0000_0000, offset);
  }
  return write32(low, offset);
}

function write32(value: number, at: number): number {
  scratch[at] = value >>> 24;
  scratch[at + 1] = (value >>> 16) & 255;
  scratch[at + 2] = (value >>> 8) & 255;
  scratch[at + 3] = value & 255;
  return at + 4;
}

function writeBigInt(value: bigint, at: number): number {
  const major = value < 0n ? 0x20 : 0;
  const argument = value < 0n ? -1n - value : value;
  if (argument > MAX_UINT64) throw new TypeError(`${value} has no encoding in 64 bits.`);
  if (argument <= MAX_SAFE) return writeHead(major, Number(argument), at);
  reserve(at + 9);
  scratch[at] = major | 27;
  return write32(Number(argument & 0xffff_ffffn), write32(Number(argument >> 32n), at + 1));
}

function writeText(text: string, at: number): number {
  const { length } = text;
  // Most texts are short and ASCII: their bytes are their characters.
  const start = writeHead(0x60, length, at);
  reserve(start + length);
  for (let i = 0; i < length; i++) {
    const unit = text.charCodeAt(i);
    if (unit >= 0x80) {
      const bytes = utf8Encoder.encode(text);
      const from = writeHead(0x60, bytes.length, at);
      reserve(from + bytes.length);
      scratch.set(bytes, from);
      return from + bytes.length;
    }
    scratch[start + i] = unit;
  }
  return start + length;
}

/** Entries by the bytes of their encoded keys. */
function writeMap(map: ReadonlyMap<CborValue, CborValue>, at: number): number {
  let end = writeHead(0xa0, map.size, at);
  let before = -1;
  let ascending = true;
  for (const key of map.keys()) {
    if (typeof key !== 'number' || key <= before || !Number.isSafeInteger(key)) {
      ascending = false;
      break;
    }
    before = key;
  }
  if (ascending) {
    // Non-negative integers in rising order are in the order of their encodings.
    for (const [key, value] of map) end = write(value, writeHead(0, key as number, end));
    return end;
  }
  const entries = [...map].map(([key, value]) => {
    const keyEnd = write(key, end);
    return { key: scratch.slice(end, keyEnd), value };
  });
  entries.sort((one, other) => compare(one.key, other.key));
  for (const [index, { key, value }] of entries.entries()) {
    const previous = entries[index - 1];
    if (previous !== undefined && compare(previous.key, key) === 0) throw new TypeError('A map has a key twice.');
    reserve(end + key.length);
    scratch.set(key, end);
    end = write(value, end + key.length);
  }
  return end;
}

function compare(one: Uint8Array, other: Uint8Array): number {
  const length = Math.min(one.length, other.length);
  for (let i = 0; i < length; i++) {
    const difference = (one[i] as number) - (other[i] as number);
    if (difference !== 0) return difference;
  }
  return one.length - other.length;
}

/**
 * Decodes strictly. Integers within 2^53 become `number`, larger ones `bigint`; maps become `Map`. Long byte
 * strings are views of the input, which nobody may write to afterwards.
 * Rejections: `cbor-too-large`, `cbor-too-deep`, `cbor-duplicate-key`, `cbor-malformed`, `cbor-not-deterministic`.
 */
export function decode(bytes: Uint8Array, limits: CborLimits = MESSAGE_LIMITS): Result<CborValue> {
  if (bytes.length > limits.maxBytes) {
    return refuse(rejection('cbor-too-large', { bytes: bytes.length, limitBytes: limits.maxBytes }));
  }
  const reader = new Reader(bytes, limits.maxDepth);
  try {
    const value = reader.item(1);
    if (reader.offset !== bytes.length) return refuse(rejection('cbor-malformed', { reason: 'bytes after the item' }));
    return accept(value);
  } catch (error) {
    if (error instanceof Unreadable) return refuse(error.rejection);
    throw error;
  }
}

/** Thrown inside a reader only. */
class Unreadable extends Error {
  readonly rejection: Rejection;
  constructor(refused: Rejection) {
    super(refused.code);
    this.rejection = refused;
  }
}

function malformed(reason: string): Unreadable {
  return new Unreadable(rejection('cbor-malformed', { reason }));
}

function notDeterministic(): Unreadable {
  return new Unreadable(rejection('cbor-not-deterministic', {}));
}

class Reader {
  offset = 0;
  readonly #bytes: Uint8Array;
  readonly #maxDepth: number;

  constructor(bytes: Uint8Array, maxDepth: number) {
    // A subclass (Node's Buffer) would be asked for each part of it again.
    this.#bytes =
      bytes.constructor === Uint8Array ? bytes : new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#maxDepth = maxDepth;
  }

  /** One item; `level` is that of a list or map here, the outermost being 1. @throws Unreadable */
  item(level: number): CborValue {
    const bytes = this.#bytes;
    const head = bytes[this.offset++];
    if (head === undefined) throw malformed('truncated');
    const major = head >> 5;
    const info = head & 31;
    if (info > 27) throw info === 31 ? notDeterministic() : malformed('reserved head');
    if (major === 6) throw malformed('a tag where none may stand');
    if (major === 7) {
      if (info === 20) return false;
      if (info === 21) return true;
      if (info === 22) return null;
      throw malformed('a float, undefined or other simple value');
    }
    if (info === 27) {
      const wide = this.#wide();
      if (major > 1) throw malformed('truncated');
      return this.#integer(major, wide);
    }
    const argument = info < 24 ? info : this.#argument(info);
    switch (major) {
      case 0:
        return argument;
      case 1:
        return -1 - argument;
      case 2: {
        const start = this.#take(argument);
        return argument <= COPIED_BYTES ? bytes.slice(start, this.offset) : bytes.subarray(start, this.offset);
      }
      case 3:
        return this.#text(argument);
      case 4:
        return this.#list(argument, level);
      default:
        return this.#map(argument, level);
    }
  }

  /** An argument of 1, 2 or 4 bytes, in the shortest form that holds it. */
  #argument(info: number): number {
    const bytes = this.#bytes;
    const length = 1 << (info - 24);
    const start = this.#take(length);
    let argument = 0;
    for (let i = 0; i < length; i++) argument = argument * 256 + (bytes[start + i] as number);
    const shorter = length === 1 ? 24 : length === 2 ? 0x100 : 0x1_0000;
    if (argument < shorter) throw notDeterministic();
    return argument;
  }

  /** An argument of 8 bytes that needs them. */
  #wide(): bigint {
    const start = this.#take(8);
    let high = 0;
    let low = 0;
    for (let i = 0; i < 4; i++) {
      high = high * 256 + (this.#bytes[start + i] as number);
      low = low * 256 + (this.#bytes[start + 4 + i] as number);
    }
    if (high === 0) throw notDeterministic();
    return (BigInt(high) << 32n) | BigInt(low);
  }

  #integer(major: number, argument: bigint): CborValue {
    if (major === 0) return argument <= MAX_SAFE ? Number(argument) : argument;
    const value = -1n - argument;
    return value >= -MAX_SAFE ? Number(value) : value;
  }

  /** Steps over bytes and returns where they begin. */
  #take(length: number): number {
    const start = this.offset;
    if (length > this.#bytes.length - start) throw malformed('truncated');
    this.offset = start + length;
    return start;
  }

  #text(length: number): string {
    const bytes = this.#bytes;
    const start = this.#take(length);
    if (length <= 64) {
      let text = '';
      let at = start;
      for (; at < this.offset; at++) {
        const byte = bytes[at] as number;
        if (byte >= 0x80) break;
        text += String.fromCharCode(byte);
      }
      if (at === this.offset) return text;
    }
    try {
      return utf8Decoder.decode(bytes.subarray(start, this.offset));
    } catch {
      throw malformed('a text that is not UTF-8');
    }
  }

  #enter(items: number, level: number): void {
    // Every item takes at least a byte: a longer count is a lie, refused before anything is allocated.
    if (items > this.#bytes.length - this.offset) throw malformed('truncated');
    if (level > this.#maxDepth) throw new Unreadable(rejection('cbor-too-deep', { limit: this.#maxDepth }));
  }

  #list(count: number, level: number): CborValue {
    this.#enter(count, level);
    const list: CborValue[] = [];
    for (let i = 0; i < count; i++) list.push(this.item(level + 1));
    return list;
  }

  #map(count: number, level: number): CborValue {
    this.#enter(count * 2, level);
    const map = new Map<CborValue, CborValue>();
    let start = 0;
    let end = 0;
    let before = -1;
    for (let i = 0; i < count; i++) {
      const keyStart = this.offset;
      const key = this.item(level + 1);
      if (typeof key === 'object' || typeof key === 'boolean') throw malformed('a key that is no integer or text');
      // Non-negative integers stand in the order of their encodings.
      const plain = typeof key === 'number' && key >= 0;
      if (i > 0 && !(plain && before >= 0 && key > before)) this.#checkOrder(start, end, keyStart, map, key);
      before = plain ? key : -1;
      start = keyStart;
      end = this.offset;
      map.set(key, this.item(level + 1));
    }
    return map;
  }

  /** Keys rise in the order of their encodings, which makes each unique. */
  #checkOrder(start: number, end: number, nextStart: number, map: Map<CborValue, CborValue>, key: CborValue): void {
    const bytes = this.#bytes;
    const order = compare(bytes.subarray(start, end), bytes.subarray(nextStart, this.offset));
    if (order < 0) return;
    if (order === 0 || map.has(key)) {
      throw new Unreadable(rejection('cbor-duplicate-key', { reason: `at byte ${nextStart}` }));
    }
    throw notDeterministic();
  }
}
