/**
 * Delivery of accepted records to the postal authority (claims 1f and 13f), following the log by its cursor.
 *
 * Guarantees: every accepted record is delivered, in the log's order, with its attestation and the certificate under which
 * it stands, until the authority has answered; an authority that was restored from an older backup is fed again from the last point
 * of its history that it still has (delivery-marks.ts). Records that were accepted while their device was suspended come with its signed
 * suspension, and never in one delivery with records from before it: the authority's chain has no gap, and no grant rests
 * on them. The authority is told of a suspension, and of a withdrawal, also where no record follows: after the device's last
 * one, and again after each start and each hour: one that was restored from a backup of the same records has forgotten it. A record that the authority refuses for good holds up its own device only.
 */
import { Fault } from '@countermark/node-platform/fault';
import type { Log } from '@countermark/node-platform/logs';
import { parseEnvelope } from '@countermark/protocol/cose';
import { type Digest, digestText } from '@countermark/protocol/digest';
import type { DeviceId } from '@countermark/protocol/id';
import { HISTORY_START, type HistoryPoint } from '@countermark/protocol/interfaces/delivery';
import { parsePayload } from '@countermark/protocol/message';
import { KEY_ROTATION } from '@countermark/protocol/messages/key-rotation';
import { describeRejection } from '@countermark/protocol/rejection';
import type { Result } from '@countermark/protocol/result';
import type { SqlDatabase } from '@countermark/sql/database';
import type { AuthorityClient } from './authority-client.ts';
import { addMark, DELIVERY_FOLLOWER, type DeliveryMark, giveUpMark, lastMark } from './delivery-marks.ts';
import { followerCursor, moveCursor } from './follower.ts';
import { recoveredWithDelivery } from './log-recovery.ts';
import type { Registry } from './registry.ts';
import type { LogEntry, StatisticsLog } from './statistics-log.ts';
import type { Suspensions } from './suspensions.ts';
import type { ServerTables } from './tables.ts';

const STEP = 256;
const STEP_BYTES = 3 * 1024 * 1024;
const TELL_AGAIN_MS = 3_600_000;
/** So often a refusal must come before it counts as one for good: what a message lost on its way says nothing of the record. */
const REFUSALS = 5;

export type DeliveryParts = {
  readonly database: SqlDatabase<ServerTables>;
  readonly log: StatisticsLog;
  readonly registry: Registry;
  readonly suspensions: Suspensions;
  readonly authority: AuthorityClient;
  /** The authority's cursor of the last grant that is booked. */
  readonly grantsCursor: () => Promise<bigint>;
  readonly nowMs: () => number;
  readonly logs: Log;
};

/** What the authority was told of a device, and when. */
type Told = { readonly withdrawn: boolean; readonly atMs: number };

export class DeliveryFollower {
  readonly #parts: DeliveryParts;
  /** Certificates that the authority has had from this process; repeats are harmless. */
  readonly #sent = new Set<string>();
  /** Where a device's chain ends at the authority, which refused the record there for good. */
  readonly #refused = new Map<DeviceId, number>();
  /** Refusals of the same record in succession. */
  readonly #refusals = new Map<string, number>();
  /** Suspended devices that the authority has been told of by this process; repeats are harmless. */
  readonly #told = new Map<DeviceId, Told>();
  /** The log's cursor of the last mark when it was last looked at: marks go back only where the authority has lost something. */
  #marked = 0n;

  constructor(parts: DeliveryParts) {
    this.#parts = parts;
  }

  /** Delivers what is new. Fault: `authority-unavailable`. */
  async deliver(): Promise<'more' | 'idle'> {
    const { database, log } = this.#parts;
    const mark = await lastMark(database);
    this.#goOnFrom(mark);
    const cursor = await followerCursor(database, DELIVERY_FOLLOWER);
    const entries = ofOneStanding(fitting(await log.after(cursor, STEP)));
    const last = entries.at(-1);
    if (last === undefined) return this.#tellStanding(cursor);
    const { point, again, accepted } = await this.#send(entries, mark);
    if (point === null) return 'more';
    await database.transaction(async (tables) => {
      await moveCursor(tables, DELIVERY_FOLLOWER, again ?? last.cursor);
      if (again === null) await addMark(tables, { logCursor: last.cursor, point });
      await recoveredWithDelivery(tables, { before: mark?.point ?? HISTORY_START, after: point, accepted });
    });
    if (again === null) await this.#tellStanding(last.cursor);
    return 'more';
  }

  /** What the authority has had from this process it may have lost with the marks that were given up. */
  #goOnFrom(mark: DeliveryMark | null): void {
    const marked = mark?.logCursor ?? 0n;
    if (marked < this.#marked) {
      this.#sent.clear();
      this.#told.clear();
    }
    this.#marked = marked;
  }

  /** Tells of suspended devices all of whose records were delivered, up to the cursor: others bring their suspension with them. */
  async #tellStanding(delivered: bigint): Promise<'more' | 'idle'> {
    const { database, suspensions, authority } = this.#parts;
    const suspended = await database.read(async (tables) =>
      tables
        .selectFrom('head')
        .leftJoin('record', (join) =>
          join.onRef('record.device', '=', 'head.device').onRef('record.sequence', '=', 'head.sequence'),
        )
        .leftJoin('withdrawal', 'withdrawal.device', 'head.device')
        .select(['head.device', 'head.reason', 'withdrawal.device as withdrawn'])
        .where('head.suspended', '=', 1n)
        .where((eb) => eb.or([eb('record.cursor', 'is', null), eb('record.cursor', '<=', delivered)]))
        .orderBy('head.device')
        .execute(),
    );
    const untold = suspended
      .map(({ device, reason, withdrawn }) => ({ device: device as DeviceId, reason, withdrawn: withdrawn !== null }))
      .filter(({ device, withdrawn }) => !this.#isTold(device, withdrawn));
    const now = untold.slice(0, STEP);
    if (now.length === 0) return 'idle';
    const words: Uint8Array[] = [];
    for (const { device, reason } of now) words.push(signedOf(await suspensions.of(device, reason)));
    const answer = await authority.deliver({ certificates: [], items: [], suspensions: words });
    if (!answer.ok) throw new Fault('authority-unavailable', describeRejection(answer.rejection), { retry: 'later' });
    this.#noteTold(now);
    return untold.length > now.length ? 'more' : 'idle';
  }

  #noteTold(words: readonly { readonly device: DeviceId; readonly withdrawn: boolean }[]): void {
    const atMs = this.#parts.nowMs();
    for (const { device, withdrawn } of words) this.#told.set(device, { withdrawn, atMs });
  }

  #isTold(device: DeviceId, withdrawn: boolean): boolean {
    const told = this.#told.get(device);
    if (told?.withdrawn !== withdrawn) return false;
    const sinceMs = this.#parts.nowMs() - told.atMs;
    // Below zero the clock was set back.
    return sinceMs >= 0 && sinceMs < TELL_AGAIN_MS;
  }

  /**
   * `point`: where the authority stands then, or null where it has lost the mark. `again`: the cursor from which it has to be fed again.
   * `accepted`: how many were new to it.
   */
  async #send(
    entries: readonly LogEntry[],
    mark: DeliveryMark | null,
  ): Promise<{ readonly point: HistoryPoint | null; readonly again: bigint | null; readonly accepted: number }> {
    const { database, authority, registry, log, logs } = this.#parts;
    const wanted = new Map<string, Digest>();
    for (const { certificate, record } of entries) {
      for (const needed of [certificate, ...rotatedTo(record)]) {
        const name = digestText(needed);
        if (!this.#sent.has(name)) wanted.set(name, needed);
      }
    }
    const suspensions = await this.#suspensionsOf(entries);
    const answer = await authority.deliver({
      certificates: await registry.certificates([...wanted.values()]),
      items: entries.map(({ record, attestation }) => ({ record, attestation })),
      grantsCursor: Number(await this.#parts.grantsCursor()),
      ...(suspensions.length === 0 ? {} : { suspensions: suspensions.map(({ signed }) => signed) }),
      ...(mark === null ? {} : { since: mark.point }),
    });
    if (!answer.ok) throw new Fault('authority-unavailable', describeRejection(answer.rejection), { retry: 'later' });
    if (!answer.value.continues && mark !== null) {
      logs.warn('The authority has less than it had: it is fed again', { count: mark.point.cursor });
      await giveUpMark(database, mark);
      return { point: null, again: null, accepted: 0 };
    }
    this.#noteTold(suspensions);
    for (const name of wanted.keys()) this.#sent.add(name);
    let again: bigint | null = null;
    for (const [index, entry] of entries.entries()) {
      const result = answer.value.results[index];
      if (result === undefined) throw new Fault('authority-unavailable', 'an answer is missing', { retry: 'later' });
      if (result.outcome !== 'rejected') continue;
      const { device, sequence } = entry;
      const code = result.rejection?.code ?? 'try-again';
      logs.warn('The authority refused a record', { device, sequence, code });
      if (code === 'try-again') throw new Fault('authority-unavailable', 'it asks to try again', { retry: 'later' });
      if (code === 'unknown-device') {
        // It lost the certificate: the next delivery carries it again.
        this.#sent.clear();
        this.#told.clear();
        throw new Fault('authority-unavailable', `it does not know ${device} any more`, { retry: 'later' });
      }
      if (code !== 'out-of-order') {
        const name = `${device}#${sequence}`;
        const times = (this.#refusals.get(name) ?? 0) + 1;
        this.#refusals.set(name, times);
        if (times < REFUSALS)
          throw new Fault('authority-unavailable', `it refuses a record: ${code}`, { retry: 'later' });
        this.#refusals.delete(name);
        this.#refused.set(device, sequence);
        continue;
      }
      const expected = Number(result.rejection?.detail['expected'] ?? sequence);
      // Refused for good in the eyes of an earlier process. What this one has seen refused so it would refuse again, and everybody's records would
      // wait for that.
      if (expected < sequence && this.#refused.get(device) !== expected) {
        const first = await log.entry(device, expected);
        if (first !== null && (again === null || first.cursor - 1n < again)) again = first.cursor - 1n;
      }
    }
    const accepted = answer.value.results.filter(({ outcome }) => outcome === 'accepted').length;
    return { point: { cursor: answer.value.cursor, digest: answer.value.history }, again, accepted };
  }

  async #suspensionsOf(
    entries: readonly LogEntry[],
  ): Promise<readonly { readonly device: DeviceId; readonly withdrawn: boolean; readonly signed: Uint8Array }[]> {
    const { suspensions, registry, log } = this.#parts;
    const signed = [];
    for (const device of new Set(entries.filter((entry) => entry.suspended).map((entry) => entry.device))) {
      const withdrawn = (await registry.withdrawal(device)) !== null;
      const { reason } = await log.head(device);
      signed.push({ device, withdrawn, signed: signedOf(await suspensions.of(device, reason)) });
    }
    return signed;
  }
}

/** Without it the authority would take the device as one in good standing. Fault: `suspension-not-signed`. */
function signedOf(suspension: Result<Uint8Array>): Uint8Array {
  if (suspension.ok) return suspension.value;
  throw new Fault('suspension-not-signed', describeRejection(suspension.rejection), { retry: 'later' });
}

/** The certificate that a key rotation names. */
function rotatedTo(record: Uint8Array): readonly Digest[] {
  const envelope = parseEnvelope(record);
  if (!envelope.ok || envelope.value.type !== KEY_ROTATION.type) return [];
  const rotation = parsePayload(KEY_ROTATION, envelope.value);
  return rotation.ok ? [rotation.value.newCertificate] : [];
}

/** Up to where a device's standing changes: a delivery's suspensions hold for all of its items. */
function ofOneStanding(entries: readonly LogEntry[]): readonly LogEntry[] {
  const standing = new Map<DeviceId, boolean>();
  const end = entries.findIndex(({ device, suspended }) => {
    const before = standing.get(device);
    standing.set(device, suspended);
    return before !== undefined && before !== suspended;
  });
  return end === -1 ? entries : entries.slice(0, end);
}

/** As many as fit in one delivery, at least one. */
function fitting(entries: readonly LogEntry[]): readonly LogEntry[] {
  let bytes = 0;
  const end = entries.findIndex((entry, index) => {
    bytes += entry.record.length + entry.attestation.length;
    return index > 0 && bytes > STEP_BYTES;
  });
  return end === -1 ? entries : entries.slice(0, end);
}
