/**
 * The rotation of the device's keys, carried out between device and server.
 *
 * Guarantees: asked again after a crash of any party, at any point, it goes on where it stood and comes to its end once: the epoch
 * that it is to reach is in the store before the device makes keys, until the rotation's record is in the store too. The device
 * makes its keys once, the server certifies them once, and the record is sealed with the change; this host only carries bytes.
 * A second rotation is begun by asking again only after the first was answered; who must know names the epoch.
 */
import type { RotateAnswer } from '@countermark/protocol/interfaces/host';
import { type DeviceStatus, PSD } from '@countermark/protocol/interfaces/psd';
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import type { Archive } from './archive.ts';
import { adoptRecords, type ClosingOptions } from './batch-closing.ts';
import type { DeviceLink } from './device-link.ts';
import type { Funds } from './funds.ts';
import type { Outbox } from './outbox.ts';
import { statusOf } from './psd-client.ts';
import { deviceReport, recordReport } from './report.ts';

export type RotationOptions = {
  readonly closing: ClosingOptions;
  readonly link: Pick<DeviceLink, 'enrolled' | 'certify' | 'keepCertificate'>;
  readonly funds: Pick<Funds, 'whileNoneIsPending'>;
  readonly outbox: Pick<Outbox, 'kick' | 'nextAttemptMs'>;
  readonly archive: Pick<Archive, 'layOutRotations'>;
};

export class Rotation {
  readonly #options: RotationOptions;
  #inHand: Promise<Result<RotateAnswer>> | null = null;

  constructor(options: RotationOptions) {
    this.#options = options;
  }

  /**
   * Takes the device to the epoch `to`, default its next one; whoever asks meanwhile gets the same answer.
   * Rejections: `usage` (no neighbouring epoch), those of the PSD (`batch-open`, `rotation-unconfirmed`...) and of the server.
   */
  rotate(to?: number): Promise<Result<RotateAnswer>> {
    this.#inHand ??= this.#rotate(to).finally(() => {
      this.#inHand = null;
    });
    return this.#inHand;
  }

  async #rotate(to: number | undefined): Promise<Result<RotateAnswer>> {
    const { link, closing, outbox, archive } = this.#options;
    const { journal, psd } = closing;
    const enrolled = await link.enrolled();
    if (!enrolled.ok) return enrolled;
    const { epoch } = enrolled.value;
    const goal = this.#goal(epoch);
    const target = to ?? goal ?? epoch + 1;
    if (target > epoch + 1 || target < epoch) {
      const reason = `The device is in key epoch ${epoch}: it can go to ${epoch + 1} only.`;
      return refuse(rejection('usage', { reason }));
    }
    if (target > epoch) {
      const gone = await this.#goTo(target, enrolled.value);
      if (!gone.ok) return gone;
    }
    await adoptRecords(closing);
    outbox.kick();
    archive.layOutRotations();
    const device = await statusOf(psd);
    // Last of all: whatever fails before it is gone on with when it is asked again.
    journal.forget('rotation');
    const record = journal.records.rotations().at(-1);
    return accept({
      rotated: target > epoch,
      resumed: goal !== null,
      epoch: device.epoch,
      record: record === undefined ? null : recordReport(journal, record, closing.clock.nowMs(), outbox.nextAttemptMs),
      device: deviceReport(device),
    });
  }

  /** From the device's keys to its record; each step can be taken again. */
  #goTo(epoch: number, status: DeviceStatus): Promise<Result<unknown>> {
    const { link, closing, funds } = this.#options;
    const { journal, psd } = closing;
    // Told before anything is begun, and before funds are asked about.
    if (status.batch !== undefined)
      return Promise.resolve(refuse(rejection('batch-open', { batch: status.batch.batch })));
    return funds.whileNoneIsPending(async () => {
      journal.keep('rotation', new TextEncoder().encode(String(epoch)));
      const begun = await psd.call(PSD.rotateBegin, {});
      if (!begun.ok) {
        journal.forget('rotation');
        return begun;
      }
      const issued = await link.certify(begun.value);
      if (!issued.ok) return issued;
      const rotated = await psd.call(PSD.rotate, { certificate: issued.value.certificate });
      if (!rotated.ok && rotated.rejection.code !== 'already-confirmed') return rotated;
      link.keepCertificate(issued.value);
      return accept(null);
    });
  }

  /** The epoch of a rotation that was begun here and did not come to its end; a journal from a backup may name one long past. */
  #goal(epoch: number): number | null {
    const kept = this.#options.closing.journal.kept('rotation');
    const goal = kept === undefined ? Number.NaN : Number(new TextDecoder().decode(kept));
    return goal === epoch || goal === epoch + 1 ? goal : null;
  }
}
