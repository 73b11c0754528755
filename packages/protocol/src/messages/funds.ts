/**
 * Funds: the device asks, by one pending number, with its registers; the cryptographic device grants at most once per
 * request. A refusal is a grant of zero with its reason and clears the number.
 */
import { customerId, deviceId, licenseeId } from '../fields.ts';
import type { MessageType } from '../message.ts';
import { fundsSchema, registersSchema } from '../registers.ts';
import { currencySchema, field, list, millsSchema, type Of, optional, struct, text, timeMs, uint } from '../schema.ts';

export const fundsRequestSchema = struct('funds-request', {
  device: field(1, deviceId),
  licensee: field(2, licenseeId),
  number: field(3, uint(0xffff_ffff, 1)),
  /** What is asked from the deposit; zero asks only for drawn credits. */
  amountMills: field(4, millsSchema),
  registers: field(5, registersSchema),
  funds: field(6, fundsSchema),
  currency: field(7, currencySchema),
});
export type FundsRequest = Of<typeof fundsRequestSchema>;

export const FUNDS_REQUEST: MessageType<FundsRequest> = {
  type: 'funds-request',
  version: 1,
  schema: fundsRequestSchema,
  authenticatedBy: 'device',
  purpose: 'The device asks for funds. Always signed, in MAC mode too.',
};

/** A customer's credit that its own postage drew: paid to the bureau as part of these funds. */
export const drawSchema = struct('draw', { customer: optional(1, customerId), amountMills: field(2, millsSchema) });
export type Draw = Of<typeof drawSchema>;

export const fundsGrantSchema = struct('funds-grant', {
  device: field(1, deviceId),
  licensee: field(2, licenseeId),
  number: field(3, uint(0xffff_ffff, 1)),
  /** All of it: from the deposit, and the draws. */
  amountMills: field(4, millsSchema),
  draws: field(5, list(drawSchema, 1_000)),
  /** Funds received by the device with this grant, cumulative. */
  receivedMills: field(6, millsSchema),
  refusal: optional(7, text(200)),
  currency: field(8, currencySchema),
  grantedAtMs: field(9, timeMs),
});
export type FundsGrant = Of<typeof fundsGrantSchema>;

export const FUNDS_GRANT: MessageType<FundsGrant> = {
  type: 'funds-grant',
  version: 1,
  schema: fundsGrantSchema,
  authenticatedBy: 'funds',
  purpose: 'Funds for one request of one device, at most once.',
};
