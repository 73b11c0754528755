/**
 * What `verify` needs from the platform (its `VerificationPort`), by `node:crypto`.
 *
 * Guarantees synchronous SHA-256 and ES256 verification; imported public keys are kept, at most
 * {@link MAX_KEYS} of them, because an import costs as much as a verification.
 */
import { hash, type KeyObject } from 'node:crypto';
import { importPublicKey, verifyP1363 } from './signing.ts';

const MAX_KEYS = 4_096;
const keys = new Map<string, KeyObject>();

/**
 * SHA-256 in one call: a third of the time of a hash object for short inputs. By way of a Latin-1 text, which is the digest's bytes one
 * for one: a Buffer from native code costs twice as much, and an array buffer for the collector with each digest.
 */
export function sha256(bytes: Uint8Array): Uint8Array {
  return Buffer.from(hash('sha256', bytes, 'binary'), 'binary');
}

/** ES256 over `input`; false for a key or signature of any wrong form. */
export function verifySignature(publicKey: Uint8Array, input: Uint8Array, signature: Uint8Array): boolean {
  const key = keyOf(publicKey);
  return key !== undefined && verifyP1363(key, input, signature);
}

/** The platform's implementation of the `VerificationPort` of the package verify. */
export const nodeVerification = { sha256, verifySignature } as const;

function keyOf(publicKey: Uint8Array): KeyObject | undefined {
  const name = Buffer.from(publicKey.buffer, publicKey.byteOffset, publicKey.byteLength).toString('base64');
  const known = keys.get(name);
  if (known !== undefined) return known;
  const key = importPublicKey(publicKey);
  if (key === undefined) return undefined;
  // The oldest goes first: a Map keeps the order of insertion.
  if (keys.size >= MAX_KEYS) keys.delete(keys.keys().next().value ?? '');
  keys.set(name, key);
  return key;
}
