/**
 * The crypto port: P-256 keys, signatures as r || s (64 bytes, as COSE ES256 wants), HMAC-SHA256, key agreement with HKDF-SHA256.
 *
 * Guarantees: a public key that is imported lies on the curve; a signature of another length is refused before any arithmetic;
 * MACs are compared in constant time. Private keys are here only as `KeyObject` or as PKCS8 bytes that the caller stores.
 * It does not decide what is signed: the bytes come from `protocol`.
 */
import {
  createHmac,
  createPrivateKey,
  createPublicKey,
  diffieHellman,
  generateKeyPairSync,
  hash,
  hkdfSync,
  type KeyObject,
  sign,
  timingSafeEqual,
  verify,
} from 'node:crypto';

/** Bytes of a P-256 signature: r and s, 32 bytes each, big-endian (IEEE P1363). */
export const SIGNATURE_BYTES = 64;
/** Bytes of an uncompressed P-256 point: 0x04, x, y (SEC 1, 2.3.3). */
export const PUBLIC_KEY_BYTES = 65;

/** SubjectPublicKeyInfo for id-ecPublicKey on prime256v1 up to the point (RFC 5480). */
const SPKI_PREFIX = Buffer.from('3059301306072a8648ce3d020106082a8648ce3d030107034200', 'hex');

/** The SubjectPublicKeyInfo (DER) of an uncompressed P-256 point, which is not checked. */
export function publicKeyInfo(point: Uint8Array): Buffer<ArrayBuffer> {
  return Buffer.concat([SPKI_PREFIX, point]);
}

/** A new P-256 key pair. */
export function generateSigningKey(): { readonly privateKey: KeyObject; readonly publicKey: KeyObject } {
  return generateKeyPairSync('ec', { namedCurve: 'P-256' });
}

/** The raw 65-byte point of a public key, or of the public half of a private key. Throws on a key that is not on P-256. */
export function publicKeyBytes(key: KeyObject): Uint8Array {
  const spki = (key.type === 'private' ? createPublicKey(key) : key).export({ type: 'spki', format: 'der' });
  if (
    spki.length !== SPKI_PREFIX.length + PUBLIC_KEY_BYTES ||
    !spki.subarray(0, SPKI_PREFIX.length).equals(SPKI_PREFIX)
  ) {
    throw new TypeError('not a P-256 key');
  }
  return new Uint8Array(spki.subarray(SPKI_PREFIX.length));
}

/** A public key from its raw 65-byte point. Undefined where the bytes are no uncompressed point on P-256. */
export function importPublicKey(point: Uint8Array): KeyObject | undefined {
  if (point.length !== PUBLIC_KEY_BYTES || point[0] !== 4) return undefined;
  try {
    return createPublicKey({ key: publicKeyInfo(point), format: 'der', type: 'spki' });
  } catch {
    return undefined;
  }
}

/** PKCS8 bytes of a private key, for the holder's own store. */
export function privateKeyBytes(key: KeyObject): Uint8Array {
  return new Uint8Array(key.export({ type: 'pkcs8', format: 'der' }));
}

/** A private key from its PKCS8 bytes. Throws where they are none, or not on P-256: the holder's own store is broken then. */
export function importPrivateKey(pkcs8: Uint8Array): KeyObject {
  const key = createPrivateKey({ key: Buffer.from(pkcs8), format: 'der', type: 'pkcs8' });
  if (key.asymmetricKeyType !== 'ec' || key.asymmetricKeyDetails?.namedCurve !== 'prime256v1') {
    throw new TypeError('not a P-256 private key');
  }
  return key;
}

/** ES256 over the bytes: 64 bytes r || s. */
export function signP1363(key: KeyObject, bytes: Uint8Array): Uint8Array {
  return sign('sha256', bytes, { key, dsaEncoding: 'ieee-p1363' });
}

/** Whether the 64 bytes are an ES256 signature over the bytes by the holder of the key. Only `verify` makes trust out of it. */
export function verifyP1363(key: KeyObject, bytes: Uint8Array, signature: Uint8Array): boolean {
  if (signature.length !== SIGNATURE_BYTES) return false;
  return verify('sha256', bytes, { key, dsaEncoding: 'ieee-p1363' }, signature);
}

/** HMAC-SHA256, 32 bytes (RFC 2104). */
export function hmacSha256(key: Uint8Array, bytes: Uint8Array): Uint8Array {
  return createHmac('sha256', key).update(bytes).digest();
}

const HMAC_BLOCK_BYTES = 64;

/**
 * HMAC-SHA256 under one key for many short inputs: RFC 2104 written out over one-shot hashes, half the time of {@link hmacSha256},
 * which it equals (tested). `key` has at most 64 bytes.
 */
export function hmacSha256Under(key: Uint8Array): (bytes: Uint8Array) => Uint8Array {
  if (key.length > HMAC_BLOCK_BYTES) throw new RangeError('a longer key is hashed first: use hmacSha256');
  const outer = Buffer.alloc(HMAC_BLOCK_BYTES + 32, 0x5c);
  let inner = Buffer.alloc(HMAC_BLOCK_BYTES + 512, 0x36);
  key.forEach((byte, i) => {
    inner[i] = byte ^ 0x36;
    outer[i] = byte ^ 0x5c;
  });
  return (bytes) => {
    const end = HMAC_BLOCK_BYTES + bytes.length;
    if (end > inner.length) inner = Buffer.concat([inner.subarray(0, HMAC_BLOCK_BYTES)], end);
    inner.set(bytes, HMAC_BLOCK_BYTES);
    outer.write(hash('sha256', inner.subarray(0, end), 'binary'), HMAC_BLOCK_BYTES, 'binary');
    return Buffer.from(hash('sha256', outer, 'binary'), 'binary');
  };
}

/** Compares two MACs in constant time; unequal lengths are unequal. */
export function equalMacs(one: Uint8Array, other: Uint8Array): boolean {
  return one.length === other.length && timingSafeEqual(one, other);
}

/**
 * Key agreement: ECDH on P-256, then HKDF-SHA256 (RFC 5869). `info` separates the uses, `salt` may be empty. Returns `bytes` bytes.
 */
export function agreedKey(
  privateKey: KeyObject,
  publicKey: KeyObject,
  options: { readonly salt: Uint8Array; readonly info: Uint8Array; readonly bytes: number },
): Uint8Array {
  const shared = sharedSecret(privateKey, publicKey);
  try {
    return deriveKey(shared, options);
  } finally {
    shared.fill(0);
  }
}

/** ECDH on P-256: the x coordinate, 32 bytes, which the caller overwrites. */
export function sharedSecret(privateKey: KeyObject, publicKey: KeyObject): Uint8Array {
  return diffieHellman({ privateKey, publicKey });
}

/** HKDF-SHA256 (RFC 5869) over a shared secret. */
export function deriveKey(
  secret: Uint8Array,
  { salt, info, bytes }: { readonly salt: Uint8Array; readonly info: Uint8Array; readonly bytes: number },
): Uint8Array {
  return new Uint8Array(hkdfSync('sha256', secret, salt, info, bytes));
}
