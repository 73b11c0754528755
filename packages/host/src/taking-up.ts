/**
 * What a start takes up: records that only the device has, what waits in the outbox, and a mailing that a crash cut off.
 *
 * Guarantees: a device or server that does not answer yet only puts it off; the outbox and the next command try again.
 */
import { Fault } from '@countermark/node-platform/fault';
import { adoptRecords, type ClosingOptions } from './batch-closing.ts';
import type { DeviceLink } from './device-link.ts';
import type { HostParts } from './host-parts.ts';
import type { JobRunner } from './job-runner.ts';
import type { News } from './news.ts';
import type { Outbox } from './outbox.ts';
import { statusOf } from './psd-client.ts';
import type { SettlementFollower } from './settlement.ts';

export type TakingUpOptions = {
  readonly log: HostParts['log'];
  readonly closing: ClosingOptions;
  readonly link: DeviceLink;
  readonly outbox: Outbox;
  readonly settlement: SettlementFollower;
  readonly runner: JobRunner;
  readonly news: News;
};

export class TakingUp {
  readonly #options: TakingUpOptions;
  #searching = false;

  constructor(options: TakingUpOptions) {
    this.#options = options;
  }

  /** Records that the device has and the journal may lack are being looked for. */
  get searching(): boolean {
    return this.#searching;
  }

  async start(): Promise<void> {
    const { log, outbox, settlement, runner, news } = this.#options;
    this.#searching = true;
    outbox.start();
    await this.#search();
    this.#searching = false;
    news.announce();
    settlement.kick();
    try {
      await runner.resume();
    } catch (error) {
      // The mailing stays where its journal says, and is gone on with when it is asked for again, or at the next start.
      if (!(error instanceof Fault)) throw error;
      log.warn('Going on with a mailing was put off', { reason: error.message });
    }
  }

  async #search(): Promise<void> {
    const { log, closing, link, outbox } = this.#options;
    try {
      const device = await statusOf(closing.psd);
      if (device.sequence > 0) await adoptRecords(closing);
      outbox.kick();
      if (device.batch === undefined) await link.enrolled();
    } catch (error) {
      if (!(error instanceof Fault)) log.error('Taking up failed', error);
      else log.warn('Taking up was put off', { reason: error.message });
    }
  }
}
