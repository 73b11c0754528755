/**
 * What is not done yet of a job, or of all, and why: pieces, batches, records, grants.
 *
 * Guarantees: what is not listed is settled: franked, confirmed, and its grants archived. Changes nothing.
 */
import type { PendingReport } from '@countermark/protocol/interfaces/host';
import type { HostParts } from './host-parts.ts';
import { piecesRemaining } from './job-progress.ts';
import type { RecordRow } from './journal-rows.ts';
import type { Outbox } from './outbox.ts';
import { isHeld, rejectionReport } from './report.ts';
import type { SettlementFollower } from './settlement.ts';

export class PendingWork {
  readonly #parts: Pick<HostParts, 'journal' | 'clock'>;
  readonly #outbox: Pick<Outbox, 'trouble'>;
  readonly #settlement: Pick<SettlementFollower, 'trouble' | 'settled'>;

  constructor(
    parts: Pick<HostParts, 'journal' | 'clock'>,
    outbox: Pick<Outbox, 'trouble'>,
    settlement: Pick<SettlementFollower, 'trouble' | 'settled'>,
  ) {
    this.#parts = parts;
    this.#outbox = outbox;
    this.#settlement = settlement;
  }

  /** Of this job; of all where none is named. */
  of(job: string | undefined): PendingReport[] {
    const { journal } = this.#parts;
    const pending: PendingReport[] = [
      ...this.#pieces(job),
      ...journal.batches.unsealed(job).map(({ id, state }) => ({ what: 'batch' as const, batch: id, reason: state })),
      ...journal.records.unconfirmed(job).map((record) => this.#unconfirmed(record)),
    ];
    if (!this.#settlement.settled(journal.records.lastConfirmed(job))) {
      pending.push({ what: 'grants', reason: this.#settlement.trouble ?? 'evaluating' });
    }
    return pending;
  }

  #pieces(job: string | undefined): PendingReport[] {
    const { journal } = this.#parts;
    const pending: PendingReport[] = [];
    for (const row of journal.jobs.all()) {
      if (job !== undefined && row.job !== job) continue;
      const remaining = piecesRemaining(journal, row.job);
      if (remaining <= 0 && row.refusal === null) continue;
      const reason = row.refusal?.code ?? row.state;
      const message = row.refusal === null ? undefined : rejectionReport(row.refusal).message;
      pending.push({ what: 'pieces', count: remaining, reason, ...(message === undefined ? {} : { message }) });
    }
    return pending;
  }

  #unconfirmed(record: RecordRow): PendingReport {
    const held = isHeld(record, this.#parts.clock.nowMs());
    return {
      what: record.sent ? 'confirmation' : 'record',
      ...(record.batch === null ? {} : { batch: record.batch }),
      sequence: record.sequence,
      reason: held ? 'held' : (record.reason ?? this.#outbox.trouble ?? record.state),
      ...(held && record.holdUntilMs !== null ? { untilMs: record.holdUntilMs } : {}),
    };
  }
}
