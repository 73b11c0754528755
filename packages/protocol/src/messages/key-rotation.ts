/**
 * A record of the chain, under the old key, that names the new one: everything before it is under the old key, everything
 * after it only under the new. No batch is open then; registers stand unchanged.
 */
import { deviceId, digest, epoch, licenseeId, sequence } from '../fields.ts';
import type { MessageType } from '../message.ts';
import { fundsSchema, registersSchema } from '../registers.ts';
import { field, type Of, struct } from '../schema.ts';

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
