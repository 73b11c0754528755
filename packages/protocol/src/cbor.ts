/**
 * CBOR (RFC 8949) in the core deterministic encoding of section 4.2.1, and nothing else.
 *
 * Guarantees: size and nesting are bounded before anything is decoded (a deep input overflows a recursive decoder's
 * stack); what decodes, re-encodes to the same bytes, so two byte strings never mean the same value. Only integers
 * of 64 bits, byte and text strings, arrays, maps, booleans and null exist here: no floats, tags, indefinite lengths,
 * undefined, or other simple values.
 * Does not know messages: `schema.ts` does.
 */
import { decode as cborgDecode, encode as cborgEncode, rfc8949EncodeOptions } from 'cborg';
import { sameBytes } from './digest.ts';
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

const decodeOptions = {
  strict: true,
  useMaps: true,
  rejectDuplicateMapKeys: true,
  allowIndefinite: false,
  allowUndefined: false,
  allowBigInt: true,
  allowNaN: false,
  allowInfinity: false,
} as const;

/** The deterministic encoding. Numbers must be integers. @throws TypeError for what has no such encoding. */
export function encode(value: CborValue): Uint8Array {
  const bytes = cborgEncode(value, rfc8949EncodeOptions);
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
  const shape = scan(bytes, limits.maxDepth);
  if (shape !== null) return refuse(shape);
  let value: CborValue;
  try {
    value = cborgDecode(bytes, decodeOptions) as CborValue;
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    if (/repeat map key|duplicate/i.test(reason)) return refuse(rejection('cbor-duplicate-key', { reason }));
    if (/more bytes than necessary/i.test(reason)) return refuse(rejection('cbor-not-deterministic', {}));
    return refuse(rejection('cbor-malformed', { reason }));
  }
  // The decoder still accepts unsorted maps and lossy UTF-8: only equal bytes prove the deterministic form.
  if (!sameBytes(encode(value), bytes)) return refuse(rejection('cbor-not-deterministic', {}));
  return accept(value);
}

/**
 * Walks the heads without recursion: one well-formed item that fills the bytes, not deeper than allowed, without
 * indefinite lengths, tags, floats, or simple values beyond false, true and null.
 */
function scan(bytes: Uint8Array, maxDepth: number): Rejection | null {
  const malformed = (reason: string): Rejection => rejection('cbor-malformed', { reason });
  const remaining: number[] = [1];
  let offset = 0;
  while (remaining.length > 0) {
    const depth = remaining.length - 1;
    const left = remaining[depth] as number;
    if (left === 0) {
      remaining.pop();
      continue;
    }
    remaining[depth] = left - 1;
    const head = bytes[offset++];
    if (head === undefined) return malformed('truncated');
    const major = head >> 5;
    const info = head & 31;
    if (info > 27) return info === 31 ? rejection('cbor-not-deterministic', {}) : malformed('reserved head');
    if (major === 6) return malformed('a tag where none may stand');
    if (major === 7) {
      if (info < 20 || info > 22) return malformed('a float, undefined or other simple value');
      continue;
    }
    let argument = info;
    if (info >= 24) {
      const length = 1 << (info - 24);
      if (offset + length > bytes.length) return malformed('truncated');
      argument = 0;
      // Precise only to 2^53; a length above the input's own is refused below in any case.
      for (let i = 0; i < length; i++) argument = argument * 256 + (bytes[offset + i] as number);
      offset += length;
    }
    if (major <= 1) continue;
    if (major <= 3) {
      if (argument > bytes.length - offset) return malformed('truncated');
      offset += argument;
      continue;
    }
    const items = major === 5 ? argument * 2 : argument;
    // Every item takes at least a byte: a longer count is a lie, refused before anything is allocated.
    if (items > bytes.length - offset) return malformed('truncated');
    if (remaining.length > maxDepth) return rejection('cbor-too-deep', { limit: maxDepth });
    remaining.push(items);
  }
  return offset === bytes.length ? null : malformed('bytes after the item');
}
