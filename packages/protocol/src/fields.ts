/**
 * Schemas of fields that several messages share: ids, digests, software.
 */
import { type Digest, DIGEST_BYTES } from './digest.ts';
import {
  BATCH_ID,
  type BatchId,
  CEREMONY_ID,
  type CeremonyId,
  CODE,
  CUSTOMER_ID,
  type CustomerId,
  DAY,
  DEVICE_ID,
  type DeviceId,
  JOB_ID,
  type JobId,
  LICENSEE_ID,
  type LicenseeId,
  PROGRAMME_ID,
  type ProgrammeId,
} from './id.ts';
import { bytes, field, type Of, pattern, struct, text, uint } from './schema.ts';

export const deviceId = pattern<DeviceId>(DEVICE_ID);
export const licenseeId = pattern<LicenseeId>(LICENSEE_ID);
export const customerId = pattern<CustomerId>(CUSTOMER_ID);
export const batchId = pattern<BatchId>(BATCH_ID);
export const jobId = pattern<JobId>(JOB_ID);
export const programmeId = pattern<ProgrammeId>(PROGRAMME_ID);
export const ceremonyId = pattern<CeremonyId>(CEREMONY_ID);
export const code = pattern(CODE);
export const day = pattern(DAY);
export const digest = bytes<Digest>(DIGEST_BYTES);
export const epoch = uint(65_535, 1);
/** Position in a device's chain of records, from 1. */
export const sequence = uint(0xffff_ffff, 1);
/** Number of a piece in a device's life, from 1. */
export const pieceNumber = uint(0xffff_ffff, 1);
/** A P-256 point, uncompressed (SEC 1, 2.3.3): 0x04, x, y. */
export const publicKey = bytes(65);

/** What runs in the device: its version, and SHA-256 over its installed code ("measurement"). */
export const software = struct('software', { version: field(1, text(32)), measurement: field(2, digest) });
export type Software = Of<typeof software>;
