import { randomBytes } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import {
  agreedKey,
  equalMacs,
  generateSigningKey,
  hmacSha256,
  hmacSha256Under,
  importPrivateKey,
  importPublicKey,
  privateKeyBytes,
  publicKeyBytes,
  signP1363,
  verifyP1363,
} from './signing.ts';

const text = (value: string): Uint8Array => new TextEncoder().encode(value);

describe('signing', () => {
  it('signs what the public key, carried as 65 raw bytes, verifies', () => {
    const { privateKey, publicKey } = generateSigningKey();
    const restored = importPrivateKey(privateKeyBytes(privateKey));
    const point = publicKeyBytes(publicKey);
    expect(publicKeyBytes(restored)).toEqual(point);
    const imported = importPublicKey(point);
    if (imported === undefined) throw new Error('own point refused');
    const signature = signP1363(restored, text('a piece'));
    expect(signature).toHaveLength(64);
    expect(verifyP1363(imported, text('a piece'), signature)).toBe(true);
    expect(verifyP1363(imported, text('another'), signature)).toBe(false);
    expect(verifyP1363(imported, text('a piece'), signature.subarray(0, 63))).toBe(false);
    signature[40] = (signature[40] ?? 0) ^ 1;
    expect(verifyP1363(imported, text('a piece'), signature)).toBe(false);
  });

  it('refuses a point that is not on the curve, of another length or form', () => {
    const point = publicKeyBytes(generateSigningKey().publicKey);
    const offCurve = Uint8Array.from(point);
    offCurve[64] = (offCurve[64] ?? 0) ^ 1;
    expect(importPublicKey(offCurve)).toBeUndefined();
    expect(importPublicKey(point.subarray(0, 64))).toBeUndefined();
    expect(importPublicKey(Uint8Array.from([2, ...point.subarray(1)]))).toBeUndefined();
  });

  it('computes HMAC-SHA256 as RFC 4231 case 2 gives it', () => {
    const mac = hmacSha256(text('Jefe'), text('what do ya want for nothing?'));
    expect(Buffer.from(mac).toString('hex')).toBe('5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843');
    expect(equalMacs(mac, Uint8Array.from(mac))).toBe(true);
    expect(equalMacs(mac, mac.subarray(1))).toBe(false);
  });

  it('makes the same code under a prepared key, whatever the lengths', () => {
    for (const keyBytes of [0, 1, 32, 64]) {
      const key = randomBytes(keyBytes);
      const under = hmacSha256Under(key);
      for (const length of [1_000, 0, 1, 55, 56, 64, 200, 512, 513, 5_000, 3]) {
        const bytes = randomBytes(length);
        expect(equalMacs(under(bytes), hmacSha256(key, bytes))).toBe(true);
      }
    }
    expect(() => hmacSha256Under(new Uint8Array(65))).toThrow(RangeError);
  });

  it('agrees on the same key from both sides, another for another use', () => {
    const one = generateSigningKey();
    const two = generateSigningKey();
    const options = { salt: new Uint8Array(), info: text('indicium mac'), bytes: 32 };
    const key = agreedKey(one.privateKey, two.publicKey, options);
    expect(agreedKey(two.privateKey, one.publicKey, options)).toEqual(key);
    expect(agreedKey(one.privateKey, two.publicKey, { ...options, info: text('record mac') })).not.toEqual(key);
  });
});
