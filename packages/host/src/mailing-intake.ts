/**
 * A mailing on its way in: the job that it is, and its file checked and staged for this host's device and tariff.
 *
 * Guarantees: the same file without a job's id is the same job. What is staged nobody sees until it is activated.
 */
import { hex, type JobId } from '@countermark/protocol/id';
import type { MailingOptions } from '@countermark/protocol/interfaces/host';
import type { DeviceStatus } from '@countermark/protocol/interfaces/psd';
import { accept, type Result } from '@countermark/protocol/result';
import { shippedTariff, type ShippedTariff } from '@countermark/tariff/shipped';
import type { DeviceLink } from './device-link.ts';
import type { RatedParts } from './host-parts.ts';
import { fileDigest } from './mailing.ts';
import { type Taken, takeMailing } from './mailing-desk.ts';

/** A mailing by its job and the SHA-256 of its file. */
export type NamedMailing = { readonly job: JobId; readonly digest: Uint8Array };

export class MailingIntake {
  readonly #parts: RatedParts;
  readonly #link: DeviceLink;

  constructor(parts: RatedParts, link: DeviceLink) {
    this.#parts = parts;
    this.#link = link;
  }

  async named(mailing: MailingOptions): Promise<Result<NamedMailing>> {
    const digest = await fileDigest(mailing.file);
    if (!digest.ok) return digest;
    const job = (mailing.job ?? `job_${hex(digest.value).slice(0, 32)}`) as JobId;
    return accept({ job, digest: digest.value });
  }

  /** The tariff that the mailing names, or the host's own. */
  tariffOf(mailing: MailingOptions): ShippedTariff {
    const { tariff } = this.#parts;
    return mailing.tariff === undefined ? tariff : (shippedTariff(mailing.tariff) ?? tariff);
  }

  /** Checks and stages the file. Rejections: those of `takeMailing`. */
  take(
    mailing: MailingOptions,
    { job, digest }: NamedMailing,
    device: DeviceStatus,
    progress: (rows: number) => void,
  ): Promise<Result<Taken>> {
    const { journal, clock, config } = this.#parts;
    const options = { journal, clock, customers: config.customers, output: config.output };
    const { tariff } = this.tariffOf(mailing);
    return takeMailing(options, { ...mailing, job }, digest, tariff, this.#link.policy(), device.memory, progress);
  }
}
