/**
 * The journal's jobs: their state and what they were refused with.
 *
 * Guarantees: what a method wrote is durable when it returns.
 */
import type { JobId } from '@countermark/protocol/id';
import type { JobState } from '@countermark/protocol/interfaces/host';
import type { Rejection } from '@countermark/protocol/rejection';
import { jobOf, type JobRow } from './journal-rows.ts';
import type { JournalStatements } from './journal-statements.ts';

export class JobTable {
  readonly #sql: JournalStatements;

  constructor(sql: JournalStatements) {
    this.#sql = sql;
  }

  get(job: string): JobRow | undefined {
    const row = this.#sql.one('SELECT * FROM job WHERE job = ?', job);
    return row === undefined ? undefined : jobOf(row);
  }

  all(): JobRow[] {
    return this.#sql.all('SELECT * FROM job ORDER BY created_ms, rowid').map(jobOf);
  }

  set(job: JobId, state: JobState, refusal: Rejection | null): void {
    this.#sql.run(
      'UPDATE job SET state = ?, refusal = ? WHERE job = ?',
      state,
      refusal === null ? null : JSON.stringify(refusal),
      job,
    );
  }

  /** The job that was franked last: funds that come after it are told with it. */
  last(): JobId | null {
    const row = this.#sql.one('SELECT job FROM run WHERE state <> ? ORDER BY run DESC LIMIT 1', 'staging');
    return row === undefined ? null : (row.job as JobId);
  }
}
