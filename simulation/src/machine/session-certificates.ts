/**
 * Stands in for the X.509 certificates of sessions: the same statements, signed by the same keys of the key store, as short texts, with the
 * paths that lead from an authority to the one after it. What X.509 and TLS make of them is tested with real ones (cryptographic-device,
 * node-platform).
 */
import { importPublicKey, verifyP1363 } from '@countermark/node-platform/signing';
import type { SessionServerCredentials } from '@countermark/cryptographic-device/session-certificates';
import type { Issuer } from '@countermark/cryptographic-device/x509-authority';

export type { SessionServerCredentials };
export type SessionName = { readonly device: string };

/** That `subject` has the key (hex, empty for the server's end, whose key no world looks at), says `issuer`. */
type Statement = {
  readonly subject: string;
  readonly key: string;
  readonly issuer: string;
  readonly signature: string;
};
/** What the server's end shows: its own certificate, and those that lead to it. */
type Shown = { readonly own: Statement; readonly chain: readonly Statement[] };

const DAY_MS = 86_400_000;
const SERVER = 'cryptographic-device';

/** The certificate of an authority: its own, or that by the authority before it. */
export async function sessionAuthorityCertificate(
  issuer: Issuer,
  { name, point }: { readonly name: string; readonly point: Uint8Array },
): Promise<Uint8Array> {
  return bytesOf(await stated(issuer, name, Buffer.from(point).toString('hex')));
}

export function isAuthorityCertificate(certificate: Uint8Array, point: Uint8Array, issuer: Uint8Array): boolean {
  const [own, other] = [statementOf(certificate), statementOf(issuer)];
  return own !== null && other !== null && own.key === Buffer.from(point).toString('hex') && isBy(own, other);
}

export async function deviceSessionCertificate(
  issuer: Issuer,
  device: string,
  sessionKey: Uint8Array,
): Promise<Uint8Array> {
  return bytesOf(await stated(issuer, device, Buffer.from(sessionKey).toString('hex')));
}

/** The session key that a device's certificate is for. */
export function certifiedSessionKey(certificate: Uint8Array): Uint8Array {
  return Buffer.from(statementOf(certificate)?.key ?? '', 'hex');
}

export async function sessionServerCredentials(
  issuer: Issuer,
  chain: readonly Uint8Array[],
  nowMs: number,
): Promise<SessionServerCredentials> {
  const shown: Shown = {
    own: await stated(issuer, SERVER, ''),
    chain: chain.flatMap((one) => statementOf(one) ?? []),
  };
  return { privateKey: undefined as never, certificate: JSON.stringify(shown), expiresAtMs: nowMs + DAY_MS };
}

/** Who a client is by its certificate and key, or null where none of the authorities said so. */
export function authenticSession(
  text: string,
  issuers: readonly (string | Uint8Array)[],
  publicKey: Uint8Array,
): SessionName | null {
  const certificate = statementOf(text);
  if (certificate === null || certificate.key !== Buffer.from(publicKey).toString('hex')) return null;
  const authorities = issuers.flatMap((issuer) => statementOf(issuer) ?? []);
  return authorities.some((authority) => isBy(certificate, authority)) ? { device: certificate.subject } : null;
}

/** Whether what the server's end shows is its certificate, by the authority that the client trusts or one that this leads to. */
export function authenticServer(text: string, trusted: readonly (string | Uint8Array)[]): boolean {
  const { own, chain } = JSON.parse(text) as Shown;
  const roots = trusted.flatMap((issuer) => statementOf(issuer) ?? []);
  const isLedTo = (statement: Statement, left: readonly Statement[]): boolean =>
    roots.some((root) => isBy(statement, root)) ||
    left.some(
      (one) =>
        isBy(statement, one) &&
        isLedTo(
          one,
          left.filter((other) => other !== one),
        ),
    );
  return own.subject === SERVER && isLedTo(own, chain);
}

async function stated(issuer: Issuer, subject: string, key: string): Promise<Statement> {
  const signature = await issuer.sign(Buffer.from(`${subject} ${key} ${issuer.name}`));
  return { subject, key, issuer: issuer.name, signature: Buffer.from(signature).toString('hex') };
}

function isBy({ subject, key, issuer, signature }: Statement, authority: Statement): boolean {
  const point = importPublicKey(Buffer.from(authority.key, 'hex'));
  const said = Buffer.from(`${subject} ${key} ${issuer}`);
  return authority.subject === issuer && point !== undefined && verifyP1363(point, said, Buffer.from(signature, 'hex'));
}

function bytesOf(statement: Statement): Uint8Array {
  return Buffer.from(JSON.stringify(statement));
}

function statementOf(certificate: string | Uint8Array): Statement | null {
  try {
    const text = typeof certificate === 'string' ? certificate : Buffer.from(certificate).toString('utf8');
    return JSON.parse(text) as Statement;
  } catch {
    return null;
  }
}
