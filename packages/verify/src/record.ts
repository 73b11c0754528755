/**
 * Records of a device's chain: batch statistics, key rotations, its final statement; verified and seen as one type.
 */
import { parseEnvelope } from '@countermark/protocol/cose';
import type { Digest } from '@countermark/protocol/digest';
import type { DeviceId, LicenseeId } from '@countermark/protocol/id';
import { BATCH_STATISTICS, type BatchStatistics } from '@countermark/protocol/messages/batch-statistics';
import { FINAL_STATEMENT, type FinalStatement } from '@countermark/protocol/messages/final-statement';
import { KEY_ROTATION, type KeyRotation } from '@countermark/protocol/messages/key-rotation';
import { accept, type Result } from '@countermark/protocol/result';
import { type AuthenticatorCheck, finishWith, openMessage, type Trust, type Verified } from './verified.ts';

export type VerifiedRecord =
  | { readonly type: 'batch-statistics'; readonly verified: Verified<BatchStatistics> }
  | { readonly type: 'key-rotation'; readonly verified: Verified<KeyRotation> }
  | { readonly type: 'final-statement'; readonly verified: Verified<FinalStatement> };

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
  const opened = openRecord(bytes, trust);
  return opened.ok ? finishWith(opened.value, trust) : opened;
}

/** A record up to its authenticator (see `openMessage`). */
export type OpenedRecord = {
  readonly check: AuthenticatorCheck;
  readonly finish: (authentic: boolean) => Result<VerifiedRecord>;
};

/** The first half of {@link verifyRecord}, for verifiers whose port is asynchronous. */
export function openRecord(bytes: Uint8Array, trust: Pick<Trust, 'port' | 'keys'>): Result<OpenedRecord> {
  const parsed = parseEnvelope(bytes);
  if (parsed.ok && parsed.value.type === KEY_ROTATION.type) {
    const rotation = openMessage(KEY_ROTATION, bytes, parsed, trust, 'enrolled');
    if (!rotation.ok) return rotation;
    const { check, finish } = rotation.value;
    return accept({
      check,
      finish: (authentic) => {
        const verified = finish(authentic);
        return verified.ok ? accept({ type: 'key-rotation', verified: verified.value }) : verified;
      },
    });
  }
  if (parsed.ok && parsed.value.type === FINAL_STATEMENT.type) {
    const statement = openMessage(FINAL_STATEMENT, bytes, parsed, trust, 'enrolled');
    if (!statement.ok) return statement;
    const { check, finish } = statement.value;
    return accept({
      check,
      finish: (authentic) => {
        const verified = finish(authentic);
        return verified.ok ? accept({ type: 'final-statement', verified: verified.value }) : verified;
      },
    });
  }
  const statistics = openMessage(BATCH_STATISTICS, bytes, parsed, trust, 'enrolled');
  if (!statistics.ok) return statistics;
  const { check, finish } = statistics.value;
  return accept({
    check,
    finish: (authentic) => {
      const verified = finish(authentic);
      return verified.ok ? accept({ type: 'batch-statistics', verified: verified.value }) : verified;
    },
  });
}

/** The fields by which a record stands in its chain. */
export function recordIdentity(record: VerifiedRecord): RecordIdentity {
  const { device, licensee, sequence, previous } = record.verified.message;
  return { device, licensee, sequence, previous, digest: record.verified.digest };
}
