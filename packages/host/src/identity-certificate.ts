/**
 * The X.509 certificate of the device's signature key, as this host keeps it for programs that know X.509.
 *
 * Guarantees that one is taken only if the authority that the device has pinned issued it, for the key that the device's own certificate
 * names, and if it says what the device says of itself: the same words tell when another is wanted (key epoch, products). Nothing that is
 * franked or paid rests on it.
 */
import { X509Certificate } from 'node:crypto';
import { errorText } from '@countermark/node-platform/fault';
import { publicKeyBytes } from '@countermark/node-platform/signing';
import { sameBytes } from '@countermark/protocol/digest';
import { identityNames } from '@countermark/protocol/identity-name';
import type { DeviceStatus } from '@countermark/protocol/interfaces/psd';
import type { DeviceCertificate } from '@countermark/protocol/messages/enrolment';

/** Why the certificate (DER) is not one of this device as it is now, in words, or null. */
export function identityProblem(
  identity: Uint8Array,
  certificate: DeviceCertificate,
  { products }: Pick<DeviceStatus, 'products'>,
): string | null {
  try {
    const x509 = new X509Certificate(identity);
    const authority = new X509Certificate(certificate.sessionAuthority);
    if (!x509.checkIssued(authority) || !x509.verify(authority.publicKey)) return 'another authority issued it';
    if (!sameBytes(publicKeyBytes(x509.publicKey), certificate.publicKey)) return 'it is of another key';
    const names = identityNames({ ...certificate, products }).map((name) => `URI:${name}`);
    return x509.subjectAltName === names.join(', ') ? null : 'it says something else of the device';
  } catch (error) {
    return `it cannot be read (${errorText(error)})`;
  }
}
