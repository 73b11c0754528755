/**
 * Enrolment: the device's request, signed with the key that it asks a certificate for, and the certificate.
 *
 * MAC keys are never carried: both sides derive them from the two agreement keys (see `mac-key.ts`).
 */
import { deviceId, digest, epoch, licenseeId, publicKey, software } from '../fields.ts';
import type { MessageType } from '../message.ts';
import { bool, bytes, field, type Of, struct, timeMs } from '../schema.ts';
import { authenticationSchema } from './attestation.ts';
import { memorySchema } from './batch-statistics.ts';

export const enrolmentRequestSchema = struct('enrolment-request', {
  device: field(1, deviceId),
  epoch: field(2, epoch),
  authentication: field(3, authenticationSchema),
  memory: field(4, memorySchema),
  /** Verifies signatures of the device. In MAC mode it signs funds requests and this request only. */
  publicKey: field(5, publicKey),
  /** Key agreement for MAC keys (ECDH, P-256). */
  agreementKey: field(6, publicKey),
  /** Client key of the session. */
  sessionKey: field(7, publicKey),
  software: field(8, software),
  nonce: field(9, bytes(16)),
});
export type EnrolmentRequest = Of<typeof enrolmentRequestSchema>;

export const ENROLMENT_REQUEST: MessageType<EnrolmentRequest> = {
  type: 'enrolment-request',
  version: 1,
  schema: enrolmentRequestSchema,
  authenticatedBy: 'device',
  purpose: 'A device asks to be enrolled with these keys, and proves that it holds the signature key.',
};

export const deviceCertificateSchema = struct('device-certificate', {
  device: field(1, deviceId),
  licensee: field(2, licenseeId),
  epoch: field(3, epoch),
  authentication: field(4, authenticationSchema),
  memory: field(5, memorySchema),
  publicKey: field(6, publicKey),
  /** The device's own agreement key, and that of the cryptographic device. */
  agreementKey: field(7, publicKey),
  agreementPeer: field(8, publicKey),
  /** X.509 certificate of the session key (DER), and the authority that the session's other end descends from (DER). */
  sessionCertificate: field(9, bytes(1, 2_048)),
  sessionAuthority: field(10, bytes(1, 2_048)),
  /** Whether the device is certified; every indicium of another is a specimen. */
  certified: field(11, bool),
  measurement: field(12, digest),
  issuedAtMs: field(13, timeMs),
});
export type DeviceCertificate = Of<typeof deviceCertificateSchema>;

export const DEVICE_CERTIFICATE: MessageType<DeviceCertificate> = {
  type: 'device-certificate',
  version: 1,
  schema: deviceCertificateSchema,
  authenticatedBy: 'issuing',
  purpose: 'These keys belong to this device of this licensee.',
};
