/**
 * Intake: the records that the server delivers, verified again from their bytes and appended to the authority's own log.
 *
 * Guarantees: a record is in the log at most once, only with an attestation that names its digest, with its own
 * signature checked where there is one, under a certificate that the issuing key signed for this licensee, and only as
 * the next of its device's one chain, judged against the head that the authority itself stored. A fork is kept with its
 * reason and suspends the device; no message lifts that, nor a withdrawal. A signed suspension names the last record that stands: which records are
 * marked does not depend on when they, or it, come. A contradiction is kept and leaves the chain where it
 * stood. Delivering again changes
 * nothing and gets the same answers. A delivery that goes on from what this log has never had, or has lost, changes nothing either.
 * Takes nothing from the server but bytes and their order; a host that holds confirmed records may bring them itself. Rating and granting follow by the cursor (`settlement.ts`).
 */
import { type Digest, sameBytes } from '@countermark/protocol/digest';
import { parseEnvelope } from '@countermark/protocol/cose';
import type { DeviceId, LicenseeId } from '@countermark/protocol/id';
import type { Delivery, HistoryPoint } from '@countermark/protocol/interfaces/delivery';
import type { Evidence } from '@countermark/protocol/interfaces/evidence';
import { parsePayload } from '@countermark/protocol/message';
import { CONFIRMATION } from '@countermark/protocol/messages/confirmation';
import { KEY_ROTATION } from '@countermark/protocol/messages/key-rotation';
import { DEVICE_CERTIFICATE } from '@countermark/protocol/messages/enrolment';
import { SUSPENSION, type Suspension } from '@countermark/protocol/messages/policy';
import { type Rejection, rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import type { Log } from '@countermark/node-platform/logs';
import { nodeVerification } from '@countermark/node-platform/verification';
import { verifyAttestedRecord } from '@countermark/verify/attested-record';
import { CHAIN_START, judge } from '@countermark/verify/chain';
import { recordIdentity, type VerifiedRecord } from '@countermark/verify/record';
import type { KeySource } from '@countermark/verify/verified';
import { verifyMessage } from '@countermark/verify/verified';
import type {
  AuthorityStore,
  CertifiedKey,
  DeviceState,
  IntakeChanges,
  IntakeView,
  QuarantinedRecord,
  StoredRecord,
} from './store/authority-store.ts';

export type DeliveryResult = {
  readonly outcome: 'accepted' | 'already-accepted' | 'rejected';
  readonly rejection?: Rejection;
};

export type DeliveryAnswers = {
  readonly cursor: number;
  readonly results: readonly DeliveryResult[];
  readonly history: Digest;
  readonly continues: boolean;
};

export type IntakeOptions = {
  readonly store: AuthorityStore;
  /** Keys of the roles, from the trust bundle. */
  readonly roles: KeySource;
  readonly nowMs: () => number;
  readonly log: Log;
};

/** So many verifications are done before others get their turn. */
const SLICE = 32;

type Candidate = { readonly record: VerifiedRecord; readonly attestation: Uint8Array };

/** Takes in one delivery; answers in the order of its items. */
export async function takeIn(delivery: Delivery, options: IntakeOptions): Promise<DeliveryAnswers> {
  // Before anything is granted for these records: what was granted for them before may be booked under the next cursors.
  if (delivery.grantsCursor !== undefined) await options.store.continueGrants(delivery.grantsCursor);
  return takeInVerified(delivery, options, (item, keys) => verifyItem(item, keys, options.roles));
}

/**
 * Takes in what a host brings itself, because the server that confirmed it does not deliver it: each record only with a
 * confirmation that the confirming key signed for exactly its digest. Answers in the order of the items.
 */
export async function takeInEvidence(evidence: Evidence, options: IntakeOptions): Promise<DeliveryAnswers> {
  const { roles, log } = options;
  return takeInVerified(evidence, options, (item, keys) => {
    const candidate = verifyItem(item, keys, roles);
    if (!candidate.ok) return candidate;
    const confirmation = verifyMessage(CONFIRMATION, item.confirmation, { port: nodeVerification, keys: roles });
    if (!confirmation.ok) return confirmation;
    const { device, sequence, digest } = recordIdentity(candidate.value.record);
    const said = confirmation.value.message;
    if (said.device !== device || said.sequence !== sequence || !sameBytes(said.digest, digest)) {
      return refuse(rejection('confirmation-mismatch', { sequence }));
    }
    log.info('A host brought a confirmed record itself', { device, sequence });
    return candidate;
  });
}

type Item = Delivery['items'][number];
type Brought<I extends Item> = {
  readonly certificates: readonly Uint8Array[];
  readonly items: readonly I[];
  readonly suspensions?: readonly Uint8Array[];
  readonly since?: HistoryPoint;
};

async function takeInVerified<I extends Item>(
  brought: Brought<I>,
  options: IntakeOptions,
  verify: (item: I, keys: CertifiedKeys) => Result<Candidate>,
): Promise<DeliveryAnswers> {
  const { store, log } = options;
  const suspensions = verifiedSuspensions(brought.suspensions ?? [], options);
  await store.addCertificates(verifiedCertificates(brought.certificates, options));
  const keys = await certifiedKeys(brought.items, store);

  const candidates: Result<Candidate>[] = [];
  for (const [index, item] of brought.items.entries()) {
    if (index % SLICE === SLICE - 1) await new Promise(setImmediate);
    candidates.push(verify(item, keys));
  }
  const verified = candidates.flatMap((candidate) => (candidate.ok ? [recordIdentity(candidate.value.record)] : []));
  const devices = new Set<DeviceId>([...verified, ...suspensions].map(({ device }) => device));
  const { decision, point } = await store.intake(
    [...devices],
    verified,
    (view) => decide(view, candidates, suspensions, options.nowMs()),
    brought.since,
  );
  const { cursor, digest: history } = point;
  if (decision === null) return { cursor, results: [], history, continues: false };
  for (const result of decision.results) {
    if (result.rejection !== undefined && result.rejection.code !== 'out-of-order') {
      const { code, detail } = result.rejection;
      log.warn('A delivered record was refused', {
        code,
        ...(detail.device === undefined ? {} : { device: detail.device }),
        ...(detail.sequence === undefined ? {} : { sequence: detail.sequence }),
        ...(detail.reason === undefined ? {} : { reason: detail.reason }),
      });
    }
  }
  return { cursor, results: decision.results, history, continues: true };
}

function verifiedCertificates(certificates: readonly Uint8Array[], { roles, log }: IntakeOptions): CertifiedKey[] {
  return certificates.flatMap((bytes) => {
    const certificate = verifyMessage(DEVICE_CERTIFICATE, bytes, { port: nodeVerification, keys: roles });
    if (!certificate.ok) {
      // Its items are then refused as of an unknown device; the others of the delivery are not held up by it.
      log.warn('A delivered certificate was refused', { code: certificate.rejection.code });
      return [];
    }
    const { device, epoch, licensee, authentication, publicKey } = certificate.value.message;
    return [{ device, epoch, licensee, authentication, publicKey, digest: certificate.value.digest, bytes }];
  });
}

function verifiedSuspensions(suspensions: readonly Uint8Array[], { roles, log }: IntakeOptions): Suspension[] {
  return suspensions.flatMap((bytes) => {
    const suspension = verifyMessage(SUSPENSION, bytes, { port: nodeVerification, keys: roles });
    if (suspension.ok) return [suspension.value.message];
    log.warn('A delivered suspension was refused', { code: suspension.rejection.code });
    return [];
  });
}

export type CertifiedKeys = (device: string, epoch: number) => CertifiedKey | null;

/** The stored keys that records name, whatever else is wrong with them. */
export async function certifiedKeys(
  items: readonly { readonly record: Uint8Array }[],
  store: AuthorityStore,
): Promise<CertifiedKeys> {
  const keys = await certifiedKeysOf(items, store);
  const byId = new Map(keys.map((key) => [`${key.device}#${key.epoch}`, key]));
  return (device, epoch) => byId.get(`${device}#${epoch}`) ?? null;
}

/** The same as a list. */
export async function certifiedKeysOf(
  items: readonly { readonly record: Uint8Array }[],
  store: AuthorityStore,
): Promise<readonly CertifiedKey[]> {
  const wanted = new Map<string, { device: string; epoch: number }>();
  for (const { record } of items) {
    const envelope = parseEnvelope(record);
    if (!envelope.ok) continue;
    const { holder, epoch } = envelope.value.key;
    wanted.set(`${holder}#${epoch}`, { device: holder, epoch });
    const rotation = envelope.value.type === KEY_ROTATION.type ? parsePayload(KEY_ROTATION, envelope.value) : null;
    if (rotation?.ok !== true) continue;
    const { device, newEpoch } = rotation.value;
    wanted.set(`${device}#${newEpoch}`, { device, epoch: newEpoch });
  }
  return store.certificates([...wanted.values()]);
}

/** Verifies a record with its attestation, under a certificate of this licensee. The chain is judged later. */
export function verifyItem(
  item: Delivery['items'][number],
  certified: CertifiedKeys,
  roles: KeySource,
): Result<Candidate> {
  const keys: KeySource = (key) => certified(key.holder, key.epoch) ?? roles(key);
  const attested = verifyAttestedRecord(item.record, item.attestation, { port: nodeVerification, keys });
  if (!attested.ok) return attested;
  const { record } = attested.value;
  const { message, envelope } = record.verified;
  // With a MAC only the attestation was checked: key, procedure and holder are compared here.
  const { holder, epoch } = envelope.key;
  const key = certified(holder, epoch);
  if (key === null) return refuse(rejection('unknown-device', { device: `${holder}#${epoch}` }));
  if (key.authentication !== envelope.authentication) {
    const { type, authentication } = envelope;
    return refuse(
      rejection('wrong-algorithm', { type, holder, algorithm: authentication, expected: key.authentication }),
    );
  }
  if (message.device !== holder) {
    return refuse(rejection('wrong-device', { type: envelope.type, device: message.device, expected: holder }));
  }
  if (message.licensee !== key.licensee) {
    return refuse(
      rejection('attestation-mismatch', { what: 'licensee', attested: key.licensee, actual: message.licensee }),
    );
  }
  if (record.type === 'key-rotation') {
    // There is one certificate for an epoch, for ever: what comes after the rotation stands under the one that it names.
    const { device, sequence, newEpoch, newCertificate } = record.verified.message;
    const next = certified(device, newEpoch);
    // Lost with a backup, or on its way: the server has it, and brings it again.
    if (next === null) return refuse(rejection('unknown-device', { device: `${device}#${newEpoch}` }));
    if (!sameBytes(next.digest, newCertificate)) {
      const reason = `the certificate that it names is not that of epoch ${newEpoch}`;
      return refuse(rejection('inconsistent', { device, sequence, reason }));
    }
  }
  return accept({ record, attestation: item.attestation });
}

type Decision = IntakeChanges & { readonly results: readonly DeliveryResult[] };

/** Judges verified records one after the other against the chains. Pure: the store may run it several times. */
function decide(
  view: IntakeView,
  candidates: readonly Result<Candidate>[],
  suspensions: readonly Suspension[],
  receivedMs: number,
): Decision {
  const states = new Map<DeviceId, DeviceState>();
  const stateOf = (device: DeviceId): DeviceState => states.get(device) ?? view.device(device);
  const records: StoredRecord[] = [];
  const quarantined: QuarantinedRecord[] = [];
  const appended = new Map<string, Digest>();

  for (const suspension of [...suspensions].sort((a, b) => a.sinceMs - b.sinceMs)) {
    const state = stateOf(suspension.device);
    // A withdrawal counts whatever clock it was signed by, and is the last word.
    const withdrawn = suspension.withdrawn === true;
    if (state.suspended.startsWith(WITHDRAWN) || (!withdrawn && suspension.sinceMs <= state.suspensionMs)) continue;
    const reason = suspension.suspended ? suspension.reason || 'suspended' : '';
    // Words of before the field hold from when they are heard.
    const after = suspension.afterSequence ?? state.head.sequence;
    const forked = state.suspended === FORKED;
    states.set(suspension.device, {
      ...state,
      // A fork that the authority saw itself is not released by a message, nor does one have what came after it stand.
      suspended: withdrawn ? `${WITHDRAWN}${reason}` : forked ? FORKED : reason,
      suspendedAfter: forked ? Math.min(state.suspendedAfter, after) : after,
      suspensionMs: suspension.sinceMs,
    });
  }

  const results = candidates.map((candidate): DeliveryResult => {
    if (!candidate.ok) return { outcome: 'rejected', rejection: candidate.rejection };
    const { record, attestation } = candidate.value;
    const { device, sequence, digest } = recordIdentity(record);
    const state = stateOf(device);
    const verdict = judge(state.head, record, (at) => appended.get(`${device} ${at}`) ?? view.acceptedAt(device, at));
    if (verdict.outcome === 'already-accepted') return { outcome: 'already-accepted' };
    const evidence = { device, sequence, digest, bytes: record.verified.bytes, attestation, receivedMs };
    if (verdict.outcome === 'rejected') {
      const { code } = verdict.rejection;
      if (code === 'fork' || code === 'inconsistent' || code === 'superseded-key' || code === 'chain-ended')
        quarantined.push({ ...evidence, rejection: verdict.rejection });
      if (code === 'fork' && !state.suspended.startsWith(WITHDRAWN)) {
        const suspendedAfter = state.suspended === '' ? state.head.sequence : state.suspendedAfter;
        states.set(device, { ...state, suspended: FORKED, suspendedAfter });
      }
      return { outcome: 'rejected', rejection: verdict.rejection };
    }
    states.set(device, { ...state, head: verdict.head });
    appended.set(`${device} ${sequence}`, digest);
    const suspended = state.suspended !== '' && sequence > state.suspendedAfter;
    records.push({ ...evidence, ...circumstancesOf(record), suspended });
    return { outcome: 'accepted' };
  });
  return { records, quarantined, devices: [...states.values()], results };
}

const FORKED = 'two different records for one sequence (fork)';
const WITHDRAWN = 'withdrawn: ';

function circumstancesOf(record: VerifiedRecord): Pick<StoredRecord, 'type' | 'licensee' | 'customer' | 'mailingDate'> {
  const licensee: LicenseeId = record.verified.message.licensee;
  if (record.type !== 'batch-statistics') return { type: record.type, licensee, customer: null, mailingDate: '' };
  const { customer, mailingDate } = record.verified.message.declaration;
  return { type: record.type, licensee, customer: customer ?? null, mailingDate };
}

/** The state of a device before its first record. */
export function newDevice(device: DeviceId): DeviceState {
  return { device, head: CHAIN_START, suspended: '', suspendedAfter: 0, suspensionMs: 0 };
}
