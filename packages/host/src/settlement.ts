/**
 * What comes back after records were sent: attestations, signed time, newer policies, grants, and drawn credits as funds; and what a restored
 * server or host lacks (refeeding.ts).
 *
 * Guarantees: a grant is archived only after its signature was checked with the trust bundle; each is asked for until the server
 * says that everything sent so far was evaluated; asking again changes nothing. Goes on by itself while something is
 * outstanding, with growing waits, and stands still otherwise.
 */
import { Backoff } from '@countermark/node-platform/backoff';
import { systemClock } from '@countermark/node-platform/clock';
import { errorText, Fault } from '@countermark/node-platform/fault';
import type { Log } from '@countermark/node-platform/logs';
import { nodeVerification } from '@countermark/node-platform/verification';
import { parseEnvelope } from '@countermark/protocol/cose';
import type { LicenseeId } from '@countermark/protocol/id';
import { digestText } from '@countermark/protocol/digest';
import type { DeviceStatus } from '@countermark/protocol/interfaces/psd';
import { ATTESTATION } from '@countermark/protocol/messages/attestation';
import { CREDIT_GRANT, DISCOUNT_GRANT } from '@countermark/protocol/messages/grant';
import { type Rejection, rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { type KeySource, verifyMessage } from '@countermark/verify/verified';
import { type DeviceLink, isEnrolled } from './device-link.ts';
import type { Funds } from './funds.ts';
import type { Journal } from './journal.ts';
import { type PsdClient, statusOf } from './psd-client.ts';
import type { Refeeding } from './refeeding.ts';
import type { ServerClient } from './server-client.ts';

export type SettlementOptions = {
  readonly journal: Journal;
  readonly psd: PsdClient;
  readonly server: ServerClient;
  readonly link: DeviceLink;
  readonly funds: Funds;
  readonly refeeding: Refeeding;
  readonly licensee: LicenseeId;
  readonly keys: KeySource;
  readonly random: () => number;
  readonly log: Log;
  /** Takes the records that the device has sealed and this host lacks. */
  readonly adopt: () => Promise<void>;
  /** Takes the next step of a device that its policy closes; false: again soon. */
  readonly goOnEnding: (status: DeviceStatus) => Promise<Result<boolean>>;
  /** Told when the archive has something new. */
  readonly onNews: () => void;
};

const ATTESTATIONS_AT_ONCE = 64;
const LOOK_AGAIN_MS = 600_000;

export class SettlementFollower {
  readonly #options: SettlementOptions;
  readonly #backoff: Backoff;
  readonly #ended = new AbortController();
  #running: Promise<void> | null = null;
  #looking: AbortController | null = null;
  #again = false;
  /** Everything up to this sequence was evaluated, its grants archived and its draws collected. */
  #settledThrough = -1;
  #trouble: string | null = null;

  constructor(options: SettlementOptions) {
    this.#options = options;
    this.#backoff = new Backoff({ firstMs: 60, mostMs: 10_000, random: () => 0.5 + options.random() / 2 });
  }

  /** Whether nothing is outstanding for records up to this sequence. */
  settled(sequence: number): boolean {
    return sequence === 0 || this.#settledThrough >= sequence;
  }

  /** Why the last turn did not succeed, or null. */
  get trouble(): string | null {
    return this.#trouble;
  }

  /** Something was confirmed, or may have changed. */
  kick(): void {
    this.#again = true;
    this.#backoff.reset();
    this.#running ??= this.#follow().finally(() => {
      this.#running = null;
      if (this.#again && !this.#ended.signal.aborted) this.kick();
    });
  }

  #kicked(): boolean {
    return this.#again;
  }

  async close(): Promise<void> {
    this.#ended.abort();
    await this.#running;
  }

  async #follow(): Promise<void> {
    const { log } = this.#options;
    while (!this.#ended.signal.aborted) {
      this.#again = false;
      let done = false;
      try {
        const turn = await this.#turn();
        done = turn.ok && turn.value;
        this.#trouble = turn.ok ? null : turn.rejection.code;
      } catch (error) {
        if (!(error instanceof Fault)) log.error('Settling failed', error);
        this.#trouble = errorText(error);
      }
      if (done) {
        if (!this.#kicked()) {
          this.#lookAgain();
          return;
        }
        continue;
      }
      // Waiting is in real time: a clock that a test holds back must not hold back what has nothing to do with the hold.
      await systemClock.sleep(this.#backoff.nextMs(), this.#ended.signal);
    }
  }

  /** A server that is restored from a backup tells nobody: whoever has settled looks again from time to time. */
  #lookAgain(): void {
    this.#looking?.abort();
    const looking = new AbortController();
    this.#looking = looking;
    const either = AbortSignal.any([looking.signal, this.#ended.signal]);
    void systemClock.sleep(LOOK_AGAIN_MS, either).then(() => {
      if (!either.aborted) this.kick();
    });
  }

  /** One turn; true when nothing is outstanding. */
  async #turn(): Promise<Result<boolean>> {
    const { journal, psd, server, link, funds, refeeding, licensee, adopt } = this.#options;
    const status = await statusOf(psd, 2_000).catch((error: unknown) => this.#withoutDevice(error));
    // Before the server is given anything back: these belong to it.
    funds.noteTaken(status);
    const back = await refeeding.takeBack(status);
    if (!back.ok) return this.#introduced(back);
    // A start does it; what stood in its way then (a full disk, a device that was away) may be over.
    if (status.sequence > journal.records.lastSequences().sealed) await adopt();
    // Only now: what was taken back is confirmed, too.
    const { confirmed } = journal.records.lastSequences();
    await this.#attestations(status.device);
    const settlement = await server.settlement(status.device);
    if (!settlement.ok) return this.#introduced(settlement);
    if (!isEnrolled(status)) {
      // The server knows it: only the answer was lost. Nobody may ask for it again, and an order to close it would wait for ever.
      const enrolled = await link.enrolled();
      return enrolled.ok ? accept(false) : enrolled;
    }
    const { logged, evaluated, grantsCursor, drawableMills, suspended, policyDigest } = settlement.value;
    // Where it was withdrawn, its next policy lets it frank no more, and an operator may have chosen another; what is settled is
    // settled all the same.
    // An older one, or another of the same version, is of a server that was restored: what it signs next is above the device's only
    // where the device's is named.
    const own = status.policyDigest === undefined ? '' : digestText(status.policyDigest);
    if (suspended || policyDigest !== own) await link.refreshPolicy(status.device);
    const ending = await statusOf(psd, 2_000);
    const gone = await this.#options.goOnEnding(ending);
    if (!gone.ok) return gone;
    if (logged < confirmed) return this.#feed(logged);
    let cursor = journal.grants.lastCursor();
    for (;;) {
      const grants = await server.grants(licensee, cursor);
      if (!grants.ok) return grants;
      for (const { cursor: at, grant } of grants.value) {
        const kept = this.#keep(at, grant);
        if (!kept.ok) return kept;
        cursor = at;
      }
      if (grants.value.length === 0) break;
    }
    if (status.pendingFundsRequest !== undefined) {
      const completed = await funds.complete();
      if (!completed.ok) return completed;
    }
    // A device that is being closed asks for no more: what is drawn waits for another one of the licensee.
    const draws = ending.closing !== true;
    if (draws && BigInt(drawableMills) > 0n) {
      const drawn = await funds.request(0n, journal.jobs.last());
      if (!drawn.ok) return drawn;
    }
    if (cursor < grantsCursor || evaluated < confirmed) return accept(false);
    // Only now: a draw may follow from what was evaluated last.
    const last = await server.settlement(status.device);
    if (!last.ok) return last;
    if (!gone.value || (draws && BigInt(last.value.drawableMills) > 0n) || last.value.grantsCursor > cursor)
      return accept(false);
    if (this.#settledThrough < confirmed) {
      const timed = await link.refreshTime(status.device);
      if (!timed.ok) return timed;
    }
    this.#settledThrough = Math.max(this.#settledThrough, confirmed);
    this.#options.onNews();
    return accept(true);
  }

  async #feed(logged: number): Promise<Result<boolean>> {
    const { refeeding, log } = this.#options;
    log.warn('The server lacks records that it has confirmed: it is fed again', { sequence: logged + 1 });
    const fed = await refeeding.giveBack(logged);
    return fed.ok ? accept(false) : this.#introduced(fed);
  }

  /** A device that does not answer may be dead, and this archive the only one that a restored server can be fed from. @throws what the device was asked with. */
  async #withoutDevice(error: unknown): Promise<never> {
    const { journal, server, link } = this.#options;
    const device = link.lastKnown();
    const { confirmed } = journal.records.lastSequences();
    if (error instanceof Fault && device !== null) {
      const settlement = await server.settlement(device);
      if (!settlement.ok) await this.#introduced(settlement);
      else if (settlement.value.logged < confirmed) await this.#feed(settlement.value.logged);
    }
    throw error;
  }

  /** Gives a server its certificates back where it does not know the device, or an epoch of its keys, any more. */
  async #introduced(refused: Result<never>): Promise<Result<boolean>> {
    if (refused.ok || refused.rejection.code !== 'unknown-device') return refused;
    const { link, log } = this.#options;
    log.warn('The server does not know the device any more: it is given its certificates');
    const known = await link.reintroduce();
    return known.ok ? accept(false) : known;
  }

  async #attestations(device: Parameters<ServerClient['attestation']>[0]): Promise<void> {
    const { journal, server, keys } = this.#options;
    for (const sequence of journal.records.unattested(ATTESTATIONS_AT_ONCE)) {
      const attestation = await server.attestation(device, sequence);
      if (!attestation.ok) return;
      const verified = verifyMessage(ATTESTATION, attestation.value, { port: nodeVerification, keys });
      if (verified.ok) journal.records.addAttestation(sequence, attestation.value);
    }
  }

  #keep(cursor: number, bytes: Uint8Array): Result<null> {
    const { journal, keys, licensee, log, onNews } = this.#options;
    const envelope = parseEnvelope(bytes);
    if (!envelope.ok) return envelope;
    const credit = envelope.value.type === CREDIT_GRANT.type;
    const verified = verifyMessage(credit ? CREDIT_GRANT : DISCOUNT_GRANT, bytes, { port: nodeVerification, keys });
    if (!verified.ok || verified.value.message.licensee !== licensee) {
      const refused: Rejection = verified.ok
        ? rejection('malformed', { path: 'licensee', reason: 'the grant is for another licensee' })
        : verified.rejection;
      log.warn('A grant was not kept', { code: refused.code });
      return refuse(refused);
    }
    const { digest, message } = verified.value;
    journal.grants.add(cursor, digest, credit ? 'credit' : 'discount', bytes, message.evidence);
    onNews();
    return accept(null);
  }
}
