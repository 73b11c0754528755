/**
 * The outbox: sealed records on their way to the server, in the order of their chain.
 *
 * Sessionless, records go over HTTP and their confirmations back to the PSD; in a session the PSD sends itself, through bytes that
 * the host only relays. At once or after a hold: then the bytes come from host memory, and nothing sends earlier, `send` included.
 * What a device that does not answer any more has sealed goes from host memory, too: it is not lost with it. A device that gets no session
 * any more reports without one.
 * Guarantees: all of it survives a restart, because it is decided from the store; a record leaves only by a verified
 * confirmation or into quarantine with its reason, never for what one altered message was told; failures are tried again with growing waits and jitter; what an answer says
 * besides a signed message only decides when to try again.
 */
import { Backoff } from '@countermark/node-platform/backoff';
import { type Clock, systemClock } from '@countermark/node-platform/clock';
import { errorText, Fault } from '@countermark/node-platform/fault';
import type { Log } from '@countermark/node-platform/logs';
import { nodeVerification } from '@countermark/node-platform/verification';
import type { Answer } from '@countermark/protocol/interfaces/answer';
import { MAX_SUBMISSION } from '@countermark/protocol/interfaces/answer';
import { PSD } from '@countermark/protocol/interfaces/psd';
import { CONFIRMATION } from '@countermark/protocol/messages/confirmation';
import { ATTESTATION } from '@countermark/protocol/messages/attestation';
import { sameBytes } from '@countermark/protocol/digest';
import type { Rejection } from '@countermark/protocol/rejection';
import { accept, type Result } from '@countermark/protocol/result';
import { type KeySource, verifyMessage } from '@countermark/verify/verified';
import type { Journal } from './journal.ts';
import type { ConfirmedRecord, RecordRow } from './journal-rows.ts';
import type { PsdClient } from './psd-client.ts';
import type { ServerClient } from './server-client.ts';
import type { SessionRelay } from './session-relay.ts';

export type OutboxOptions = {
  readonly journal: Journal;
  readonly psd: PsdClient;
  readonly server: Pick<ServerClient, 'submit' | 'restore'>;
  readonly session: SessionRelay | null;
  readonly hold: boolean;
  /** Decides when a hold ends. */
  readonly clock: Clock;
  readonly random: () => number;
  readonly keys: KeySource;
  readonly log: Log;
  /** Told when records were confirmed. */
  readonly onConfirmed: () => void;
  /** Gives the server the device's certificates: it does not know the device, or an epoch of its keys, any more. */
  readonly reintroduce: () => Promise<Result<unknown>>;
};

/** What became of one attempt. */
export type SendOutcome = { readonly sent: number; readonly confirmed: number; readonly trouble: string | null };

/** Of a session's or submission's answer, whichever way it came. */
type Outcome = Pick<Answer, 'confirmation' | 'attestation' | 'rejection'>;

/** Bytes of one submission, below a frame's bound. */
const SUBMISSION_BYTES_MAX = 3 * 1024 * 1024;
/** Answers after which the record will never be accepted. */
const FINAL = new Set([
  'fork',
  'inconsistent',
  'superseded-key',
  'bad-authenticator',
  'wrong-algorithm',
  'unsupported-version',
  'malformed',
  'unknown-field',
  'envelope-malformed',
  'cbor-malformed',
  'cbor-not-deterministic',
]);

/** Refusals that bytes altered on their way get as well: only when they come again and again do they say something of the record. */
const PERHAPS_ALTERED = new Set([...FINAL].filter((code) => code !== 'fork' && code !== 'inconsistent'));
const REFUSALS = 8;

/** Attempts, some minutes in all, after which a device that does not answer is no longer waited for: it may be dead. */
const ATTEMPTS_FOR_DEVICE = 5;

/** What a device says of a record that it has deleted: the host was killed before it stored the confirmation. */
const DELETED = new Set(['unknown-record', 'already-confirmed']);

export class Outbox {
  readonly #options: OutboxOptions;
  readonly #backoff: Backoff;
  readonly #ended = new AbortController();
  #wake = new AbortController();
  #running: Promise<void> | null = null;
  #sending: Promise<SendOutcome> | null = null;
  #resendFrom: number | null = null;
  /** Refusals in succession, by sequence. */
  readonly #refusals = new Map<number, number>();
  #nextAttemptMs: number | null = null;
  #trouble: string | null = null;

  constructor(options: OutboxOptions) {
    this.#options = options;
    this.#backoff = new Backoff({ firstMs: 500, mostMs: 60_000, random: options.random });
  }

  /** Sends by itself from now on. */
  start(): void {
    this.#running ??= this.#loop();
  }

  /** A record was sealed, or the network may be back: tries at once what is due. */
  kick(): void {
    this.#backoff.reset();
    this.#nextAttemptMs = null;
    this.#wake.abort();
  }

  /** When the next attempt is made after a failure; null where nothing failed. In real time. */
  get nextAttemptMs(): number | null {
    return this.#nextAttemptMs;
  }

  get trouble(): string | null {
    return this.#trouble;
  }

  /**
   * Takes up what is in quarantine: for a person who asks, since what was wrong may have been on the way, or at a server that was
   * restored. What is refused for good comes back at once, and changes nothing for others.
   */
  requeue(): void {
    this.#refusals.clear();
    this.#options.journal.records.requeue();
  }

  /** Sends once what is due now. Does not bypass a hold. */
  async send(): Promise<SendOutcome> {
    let total: SendOutcome = { sent: 0, confirmed: 0, trouble: null };
    while (this.due(1).length > 0) {
      const turn = await this.#turn();
      total = { sent: total.sent + turn.sent, confirmed: total.confirmed + turn.confirmed, trouble: turn.trouble };
      if (turn.trouble !== null || turn.confirmed === 0) break;
    }
    return total;
  }

  async close(): Promise<void> {
    this.#ended.abort();
    this.#wake.abort();
    await this.#running;
    await this.#sending?.catch(() => undefined);
  }

  /** Records that may be sent now, in order. One that is held holds back those after it. */
  due(limit: number): RecordRow[] {
    const { journal, clock } = this.#options;
    const nowMs = clock.nowMs();
    const due: RecordRow[] = [];
    for (const record of journal.records.waiting(limit)) {
      if (record.holdUntilMs !== null && record.holdUntilMs > nowMs) {
        // Sealed by a clock that was ahead and was put right since: by that one it, and those after it, would be held for years.
        if (record.sealedMs > nowMs) journal.records.holdAnew(nowMs);
        break;
      }
      due.push(record);
    }
    return due;
  }

  async #loop(): Promise<void> {
    while (!this.#ended.signal.aborted) {
      this.#wake = new AbortController();
      const wake = AbortSignal.any([this.#wake.signal, this.#ended.signal]);
      try {
        if (this.due(1).length === 0) {
          await this.#untilDue(wake);
          continue;
        }
        const { trouble } = await this.#turn();
        if (trouble === null) continue;
      } catch (error) {
        // A full disk takes no note of what was sent: it is sent again when there is room.
        this.#trouble = this.#failed(error);
      }
      const waitMs = this.#backoff.nextMs();
      this.#nextAttemptMs = systemClock.nowMs() + waitMs;
      await systemClock.sleep(waitMs, wake);
      this.#nextAttemptMs = null;
    }
  }

  /** Until the first hold ends, by the hold's clock. */
  async #untilDue(wake: AbortSignal): Promise<void> {
    const { journal, clock } = this.#options;
    const [first] = journal.records.waiting(1);
    const untilMs = first?.holdUntilMs ?? null;
    if (untilMs === null) await aborted(wake);
    else await clock.sleep(Math.max(1, untilMs - clock.nowMs()), wake);
  }

  /** One attempt at a time, whoever asks. */
  #turn(): Promise<SendOutcome> {
    this.#sending ??= this.#attempt().finally(() => {
      this.#sending = null;
    });
    return this.#sending;
  }

  async #attempt(): Promise<SendOutcome> {
    const { journal, log, onConfirmed, clock } = this.#options;
    let records = this.#batch();
    const sequences = records.map(({ sequence }) => sequence);
    const confirmed: ConfirmedRecord[] = [];
    let again = 0;
    let trouble: string | null = null;
    try {
      const { session, chosen } = await this.#route(records);
      records = chosen;
      const outcomes = await this.#deliver(session, records);
      this.#resendFrom = null;
      if (!outcomes.ok) trouble = outcomes.rejection.code;
      else {
        const unknown = outcomes.value.some(({ rejection: refused }) => refused?.code === 'unknown-device');
        if (unknown) await this.#reintroduce();
        for (const [i, record] of records.entries()) {
          const said = await this.#settle(record, outcomes.value[i] ?? {}, confirmed);
          if (said === null && record.state === 'confirmed') again += 1;
          else if (said !== null && record.state === 'waiting') trouble ??= said;
        }
      }
    } catch (error) {
      trouble = this.#failed(error);
    }
    // The device has deleted them; a crash before this only sends them again.
    journal.records.settleAttempt(sequences, trouble, confirmed, clock.nowMs());
    this.#trouble = trouble;
    if (trouble === null) this.#backoff.reset();
    else log.warn('Records were not all confirmed', { reason: trouble, count: sequences.length });
    if (confirmed.length > 0) onConfirmed();
    return { sent: records.length, confirmed: confirmed.length + again, trouble };
  }

  /** Why an attempt failed, in a word. */
  #failed(error: unknown): string {
    if (error instanceof Fault) return error.code;
    this.#options.log.error('Sending failed', error);
    return errorText(error);
  }

  /** The next attempt shows whether it helped. */
  async #reintroduce(): Promise<void> {
    const { reintroduce, log } = this.#options;
    const given = await reintroduce();
    if (given.ok) log.info('The server was given the certificates of the device again');
    else log.warn('The server did not take the certificates of the device', { reason: given.rejection.code });
  }

  /** What goes out together: what is due, or, where the server lost records, the archived ones from there on. */
  #batch(): RecordRow[] {
    const { journal } = this.#options;
    const due = this.due(MAX_SUBMISSION);
    const [first] = due;
    const candidates =
      this.#resendFrom !== null && first !== undefined && this.#resendFrom < first.sequence
        ? journal.records.from(this.#resendFrom, MAX_SUBMISSION).filter(({ state }) => state === 'confirmed')
        : [];
    const chosen = candidates.length > 0 ? candidates : due;
    let bytes = 0;
    return chosen.filter((record) => {
      bytes += record.bytes.length + 16;
      return bytes <= SUBMISSION_BYTES_MAX;
    });
  }

  /**
   * Which of them go now, and whether in a session: what the device has deleted already it cannot send again. In the order of the chain: a device
   * that was put back has later records no more, and what it holds must be judged before them.
   */
  async #route(records: RecordRow[]): Promise<{ session: SessionRelay | null; chosen: RecordRow[] }> {
    const { psd, session } = this.#options;
    if (session === null) return { session, chosen: records };
    const kept = await psd.call(PSD.records, {}).catch((error: unknown) => withoutDevice(error, records));
    // Nobody is there to hold the session: the records go without one.
    if (kept === null) return { session: null, chosen: records };
    if (!kept.ok) return { session, chosen: records };
    const sequences = new Set(kept.value.records.map(({ sequence }) => sequence));
    const isDeleted = ({ sequence, state }: RecordRow): boolean => state === 'waiting' && !sequences.has(sequence);
    const first = records.findIndex(isDeleted);
    if (first !== 0) return { session, chosen: first === -1 ? records : records.slice(0, first) };
    const held = records.findIndex((record) => !isDeleted(record));
    return { session: null, chosen: held === -1 ? records : records.slice(0, held) };
  }

  #deliver(session: SessionRelay | null, records: readonly RecordRow[]): Promise<Result<readonly Outcome[]>> {
    const lost = records.some(({ state }) => state === 'confirmed');
    const archived = records.flatMap(({ bytes, attestation, confirmation }) =>
      attestation === null || confirmation === null ? [] : [{ record: bytes, attestation, confirmation }],
    );
    // What the server confirmed once and then lost: with its own words, which it recognises.
    if (lost && archived.length === records.length) return this.#options.server.restore(archived);
    // What the device has deleted it cannot send again in a session.
    return session === null || lost ? this.#submit(records) : this.#sendInSession(session, records);
  }

  /** Sessionless. At once, the bytes come from the PSD; after a hold, from host memory (claim 11). */
  async #submit(records: readonly RecordRow[]): Promise<Result<readonly Outcome[]>> {
    const { psd, server, hold } = this.#options;
    const bytes: Uint8Array[] = [];
    let fromMemory = hold;
    for (const record of records) {
      const { sequence } = record;
      const own = fromMemory
        ? null
        : await psd.call(PSD.record, { sequence }).catch((error: unknown) => withoutDevice(error, records));
      // Each further question would wait for the device again.
      fromMemory = own === null;
      if (own !== null && !own.ok && !DELETED.has(own.rejection.code)) return own;
      bytes.push(own?.ok === true ? own.value.record : record.bytes);
    }
    return server.submit(bytes);
  }

  async #sendInSession(session: SessionRelay, records: readonly RecordRow[]): Promise<Result<readonly Outcome[]>> {
    const { hold, log } = this.#options;
    const results = await session.send(
      records.map(({ sequence, bytes }) => (hold ? { sequence, record: bytes } : { sequence })),
    );
    // Whoever is not let in any more must still report, a device with evidence of a fork above all: the bytes are the same.
    if (!results.ok && results.rejection.code === 'session-refused') {
      log.warn('The device gets no session: its records go without one', {
        reason: String(results.rejection.detail['reason']),
      });
      return this.#submit(records);
    }
    if (!results.ok) return results;
    const bySequence = new Map(results.value.map((result) => [result.sequence, result]));
    return accept(records.map(({ sequence }) => bySequence.get(sequence) ?? {}));
  }

  /** Null where the record is confirmed (what to keep of it is added to `confirmed`); else what stands against it. */
  async #settle(record: RecordRow, outcome: Outcome, confirmed: ConfirmedRecord[]): Promise<string | null> {
    const { journal } = this.#options;
    const { confirmation, rejection: refused } = outcome;
    if (confirmation === undefined) return refused === undefined ? 'unanswered' : this.#refused(record, refused);
    if (record.state === 'confirmed') return null;
    const attestation = this.attestation(record, outcome.attestation);
    const given = await this.confirm(confirmation).catch((error: unknown) => {
      // The server has it; the device is told when it answers again.
      journal.records.markSent(record.sequence, confirmation);
      throw error;
    });
    this.#refusals.delete(record.sequence);
    if (given.ok) {
      confirmed.push({ sequence: record.sequence, confirmation, attestation });
      return null;
    }
    // What is wrong with a confirmation says nothing of the record, unless it is authentic and names another.
    const { code } = given.rejection;
    if (code === 'confirmation-mismatch') this.#quarantine(record, code);
    else journal.records.noteReason(record.sequence, code);
    return code;
  }

  /** The attestation, if it is authentic and of this record. */
  attestation(record: RecordRow, bytes: Uint8Array | undefined): Uint8Array | null {
    if (bytes === undefined) return null;
    const { keys } = this.#options;
    const attestation = verifyMessage(ATTESTATION, bytes, { port: nodeVerification, keys });
    return attestation.ok && sameBytes(attestation.value.message.digest, record.digest) ? bytes : null;
  }

  /** Checks a confirmation and gives it to the PSD, which checks it again and deletes its record. */
  async confirm(confirmation: Uint8Array): Promise<Result<unknown>> {
    const { psd, keys } = this.#options;
    const verified = verifyMessage(CONFIRMATION, confirmation, { port: nodeVerification, keys });
    if (!verified.ok) return verified;
    const given = await psd.call(PSD.confirm, { confirmation });
    return !given.ok && given.rejection.code === 'already-confirmed' ? accept(null) : given;
  }

  async #refused(record: RecordRow, refused: Rejection): Promise<string> {
    const { journal, log } = this.#options;
    const { code, detail } = refused;
    if (record.state !== 'waiting') return code;
    if (code === 'out-of-order') {
      const expected = Number(detail.expected);
      if (Number.isSafeInteger(expected) && expected >= 1) this.#resendFrom = expected;
      return code;
    }
    if (
      (code === 'bad-authenticator' || code === 'record-differs' || FINAL.has(code)) &&
      (await this.#restored(record))
    ) {
      log.warn('Host memory had another record than the device: the device’s was taken', { sequence: record.sequence });
      return code;
    }
    const times = (this.#refusals.get(record.sequence) ?? 0) + 1;
    this.#refusals.set(record.sequence, times);
    if (FINAL.has(code) && (times >= REFUSALS || !PERHAPS_ALTERED.has(code))) this.#quarantine(record, code);
    else journal.records.noteReason(record.sequence, code);
    return code;
  }

  #quarantine({ sequence }: RecordRow, code: string): void {
    this.#refusals.delete(sequence);
    this.#options.journal.records.quarantine(sequence, code);
    this.#options.log.warn('A record was quarantined', { sequence, code });
  }

  /** Whether host memory had been altered, and has the device's own bytes again. */
  async #restored(record: RecordRow): Promise<boolean> {
    const { journal, psd } = this.#options;
    const own = await psd.call(PSD.record, { sequence: record.sequence });
    if (!own.ok || sameBytes(own.value.record, record.bytes)) return false;
    journal.records.replaceBytes(record.sequence, own.value.record);
    return true;
  }
}

/** Null where the device did not answer, not for the first time; else throws what it was asked with. */
function withoutDevice(error: unknown, records: readonly RecordRow[]): null {
  if (error instanceof Fault && records.every(({ attempts }) => attempts >= ATTEMPTS_FOR_DEVICE)) return null;
  throw error;
}

function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => {
    signal.addEventListener(
      'abort',
      () => {
        resolve();
      },
      { once: true },
    );
  });
}
