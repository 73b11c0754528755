/**
 * The report of a job: its batches, postage, discounts, credits and draws, what is pending, and where its files are.
 *
 * Guarantees: the job's folder has every record, confirmation and grant that the report tells of, because they are laid out first.
 */
import type { JobId } from '@countermark/protocol/id';
import type { JobReport } from '@countermark/protocol/interfaces/host';
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { shippedTariff } from '@countermark/tariff/shipped';
import type { Archive } from './archive.ts';
import type { RatedParts } from './host-parts.ts';
import type { JobRow } from './journal-rows.ts';
import { piecesFranked } from './job-progress.ts';
import type { PendingWork } from './pending-work.ts';
import { runFiles } from './printing.ts';
import { statusOf } from './psd-client.ts';
import { batchReport, drawReports, grantReport, registersReport, wasOpened } from './report.ts';

export class JobReports {
  readonly #parts: RatedParts;
  readonly #archive: Archive;
  readonly #pending: PendingWork;
  /** Whether something of a job was franked before this process was asked for it. */
  readonly #resumed = new Map<string, boolean>();

  constructor(parts: RatedParts, archive: Archive, pending: PendingWork) {
    this.#parts = parts;
    this.#archive = archive;
    this.#pending = pending;
    for (const { job } of parts.journal.jobs.all()) this.#resumed.set(job, true);
  }

  /** The job is asked for, now: what is franked of it so far was franked before. */
  asked(job: JobId): void {
    this.#resumed.set(job, piecesFranked(this.#parts.journal, job) > 0);
  }

  async job(job: string): Promise<Result<JobReport>> {
    if (this.#parts.journal.jobs.get(job) === undefined) return refuse(rejection('unknown-job', { job }));
    return accept(await this.of(job as JobId));
  }

  /** Of a job that the journal knows. */
  async of(job: JobId): Promise<JobReport> {
    const { journal, clock, config, psd, tariff } = this.#parts;
    const nowMs = clock.nowMs();
    this.#archive.layOut(job);
    const row = journal.jobs.get(job) as JobRow;
    const { currency } = (shippedTariff(row.tariff) ?? tariff).tariff;
    const batches = journal.batches
      .ofJob(job)
      .filter(wasOpened)
      .map((batch) => batchReport(journal, batch, nowMs));
    const grants = journal.grants.ofJob(job).map(grantReport);
    const printed = journal.runs
      .ofJob(job)
      .filter((run) => run.printed)
      .at(-1);
    const files = printed === undefined ? null : runFiles(this.#archive, printed, config.pages);
    const device = await statusOf(psd);
    return {
      schema: 1,
      currency: currency.code,
      exponent: currency.exponent,
      job,
      resumed: this.#resumed.get(job) ?? false,
      pieces: batches.reduce((sum, { pieces }) => sum + pieces, 0),
      postageMills: String(batches.reduce((sum, { postageMills }) => sum + BigInt(postageMills), 0n)),
      batches,
      discounts: grants.filter(({ kind }) => kind === 'discount'),
      credits: grants.filter(({ kind }) => kind === 'credit'),
      draws: drawReports(journal.grants.fundsOfJob(job)),
      registers: registersReport(device.registers),
      pending: this.#pending.of(job),
      rejectedRows: row.rejectedRows,
      files: {
        indicia: files?.indicia ?? null,
        merge: files?.merge ?? null,
        records: this.#archive.recordsFolder(job),
        ...(row.errorsFile === null ? {} : { errors: row.errorsFile }),
      },
    };
  }
}
