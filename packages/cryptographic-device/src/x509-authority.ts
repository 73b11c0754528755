/**
 * X.509 certificates as they are made here: those of sessions and those of devices' signature keys.
 *
 * Guarantees: the issuer's key stays behind the key store, which signs for the generator; the library is loaded with the first certificate
 * that is made, not at start. Does not decide what is certified.
 */
import { randomBytes, webcrypto } from 'node:crypto';
import { publicKeyInfo } from '@countermark/node-platform/signing';
import type * as X509 from '@peculiar/x509';

/** Who signs, by the name that stands in the certificate; a signature is 64 bytes r || s. */
export type Issuer = { readonly name: string; readonly sign: (input: Uint8Array) => Promise<Uint8Array> };

/** How far back validity begins, for clocks that differ. */
export const SKEW_MS = 3_600_000;
const ECDSA = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' };

/** The library of X.509, loaded when it is first needed. */
export async function library(): Promise<typeof X509> {
  await import('reflect-metadata');
  return import('@peculiar/x509');
}

type Wanted = {
  readonly subject: string;
  readonly point: Uint8Array;
  readonly fromMs: number;
  readonly toMs: number;
  readonly extensions: readonly X509.Extension[];
};

/** A certificate that the issuer signs. */
export async function create(issuer: Issuer, wanted: Wanted): Promise<X509.X509Certificate> {
  const { X509CertificateGenerator } = await library();
  return X509CertificateGenerator.create(
    {
      serialNumber: `01${randomBytes(15).toString('hex')}`,
      subject: wanted.subject,
      issuer: issuer.name,
      notBefore: wholeSecond(wanted.fromMs),
      notAfter: wholeSecond(wanted.toMs),
      publicKey: publicKeyInfo(wanted.point),
      signingKey: { algorithm: ECDSA },
      signingAlgorithm: ECDSA,
      extensions: [...wanted.extensions],
    },
    signingWith(issuer),
  );
}

/** Certificates carry whole seconds. */
function wholeSecond(ms: number): Date {
  return new Date(Math.floor(ms / 1_000) * 1_000);
}

/** Web Crypto whose signing is the issuer's: the generator never sees the key. */
function signingWith(issuer: Issuer): webcrypto.Crypto {
  const sign = async (_algorithm: unknown, _key: unknown, input: ArrayBuffer): Promise<ArrayBuffer> =>
    Uint8Array.from(await issuer.sign(new Uint8Array(input))).buffer;
  return {
    subtle: { sign },
    getRandomValues: (array: Uint8Array) => webcrypto.getRandomValues(array),
  } as unknown as webcrypto.Crypto;
}
