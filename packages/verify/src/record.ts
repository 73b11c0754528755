/**
 * Records of a device's chain: batch statistics or key rotations, verified and seen as one type.
 */
import { parseEnvelope } from '@countermark/protocol/cose';
import type { Digest } from '@countermark/protocol/digest';
import type { DeviceId, LicenseeId } from '@countermark/protocol/id';
import { BATCH_STATISTICS, type BatchStatistics } from '@countermark/protocol/messages/batch-statistics';
import { KEY_ROTATION, type KeyRotation } from '@countermark/protocol/messages/key-rotation';
import { accept, type Result } from '@countermark/protocol/result';
import { type Trust, type Verified, verifyMessage } from './verified.ts';

export type VerifiedRecord =
  | { readonly type: 'batch-statistics'; readonly verified: Verified<BatchStatistics> }
  | { readonly type: 'key-rotation'; readonly verified: Verified<KeyRotation> };

/** What every record of a chain has. */
export type RecordIdentity = {
  readonly device: DeviceId;
  readonly licensee: LicenseeId;
  readonly sequence: number;
  readonly previous: Digest;
  readonly digest: Digest;
};

/** Verifies a record with the procedure that its device is enrolled with. Rejections: those of `verifyMessage`. */
export function verifyRecord(bytes: Uint8Array, trust: Trust): Result<VerifiedRecord> {
  const parsed = parseEnvelope(bytes);
  if (!parsed.ok) return parsed;
  if (parsed.value.type === KEY_ROTATION.type) {
    const rotation = verifyMessage(KEY_ROTATION, bytes, trust, 'enrolled');
    return rotation.ok ? accept({ type: 'key-rotation', verified: rotation.value }) : rotation;
  }
  const statistics = verifyMessage(BATCH_STATISTICS, bytes, trust, 'enrolled');
  return statistics.ok ? accept({ type: 'batch-statistics', verified: statistics.value }) : statistics;
}

/** The fields by which a record stands in its chain. */
export function recordIdentity(record: VerifiedRecord): RecordIdentity {
  const { device, licensee, sequence, previous } = record.verified.message;
  return { device, licensee, sequence, previous, digest: record.verified.digest };
}
