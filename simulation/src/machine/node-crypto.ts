/**
 * Stands in for `node:crypto` under the parties: the same, but that randomness is the world's, and certificates are those of
 * `session-certificates.ts`.
 */
import { machine } from './machine.ts';

export {
  constants,
  createHash,
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
  webcrypto,
} from 'node:crypto';

export function randomBytes(count: number): Buffer {
  return machine().entropy.bytes(count);
}

export function randomUUID(): string {
  return randomBytes(16).toString('hex');
}

/** The certificate of a device's session key has no dates here: time is the world's. */
export class X509Certificate {
  readonly validFrom = '1970-01-01T00:00:00Z';
  readonly validTo = '9999-01-01T00:00:00Z';
}
