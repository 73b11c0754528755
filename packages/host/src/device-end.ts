/**
 * The end of the device, carried out by its host where its policy closes it: what is open is closed and reported, then the device makes
 * its final statement, which goes the way of every record.
 *
 * Guarantees: each step can be taken again after a crash of any party, at any point, and what was done is not done twice: where it
 * stands is asked of the device, nothing is kept here. A mailing that is in hand is not cut off within a piece: the device
 * refuses its next chunk, and the batch is closed with what it has. Pieces that the device refused are not franked; they stay
 * staged for another device. Moves no money: the device gives its funds back in its statement, the server refunds them.
 */
import type { DeviceStatus } from '@countermark/protocol/interfaces/psd';
import { PSD } from '@countermark/protocol/interfaces/psd';
import { accept, type Result } from '@countermark/protocol/result';
import type { Archive } from './archive.ts';
import { adoptRecords, type ClosingOptions } from './batch-closing.ts';
import type { BatchesDesk } from './batches-desk.ts';
import type { JobRunner } from './job-runner.ts';
import type { Outbox } from './outbox.ts';

export type DeviceEndOptions = {
  readonly closing: ClosingOptions;
  readonly batches: Pick<BatchesDesk, 'close'>;
  readonly runner: Pick<JobRunner, 'inHand'>;
  readonly outbox: Pick<Outbox, 'kick'>;
  readonly archive: Pick<Archive, 'layOutEnd'>;
};

export class DeviceEnd {
  readonly #options: DeviceEndOptions;

  constructor(options: DeviceEndOptions) {
    this.#options = options;
  }

  /**
   * Takes the next step of a device that its policy closes; false as long as something has to be tried again, true where nothing has,
   * or only confirmations are waited for, which bring it here again.
   * Rejections: those of closing a batch and of the PSD's `final-statement`.
   */
  async goOn(status: DeviceStatus): Promise<Result<boolean>> {
    const { closing, batches, runner, outbox, archive } = this.#options;
    if (status.closing !== true) return accept(true);
    if (status.zeroised === true) {
      archive.layOutEnd();
      return accept(true);
    }
    if (runner.inHand !== null) return accept(false);
    if (status.batch !== undefined) {
      const closed = await batches.close({});
      return closed.ok ? accept(false) : closed;
    }
    if (status.finalSequence === undefined && status.unconfirmedRecords === 0) {
      // A grant that is on its way comes first; whoever fetches it comes here again.
      if (status.pendingFundsRequest !== undefined) return accept(false);
      const made = await closing.psd.call(PSD.finalStatement, {});
      if (!made.ok && made.rejection.code !== 'already-confirmed') return made;
    }
    await adoptRecords(closing);
    archive.layOutEnd();
    outbox.kick();
    return accept(true);
  }
}
