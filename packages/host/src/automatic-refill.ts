/**
 * Funds that the host asks for by itself while it franks, so that a mailing does not stop half way.
 *
 * Guarantees: asks only when the device has less than the threshold, for what is missing to the amount that it should hold and never
 * beyond what its policy lets it hold; by the one way of all requests (`funds.ts`), so that no two are pending. What is refused, or
 * cannot be asked, stops no franking: it is said once, and asked again only when the funds are used up, with the next mailing, or
 * after a refill by the operator. Does not decide what is granted.
 */
import { errorText, Fault } from '@countermark/node-platform/fault';
import type { Log } from '@countermark/node-platform/logs';
import type { JobId } from '@countermark/protocol/id';
import type { AutomaticRefillReport } from '@countermark/protocol/interfaces/host';
import { describeRejection } from '@countermark/protocol/rejection';
import type { Clock } from '@countermark/node-platform/clock';
import type { Funds } from './funds.ts';
import { type PsdClient, statusOf } from './psd-client.ts';

export type AutomaticRefillOptions = {
  readonly belowMills: bigint;
  readonly toMills: bigint;
  readonly psd: PsdClient;
  readonly funds: Pick<Funds, 'request' | 'complete'>;
  /** The most that the device may hold, as far as it is known. */
  readonly highestMills: () => bigint | null;
  readonly clock: Clock;
  readonly log: Log;
};

export class AutomaticRefill {
  readonly #options: AutomaticRefillOptions;
  #refused: { readonly reason: string; readonly atMs: number } | null = null;
  #available: bigint | null = null;

  constructor(options: AutomaticRefillOptions) {
    this.#options = options;
  }

  /** How it stands; null where nothing is asked for. */
  report(): AutomaticRefillReport | null {
    const { belowMills, toMills } = this.#options;
    return belowMills === 0n
      ? null
      : { belowMills: String(belowMills), toMills: String(toMills), refused: this.#refused };
  }

  /** Why it stands still, or null. */
  get refusal(): string | null {
    return this.#refused?.reason ?? null;
  }

  /** A mailing begins, or the operator refilled: what was refused before may be granted now. */
  renew(): void {
    this.#refused = null;
    this.#available = null;
  }

  /** Before a batch is franked, and after each chunk, which debited so much. */
  async franked(postageMills: bigint, job: JobId): Promise<void> {
    const { belowMills } = this.#options;
    if (belowMills === 0n || this.#refused !== null) return;
    // The device is asked only when its funds may be low: it has what it had, less what it debited since.
    if (this.#available !== null) this.#available -= postageMills;
    if (this.#available === null || this.#available < belowMills) await this.#ask(job, belowMills);
  }

  /**
   * The funds do not suffice for the next pieces, whatever the threshold is: asked once more, also where it was refused before. Says
   * whether any came.
   */
  async usedUp(job: JobId): Promise<boolean> {
    const { belowMills, toMills } = this.#options;
    return belowMills > 0n && this.#ask(job, toMills);
  }

  async #ask(job: JobId, belowMills: bigint): Promise<boolean> {
    const { toMills, psd, funds, highestMills } = this.#options;
    try {
      let status = await statusOf(psd);
      if (status.pendingFundsRequest !== undefined) {
        // One that was cut off may bring all that is missing.
        const completed = await funds.complete();
        if (!completed.ok) return this.#stands(describeRejection(completed.rejection));
        status = await statusOf(psd);
      }
      const { descendingMills } = status.registers;
      this.#available = descendingMills;
      if (descendingMills >= belowMills) return false;
      const highest = highestMills();
      const most = highest !== null && highest < toMills ? highest : toMills;
      // A policy that lets it hold no more than this: there is nothing to ask for.
      if (most <= descendingMills) return false;
      const granted = await funds.request(most - descendingMills, job);
      if (!granted.ok) return this.#stands(describeRejection(granted.rejection));
      const { amountMills, refusal } = granted.value;
      if (refusal !== undefined) return this.#stands(refusal);
      this.#refused = null;
      this.#available = descendingMills + amountMills;
      return amountMills > 0n;
    } catch (error) {
      if (!(error instanceof Fault)) throw error;
      return this.#stands(errorText(error));
    }
  }

  #stands(reason: string): false {
    const { clock, log } = this.#options;
    if (this.#refused?.reason !== reason) log.warn('An automatic refill was not granted: franking goes on', { reason });
    this.#refused = { reason, atMs: clock.nowMs() };
    return false;
  }
}
