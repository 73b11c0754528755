/**
 * What this server has stored of a record, part by part, for a host that lost its own.
 *
 * Guarantees the exact bytes. The certificate is the one under which the record stands.
 */
import type { DeviceId } from '@countermark/protocol/id';
import type { Registry } from './registry.ts';
import type { StatisticsLog } from './statistics-log.ts';

/** The parts, and what they are called. */
export const RECORD_PARTS = {
  record: 'its bytes',
  attestation: 'its attestation',
  confirmation: 'its confirmation',
  certificate: 'the certificate under which it stands',
} as const;
export type RecordPart = keyof typeof RECORD_PARTS;

/** The part of the record, with the record itself, or null where there is none (yet). */
export async function recordPart(
  { log, registry }: { readonly log: StatisticsLog; readonly registry: Registry },
  device: DeviceId,
  sequence: number,
  part: RecordPart,
): Promise<{ readonly record: Uint8Array; readonly bytes: Uint8Array } | null> {
  const entry = await log.entry(device, sequence);
  if (entry === null) return null;
  const { record } = entry;
  if (part !== 'certificate') return entry[part] === null ? null : { record, bytes: entry[part] };
  const [bytes] = await registry.certificates([entry.certificate]);
  return bytes === undefined ? null : { record, bytes };
}
