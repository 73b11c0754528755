/**
 * The journal's batches: planned by a staging, open at the device, closed, sealed or dropped.
 *
 * Guarantees: what a method wrote is durable when it returns. Pieces and postage grow with the chunks' answers, in one step.
 */
import { randomBytes } from 'node:crypto';
import type { BatchId, JobId } from '@countermark/protocol/id';
import { batchOf, type BatchRow } from './journal-rows.ts';
import type { JournalStatements } from './journal-statements.ts';

const BATCHES = 'SELECT b.* FROM batch b';

export class BatchTable {
  readonly #sql: JournalStatements;

  constructor(sql: JournalStatements) {
    this.#sql = sql;
  }

  add(run: number, customer: string | null, product: string, entry: string, mailingDate: string): number {
    const inserted = this.#sql.run(
      `INSERT INTO batch (id, run, customer, product, entry, mailing_date, state, expected, expected_cells)
       VALUES (?, ?, ?, ?, ?, ?, 'planned', 0, 0)`,
      `bat_${randomBytes(16).toString('hex')}`,
      run,
      customer,
      product,
      entry,
      mailingDate,
    );
    return Number(inserted.lastInsertRowid);
  }

  /** A batch that was found at the PSD. */
  adopt(id: BatchId, customer: string | null, pieces: number, postageMills: bigint, firstNumber: number): BatchRow {
    this.#sql.run(
      `INSERT INTO batch (id, customer, product, entry, mailing_date, state, expected, expected_cells, franked, postage_mills,
         first_number) VALUES (?, ?, 'unknown', 'none', '2020-01-01', 'open', ?, 1, ?, ?, ?) ON CONFLICT (id) DO NOTHING`,
      id,
      customer,
      pieces,
      pieces,
      postageMills,
      firstNumber,
    );
    return this.get(id) as BatchRow;
  }

  setExpected(batch: number, expected: number, expectedCells: number, mailingDate: string): void {
    this.#sql.run(
      'UPDATE batch SET expected = ?, expected_cells = ?, mailing_date = ? WHERE batch = ?',
      expected,
      expectedCells,
      mailingDate,
      batch,
    );
  }

  get(id: string): BatchRow | undefined {
    const row = this.#sql.one(`${BATCHES} WHERE id = ?`, id);
    return row === undefined ? undefined : batchOf(row);
  }

  /** Batches after one, in the order of their numbers, at most `limit`. */
  after(batch: number, limit: number): BatchRow[] {
    return this.#sql.all(`${BATCHES} WHERE batch > ? ORDER BY batch LIMIT ?`, batch, limit).map(batchOf);
  }

  /** Batches that are open or closed, and not yet sealed: of this job, or of all. */
  unsealed(job?: string): BatchRow[] {
    const unsealed = `${BATCHES} WHERE b.state IN ('open', 'closed')`;
    const rows =
      job === undefined
        ? this.#sql.all(`${unsealed} ORDER BY b.batch`)
        : this.#sql.all(
            `${unsealed} AND b.run IN (SELECT run FROM run WHERE job = ? AND state <> 'staging') ORDER BY b.batch`,
            job,
          );
    return rows.map(batchOf);
  }

  byNumber(batch: number): BatchRow | undefined {
    const row = this.#sql.one(`${BATCHES} WHERE batch = ?`, batch);
    return row === undefined ? undefined : batchOf(row);
  }

  /** In franking order, those dropped apart. */
  ofRun(run: number): BatchRow[] {
    return this.#sql.all(`${BATCHES} WHERE run = ? AND state <> 'dropped' ORDER BY batch`, run).map(batchOf);
  }

  ofJob(job: string): BatchRow[] {
    return this.#sql
      .all(
        `${BATCHES} JOIN run r ON r.run = b.run WHERE r.job = ? AND r.state <> 'staging' AND b.state <> 'dropped' ORDER BY b.batch`,
        job,
      )
      .map(batchOf);
  }

  /** All that were opened at least. */
  all(): BatchRow[] {
    return this.#sql
      .all(
        `${BATCHES} LEFT JOIN run r ON r.run = b.run WHERE b.state <> 'dropped' AND coalesce(r.state, '') <> 'staging' ORDER BY b.batch`,
      )
      .map(batchOf);
  }

  jobOf(batch: BatchRow): JobId | null {
    if (batch.run === null) return null;
    return (this.#sql.one('SELECT job FROM run WHERE run = ?', batch.run)?.job as JobId | undefined) ?? null;
  }

  open(batch: number, declaration: Uint8Array): void {
    this.#sql.run(
      "UPDATE batch SET state = 'open', declaration = ? WHERE batch = ? AND state = 'planned'",
      declaration,
      batch,
    );
  }

  setDeclaration(batch: number, declaration: Uint8Array): void {
    this.#sql.run('UPDATE batch SET declaration = ? WHERE batch = ?', declaration, batch);
  }

  close(batch: number, incomplete: boolean): void {
    this.#sql.run(
      "UPDATE batch SET state = 'closed', incomplete = ? WHERE batch = ? AND state <> 'sealed'",
      incomplete ? 1 : 0,
      batch,
    );
  }

  drop(batch: number): void {
    this.#sql.transaction(() => {
      this.#sql.run("UPDATE batch SET state = 'dropped' WHERE batch = ?", batch);
      this.#sql.run('DELETE FROM chunk WHERE batch = ?', batch);
    });
  }

  setSpoiled(batch: number, numbers: readonly number[]): void {
    this.#sql.run('UPDATE batch SET spoiled = ? WHERE batch = ?', JSON.stringify(numbers), batch);
  }

  addReprints(batch: number, pieces: number, later: boolean): void {
    const column = later ? 'later_reprints' : 'reprints';
    this.#sql.run(`UPDATE batch SET ${column} = ${column} + ? WHERE batch = ?`, pieces, batch);
  }
}
