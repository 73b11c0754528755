/**
 * Policy, signed time, and suspension: what the server side says to a device, signed by the policy key.
 */
import { code, customerId, deviceId, licenseeId } from '../fields.ts';
import type { MessageType } from '../message.ts';
import {
  bool,
  currencySchema,
  field,
  list,
  millsSchema,
  type Of,
  optional,
  struct,
  text,
  timeMs,
  uint,
} from '../schema.ts';

/**
 * When the device was inspected last, as the server's operators say, and after how many days from then, by signed time, it warns and
 * locks. A later policy names a later inspection.
 */
const inspectionSchema = struct('inspection', {
  inspectedAtMs: field(1, timeMs),
  warnAfterDays: field(2, uint(3_650)),
  lockAfterDays: field(3, uint(3_650)),
});

export const policySchema = struct('policy', {
  device: field(1, deviceId),
  licensee: field(2, licenseeId),
  /** Rises with each policy; the device takes no older one. */
  version: field(3, uint(0xffff_ffff, 1)),
  currency: field(4, currencySchema),
  lowestPostageMills: field(5, millsSchema),
  highestPostageMills: field(6, millsSchema),
  highestFundsMills: field(7, millsSchema),
  /** Hard limits on what is franked and not yet confirmed. */
  maxUnconfirmedBatches: field(8, uint(1_000_000, 1)),
  maxUnconfirmedPostageMills: field(9, millsSchema),
  /** Reporting deadlines by signed time, from the oldest unconfirmed record: warn, then lock. */
  warnAfterDays: field(10, uint(3_650)),
  lockAfterDays: field(11, uint(3_650)),
  maxPiecesPerBatch: field(12, uint(100_000_000, 1)),
  maxCellsPerBatch: field(13, uint(1_024, 1)),
  /** Piece records that the memory inside the PSD holds (claim 9). */
  memoryPieces: field(14, uint(100_000_000, 1)),
  /** The customers for whom the device franks (claim 13); empty: the licensee's own mail only. */
  customers: field(15, list(customerId, 4_096)),
  /** Absent: the device wants no inspection. */
  inspection: optional(16, inspectionSchema),
  /** The products for which the device opens batches; absent: all. */
  products: optional(17, list(code, 256, 1)),
  /** The only statistics scheme that the device takes; absent: every one that it knows. */
  scheme: optional(18, uint(65_535, 1)),
  /** True: the device is to make its final statement, once everything is reported. Only beside no unconfirmed postage at all. */
  closing: optional(19, bool),
});
export type Policy = Of<typeof policySchema>;

export const POLICY: MessageType<Policy> = {
  type: 'policy',
  version: 1,
  schema: policySchema,
  authenticatedBy: 'policy',
  purpose: 'The limits within which a device franks, and for whom.',
};

export const signedTimeSchema = struct('signed-time', { device: field(1, deviceId), timeMs: field(2, timeMs) });
export type SignedTime = Of<typeof signedTimeSchema>;

export const SIGNED_TIME: MessageType<SignedTime> = {
  type: 'signed-time',
  version: 1,
  schema: signedTimeSchema,
  authenticatedBy: 'policy',
  purpose: 'The only clock that a device believes; it moves forward only.',
};

export const suspensionSchema = struct('suspension', {
  device: field(1, deviceId),
  licensee: field(2, licenseeId),
  suspended: field(3, bool),
  reason: field(4, text(200)),
  sinceMs: field(5, timeMs),
  /** True: for good. No later message lifts it; the device goes on only as a new one, enrolled again. */
  withdrawn: optional(6, bool),
  /**
   * The last record of the device's chain that stands, 0 for none: those after it earn nothing, by whatever way and whenever they come; those up
   * to it stand, however late they come. Absent where `suspended` is false, and in words of before the field: those hold from when they are heard.
   */
  afterSequence: optional(7, uint(0xffff_ffff)),
});
export type Suspension = Of<typeof suspensionSchema>;

export const SUSPENSION: MessageType<Suspension> = {
  type: 'suspension',
  version: 1,
  schema: suspensionSchema,
  authenticatedBy: 'policy',
  purpose:
    'The device gets no funds, and its records after the one that is named no grants: until it is released, or, where it is withdrawn, for good.',
};
