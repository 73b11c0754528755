/**
 * After a restore: what the server lost is given back from this host's archive, and what this host lost is taken back from the server.
 *
 * Guarantees: the server gets the exact bytes of records, attestations, confirmations and funds grants, which it verifies and takes
 * once; what comes from the server is taken only with a confirmation that is authentic and names the record's digest. Asking
 * again changes nothing. What neither has (pieces of a lost journal) stays lost.
 */
import type { Clock } from '@countermark/node-platform/clock';
import { nodeVerification, sha256 } from '@countermark/node-platform/verification';
import { messageDigest, parseEnvelope } from '@countermark/protocol/cose';
import { sameBytes } from '@countermark/protocol/digest';
import type { DeviceId } from '@countermark/protocol/id';
import { MAX_SUBMISSION } from '@countermark/protocol/interfaces/answer';
import type { DeviceStatus } from '@countermark/protocol/interfaces/psd';
import { BATCH_STATISTICS } from '@countermark/protocol/messages/batch-statistics';
import { CONFIRMATION } from '@countermark/protocol/messages/confirmation';
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { verifyAttestedRecord } from '@countermark/verify/attested-record';
import { type KeySource, verifyMessage } from '@countermark/verify/verified';
import { deviceKeys, verifiedCertificate } from './device-trust.ts';
import type { Funds } from './funds.ts';
import type { Journal } from './journal.ts';
import { certificateName, type RecordRow } from './journal-rows.ts';
import type { ServerClient } from './server-client.ts';
import { readUnverified } from './unverified-message.ts';

export type RefeedingOptions = {
  readonly journal: Journal;
  readonly server: Pick<ServerClient, 'restore' | 'submit' | 'recordPart'>;
  readonly funds: Pick<Funds, 'giveBack'>;
  readonly keys: KeySource;
  readonly clock: Clock;
};

/** Bytes of one submission, below a frame's bound. */
const SUBMISSION_BYTES_MAX = 3 * 1024 * 1024;

export class Refeeding {
  readonly #options: RefeedingOptions;
  /** Up to this sequence the archive is known to have every record. */
  #wholeThrough = 0;

  constructor(options: RefeedingOptions) {
    this.#options = options;
  }

  /** Gives the server what it lacks after `logged`: funds grants first, so that no device's account falls below zero. */
  async giveBack(logged: number): Promise<Result<null>> {
    const { journal, server, funds } = this.#options;
    const given = await funds.giveBack();
    if (!given.ok) return given;
    for (let next = logged + 1; ; ) {
      const rows = fitting(journal.records.from(next, MAX_SUBMISSION));
      const last = rows.at(-1);
      if (last === undefined) return accept(null);
      const archived = rows.flatMap(({ bytes, attestation, confirmation }) =>
        attestation === null || confirmation === null ? [] : [{ record: bytes, attestation, confirmation }],
      );
      const answers =
        archived.length === rows.length
          ? await server.restore(archived)
          : await server.submit(rows.map(({ bytes }) => bytes));
      if (!answers.ok) return answers;
      const refused = answers.value.find((answer) => answer.rejection !== undefined)?.rejection;
      if (refused !== undefined) return refuse(refused);
      next = last.sequence + 1;
    }
  }

  /** Takes from the server the records that the device has had confirmed and this archive lacks. */
  async takeBack({ device, sequence }: DeviceStatus): Promise<Result<null>> {
    const { journal } = this.#options;
    for (let at = this.#wholeThrough + 1; at <= sequence; at++) {
      if (journal.records.get(at) === undefined) {
        const taken = await this.#take(device, at);
        // What the server does not have the device still holds: it is adopted from there.
        if (!taken.ok && taken.rejection.code === 'unknown-record') return accept(null);
        if (!taken.ok) return taken;
      }
      this.#wholeThrough = at;
    }
    return accept(null);
  }

  async #take(device: DeviceId, sequence: number): Promise<Result<null>> {
    const { journal, server, keys, clock } = this.#options;
    const confirmation = await server.recordPart(device, sequence, 'confirmation');
    if (!confirmation.ok) return confirmation;
    const record = await server.recordPart(device, sequence, 'record');
    if (!record.ok) return record;
    const attestation = await server.recordPart(device, sequence, 'attestation');
    if (!attestation.ok) return attestation;
    const confirmed = verifyMessage(CONFIRMATION, confirmation.value, { port: nodeVerification, keys });
    if (!confirmed.ok) return confirmed;
    const envelope = parseEnvelope(record.value);
    if (!envelope.ok) return envelope;
    const digest = messageDigest(envelope.value, sha256);
    const said = confirmed.value.message;
    if (said.device !== device || said.sequence !== sequence || !sameBytes(said.digest, digest)) {
      return refuse(rejection('confirmation-mismatch', { sequence }));
    }
    const certified = await this.#certified(device, sequence, envelope.value.key.epoch);
    if (!certified.ok) return certified;
    // The digest is not over the signature: one that was altered on its way would make this store one that contradicts itself.
    const trust = { port: nodeVerification, keys: deviceKeys(journal, keys) };
    const attested = verifyAttestedRecord(record.value, attestation.value, trust);
    if (!attested.ok) return attested;
    const statistics = readUnverified(BATCH_STATISTICS, record.value);
    journal.records.addConfirmed({
      sequence,
      digest,
      id: statistics.ok ? statistics.value.declaration.batch : null,
      bytes: record.value,
      confirmation: confirmation.value,
      attestation: attestation.value,
      atMs: clock.nowMs(),
    });
    return accept(null);
  }

  /** The certificate under which the record stands, from the server where this host lost it. */
  async #certified(device: DeviceId, sequence: number, epoch: number): Promise<Result<null>> {
    const { journal, server, keys } = this.#options;
    if (journal.kept(certificateName(epoch)) !== undefined) return accept(null);
    const bytes = await server.recordPart(device, sequence, 'certificate');
    if (!bytes.ok) return bytes;
    const certificate = verifiedCertificate(bytes.value, keys);
    if (!certificate.ok) return certificate;
    if (certificate.value.device !== device || certificate.value.epoch !== epoch) {
      return refuse(rejection('enrolment-mismatch', { type: 'device-certificate', what: 'epoch' }));
    }
    journal.keep(certificateName(epoch), bytes.value);
    return accept(null);
  }
}

/** The confirmed records at the beginning that fit in one submission. */
function fitting(rows: readonly RecordRow[]): readonly RecordRow[] {
  let bytes = 0;
  const end = rows.findIndex((row, i) => {
    bytes += row.bytes.length + (row.attestation?.length ?? 0) + (row.confirmation?.length ?? 0);
    return row.state !== 'confirmed' || (i > 0 && bytes > SUBMISSION_BYTES_MAX);
  });
  return end === -1 ? rows : rows.slice(0, end);
}
