/**
 * Acceptance of records (design, 2.7), the same out of a session and in one: authenticated and attested by the cryptographic
 * device, appended to the log, confirmed by the cryptographic device given record and attestation again, stored if absent,
 * answered with what is stored.
 *
 * Guarantees: no answer `accepted` before record and confirmation are durable; answers come in the order of the records, and
 * each is independent of the others; nothing is confirmed that the log does not hold. A crash between any two steps is healed
 * by the next submission of the same record.
 * The server never authenticates by itself: out of a session it believes its cryptographic device's answer on their
 * private socket, in one it verifies the attestation that comes with the record.
 */
import type { Clock } from '@countermark/node-platform/clock';
import type { Log } from '@countermark/node-platform/logs';
import { nodeVerification } from '@countermark/node-platform/verification';
import type { DeviceId } from '@countermark/protocol/id';
import type { Answer } from '@countermark/protocol/interfaces/answer';
import { CONFIRMATION } from '@countermark/protocol/messages/confirmation';
import { type Rejection, rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { sameBytes } from '@countermark/protocol/digest';
import { verifyAttestedRecord } from '@countermark/verify/attested-record';
import { openRecord, recordIdentity, type VerifiedRecord } from '@countermark/verify/record';
import { type KeySource, verifyMessage } from '@countermark/verify/verified';
import type { CryptographicDevice } from './cryptographic-device-client.ts';
import { GroupedWork } from './grouped-work.ts';
import type { Registry } from './registry.ts';
import type { AppendOutcome, LogItem, StatisticsLog, StoredConfirmation } from './statistics-log.ts';
import type { Suspensions } from './suspensions.ts';

/** Records in one unit of work of the log. */
const UNIT = 1_024;
/** Without a submission for so long, acceptance is idle. */
const QUIET_MS = 20;

type Attested = { readonly record: Uint8Array; readonly attestation: Uint8Array };
type Archived = Attested & { readonly confirmation: Uint8Array };

export type AcceptanceParts = {
  readonly cryptographicDevice: CryptographicDevice;
  readonly log: StatisticsLog;
  readonly registry: Registry;
  readonly suspensions: Suspensions;
  readonly roleKeys: KeySource;
  readonly clock: Clock;
  readonly logs: Log;
  /** Told after records were appended, or a device was suspended. */
  readonly onAccepted?: () => void;
};

export class Acceptance {
  readonly #parts: AcceptanceParts;
  readonly #appends: GroupedWork<LogItem, AppendOutcome>;
  readonly #confirmations: GroupedWork<StoredConfirmation, Uint8Array>;
  #inHand = 0;
  #taken = 0;
  #idle: (() => void)[] = [];

  constructor(parts: AcceptanceParts) {
    this.#parts = parts;
    const { log, clock } = parts;
    this.#appends = new GroupedWork((items) => log.append(items, clock.nowMs()), UNIT);
    this.#confirmations = new GroupedWork((items) => log.confirm(items), UNIT);
  }

  /** Resolves when nothing has been accepted for a moment: followers go then. Submissions under load leave gaps. */
  async idle(): Promise<void> {
    for (;;) {
      if (this.#inHand > 0) {
        await new Promise<void>((resolve) => {
          this.#idle.push(resolve);
        });
      }
      const taken = this.#taken;
      await this.#parts.clock.sleep(QUIET_MS);
      if (this.#inHand === 0 && this.#taken === taken) return;
    }
  }

  /** Takes records as they came from a host: one answer each. */
  async submit(records: readonly Uint8Array[]): Promise<readonly Answer[]> {
    return this.#busy(async () => {
      const attestations = await this.#parts.cryptographicDevice.authenticate(records);
      const items = await this.#each(attestations, async (attestation, index) => {
        const record = records[index] ?? new Uint8Array(0);
        const parsed = await this.#authenticated(record);
        return parsed.ok ? this.#item(parsed.value, attestation) : parsed;
      });
      return this.#accept(items, new Map());
    });
  }

  /** Takes records that the cryptographic device authenticated in a session with the device. */
  async acceptAttested(device: DeviceId, attested: readonly Attested[]): Promise<readonly Answer[]> {
    return this.#busy(async () => {
      const items = await this.#each(attested.map(accept), async (item) => this.#verified(item, device));
      return this.#accept(items, new Map());
    });
  }

  /**
   * Takes accepted records back from an archive, after the server was restored from an older backup: the archived
   * confirmation is recognised as our own and stays the record's only one.
   */
  async restore(archived: readonly Archived[]): Promise<readonly Answer[]> {
    return this.#busy(async () => {
      const own = new Map<string, Uint8Array>();
      const trust = { port: nodeVerification, keys: this.#parts.roleKeys };
      const items = await this.#each(archived.map(accept), async (item) => {
        const verified = await this.#verified(item);
        if (!verified.ok) return verified;
        const confirmation = verifyMessage(CONFIRMATION, item.confirmation, trust);
        if (!confirmation.ok) return confirmation;
        const { device, sequence, digest } = recordIdentity(verified.value.record);
        const said = confirmation.value.message;
        if (said.device !== device || said.sequence !== sequence || !sameBytes(said.digest, digest)) {
          return refuse(rejection('confirmation-mismatch', { sequence }));
        }
        own.set(`${device}#${sequence}`, item.confirmation);
        return verified;
      });
      return this.#accept(items, own);
    });
  }

  /** Takes records back that the authority has and this log has lost: attested once, and confirmed anew. */
  async recover(attested: readonly Attested[]): Promise<readonly Answer[]> {
    return this.#busy(async () => {
      const items = await this.#each(attested.map(accept), async (item) => this.#verified(item));
      return this.#accept(items, new Map());
    });
  }

  /** Appends, confirms, stores and answers; `own` are confirmations that are known already. */
  async #accept(items: readonly Result<LogItem>[], own: ReadonlyMap<string, Uint8Array>): Promise<readonly Answer[]> {
    const good = items.flatMap((item) => (item.ok ? [item.value] : []));
    const outcomes = await this.#appends.run(good);
    const waiting: { readonly place: number; readonly attested: Attested; readonly item: LogItem }[] = [];
    const answers: Answer[] = [];
    let next = 0;
    for (const [place, item] of items.entries()) {
      if (!item.ok) {
        answers[place] = rejected(item.rejection);
        continue;
      }
      const outcome = outcomes[next++];
      if (outcome === undefined) throw new TypeError('order');
      if (outcome.outcome === 'rejected') {
        answers[place] = rejected(outcome.rejection);
        if (outcome.rejection.code === 'fork') await this.#suspend(item.value.record);
      } else if (outcome.outcome === 'already-accepted') {
        const { record, attestation, confirmation } = outcome.entry;
        // Without one the server died between log and confirmation: now is the time.
        if (confirmation === null) waiting.push({ place, attested: { record, attestation }, item: item.value });
        else answers[place] = { outcome: 'already-accepted', confirmation, attestation };
      } else {
        const { attestation, record } = item.value;
        waiting.push({ place, attested: { record: record.verified.bytes, attestation }, item: item.value });
      }
    }
    const known = waiting.map(({ item }) => own.get(nameOf(item.record)));
    const asked = waiting.filter((_, index) => known[index] === undefined);
    const signed = await this.#parts.cryptographicDevice.confirm(asked.map(({ attested }) => attested));
    const toStore: StoredConfirmation[] = [];
    const storing: (typeof waiting)[number][] = [];
    let nextSigned = 0;
    for (const [index, wait] of waiting.entries()) {
      const confirmation = known[index];
      const result = confirmation === undefined ? signed[nextSigned++] : accept(confirmation);
      if (result === undefined) throw new TypeError('order');
      if (!result.ok) {
        answers[wait.place] = rejected(result.rejection);
        continue;
      }
      const { device, sequence } = recordIdentity(wait.item.record);
      toStore.push({ device, sequence, confirmation: result.value });
      storing.push(wait);
    }
    const stored = await this.#confirmations.run(toStore);
    if (toStore.length > 0) this.#parts.onAccepted?.();
    for (const [index, { place, attested }] of storing.entries()) {
      const confirmation = stored[index];
      if (confirmation === undefined) throw new TypeError('order');
      answers[place] = { outcome: 'accepted', confirmation, attestation: attested.attestation };
    }
    return answers;
  }

  /** The record of bytes that the cryptographic device has just found authentic. */
  async #authenticated(bytes: Uint8Array): Promise<Result<VerifiedRecord>> {
    const { registry } = this.#parts;
    const keys: KeySource = ({ holder, epoch }) => registry.certificateInMemory(holder, epoch)?.message ?? null;
    const opened = openRecord(bytes, { port: nodeVerification, keys });
    if (opened.ok) return opened.value.finish(true);
    if (opened.rejection.code !== 'unknown-device') return opened;
    const [holder = '', epoch = ''] = String(opened.rejection.detail['device']).split('#');
    // Not in memory: read once, and opened again.
    if ((await registry.certificate(holder, Number(epoch))) === null) return opened;
    const again = openRecord(bytes, { port: nodeVerification, keys });
    return again.ok ? again.value.finish(true) : again;
  }

  /** A record with its attestation, both verified here; of the one device, if it is given. */
  async #verified({ record, attestation }: Attested, only?: DeviceId): Promise<Result<LogItem>> {
    const parsed = await this.#authenticated(record);
    if (!parsed.ok) return parsed;
    const { registry, roleKeys } = this.#parts;
    const keys: KeySource = (key) =>
      roleKeys(key) ?? registry.certificateInMemory(key.holder, key.epoch)?.message ?? null;
    const verified = verifyAttestedRecord(record, attestation, { port: nodeVerification, keys });
    if (!verified.ok) return verified;
    const { device } = recordIdentity(verified.value.record);
    if (only !== undefined && device !== only) {
      return refuse(rejection('wrong-device', { type: verified.value.record.type, device, expected: only }));
    }
    return this.#item(verified.value.record, attestation);
  }

  async #item(record: VerifiedRecord, attestation: Uint8Array): Promise<Result<LogItem>> {
    const { registry } = this.#parts;
    const { holder, epoch } = record.verified.envelope.key;
    const certificate = registry.certificateInMemory(holder, epoch);
    if (record.type === 'key-rotation') {
      // There is one certificate for an epoch, for ever: what comes after the rotation stands under the one that it names.
      const { device, sequence, newEpoch, newCertificate } = record.verified.message;
      const next = await registry.certificate(device, newEpoch);
      // Lost with a backup: the host has it, and gives it back.
      if (next === null) return refuse(rejection('unknown-device', { device: `${device}#${newEpoch}` }));
      if (!sameBytes(next.digest, newCertificate)) {
        const reason = `the certificate that it names is not that of epoch ${newEpoch}`;
        return refuse(rejection('inconsistent', { device, sequence, reason }));
      }
    }
    return certificate === null
      ? refuse(rejection('unknown-device', { device: holder }))
      : accept({ record, attestation, certificate: certificate.digest });
  }

  /** Signed word of the suspension that the log has marked already. */
  async #suspend(record: VerifiedRecord): Promise<void> {
    const { device, sequence } = recordIdentity(record);
    const { suspensions, logs } = this.#parts;
    logs.warn('A device forked its chain and was suspended', { device, sequence });
    const suspension = await suspensions.of(device, `two different records for sequence ${sequence}`);
    if (!suspension.ok) logs.warn('A suspension was not signed', { device, code: suspension.rejection.code });
    this.#parts.onAccepted?.();
  }

  async #each<T, U>(
    results: readonly Result<T>[],
    work: (value: T, index: number) => Promise<Result<U>>,
  ): Promise<readonly Result<U>[]> {
    const done: Result<U>[] = [];
    for (const [index, result] of results.entries()) done.push(result.ok ? await work(result.value, index) : result);
    return done;
  }

  async #busy<T>(work: () => Promise<T>): Promise<T> {
    this.#inHand += 1;
    this.#taken += 1;
    try {
      return await work();
    } finally {
      this.#inHand -= 1;
      if (this.#inHand === 0) for (const resolve of this.#idle.splice(0)) resolve();
    }
  }
}

function nameOf(record: VerifiedRecord): string {
  const { device, sequence } = recordIdentity(record);
  return `${device}#${sequence}`;
}

function rejected(refused: Rejection): Answer {
  return { outcome: 'rejected', rejection: refused };
}
