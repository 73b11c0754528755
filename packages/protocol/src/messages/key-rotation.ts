/**
 * How a device goes over to a new key: the request for its certificate, then the record of the chain.
 *
 * The request is the enrolment request of the next epoch, signed with the new key, inside a message that the old key signs:
 * without the old key's word, whoever can ask could give a device a second key that is his.
 * The record is under the old key and names the new one: everything before it is under the old key, everything after it only
 * under the new. No batch is open then; registers stand unchanged.
 */
import { deviceId, digest, epoch, licenseeId, sequence } from '../fields.ts';
import type { MessageType } from '../message.ts';
import { fundsSchema, registersSchema } from '../registers.ts';
import { bytes, field, type Of, struct } from '../schema.ts';

/** An enrolment request has some 500 bytes. */
const ENROLMENT_REQUEST_BYTES = 2_048;

export const rotationRequestSchema = struct('rotation-request', {
  device: field(1, deviceId),
  /** The enrolment request of the next epoch, whole: its own envelope, signed with the new key. */
  request: field(2, bytes(1, ENROLMENT_REQUEST_BYTES)),
});
export type RotationRequest = Of<typeof rotationRequestSchema>;

export const ROTATION_REQUEST: MessageType<RotationRequest> = {
  type: 'rotation-request',
  version: 1,
  schema: rotationRequestSchema,
  authenticatedBy: 'device',
  purpose: 'The key that is in use says that the device asks for a certificate of the next one.',
};

export const keyRotationSchema = struct('key-rotation', {
  device: field(1, deviceId),
  licensee: field(2, licenseeId),
  sequence: field(3, sequence),
  previous: field(4, digest),
  newEpoch: field(5, epoch),
  /** Digest of the device certificate of the new key, which the device holds already. */
  newCertificate: field(6, digest),
  registers: field(7, registersSchema),
  funds: field(8, fundsSchema),
});
export type KeyRotation = Of<typeof keyRotationSchema>;

export const KEY_ROTATION: MessageType<KeyRotation> = {
  type: 'key-rotation',
  version: 1,
  schema: keyRotationSchema,
  authenticatedBy: 'device',
  purpose: 'The device goes over to a new key; a record of its chain.',
};
