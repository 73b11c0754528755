/**
 * Stands in for node-platform/signing in most seeds: signatures that take a hash instead of a curve, and that nobody can forge
 * either.
 *
 * A private key is a secret of 32 bytes, its public key a hash of it, a signature an HMAC of the bytes under the secret. Checking takes the
 * secret of a public key from a register in this file, which no party and no adversary of the world can read. Shapes are those of
 * P-256: 65 bytes from 0x04, 64 bytes of signature; key agreement gives both sides the same key. Some seeds use the real signatures.
 */
import { createHmac, hash, type KeyObject, timingSafeEqual } from 'node:crypto';
import { machine } from './machine.ts';

export const SIGNATURE_BYTES = 64;
export const PUBLIC_KEY_BYTES = 65;

type StandInKey = { readonly type: 'private' | 'public'; readonly secret: Buffer | null; readonly point: Buffer };

/** Secrets by public key, of all keys ever made. */
const secrets = new Map<string, Buffer>();

function sha256(text: string, bytes: Uint8Array): Buffer {
  return hash('sha256', Buffer.concat([Buffer.from(text), bytes]), 'buffer');
}

function keyOf(secret: Buffer): StandInKey {
  const point = Buffer.concat([Buffer.of(4), sha256('x', secret), sha256('y', secret)]);
  secrets.set(point.toString('base64'), secret);
  return { type: 'private', secret, point };
}

function asKeyObject(key: StandInKey): KeyObject {
  return key as unknown as KeyObject;
}

function standIn(key: KeyObject): StandInKey {
  return key as unknown as StandInKey;
}

export function publicKeyInfo(point: Uint8Array): Buffer<ArrayBuffer> {
  return Buffer.from(point);
}

export function generateSigningKey(): { readonly privateKey: KeyObject; readonly publicKey: KeyObject } {
  const key = keyOf(machine().entropy.bytes(32));
  return { privateKey: asKeyObject(key), publicKey: asKeyObject({ ...key, type: 'public', secret: null }) };
}

export function publicKeyBytes(key: KeyObject): Uint8Array {
  return new Uint8Array(standIn(key).point);
}

export function importPublicKey(point: Uint8Array): KeyObject | undefined {
  if (point.length !== PUBLIC_KEY_BYTES || point[0] !== 4) return undefined;
  return asKeyObject({ type: 'public', secret: null, point: Buffer.from(point) });
}

export function privateKeyBytes(key: KeyObject): Uint8Array {
  const { secret } = standIn(key);
  if (secret === null) throw new TypeError('not a private key');
  return new Uint8Array(secret);
}

export function importPrivateKey(pkcs8: Uint8Array): KeyObject {
  if (pkcs8.length !== 32) throw new TypeError('not a P-256 private key');
  return asKeyObject(keyOf(Buffer.from(pkcs8)));
}

function signature(secret: Buffer, bytes: Uint8Array): Buffer {
  return createHmac('sha512', secret).update(bytes).digest();
}

export function signP1363(key: KeyObject, bytes: Uint8Array): Uint8Array {
  const { secret } = standIn(key);
  if (secret === null) throw new TypeError('not a private key');
  return signature(secret, bytes);
}

export function verifyP1363(key: KeyObject, bytes: Uint8Array, given: Uint8Array): boolean {
  if (given.length !== SIGNATURE_BYTES) return false;
  const secret = secrets.get(standIn(key).point.toString('base64'));
  return secret !== undefined && signature(secret, bytes).equals(given);
}

export function hmacSha256(key: Uint8Array, bytes: Uint8Array): Uint8Array {
  return createHmac('sha256', key).update(bytes).digest();
}

export function hmacSha256Under(key: Uint8Array): (bytes: Uint8Array) => Uint8Array {
  return (bytes) => hmacSha256(key, bytes);
}

export function equalMacs(one: Uint8Array, other: Uint8Array): boolean {
  return one.length === other.length && timingSafeEqual(one, other);
}

/** The same for (a, B) and (b, A): from both public keys in order, and a secret that only the two holders can ask for. */
export function sharedSecret(privateKey: KeyObject, publicKey: KeyObject): Uint8Array {
  const own = standIn(privateKey);
  const peer = secrets.get(standIn(publicKey).point.toString('base64'));
  if (own.secret === null) throw new TypeError('not a private key');
  const halves = [own.secret, peer ?? standIn(publicKey).point].sort((one, other) => one.compare(other));
  return sha256('agreed', Buffer.concat(halves));
}

export function deriveKey(
  secret: Uint8Array,
  options: { readonly salt: Uint8Array; readonly info: Uint8Array; readonly bytes: number },
): Uint8Array {
  return new Uint8Array(createHmac('sha256', secret).update(options.info).digest().subarray(0, options.bytes));
}

export function agreedKey(
  privateKey: KeyObject,
  publicKey: KeyObject,
  options: { readonly salt: Uint8Array; readonly info: Uint8Array; readonly bytes: number },
): Uint8Array {
  return deriveKey(sharedSecret(privateKey, publicKey), options);
}
