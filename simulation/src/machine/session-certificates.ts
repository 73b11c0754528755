/**
 * Stands in for the X.509 certificates of sessions: the same statements, signed by the same keys of the key store, as short texts.
 * What X.509 and TLS make of them is tested with real ones (cryptographic-device, node-platform).
 */
import { importPublicKey, verifyP1363 } from '@countermark/node-platform/signing';
import type { SessionServerCredentials } from '@countermark/cryptographic-device/session-certificates';
import type { Issuer } from '@countermark/cryptographic-device/x509-authority';

export type { SessionServerCredentials };
export type SessionName = { readonly device: string };

type Certificate = { readonly device: string; readonly key: string; readonly signature: string };

const DAY_MS = 86_400_000;

/** An authority's certificate: its public key. */
export async function sessionAuthorityCertificate(
  _issuer: Issuer,
  { point }: { readonly point: Uint8Array },
): Promise<Uint8Array> {
  return Buffer.from(point);
}

export async function deviceSessionCertificate(
  issuer: Issuer,
  device: string,
  sessionKey: Uint8Array,
): Promise<Uint8Array> {
  const key = Buffer.from(sessionKey).toString('hex');
  const signature = await issuer.sign(Buffer.from(`${device} ${key}`));
  const certificate: Certificate = { device, key, signature: Buffer.from(signature).toString('hex') };
  return Buffer.from(JSON.stringify(certificate));
}

/** The session key that a device's certificate is for. */
export function certifiedSessionKey(certificate: Uint8Array): Uint8Array {
  const { key } = JSON.parse(Buffer.from(certificate).toString('utf8')) as Certificate;
  return Buffer.from(key, 'hex');
}

export async function sessionServerCredentials(
  _issuer: Issuer,
  _chain: readonly Uint8Array[],
  nowMs: number,
): Promise<SessionServerCredentials> {
  return { privateKey: undefined as never, certificate: 'cryptographic-device', expiresAtMs: nowMs + DAY_MS };
}

/** Who a client is by its certificate and key, or null where the authority did not say so. */
export function authenticSession(
  text: string,
  issuers: readonly (string | Uint8Array)[],
  publicKey: Uint8Array,
): SessionName | null {
  let certificate: Certificate;
  try {
    certificate = JSON.parse(text) as Certificate;
  } catch {
    return null;
  }
  const { device, key, signature } = certificate;
  if (key !== Buffer.from(publicKey).toString('hex')) return null;
  const authentic = issuers.some((issuer) => {
    const authority = importPublicKey(Buffer.from(String(issuer), 'latin1'));
    return (
      authority !== undefined && verifyP1363(authority, Buffer.from(`${device} ${key}`), Buffer.from(signature, 'hex'))
    );
  });
  return authentic ? { device } : null;
}
