/**
 * X.509 certificates of the session: its authority's, the devices' client certificates, the server end's own.
 *
 * Guarantees: the server end's certificate is valid for at most 24 hours; what `x509-authority.ts` does.
 * Revocation is not here: the session's end looks the certificate up (`session-admission.ts`).
 */
import { type KeyObject, X509Certificate } from 'node:crypto';
import { generateSigningKey, publicKeyBytes } from '@countermark/node-platform/signing';
import { sameBytes } from '@countermark/protocol/digest';
import { certificatePem } from '@countermark/node-platform/tls-ends';
import { create, type Issuer, library, SKEW_MS } from './x509-authority.ts';

/** The name that the PSD expects at the session's other end. */
const SESSION_SERVER_NAME = 'cryptographic-device';

const HOUR_MS = 3_600_000;
const YEAR_MS = 365 * 24 * HOUR_MS;
const SERVER_VALIDITY_MS = 24 * HOUR_MS;
const DEVICE_VALIDITY_MS = 10 * YEAR_MS;
const AUTHORITY_VALIDITY_MS = 25 * YEAR_MS;

/** The server end's key and certificate, and until when it may be used. */
export type SessionServerCredentials = {
  readonly privateKey: KeyObject;
  /** PEM; those that lead to it from older authorities follow. */
  readonly certificate: string;
  readonly expiresAtMs: number;
};

/** The certificate (DER) of an authority of sessions: its own, or that which the authority before it issues. */
export async function sessionAuthorityCertificate(
  issuer: Issuer,
  authority: { readonly name: string; readonly point: Uint8Array },
  nowMs: number,
): Promise<Uint8Array> {
  const { BasicConstraintsExtension, KeyUsageFlags, KeyUsagesExtension } = await library();
  const certificate = await create(issuer, {
    subject: authority.name,
    point: authority.point,
    fromMs: nowMs - SKEW_MS,
    toMs: nowMs + AUTHORITY_VALIDITY_MS,
    extensions: [
      // Without a bound on the path: every rotation makes it longer by one.
      new BasicConstraintsExtension(true, undefined, true),
      new KeyUsagesExtension(KeyUsageFlags.keyCertSign, true),
    ],
  });
  return new Uint8Array(certificate.rawData);
}

/** Whether a certificate (DER) is of the key (65 bytes), and issued by the authority whose certificate the other one is. */
export function isAuthorityCertificate(certificate: Uint8Array, point: Uint8Array, issuer: Uint8Array): boolean {
  try {
    const [own, other] = [new X509Certificate(certificate), new X509Certificate(issuer)];
    const isOfKey = sameBytes(publicKeyBytes(own.publicKey), point);
    return isOfKey && own.ca && own.checkIssued(other) && own.verify(other.publicKey);
  } catch {
    return false;
  }
}

/** The client certificate (DER) of a device's session key; its subject is the device. */
export async function deviceSessionCertificate(
  issuer: Issuer,
  device: string,
  sessionKey: Uint8Array,
  nowMs: number,
): Promise<Uint8Array> {
  const { ExtendedKeyUsageExtension } = await library();
  const certificate = await create(issuer, {
    subject: `CN=${device}`,
    point: sessionKey,
    fromMs: nowMs - SKEW_MS,
    toMs: nowMs + DEVICE_VALIDITY_MS,
    extensions: [new ExtendedKeyUsageExtension(['1.3.6.1.5.5.7.3.2'])],
  });
  return new Uint8Array(certificate.rawData);
}

/** The key (65 bytes) of a client certificate (DER) that was made here. */
export function certifiedSessionKey(certificate: Uint8Array): Uint8Array {
  return publicKeyBytes(new X509Certificate(certificate).publicKey);
}

/** A new key, in memory only, and its certificate for the server end, before those of `chain` (DER). */
export async function sessionServerCredentials(
  issuer: Issuer,
  chain: readonly Uint8Array[],
  nowMs: number,
): Promise<SessionServerCredentials> {
  const { ExtendedKeyUsageExtension } = await library();
  const { privateKey, publicKey } = generateSigningKey();
  const fromMs = nowMs - SKEW_MS;
  const expiresAtMs = fromMs + SERVER_VALIDITY_MS;
  const certificate = await create(issuer, {
    subject: `CN=${SESSION_SERVER_NAME}`,
    point: publicKeyBytes(publicKey),
    fromMs,
    toMs: expiresAtMs,
    extensions: [new ExtendedKeyUsageExtension(['1.3.6.1.5.5.7.3.1'])],
  });
  const pem = [certificate.toString('pem').trimEnd(), ...chain.map((der) => certificatePem(der).trimEnd())].join('\n');
  return { privateKey, certificate: `${pem}\n`, expiresAtMs };
}
