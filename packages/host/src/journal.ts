/**
 * The host's store: mailings as staged, what the PSD franked of them, records and grants.
 *
 * A mailing is staged as chunks of at most 256 pieces, each with its batch, its first index and the very bytes that the PSD is
 * asked with. A chunk's answer is a row of its own beside it. So the request of every chunk is durable before it is asked, the
 * answer before the next is asked, and a crash anywhere asks the same chunk again.
 * Guarantees: what a method wrote is durable when it returns. Piece records are not stored as such: they follow from chunk and
 * answer, whose code only the PSD can check.
 * Does not decide anything: `staging`, `franking` and `outbox` do.
 */
import { randomBytes } from 'node:crypto';
import type { EmbeddedStore } from '@countermark/node-platform/embedded-store';
import type { BatchId, JobId } from '@countermark/protocol/id';
import { CHUNK_ENTRY_BYTES } from '@countermark/protocol/interfaces/psd';
import type { JobState } from '@countermark/protocol/interfaces/host';
import type { Rejection } from '@countermark/protocol/rejection';
import type Database from 'better-sqlite3';
import {
  type BadRow,
  batchOf,
  type BatchRow,
  bytesOf,
  chunkOf,
  type ChunkRow,
  type ConfirmedRecord,
  frankedOf,
  type FrankedRow,
  grantOf,
  type GrantRow,
  jobOf,
  type JobRow,
  type KeptName,
  type Raw,
  recordOf,
  type RecordRow,
  type RunCell,
  runOf,
  type RunRow,
  type RunState,
} from './journal-rows.ts';

const BATCHES = 'SELECT b.* FROM batch b';

export class Journal {
  readonly store: EmbeddedStore;
  readonly #statements = new Map<string, Database.Statement>();

  constructor(store: EmbeddedStore) {
    this.store = store;
    // A staging that a crash interrupted was never shown to anyone.
    for (const run of this.#all("SELECT run FROM run WHERE state = 'staging'")) this.dropRun(Number(run.run));
  }

  /** Runs writes in one durable transaction. */
  transaction<T>(work: () => T): T {
    return this.store.transaction(work);
  }

  #prepared(sql: string): Database.Statement {
    let statement = this.#statements.get(sql);
    if (statement === undefined) {
      statement = this.store.database.prepare(sql);
      this.#statements.set(sql, statement);
    }
    return statement;
  }

  #all(sql: string, ...values: unknown[]): Raw[] {
    return this.store.read(() => this.#prepared(sql).all(...values)) as Raw[];
  }

  #one(sql: string, ...values: unknown[]): Raw | undefined {
    return this.store.read(() => this.#prepared(sql).get(...values)) as Raw | undefined;
  }

  #run(sql: string, ...values: unknown[]): Database.RunResult {
    if (this.store.database.inTransaction) return this.#prepared(sql).run(...values);
    return this.transaction(() => this.#prepared(sql).run(...values));
  }

  // --- jobs and runs ------------------------------------------------------------------------------------------

  job(job: string): JobRow | undefined {
    const row = this.#one('SELECT * FROM job WHERE job = ?', job);
    return row === undefined ? undefined : jobOf(row);
  }

  jobs(): JobRow[] {
    return this.#all('SELECT * FROM job ORDER BY created_ms, rowid').map(jobOf);
  }

  setJob(job: JobId, state: JobState, refusal: Rejection | null): void {
    this.#run(
      'UPDATE job SET state = ?, refusal = ? WHERE job = ?',
      state,
      refusal === null ? null : JSON.stringify(refusal),
      job,
    );
  }

  /** Begins a run that nobody sees until {@link activate}. */
  beginRun(job: string, file: string, fileDigest: Uint8Array): number {
    const ordinal = Number(this.#one('SELECT count(*) AS n FROM run WHERE job = ?', job)?.n ?? 0) + 1;
    const inserted = this.#run(
      "INSERT INTO run (job, ordinal, file, file_digest, columns, cells, state) VALUES (?, ?, ?, ?, '[]', '[]', 'staging')",
      job,
      ordinal,
      file,
      fileDigest,
    );
    return Number(inserted.lastInsertRowid);
  }

  describeRun(run: number, columns: readonly string[], cells: readonly RunCell[], warnings: readonly string[]): void {
    this.#run(
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
    this.transaction(() => {
      for (const old of this.#all("SELECT run FROM run WHERE job = ? AND state = 'active'", job)) {
        this.#run("UPDATE run SET state = 'superseded' WHERE run = ?", old.run);
        this.#run("UPDATE batch SET state = 'dropped' WHERE run = ? AND state = 'planned'", old.run);
        this.#run(
          `DELETE FROM chunk WHERE batch IN (SELECT batch FROM batch WHERE run = ?) AND NOT EXISTS
             (SELECT 1 FROM franked f WHERE f.batch = chunk.batch AND f.first_index = chunk.first_index)`,
          old.run,
        );
      }
      this.#run(
        `INSERT INTO job (job, state, tariff, created_ms, rejected_rows, errors_file) VALUES (?, 'franking', ?, ?, ?, ?)
         ON CONFLICT (job) DO UPDATE SET state = 'franking', refusal = NULL, rejected_rows = excluded.rejected_rows,
           errors_file = excluded.errors_file`,
        job,
        tariff,
        nowMs,
        rejectedRows,
        errorsFile,
      );
      this.#run("UPDATE run SET state = 'active', keep_open = ? WHERE run = ?", keepOpen ? 1 : 0, run);
    });
  }

  dropRun(run: number): void {
    this.transaction(() => {
      this.#run('DELETE FROM chunk WHERE batch IN (SELECT batch FROM batch WHERE run = ?)', run);
      this.#run('DELETE FROM batch WHERE run = ?', run);
      this.#run('DELETE FROM bad_row WHERE run = ?', run);
      this.#run('DELETE FROM run WHERE run = ?', run);
    });
  }

  run(run: number): RunRow | undefined {
    const row = this.#one('SELECT * FROM run WHERE run = ?', run);
    return row === undefined ? undefined : runOf(row);
  }

  /** In the order in which they were read. */
  runs(job: string): RunRow[] {
    return this.#all("SELECT * FROM run WHERE job = ? AND state <> 'staging' ORDER BY run", job).map(runOf);
  }

  setRun(run: number, state: RunState): void {
    this.#run('UPDATE run SET state = ? WHERE run = ?', state, run);
  }

  setKeepOpen(run: number, keepOpen: boolean): void {
    this.#run('UPDATE run SET keep_open = ? WHERE run = ?', keepOpen ? 1 : 0, run);
  }

  markPrinted(run: number): void {
    this.#run('UPDATE run SET printed = 1 WHERE run = ?', run);
  }

  addBadRows(run: number, rows: readonly BadRow[]): void {
    this.transaction(() => {
      for (const { row, field, value, cure } of rows) {
        this.#run('INSERT INTO bad_row VALUES (?, ?, ?, ?, ?)', run, row, field, value, cure);
      }
    });
  }

  countBadRows(run: number): number {
    return Number(this.#one('SELECT count(DISTINCT row) AS n FROM bad_row WHERE run = ?', run)?.n ?? 0);
  }

  *badRows(run: number): Generator<BadRow> {
    const page = 1_000;
    for (let offset = 0; ; offset += page) {
      const rows = this.#all(
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

  // --- batches and chunks -------------------------------------------------------------------------------------

  addBatch(run: number, customer: string | null, product: string, entry: string, mailingDate: string): number {
    const inserted = this.#run(
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
  adoptBatch(
    id: BatchId,
    customer: string | null,
    pieces: number,
    postageMills: bigint,
    firstNumber: number,
  ): BatchRow {
    this.#run(
      `INSERT INTO batch (id, customer, product, entry, mailing_date, state, expected, expected_cells, franked, postage_mills,
         first_number) VALUES (?, ?, 'unknown', 'none', '2020-01-01', 'open', ?, 1, ?, ?, ?) ON CONFLICT (id) DO NOTHING`,
      id,
      customer,
      pieces,
      pieces,
      postageMills,
      firstNumber,
    );
    return this.batch(id) as BatchRow;
  }

  setExpected(batch: number, expected: number, expectedCells: number, mailingDate: string): void {
    this.#run(
      'UPDATE batch SET expected = ?, expected_cells = ?, mailing_date = ? WHERE batch = ?',
      expected,
      expectedCells,
      mailingDate,
      batch,
    );
  }

  batch(id: string): BatchRow | undefined {
    const row = this.#one(`${BATCHES} WHERE id = ?`, id);
    return row === undefined ? undefined : batchOf(row);
  }

  batchByNumber(batch: number): BatchRow | undefined {
    const row = this.#one(`${BATCHES} WHERE batch = ?`, batch);
    return row === undefined ? undefined : batchOf(row);
  }

  /** In franking order, those dropped apart. */
  batchesOfRun(run: number): BatchRow[] {
    return this.#all(`${BATCHES} WHERE run = ? AND state <> 'dropped' ORDER BY batch`, run).map(batchOf);
  }

  batchesOfJob(job: string): BatchRow[] {
    return this.#all(
      `${BATCHES} JOIN run r ON r.run = b.run WHERE r.job = ? AND r.state <> 'staging' AND b.state <> 'dropped' ORDER BY b.batch`,
      job,
    ).map(batchOf);
  }

  /** All that were opened at least. */
  batches(): BatchRow[] {
    return this.#all(
      `${BATCHES} LEFT JOIN run r ON r.run = b.run WHERE b.state <> 'dropped' AND coalesce(r.state, '') <> 'staging' ORDER BY b.batch`,
    ).map(batchOf);
  }

  jobOfBatch(batch: BatchRow): JobId | null {
    if (batch.run === null) return null;
    return (this.#one('SELECT job FROM run WHERE run = ?', batch.run)?.job as JobId | undefined) ?? null;
  }

  openBatch(batch: number, declaration: Uint8Array): void {
    this.#run(
      "UPDATE batch SET state = 'open', declaration = ? WHERE batch = ? AND state = 'planned'",
      declaration,
      batch,
    );
  }

  setDeclaration(batch: number, declaration: Uint8Array): void {
    this.#run('UPDATE batch SET declaration = ? WHERE batch = ?', declaration, batch);
  }

  closeBatch(batch: number, incomplete: boolean): void {
    this.#run(
      "UPDATE batch SET state = 'closed', incomplete = ? WHERE batch = ? AND state <> 'sealed'",
      incomplete ? 1 : 0,
      batch,
    );
  }

  dropBatch(batch: number): void {
    this.transaction(() => {
      this.#run("UPDATE batch SET state = 'dropped' WHERE batch = ?", batch);
      this.#run('DELETE FROM chunk WHERE batch = ?', batch);
    });
  }

  setSpoiled(batch: number, numbers: readonly number[]): void {
    this.#run('UPDATE batch SET spoiled = ? WHERE batch = ?', JSON.stringify(numbers), batch);
  }

  addReprints(batch: number, pieces: number, later: boolean): void {
    const column = later ? 'later_reprints' : 'reprints';
    this.#run(`UPDATE batch SET ${column} = ${column} + ? WHERE batch = ?`, pieces, batch);
  }

  addChunks(chunks: readonly (ChunkRow & { readonly batch: number })[]): void {
    this.transaction(() => {
      this.addChunksInside(chunks);
    });
  }

  /** Replaces the entries of a staged chunk. */
  setEntries(batch: number, firstIndex: number, entries: Uint8Array): void {
    this.#run('UPDATE chunk SET entries = ? WHERE batch = ? AND first_index = ?', entries, batch, firstIndex);
  }

  chunk(batch: number, firstIndex: number): ChunkRow | undefined {
    const row = this.#one('SELECT * FROM chunk WHERE batch = ? AND first_index = ?', batch, firstIndex);
    return row === undefined ? undefined : chunkOf(row);
  }

  /** First indices of a batch's chunks, ascending. */
  chunkIndices(batch: number): number[] {
    return this.#all('SELECT first_index FROM chunk WHERE batch = ? ORDER BY first_index', batch).map((row) =>
      Number(row.first_index),
    );
  }

  deleteChunk(batch: number, firstIndex: number): void {
    this.#run('DELETE FROM chunk WHERE batch = ? AND first_index = ?', batch, firstIndex);
  }

  /** Makes two of a chunk that was not franked: its first `pieces`, and the rest. */
  splitChunk(batch: number, chunk: ChunkRow, pieces: number): void {
    const lines = Buffer.from(chunk.texts).toString('utf8').split('\n');
    const part = (from: number, to: number) => ({
      batch,
      firstIndex: chunk.firstIndex + from,
      pieces: to - from,
      entries: chunk.entries.subarray(from * CHUNK_ENTRY_BYTES, to * CHUNK_ENTRY_BYTES),
      cells: chunk.cells,
      rows: chunk.rows.slice(from, to),
      texts: Buffer.from(lines.slice(from, to).join('\n')),
    });
    this.transaction(() => {
      this.deleteChunk(batch, chunk.firstIndex);
      this.addChunksInside([part(0, pieces), part(pieces, chunk.pieces)]);
    });
  }

  /** As {@link addChunks}, inside a transaction that the caller has begun. */
  addChunksInside(chunks: readonly (ChunkRow & { readonly batch: number })[]): void {
    for (const { batch, firstIndex, pieces, entries, cells, rows, texts } of chunks) {
      this.#run(
        'INSERT INTO chunk VALUES (?, ?, ?, ?, ?, ?, ?)',
        batch,
        firstIndex,
        pieces,
        entries,
        bytesOf(cells),
        bytesOf(rows),
        texts,
      );
    }
  }

  /** The answer of a chunk, and the batch's totals with it. */
  addFranked(batch: number, answer: FrankedRow, postageMills: bigint): void {
    this.transaction(() => {
      this.#run(
        'INSERT INTO franked VALUES (?, ?, ?, ?, ?, ?, ?)',
        batch,
        answer.firstIndex,
        answer.pieces,
        answer.firstNumber,
        answer.indicia,
        answer.salts,
        answer.codes,
      );
      this.#run(
        `UPDATE batch SET franked = franked + ?, postage_mills = postage_mills + ?, first_number = coalesce(first_number, ?)
         WHERE batch = ?`,
        answer.pieces,
        postageMills,
        answer.firstNumber,
        batch,
      );
    });
  }

  franked(batch: number, firstIndex: number): FrankedRow | undefined {
    const row = this.#one('SELECT * FROM franked WHERE batch = ? AND first_index = ?', batch, firstIndex);
    return row === undefined ? undefined : frankedOf(row);
  }

  /** The chunk in which a piece number was franked. */
  frankedByNumber(pieceNumber: number): { readonly batch: number; readonly franked: FrankedRow } | undefined {
    const row = this.#one(
      'SELECT * FROM franked WHERE first_number <= ? ORDER BY first_number DESC LIMIT 1',
      pieceNumber,
    );
    if (row === undefined) return undefined;
    const franked = frankedOf(row);
    return pieceNumber < franked.firstNumber + franked.pieces ? { batch: Number(row.batch), franked } : undefined;
  }

  frankedIndices(batch: number): number[] {
    return this.#all('SELECT first_index FROM franked WHERE batch = ? ORDER BY first_index', batch).map((row) =>
      Number(row.first_index),
    );
  }

  /** Entries of every chunk of the job that was franked. */
  *frankedEntries(job: string): Generator<Uint8Array> {
    for (const batch of this.batchesOfJob(job)) {
      for (const firstIndex of this.frankedIndices(batch.batch)) {
        const chunk = this.chunk(batch.batch, firstIndex);
        if (chunk !== undefined) yield chunk.entries;
      }
    }
  }

  // --- records ------------------------------------------------------------------------------------------------

  /** The sealed record, in one step with its batch's state. */
  addRecord(
    batch: number | null,
    record: {
      readonly sequence: number;
      readonly digest: Uint8Array;
      readonly id: BatchId | null;
      readonly bytes: Uint8Array;
      readonly sealedMs: number;
      readonly holdUntilMs: number | null;
    },
  ): void {
    this.transaction(() => {
      this.#run(
        `INSERT INTO record (sequence, digest, batch, bytes, sealed_ms, hold_until_ms, state) VALUES (?, ?, ?, ?, ?, ?, 'waiting')
         ON CONFLICT (sequence) DO NOTHING`,
        record.sequence,
        record.digest,
        record.id,
        record.bytes,
        record.sealedMs,
        record.holdUntilMs,
      );
      if (batch !== null) this.#run("UPDATE batch SET state = 'sealed' WHERE batch = ?", batch);
    });
  }

  record(sequence: number): RecordRow | undefined {
    const row = this.#one('SELECT * FROM record WHERE sequence = ?', sequence);
    return row === undefined ? undefined : recordOf(row);
  }

  recordOfBatch(id: string): RecordRow | undefined {
    const row = this.#one('SELECT * FROM record WHERE batch = ?', id);
    return row === undefined ? undefined : recordOf(row);
  }

  records(): RecordRow[] {
    return this.#all('SELECT * FROM record ORDER BY sequence').map(recordOf);
  }

  recordsFrom(sequence: number, limit: number): RecordRow[] {
    return this.#all('SELECT * FROM record WHERE sequence >= ? ORDER BY sequence LIMIT ?', sequence, limit).map(
      recordOf,
    );
  }

  waitingRecords(limit: number): RecordRow[] {
    return this.#all("SELECT * FROM record WHERE state = 'waiting' ORDER BY sequence LIMIT ?", limit).map(recordOf);
  }

  /** The last sequence whose record is confirmed, 0 for none; and of any record. */
  lastSequences(): { readonly confirmed: number; readonly sealed: number } {
    const row = this.#one(
      "SELECT coalesce(max(CASE WHEN state = 'confirmed' THEN sequence END), 0) AS confirmed, coalesce(max(sequence), 0) AS sealed FROM record",
    );
    return { confirmed: Number(row?.confirmed ?? 0), sealed: Number(row?.sealed ?? 0) };
  }

  /** What became of one attempt: what was confirmed, and for the rest that it was tried. */
  settleAttempt(
    sequences: readonly number[],
    reason: string | null,
    confirmed: readonly ConfirmedRecord[],
    nowMs: number,
  ): void {
    this.transaction(() => {
      for (const { sequence, confirmation, attestation } of confirmed) {
        this.#run(
          `UPDATE record SET state = 'confirmed', sent = 1, reason = NULL, confirmation = ?, confirmed_ms = ?,
             attestation = coalesce(attestation, ?) WHERE sequence = ?`,
          confirmation,
          nowMs,
          attestation,
          sequence,
        );
      }
      for (const sequence of sequences) {
        this.#run(
          `UPDATE record SET attempts = attempts + 1, reason = CASE WHEN state = 'waiting' THEN ? ELSE reason END
             WHERE sequence = ?`,
          reason,
          sequence,
        );
      }
    });
  }

  noteReason(sequence: number, reason: string | null): void {
    this.#run('UPDATE record SET reason = ? WHERE sequence = ?', reason, sequence);
  }

  replaceRecordBytes(sequence: number, bytes: Uint8Array): void {
    this.#run('UPDATE record SET bytes = ? WHERE sequence = ?', bytes, sequence);
  }

  /** The server has it and confirmed it; the PSD has not been told yet. */
  markSent(sequence: number, confirmation: Uint8Array): void {
    this.#run('UPDATE record SET sent = 1, confirmation = ? WHERE sequence = ?', confirmation, sequence);
  }

  addAttestation(sequence: number, attestation: Uint8Array): void {
    this.#run('UPDATE record SET attestation = ? WHERE sequence = ?', attestation, sequence);
  }

  unattested(limit: number): number[] {
    return this.#all(
      "SELECT sequence FROM record WHERE state = 'confirmed' AND attestation IS NULL ORDER BY sequence LIMIT ?",
      limit,
    ).map((row) => Number(row.sequence));
  }

  quarantine(sequence: number, reason: string): void {
    this.#run("UPDATE record SET state = 'quarantined', reason = ? WHERE sequence = ?", reason, sequence);
  }

  // --- grants, funds, and what else is kept -------------------------------------------------------------------

  addGrant(
    cursor: number,
    digest: Uint8Array,
    kind: 'discount' | 'credit',
    bytes: Uint8Array,
    evidence: readonly Uint8Array[],
  ): void {
    this.transaction(() => {
      this.#run('INSERT INTO piece_grant VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING', cursor, digest, kind, bytes);
      for (const one of evidence) {
        this.#run('INSERT INTO grant_evidence VALUES (?, ?) ON CONFLICT DO NOTHING', one, cursor);
      }
    });
  }

  lastGrantCursor(): number {
    return Number(this.#one('SELECT coalesce(max(cursor), 0) AS n FROM piece_grant')?.n ?? 0);
  }

  grants(): GrantRow[] {
    return this.#all('SELECT * FROM piece_grant ORDER BY cursor').map(grantOf);
  }

  grant(digest: Uint8Array): GrantRow | undefined {
    const row = this.#one('SELECT * FROM piece_grant WHERE digest = ?', digest);
    return row === undefined ? undefined : grantOf(row);
  }

  /** Grants that rest on one of the job's records. */
  grantsOfJob(job: string): GrantRow[] {
    return this.#all(
      `SELECT * FROM piece_grant WHERE cursor IN (SELECT e.cursor FROM grant_evidence e JOIN record ON record.digest = e.digest
         JOIN batch b ON b.id = record.batch JOIN run r ON r.run = b.run WHERE r.job = ?) ORDER BY cursor`,
      job,
    ).map(grantOf);
  }

  /** A funds grant before the PSD has taken it. */
  addFundsGrant(number: number, job: JobId | null, bytes: Uint8Array): void {
    this.#run('INSERT INTO funds_grant VALUES (?, ?, ?, 0) ON CONFLICT DO NOTHING', number, job, bytes);
  }

  fundsGrantApplied(number: number): void {
    this.#run('UPDATE funds_grant SET applied = 1 WHERE number = ?', number);
  }

  fundsGrantsOfJob(job: string): Uint8Array[] {
    return this.#all('SELECT bytes FROM funds_grant WHERE job = ? AND applied = 1 ORDER BY number', job).map(
      (row) => row.bytes as Uint8Array,
    );
  }

  /** The job that was franked last: funds that come after it are told with it. */
  lastJob(): JobId | null {
    const row = this.#one('SELECT job FROM run WHERE state <> ? ORDER BY run DESC LIMIT 1', 'staging');
    return row === undefined ? null : (row.job as JobId);
  }

  keep(name: KeptName, value: Uint8Array): void {
    this.#run('INSERT INTO kept VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value', name, value);
  }

  kept(name: KeptName): Uint8Array | undefined {
    return this.#one('SELECT value FROM kept WHERE name = ?', name)?.value as Uint8Array | undefined;
  }

  /** Forgets pieces and salts of batches whose record was confirmed before `beforeMs`. Records and grants stay. */
  forgetPieces(beforeMs: number): void {
    const old = this.#all(
      `SELECT b.batch FROM batch b JOIN record ON record.batch = b.id WHERE record.confirmed_ms < ?
         AND EXISTS (SELECT 1 FROM chunk WHERE chunk.batch = b.batch)`,
      beforeMs,
    );
    for (const { batch } of old) {
      this.transaction(() => {
        this.#run('DELETE FROM chunk WHERE batch = ?', batch);
        this.#run('DELETE FROM franked WHERE batch = ?', batch);
      });
    }
  }
}
