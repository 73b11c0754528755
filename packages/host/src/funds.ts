/**
 * Funds for the device: one pending request, brought to the server and its grant back.
 *
 * Guarantees: a request whose answer was lost is brought again as the same bytes, and granted once; a grant is in the store
 * before the device takes it; what is asked while an older request is pending is asked after that one was answered.
 */
import type { JobId } from '@countermark/protocol/id';
import { PSD } from '@countermark/protocol/interfaces/psd';
import { FUNDS_GRANT, type FundsGrant } from '@countermark/protocol/messages/funds';
import { type Mills, mills } from '@countermark/protocol/money';
import { accept, type Result } from '@countermark/protocol/result';
import type { Journal } from './journal.ts';
import { type PsdClient, statusOf } from './psd-client.ts';
import type { ServerClient } from './server-client.ts';
import { readUnverified } from './unverified-message.ts';

export class Funds {
  readonly #psd: PsdClient;
  readonly #server: ServerClient;
  readonly #journal: Journal;
  #last: Promise<unknown> = Promise.resolve();

  constructor(psd: PsdClient, server: ServerClient, journal: Journal) {
    this.#psd = psd;
    this.#server = server;
    this.#journal = journal;
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

  async #request(amountMills: bigint, job: JobId | null): Promise<Result<FundsGrant>> {
    const status = await statusOf(this.#psd);
    if (status.pendingFundsRequest !== undefined) {
      const before = await this.#once(mills(0n), job);
      if (!before.ok) return before;
    }
    return this.#once(mills(amountMills), job);
  }

  async #once(amountMills: Mills, job: JobId | null): Promise<Result<FundsGrant>> {
    const request = await this.#psd.call(PSD.fundsRequest, { amountMills });
    if (!request.ok) return request;
    const grant = await this.#server.fundsRequest(request.value.request);
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
