/**
 * The keys by which this host checks what its device sealed: those of the trust bundle, and of the device's certificates that it keeps.
 *
 * Guarantees that a certificate counts only where an issuing key signed it. What a MAC says only its device can check: its attestation counts.
 */
import { nodeVerification } from '@countermark/node-platform/verification';
import { DEVICE_CERTIFICATE, type DeviceCertificate } from '@countermark/protocol/messages/enrolment';
import { accept, type Result } from '@countermark/protocol/result';
import { type KeySource, verifyMessage } from '@countermark/verify/verified';
import type { Journal } from './journal.ts';

/** A device certificate from its bytes. Rejections: those of `verifyMessage`. */
export function verifiedCertificate(bytes: Uint8Array, keys: KeySource): Result<DeviceCertificate> {
  const certificate = verifyMessage(DEVICE_CERTIFICATE, bytes, { port: nodeVerification, keys });
  return certificate.ok ? accept(certificate.value.message) : certificate;
}

/** Keys of roles and of the device's kept certificates. */
export function deviceKeys(journal: Pick<Journal, 'certificates'>, keys: KeySource): KeySource {
  const own = journal.certificates().flatMap(({ bytes }) => {
    const certificate = verifiedCertificate(bytes, keys);
    return certificate.ok ? [certificate.value] : [];
  });
  return (key) => own.find(({ device, epoch }) => key.holder === device && key.epoch === epoch) ?? keys(key);
}
