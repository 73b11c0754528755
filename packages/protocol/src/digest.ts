/**
 * SHA-256 digests and the port through which everything that hashes receives the function.
 *
 * Guarantees that a `Digest` is 32 bytes. The function itself is the platform's (`node-platform/crypto`, or a browser's
 * library): protocol and verify hold no cryptography of their own.
 */
import type { Brand } from './brand.ts';
import { hex } from './id.ts';

export type Digest = Brand<Uint8Array, 'Digest'>;

/** SHA-256 (FIPS 180-4), synchronous. */
export type Sha256 = (bytes: Uint8Array) => Uint8Array;

export const DIGEST_BYTES = 32;

/** The previous digest of a device's first record. */
export const NO_DIGEST: Digest = new Uint8Array(DIGEST_BYTES) as Digest;

/** Brands 32 bytes. @throws RangeError for another length, a broken invariant. */
export function digestOf(bytes: Uint8Array): Digest {
  if (bytes.length !== DIGEST_BYTES) throw new RangeError(`A digest has 32 bytes, not ${bytes.length}.`);
  return bytes as Digest;
}

/** Whether two byte strings are equal. Not constant-time: for public values only, never for MACs. */
export function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}

/** The digest as people read it. */
export function digestText(digest: Uint8Array): string {
  return hex(digest);
}
