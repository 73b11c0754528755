/**
 * The confirmation (claims 6 and 18): the cryptographic device says that the record of this digest is durably logged.
 * On it, and on nothing else, the PSD deletes the record. There is one per record for ever: repeats carry the same bytes.
 */
import { deviceId, digest, licenseeId, sequence } from '../fields.ts';
import type { MessageType } from '../message.ts';
import { field, type Of, struct, timeMs } from '../schema.ts';

export const confirmationSchema = struct('confirmation', {
  device: field(1, deviceId),
  licensee: field(2, licenseeId),
  sequence: field(3, sequence),
  digest: field(4, digest),
  confirmedAtMs: field(5, timeMs),
});
export type Confirmation = Of<typeof confirmationSchema>;

export const CONFIRMATION: MessageType<Confirmation> = {
  type: 'confirmation',
  version: 1,
  schema: confirmationSchema,
  authenticatedBy: 'confirming',
  purpose: 'The record of this digest is durably logged; the device may delete it.',
};
