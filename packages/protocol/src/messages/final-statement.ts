/**
 * The last record of a device's chain: what it holds at its end, and that the rest of its funds goes back.
 *
 * The device makes it on a policy that closes it, when no batch is open, every record is confirmed and no funds are asked for.
 * Registers are those after it: nothing is left to frank with. It is confirmed like any record; then the device erases its keys.
 */
import { deviceId, digest, licenseeId, sequence, software } from '../fields.ts';
import type { MessageType } from '../message.ts';
import { fundsSchema, registersSchema } from '../registers.ts';
import { currencySchema, field, millsSchema, type Of, struct } from '../schema.ts';

export const finalStatementSchema = struct('final-statement', {
  device: field(1, deviceId),
  licensee: field(2, licenseeId),
  sequence: field(3, sequence),
  previous: field(4, digest),
  registers: field(5, registersSchema),
  funds: field(6, fundsSchema),
  /** What the descending register held until now; contained in the funds' `returnedMills`. */
  returnedMills: field(7, millsSchema),
  /** Digest of the policy that closes the device. */
  order: field(8, digest),
  software: field(9, software),
  currency: field(10, currencySchema),
});
export type FinalStatement = Of<typeof finalStatementSchema>;

export const FINAL_STATEMENT: MessageType<FinalStatement> = {
  type: 'final-statement',
  version: 1,
  schema: finalStatementSchema,
  authenticatedBy: 'device',
  purpose: 'The device has ended: its last registers, and the funds that it gives back; the last record of its chain.',
};
