/**
 * A record as the authority takes it: with the attestation that it was found authentic, and with its own signature
 * checked again where there is one.
 *
 * With a MAC the record's authenticator cannot be checked here: its content is then as trustworthy as the attestation,
 * which names it by digest.
 */
import { parseEnvelope, messageDigest } from '@countermark/protocol/cose';
import { sameBytes } from '@countermark/protocol/digest';
import { parsePayload } from '@countermark/protocol/message';
import { ATTESTATION, type Attestation } from '@countermark/protocol/messages/attestation';
import { BATCH_STATISTICS } from '@countermark/protocol/messages/batch-statistics';
import { FINAL_STATEMENT } from '@countermark/protocol/messages/final-statement';
import { KEY_ROTATION } from '@countermark/protocol/messages/key-rotation';
import { type Rejection, rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { type VerifiedRecord, verifyRecord } from './record.ts';
import { type Trust, type Verified, verifyMessage } from './verified.ts';

export type AttestedRecord = { readonly record: VerifiedRecord; readonly attestation: Verified<Attestation> };

/**
 * Verifies the attestation and that it speaks of exactly this record; then the record itself as far as possible.
 * Rejections: those of `verifyMessage`, and `attestation-mismatch`.
 */
export function verifyAttestedRecord(
  recordBytes: Uint8Array,
  attestationBytes: Uint8Array,
  trust: Trust,
): Result<AttestedRecord> {
  const attestation = verifyMessage(ATTESTATION, attestationBytes, trust);
  if (!attestation.ok) return attestation;
  const record = recordUnder(recordBytes, attestation.value, trust);
  if (!record.ok) return record;
  const mismatch = attestationMismatch(attestation.value, record.value);
  return mismatch === null ? accept({ record: record.value, attestation: attestation.value }) : refuse(mismatch);
}

/** In what an attestation does not speak of the record, or null. */
export function attestationMismatch(attestation: Verified<Attestation>, record: VerifiedRecord): Rejection | null {
  const said = attestation.message;
  const { message, envelope, digest } = record.verified;
  const differs = (what: string, attested: string | number, actual: string | number): Rejection =>
    rejection('attestation-mismatch', { what, attested, actual });
  if (said.device !== message.device) return differs('device', said.device, message.device);
  if (said.licensee !== message.licensee) return differs('licensee', said.licensee, message.licensee);
  if (said.sequence !== message.sequence) return differs('sequence', said.sequence, message.sequence);
  if (said.recordType !== record.type) return differs('type', said.recordType, record.type);
  if (said.authentication !== envelope.authentication)
    return differs('procedure', said.authentication, envelope.authentication);
  if (said.epoch !== envelope.key.epoch) return differs('epoch', said.epoch, envelope.key.epoch);
  if (!sameBytes(said.digest, digest)) return differs('digest', 'one', 'another');
  return null;
}

/** With a signature: verified by itself. With a MAC: parsed, and verified by the attestation of its digest. */
function recordUnder(bytes: Uint8Array, attestation: Verified<Attestation>, trust: Trust): Result<VerifiedRecord> {
  const parsed = parseEnvelope(bytes);
  if (!parsed.ok) return parsed;
  const envelope = parsed.value;
  if (envelope.authentication === 'signature' || trust.macs !== undefined) return verifyRecord(bytes, trust);
  const digest = messageDigest(envelope, trust.port.sha256);
  if (!sameBytes(attestation.message.digest, digest)) {
    return refuse(rejection('attestation-mismatch', { what: 'digest', attested: 'one', actual: 'another' }));
  }
  return attestedByDigest(bytes, envelope, digest);
}

function attestedByDigest(
  bytes: Uint8Array,
  envelope: VerifiedRecord['verified']['envelope'],
  digest: Verified<unknown>['digest'],
): Result<VerifiedRecord> {
  if (envelope.type === KEY_ROTATION.type) {
    const rotation = parsePayload(KEY_ROTATION, envelope);
    if (!rotation.ok) return rotation;
    return accept({
      type: 'key-rotation',
      verified: { message: rotation.value, envelope, bytes, digest } as Verified<typeof rotation.value>,
    });
  }
  if (envelope.type === FINAL_STATEMENT.type) {
    const statement = parsePayload(FINAL_STATEMENT, envelope);
    if (!statement.ok) return statement;
    return accept({
      type: 'final-statement',
      verified: { message: statement.value, envelope, bytes, digest } as Verified<typeof statement.value>,
    });
  }
  const statistics = parsePayload(BATCH_STATISTICS, envelope);
  if (!statistics.ok) return statistics;
  return accept({
    type: 'batch-statistics',
    verified: { message: statistics.value, envelope, bytes, digest } as Verified<typeof statistics.value>,
  });
}
