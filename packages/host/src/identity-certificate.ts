/**
 * The X.509 certificate of the device's signature key, as this host keeps it for programs that know X.509.
 *
 * Guarantees that one is taken only if the authority that the device's own certificate names issued it, or one that this one leads to, for
 * the key that is named there, and if it says what the device says of itself: the same words tell when another is wanted (key epoch, products). Nothing that is
 * franked or paid rests on it.
 */
import { X509Certificate } from 'node:crypto';
import { errorText } from '@countermark/node-platform/fault';
import { publicKeyBytes } from '@countermark/node-platform/signing';
import { sameBytes } from '@countermark/protocol/digest';
import { identityNames } from '@countermark/protocol/identity-name';
import type { DeviceStatus } from '@countermark/protocol/interfaces/psd';
import type { DeviceCertificate } from '@countermark/protocol/messages/enrolment';
import { bytes, encodeWith, list, parseBytes } from '@countermark/protocol/schema';

/** Authorities that one certificate can be issued by after the other (`ROLE_EPOCHS_MAX` of them, bounded by what a server answers). */
const CHAIN_MAX = 64;
const chainSchema = list(bytes(1, 2_048), CHAIN_MAX);

/** A certificate as it is kept, and those that lead to it from the authority that the device knows (DER). */
export type Identity = { readonly certificate: Uint8Array; readonly chain: readonly Uint8Array[] };

/** What is kept of a chain. */
export function chainBytes(chain: readonly Uint8Array[]): Uint8Array {
  return encodeWith(chainSchema, chain);
}

/** The chain that was kept; of none, or of what is no chain, it has nothing. */
export function chainOf(kept: Uint8Array | undefined): readonly Uint8Array[] {
  const chain = kept === undefined ? null : parseBytes(chainSchema, kept);
  return chain?.ok === true ? chain.value : [];
}

/** Why the certificate is not one of this device as it is now, in words, or null. */
export function identityProblem(
  identity: Identity,
  certificate: DeviceCertificate,
  { products }: Pick<DeviceStatus, 'products'>,
): string | null {
  try {
    const x509 = new X509Certificate(identity.certificate);
    const authority = new X509Certificate(certificate.sessionAuthority);
    const chain = identity.chain.slice(0, CHAIN_MAX).map((one) => new X509Certificate(one));
    if (!leadsTo(x509, authority, chain)) return 'another authority issued it';
    if (!sameBytes(publicKeyBytes(x509.publicKey), certificate.publicKey)) return 'it is of another key';
    const names = identityNames({ ...certificate, products }).map((name) => `URI:${name}`);
    return x509.subjectAltName === names.join(', ') ? null : 'it says something else of the device';
  } catch (error) {
    return `it cannot be read (${errorText(error)})`;
  }
}

/** Whether the authority issued it, or one of the chain that the authority leads to. Each of the chain is tried once. */
function leadsTo(certificate: X509Certificate, authority: X509Certificate, chain: readonly X509Certificate[]): boolean {
  const isIssuedBy = (issuer: X509Certificate): boolean =>
    issuer.ca && certificate.checkIssued(issuer) && certificate.verify(issuer.publicKey);
  if (isIssuedBy(authority)) return true;
  const issuer = chain.find(isIssuedBy);
  return (
    issuer !== undefined &&
    leadsTo(
      issuer,
      authority,
      chain.filter((other) => other !== issuer),
    )
  );
}
