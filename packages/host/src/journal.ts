/**
 * The host's store: mailings as staged, what the PSD franked of them, records and grants.
 *
 * A mailing is staged as chunks of at most 256 pieces, each with its batch, its first index and the very bytes that the PSD is
 * asked with. A chunk's answer is a row of its own beside it. So the request of every chunk is durable before it is asked, the
 * answer before the next is asked, and a crash anywhere asks the same chunk again.
 * Guarantees: what a method of its tables wrote is durable when it returns.
 * Does not decide anything: `staging`, `franking` and `outbox` do.
 */
import type { EmbeddedStore } from '@countermark/node-platform/embedded-store';
import { BatchTable } from './batch-table.ts';
import { ChunkTable } from './chunk-table.ts';
import { GrantTable } from './grant-table.ts';
import { JobTable } from './job-table.ts';
import type { CertificateName, KeptName } from './journal-rows.ts';
import { JournalStatements } from './journal-statements.ts';
import { RecordTable } from './record-table.ts';
import { RunTable } from './run-table.ts';

export class Journal {
  readonly jobs: JobTable;
  readonly runs: RunTable;
  readonly batches: BatchTable;
  readonly chunks: ChunkTable;
  readonly records: RecordTable;
  readonly grants: GrantTable;
  readonly #sql: JournalStatements;

  /** `asFound`: nothing is tidied up, for whoever only reads. */
  constructor(store: EmbeddedStore, { asFound = false } = {}) {
    this.#sql = new JournalStatements(store);
    this.jobs = new JobTable(this.#sql);
    this.runs = new RunTable(this.#sql);
    this.batches = new BatchTable(this.#sql);
    this.chunks = new ChunkTable(this.#sql, this.batches);
    this.records = new RecordTable(this.#sql);
    this.grants = new GrantTable(this.#sql);
    if (asFound) return;
    // A staging that a crash interrupted was never shown to anyone.
    for (const { run } of this.#sql.all("SELECT run FROM run WHERE state = 'staging'")) this.runs.drop(Number(run));
  }

  /** Runs writes in one durable transaction. */
  transaction<T>(work: () => T): T {
    return this.#sql.transaction(work);
  }

  keep(name: KeptName, value: Uint8Array): void {
    this.#sql.run(
      'INSERT INTO kept VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value',
      name,
      value,
    );
  }

  forget(name: KeptName): void {
    this.#sql.run('DELETE FROM kept WHERE name = ?', name);
  }

  /** The device's certificates of all epochs, oldest first, with their names. */
  certificates(): { readonly name: CertificateName; readonly bytes: Uint8Array }[] {
    return this.#sql
      .all(
        "SELECT name, value FROM kept WHERE name = 'certificate' OR name LIKE 'certificate-%' ORDER BY length(name), name",
      )
      .map((row) => ({ name: row.name as CertificateName, bytes: row.value as Uint8Array }));
  }

  kept(name: KeptName): Uint8Array | undefined {
    return this.#sql.one('SELECT value FROM kept WHERE name = ?', name)?.value as Uint8Array | undefined;
  }
}
