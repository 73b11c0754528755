/**
 * Identifiers: text with a prefix that says what it names, so that none can stand for another.
 *
 * Guarantees that a branded id has the form of its kind. Does not say that what it names exists.
 */
import type { Brand } from './brand.ts';

/** A postal security device: `psd_` and 16 hex digits (8 bytes, as they stand in the indicium). */
export type DeviceId = Brand<string, 'DeviceId'>;
/** Who holds the licence to frank: a mailer or a bureau. */
export type LicenseeId = Brand<string, 'LicenseeId'>;
/** A bureau's customer: a slug that the bureau chose and the server registered for the licensee. */
export type CustomerId = Brand<string, 'CustomerId'>;
/** A batch: `bat_` and 32 hex digits, chosen by the host. */
export type BatchId = Brand<string, 'BatchId'>;
/** A job: what the operator called it, or `job_` and the first 32 hex digits of the file's SHA-256. */
export type JobId = Brand<string, 'JobId'>;
/** A programme of discounts or credits of the postal authority. */
export type ProgrammeId = Brand<string, 'ProgrammeId'>;
/** A key ceremony: `cer_` and 32 hex digits, chosen by the server when it is ordered. */
export type CeremonyId = Brand<string, 'CeremonyId'>;

export const DEVICE_ID = /^psd_[0-9a-f]{16}$/;
export const LICENSEE_ID = /^lic_[a-z0-9][a-z0-9-]{0,31}$/;
export const CUSTOMER_ID = /^[a-z0-9][a-z0-9-]{0,31}$/;
export const BATCH_ID = /^bat_[0-9a-f]{32}$/;
export const JOB_ID = /^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$/;
export const PROGRAMME_ID = /^[a-z0-9][a-z0-9-]{0,47}$/;
export const CEREMONY_ID = /^cer_[0-9a-f]{32}$/;
/** A code of a tariff or scheme: product, shape, level, entry. */
export const CODE = /^[a-z0-9][a-z0-9-]{0,31}$/;
/** A calendar day, ISO 8601. */
export const DAY = /^\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])$/;

/** The 8 bytes of a device id, as they stand in an indicium. */
export function deviceIdBytes(device: DeviceId): Uint8Array {
  return Uint8Array.from({ length: 8 }, (_, i) => Number.parseInt(device.slice(4 + 2 * i, 6 + 2 * i), 16));
}

/** The device id of 8 bytes. */
export function deviceIdOf(bytes: Uint8Array): DeviceId {
  return `psd_${hex(bytes.subarray(0, 8))}` as DeviceId;
}

const HEX = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, '0'));

/** Lower-case hex. */
export function hex(bytes: Uint8Array): string {
  let text = '';
  for (const byte of bytes) text += HEX[byte] as string;
  return text;
}

/** The bytes of lower- or upper-case hex, or null if it is none. */
export function unhex(text: string): Uint8Array | null {
  if (!/^([0-9a-fA-F]{2})*$/.test(text)) return null;
  return Uint8Array.from({ length: text.length / 2 }, (_, i) => Number.parseInt(text.slice(2 * i, 2 * i + 2), 16));
}
