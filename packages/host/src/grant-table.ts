/**
 * The journal's grants: discounts and credits with the records that they rest on, and funds grants.
 *
 * Guarantees: what a method wrote is durable when it returns; a grant is kept once, exactly as it was signed.
 */
import type { JobId } from '@countermark/protocol/id';
import { grantOf, type GrantRow } from './journal-rows.ts';
import type { JournalStatements } from './journal-statements.ts';

/** A funds grant as it was answered. */
export type FundsGrantRow = {
  readonly number: number;
  readonly job: JobId | null;
  readonly bytes: Uint8Array;
  readonly taken: boolean;
};

export class GrantTable {
  readonly #sql: JournalStatements;

  constructor(sql: JournalStatements) {
    this.#sql = sql;
  }

  add(
    cursor: number,
    digest: Uint8Array,
    kind: 'discount' | 'credit',
    bytes: Uint8Array,
    evidence: readonly Uint8Array[],
  ): void {
    this.#sql.transaction(() => {
      this.#sql.run('INSERT INTO piece_grant VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING', cursor, digest, kind, bytes);
      for (const one of evidence) {
        this.#sql.run('INSERT INTO grant_evidence VALUES (?, ?) ON CONFLICT DO NOTHING', one, cursor);
      }
    });
  }

  lastCursor(): number {
    return Number(this.#sql.one('SELECT coalesce(max(cursor), 0) AS n FROM piece_grant')?.n ?? 0);
  }

  /** Grants after a cursor, at most `limit`. */
  after(cursor: number, limit: number): GrantRow[] {
    return this.#sql
      .all('SELECT * FROM piece_grant WHERE cursor > ? ORDER BY cursor LIMIT ?', cursor, limit)
      .map(grantOf);
  }

  all(): GrantRow[] {
    return this.#sql.all('SELECT * FROM piece_grant ORDER BY cursor').map(grantOf);
  }

  get(digest: Uint8Array): GrantRow | undefined {
    const row = this.#sql.one('SELECT * FROM piece_grant WHERE digest = ?', digest);
    return row === undefined ? undefined : grantOf(row);
  }

  /** Grants that rest on one of the job's records. */
  ofJob(job: string): GrantRow[] {
    return this.#sql
      .all(
        `SELECT * FROM piece_grant WHERE cursor IN (SELECT e.cursor FROM grant_evidence e JOIN record ON record.digest = e.digest
         JOIN batch b ON b.id = record.batch JOIN run r ON r.run = b.run WHERE r.job = ?) ORDER BY cursor`,
        job,
      )
      .map(grantOf);
  }

  /** A funds grant before the PSD has taken it; one that it did not take, as altered on its way, gives way to the next. */
  addFunds(number: number, job: JobId | null, bytes: Uint8Array): void {
    this.#sql.run(
      `INSERT INTO funds_grant VALUES (?, ?, ?, 0)
       ON CONFLICT (number) DO UPDATE SET bytes = excluded.bytes WHERE applied = 0`,
      number,
      job,
      bytes,
    );
  }

  fundsApplied(number: number): void {
    this.#sql.run('UPDATE funds_grant SET applied = 1 WHERE number = ?', number);
  }

  /** Those up to the number that are not noted as taken. */
  fundsNotTaken(through: number): { readonly number: number; readonly bytes: Uint8Array }[] {
    return this.#sql
      .all('SELECT number, bytes FROM funds_grant WHERE applied = 0 AND number <= ? ORDER BY number', through)
      .map((row) => ({ number: Number(row.number), bytes: row.bytes as Uint8Array }));
  }

  /** Every funds grant that the device has taken, in order. */
  fundsTaken(): Uint8Array[] {
    return this.#sql
      .all('SELECT bytes FROM funds_grant WHERE applied = 1 ORDER BY number')
      .map((row) => row.bytes as Uint8Array);
  }

  /** Funds grants of higher numbers, in order, whether the device has taken them or not. */
  fundsAfter(number: number, limit: number): FundsGrantRow[] {
    return this.#sql
      .all(
        'SELECT number, job, bytes, applied FROM funds_grant WHERE number > ? ORDER BY number LIMIT ?',
        number,
        limit,
      )
      .map((row) => ({
        number: Number(row.number),
        job: row.job === null ? null : (row.job as JobId),
        bytes: row.bytes as Uint8Array,
        taken: Number(row.applied) === 1,
      }));
  }

  fundsOfJob(job: string): Uint8Array[] {
    return this.#sql
      .all('SELECT bytes FROM funds_grant WHERE job = ? AND applied = 1 ORDER BY number', job)
      .map((row) => row.bytes as Uint8Array);
  }
}
