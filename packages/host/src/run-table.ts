/**
 * The journal's runs: each one reading of a file for a job, with the rows of it that were wrong.
 *
 * Guarantees: what a method wrote is durable when it returns; a run that is staged is seen by nobody until it is activated, in one
 * step with what it supersedes.
 */
import type { JobId } from '@countermark/protocol/id';
import { type BadRow, type RunCell, runOf, type RunRow, type RunState } from './journal-rows.ts';
import type { JournalStatements } from './journal-statements.ts';

export class RunTable {
  readonly #sql: JournalStatements;

  constructor(sql: JournalStatements) {
    this.#sql = sql;
  }

  /** Begins a run that nobody sees until {@link activate}. */
  begin(job: string, file: string, fileDigest: Uint8Array): number {
    const ordinal = Number(this.#sql.one('SELECT count(*) AS n FROM run WHERE job = ?', job)?.n ?? 0) + 1;
    const inserted = this.#sql.run(
      "INSERT INTO run (job, ordinal, file, file_digest, columns, cells, state) VALUES (?, ?, ?, ?, '[]', '[]', 'staging')",
      job,
      ordinal,
      file,
      fileDigest,
    );
    return Number(inserted.lastInsertRowid);
  }

  describe(run: number, columns: readonly string[], cells: readonly RunCell[], warnings: readonly string[]): void {
    this.#sql.run(
      'UPDATE run SET columns = ?, cells = ?, warnings = ? WHERE run = ?',
      JSON.stringify(columns),
      JSON.stringify(cells.map((cell) => [cell.key, String(cell.affixedMills), String(cell.declaredMills)])),
      JSON.stringify(warnings),
      run,
    );
  }

  /** Makes a staged run its job's own; an earlier one that was not finished is superseded: its pieces not franked go. */
  activate(
    run: number,
    options: {
      readonly job: JobId;
      readonly tariff: string;
      readonly nowMs: number;
      readonly rejectedRows: number;
      readonly errorsFile: string | null;
      readonly keepOpen: boolean;
    },
  ): void {
    const { job, tariff, nowMs, rejectedRows, errorsFile, keepOpen } = options;
    this.#sql.transaction(() => {
      for (const old of this.#sql.all("SELECT run FROM run WHERE job = ? AND state = 'active'", job)) {
        this.#sql.run("UPDATE run SET state = 'superseded' WHERE run = ?", old.run);
        this.#sql.run("UPDATE batch SET state = 'dropped' WHERE run = ? AND state = 'planned'", old.run);
        this.#sql.run(
          `DELETE FROM chunk WHERE batch IN (SELECT batch FROM batch WHERE run = ?) AND NOT EXISTS
             (SELECT 1 FROM franked f WHERE f.batch = chunk.batch AND f.first_index = chunk.first_index)`,
          old.run,
        );
      }
      this.#sql.run(
        `INSERT INTO job (job, state, tariff, created_ms, rejected_rows, errors_file) VALUES (?, 'franking', ?, ?, ?, ?)
         ON CONFLICT (job) DO UPDATE SET state = 'franking', refusal = NULL, rejected_rows = excluded.rejected_rows,
           errors_file = excluded.errors_file`,
        job,
        tariff,
        nowMs,
        rejectedRows,
        errorsFile,
      );
      this.#sql.run("UPDATE run SET state = 'active', keep_open = ? WHERE run = ?", keepOpen ? 1 : 0, run);
    });
  }

  drop(run: number): void {
    this.#sql.transaction(() => {
      this.#sql.run('DELETE FROM chunk WHERE batch IN (SELECT batch FROM batch WHERE run = ?)', run);
      this.#sql.run('DELETE FROM batch WHERE run = ?', run);
      this.#sql.run('DELETE FROM bad_row WHERE run = ?', run);
      this.#sql.run('DELETE FROM run WHERE run = ?', run);
    });
  }

  get(run: number): RunRow | undefined {
    const row = this.#sql.one('SELECT * FROM run WHERE run = ?', run);
    return row === undefined ? undefined : runOf(row);
  }

  /** In the order in which they were read. */
  ofJob(job: string): RunRow[] {
    return this.#sql.all("SELECT * FROM run WHERE job = ? AND state <> 'staging' ORDER BY run", job).map(runOf);
  }

  /** All is franked, closed and printed: the reading and its job at once, so that no crash leaves a job that nothing ends. */
  finish(run: number): void {
    this.#sql.transaction(() => {
      this.set(run, 'franked');
      this.#sql.run(
        "UPDATE job SET state = 'done', refusal = NULL WHERE job = (SELECT job FROM run WHERE run = ?)",
        run,
      );
    });
  }

  set(run: number, state: RunState): void {
    this.#sql.run('UPDATE run SET state = ? WHERE run = ?', state, run);
  }

  setKeepOpen(run: number, keepOpen: boolean): void {
    this.#sql.run('UPDATE run SET keep_open = ? WHERE run = ?', keepOpen ? 1 : 0, run);
  }

  markPrinted(run: number): void {
    this.#sql.run('UPDATE run SET printed = 1 WHERE run = ?', run);
  }

  addBadRows(run: number, rows: readonly BadRow[]): void {
    this.#sql.transaction(() => {
      for (const { row, field, value, cure } of rows) {
        this.#sql.run('INSERT INTO bad_row VALUES (?, ?, ?, ?, ?)', run, row, field, value, cure);
      }
    });
  }

  countBadRows(run: number): number {
    return Number(this.#sql.one('SELECT count(DISTINCT row) AS n FROM bad_row WHERE run = ?', run)?.n ?? 0);
  }

  *badRows(run: number): Generator<BadRow> {
    const page = 1_000;
    for (let offset = 0; ; offset += page) {
      const rows = this.#sql.all(
        'SELECT * FROM bad_row WHERE run = ? ORDER BY row, rowid LIMIT ? OFFSET ?',
        run,
        page,
        offset,
      );
      for (const raw of rows) {
        yield {
          row: Number(raw.row),
          field: raw.field as string,
          value: raw.value as string,
          cure: raw.cure as string,
        };
      }
      if (rows.length < page) return;
    }
  }
}
