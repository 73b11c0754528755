/**
 * Waiting for a job, or for all, to be settled.
 *
 * Guarantees: ends when everything is confirmed and its grants have arrived, when only a hold or a person can go on, at the time
 * limit, or when the host closes. Changes nothing.
 */
import type { JobId } from '@countermark/protocol/id';
import type { WaitAnswer } from '@countermark/protocol/interfaces/host';
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import type { JobReports } from './job-reports.ts';
import type { JobRunner } from './job-runner.ts';
import type { Journal } from './journal.ts';
import type { News } from './news.ts';
import type { PendingWork } from './pending-work.ts';
import type { TakingUp } from './taking-up.ts';

const WAIT_DEFAULT_MS = 300_000;
/** Reasons against which waiting cannot help: someone must act. */
const BLOCKED = new Set([
  'fork',
  'inconsistent',
  'superseded-key',
  'bad-authenticator',
  'confirmation-mismatch',
  'quarantined',
]);

export type WaitingOptions = {
  readonly journal: Journal;
  readonly news: News;
  readonly pending: PendingWork;
  readonly reports: JobReports;
  readonly runner: Pick<JobRunner, 'inHand'>;
  readonly takingUp: Pick<TakingUp, 'searching'>;
};

export class Waiting {
  readonly #options: WaitingOptions;
  readonly #ended = new AbortController();

  constructor(options: WaitingOptions) {
    this.#options = options;
  }

  /** Waits until everything of a job (or of all) is confirmed and its grants have arrived, or cannot by waiting. */
  async wait(job: string | undefined, timeoutMs = WAIT_DEFAULT_MS): Promise<Result<WaitAnswer>> {
    const { journal, news, pending, runner, takingUp } = this.#options;
    if (job !== undefined && journal.jobs.get(job) === undefined && runner.inHand !== job) {
      return refuse(rejection('unknown-job', { job }));
    }
    const deadline = AbortSignal.any([AbortSignal.timeout(timeoutMs), this.#ended.signal]);
    for (;;) {
      // Before the look, so that news between look and wait are not lost.
      const next = news.next(deadline);
      const busy = job === undefined ? takingUp.searching || runner.inHand !== null : runner.inHand === job;
      if (!busy) {
        const now = pending.of(job);
        if (now.length === 0) return this.#answer('settled', job);
        // Grants of what was confirmed are still awaited; what is held is not.
        // A record that still waits is tried again, whatever it was refused for last.
        const tried = (sequence: number | undefined): boolean =>
          sequence !== undefined && this.#options.journal.records.get(sequence)?.state === 'waiting';
        const awaited = now.filter(
          ({ reason, sequence }) => reason !== 'held' && (!BLOCKED.has(reason) || tried(sequence)),
        );
        const others = awaited.filter(({ what }) => what !== 'pieces' && what !== 'batch');
        if (others.length === 0) {
          return this.#answer(now.some(({ reason }) => reason === 'held') ? 'hold' : 'blocked', job);
        }
      }
      if (deadline.aborted) return this.#answer('timeout', job);
      await next;
    }
  }

  /** Ends every wait. */
  close(): void {
    this.#ended.abort();
  }

  async #answer(outcome: WaitAnswer['outcome'], job: string | undefined): Promise<Result<WaitAnswer>> {
    const { journal, reports, pending } = this.#options;
    return accept({
      outcome,
      report: job !== undefined && journal.jobs.get(job) !== undefined ? await reports.of(job as JobId) : null,
      pending: pending.of(job),
    });
  }
}
