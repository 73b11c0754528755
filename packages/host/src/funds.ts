/**
 * Funds for the device: one pending request, brought to the server and its grant back.
 *
 * Guarantees: a request whose answer was lost is brought again as the same bytes, and granted once; a grant is in the store
 * before the device takes it, and counts as taken once the device has it, whoever died; what is asked while an older request is
 * pending is asked after that one was answered.
 */
import { nodeVerification } from '@countermark/node-platform/verification';
import type { JobId } from '@countermark/protocol/id';
import { type DeviceStatus, PSD } from '@countermark/protocol/interfaces/psd';
import { FUNDS_GRANT, type FundsGrant } from '@countermark/protocol/messages/funds';
import { type Mills, mills } from '@countermark/protocol/money';
import type { RejectionCode } from '@countermark/protocol/rejection';
import { accept, type Result } from '@countermark/protocol/result';
import { type KeySource, verifyMessage } from '@countermark/verify/verified';
import type { Journal } from './journal.ts';
import { type PsdClient, statusOf } from './psd-client.ts';
import type { ServerClient } from './server-client.ts';
import { readUnverified } from './unverified-message.ts';

/** The code with which such a refusal begins. */
const MISMATCH: RejectionCode = 'funds-total-mismatch';

export class Funds {
  readonly #psd: PsdClient;
  readonly #server: ServerClient;
  readonly #journal: Journal;
  readonly #keys: KeySource;
  readonly #reintroduce: () => Promise<Result<unknown>>;
  #last: Promise<unknown> = Promise.resolve();

  /** `reintroduce` gives the server the device's certificates: it does not know the device, or an epoch of its keys, any more. */
  constructor(
    psd: PsdClient,
    server: ServerClient,
    journal: Journal,
    keys: KeySource,
    reintroduce: () => Promise<Result<unknown>>,
  ) {
    this.#keys = keys;
    this.#psd = psd;
    this.#server = server;
    this.#journal = journal;
    this.#reintroduce = reintroduce;
  }

  /**
   * Asks for funds; 0 asks only for drawn credits. The grant may be a refusal. Rejections: those of the PSD and of the server.
   * Faults: `server-unreachable`; the request then stays pending.
   */
  request(amountMills: bigint, job: JobId | null): Promise<Result<FundsGrant>> {
    const asked = this.#last.then(() => this.#request(amountMills, job));
    this.#last = asked.catch(() => undefined);
    return asked;
  }

  /**
   * Does what needs that no request is pending, as a change of keys does: after those that were asked for, before any other.
   * Rejections: those of the work, and of a pending request that is not granted.
   */
  whileNoneIsPending<T>(work: () => Promise<Result<T>>): Promise<Result<T>> {
    const done = this.#last.then(async () => {
      const status = await statusOf(this.#psd);
      const before = status.pendingFundsRequest === undefined ? null : await this.#once(mills(0n), null);
      return before?.ok === false ? before : work();
    });
    this.#last = done.catch(() => undefined);
    return done;
  }

  /**
   * Asks for what the device lacks of `neededMills`, as far as `highestMills` lets it hold that; says whether any came. Null: no
   * bound is known.
   */
  async requestMissing(neededMills: bigint, highestMills: bigint | null, job: JobId): Promise<boolean> {
    const { descendingMills } = (await statusOf(this.#psd)).registers;
    const missingMills = neededMills - descendingMills;
    const roomMills = highestMills === null ? neededMills : highestMills - descendingMills;
    const amountMills = missingMills < roomMills ? missingMills : roomMills;
    if (amountMills <= 0n) return false;
    const granted = await this.request(amountMills, job);
    return granted.ok && granted.value.amountMills > 0n;
  }

  /** Brings a request to its end that was interrupted: at the next connection, once. */
  complete(): Promise<Result<FundsGrant | null>> {
    const asked = this.#last.then(async (): Promise<Result<FundsGrant | null>> => {
      const { pendingFundsRequest } = await statusOf(this.#psd);
      return pendingFundsRequest === undefined ? accept(null) : this.#once(mills(0n), null);
    });
    this.#last = asked.catch(() => undefined);
    return asked;
  }

  async #request(amountMills: bigint, job: JobId | null): Promise<Result<FundsGrant>> {
    const status = await statusOf(this.#psd);
    if (status.pendingFundsRequest !== undefined) {
      const before = await this.#once(mills(0n), job);
      if (!before.ok) return before;
    }
    const granted = await this.#once(mills(amountMills), job);
    if (!granted.ok || granted.value.refusal?.startsWith(MISMATCH) !== true) return granted;
    // The server was restored from a backup that is older than some of the device's grants: it has them here.
    const given = await this.giveBack();
    return given.ok ? this.#once(mills(amountMills), job) : given;
  }

  /**
   * Notes what the device took while this host was killed before it could: else a server that was restored is never given it back. Only
   * what is authentic: there is one such grant of a number, and one that was altered on its way is not what the device took.
   */
  noteTaken({ device, funds }: Pick<DeviceStatus, 'device' | 'funds'>): void {
    for (const { number, bytes } of this.#journal.grants.fundsNotTaken(funds.lastGrant)) {
      const grant = verifyMessage(FUNDS_GRANT, bytes, { port: nodeVerification, keys: this.#keys });
      if (!grant.ok || grant.value.message.device !== device || grant.value.message.number !== number) continue;
      this.#journal.grants.fundsApplied(number);
    }
  }

  /** Gives the server every funds grant that the device has taken; it books those that it lost. */
  async giveBack(): Promise<Result<null>> {
    for (const grant of this.#journal.grants.fundsTaken()) {
      const taken = await this.#server.restoreFunds(grant);
      if (!taken.ok) return taken;
    }
    return accept(null);
  }

  async #once(amountMills: Mills, job: JobId | null): Promise<Result<FundsGrant>> {
    const request = await this.#psd.call(PSD.fundsRequest, { amountMills });
    if (!request.ok) return request;
    let grant = await this.#server.fundsRequest(request.value.request);
    if (!grant.ok && grant.rejection.code === 'unknown-device') {
      const known = await this.#reintroduce();
      if (!known.ok) return known;
      grant = await this.#server.fundsRequest(request.value.request);
    }
    if (!grant.ok) return grant;
    const parsed = readUnverified(FUNDS_GRANT, grant.value);
    if (!parsed.ok) return parsed;
    this.#journal.grants.addFunds(request.value.number, job, grant.value);
    // Its signature is for the device to check: only it is believed there.
    const booked = await this.#psd.call(PSD.fundsGrant, { grant: grant.value });
    if (!booked.ok) return booked;
    this.#journal.grants.fundsApplied(request.value.number);
    return accept(parsed.value);
  }
}

/** The funds grant of these bytes, which the device has taken. */
export function fundsGrantOf(bytes: Uint8Array): FundsGrant | null {
  const grant = readUnverified(FUNDS_GRANT, bytes);
  return grant.ok ? grant.value : null;
}
