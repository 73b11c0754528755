/**
 * The attestation (claims 1e, 2 and 3): the cryptographic device says that it found a record authentic, and how. With a
 * MAC it is all that anyone else can check.
 */
import { deviceId, digest, epoch, licenseeId, sequence } from '../fields.ts';
import type { MessageType } from '../message.ts';
import { field, type Of, oneOf, struct, timeMs } from '../schema.ts';

export const authenticationSchema = oneOf('signature', 'mac');

export const attestationSchema = struct('attestation', {
  device: field(1, deviceId),
  licensee: field(2, licenseeId),
  sequence: field(3, sequence),
  digest: field(4, digest),
  recordType: field(5, oneOf('batch-statistics', 'key-rotation', 'final-statement')),
  authentication: field(6, authenticationSchema),
  epoch: field(7, epoch),
  attestedAtMs: field(8, timeMs),
});
export type Attestation = Of<typeof attestationSchema>;

export const ATTESTATION: MessageType<Attestation> = {
  type: 'attestation',
  version: 1,
  schema: attestationSchema,
  authenticatedBy: 'attesting',
  purpose: 'The cryptographic device found the record of this digest authentic.',
};
