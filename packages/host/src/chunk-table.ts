/**
 * The journal's chunks, as the device is asked, and its answers, each a row of its own beside its chunk.
 *
 * Guarantees: what a method wrote is durable when it returns; an answer is there in one step with its batch's totals. Piece
 * records are not stored as such: they follow from chunk and answer, whose code only the PSD can check.
 */
import { CHUNK_ENTRY_BYTES } from '@countermark/protocol/interfaces/psd';
import type { BatchTable } from './batch-table.ts';
import { type BatchRow, bytesOf, chunkOf, type ChunkRow, frankedOf, type FrankedRow } from './journal-rows.ts';
import type { JournalStatements } from './journal-statements.ts';

export class ChunkTable {
  readonly #sql: JournalStatements;
  readonly #batches: BatchTable;

  constructor(sql: JournalStatements, batches: BatchTable) {
    this.#sql = sql;
    this.#batches = batches;
  }

  add(chunks: readonly (ChunkRow & { readonly batch: number })[]): void {
    this.#sql.transaction(() => {
      this.addInside(chunks);
    });
  }

  /** Replaces the entries of a staged chunk. */
  setEntries(batch: number, firstIndex: number, entries: Uint8Array): void {
    this.#sql.run('UPDATE chunk SET entries = ? WHERE batch = ? AND first_index = ?', entries, batch, firstIndex);
  }

  get(batch: number, firstIndex: number): ChunkRow | undefined {
    const row = this.#sql.one('SELECT * FROM chunk WHERE batch = ? AND first_index = ?', batch, firstIndex);
    return row === undefined ? undefined : chunkOf(row);
  }

  /** First indices of a batch's chunks, ascending. */
  indices(batch: number): number[] {
    return this.#sql
      .all('SELECT first_index FROM chunk WHERE batch = ? ORDER BY first_index', batch)
      .map((row) => Number(row.first_index));
  }

  delete(batch: number, firstIndex: number): void {
    this.#sql.run('DELETE FROM chunk WHERE batch = ? AND first_index = ?', batch, firstIndex);
  }

  /** Makes two of a chunk that was not franked: its first `pieces`, and the rest. */
  split(batch: number, chunk: ChunkRow, pieces: number): void {
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
    this.#sql.transaction(() => {
      this.delete(batch, chunk.firstIndex);
      this.addInside([part(0, pieces), part(pieces, chunk.pieces)]);
    });
  }

  /**
   * Gives what of a sealed batch was not franked, from index `from` on, to a planned batch of its own; false where its chunks are
   * missing. Taken again after a crash it goes on.
   */
  carryOver(short: BatchRow, from: number): boolean {
    const { batch, run, customer, product, entry, mailingDate, expected, expectedCells } = short;
    const across = this.#sql.one(
      'SELECT first_index FROM chunk WHERE batch = ? AND first_index < ? AND first_index + pieces > ?',
      batch,
      from,
      from,
    );
    const cut = across === undefined ? undefined : this.get(batch, Number(across.first_index));
    if (cut !== undefined) this.split(batch, cut, from - cut.firstIndex);
    const sum = this.#sql.one('SELECT sum(pieces) AS n FROM chunk WHERE batch = ? AND first_index >= ?', batch, from);
    const left = Number(sum?.n ?? 0);
    if (run === null || left !== expected - from) return false;
    this.#sql.transaction(() => {
      if (left > 0) {
        const next = this.#batches.add(run, customer, product, entry, mailingDate);
        this.#batches.setExpected(next, left, expectedCells, mailingDate);
        this.#sql.run(
          'UPDATE chunk SET batch = ?, first_index = first_index - ? WHERE batch = ? AND first_index >= ?',
          next,
          from,
          batch,
          from,
        );
      }
      this.#batches.setExpected(batch, from, expectedCells, mailingDate);
    });
    return true;
  }

  /** As {@link add}, inside a transaction that the caller has begun. */
  addInside(chunks: readonly (ChunkRow & { readonly batch: number })[]): void {
    for (const { batch, firstIndex, pieces, entries, cells, rows, texts } of chunks) {
      this.#sql.run(
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
    this.#sql.transaction(() => {
      this.#sql.run(
        'INSERT INTO franked VALUES (?, ?, ?, ?, ?, ?, ?)',
        batch,
        answer.firstIndex,
        answer.pieces,
        answer.firstNumber,
        answer.indicia,
        answer.salts,
        answer.codes,
      );
      this.#sql.run(
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
    const row = this.#sql.one('SELECT * FROM franked WHERE batch = ? AND first_index = ?', batch, firstIndex);
    return row === undefined ? undefined : frankedOf(row);
  }

  /** The chunk in which a piece number was franked. */
  frankedByNumber(pieceNumber: number): { readonly batch: number; readonly franked: FrankedRow } | undefined {
    const row = this.#sql.one(
      'SELECT * FROM franked WHERE first_number <= ? ORDER BY first_number DESC LIMIT 1',
      pieceNumber,
    );
    if (row === undefined) return undefined;
    const franked = frankedOf(row);
    return pieceNumber < franked.firstNumber + franked.pieces ? { batch: Number(row.batch), franked } : undefined;
  }

  /** The last piece number that the device ever gave here, 0 for none. */
  lastPieceNumber(): number {
    const row = this.#sql.one('SELECT first_number, pieces FROM franked ORDER BY first_number DESC LIMIT 1');
    return row === undefined ? 0 : Number(row.first_number) + Number(row.pieces) - 1;
  }

  frankedIndices(batch: number): number[] {
    return this.#sql
      .all('SELECT first_index FROM franked WHERE batch = ? ORDER BY first_index', batch)
      .map((row) => Number(row.first_index));
  }

  /** Entries of every chunk of the job that was franked. */
  *frankedEntries(job: string): Generator<Uint8Array> {
    for (const batch of this.#batches.ofJob(job)) {
      for (const firstIndex of this.frankedIndices(batch.batch)) {
        const chunk = this.get(batch.batch, firstIndex);
        if (chunk !== undefined) yield chunk.entries;
      }
    }
  }

  /** Forgets pieces and salts of batches whose record was confirmed before `beforeMs`. Records and grants stay. */
  forget(beforeMs: number): void {
    const old = this.#sql.all(
      `SELECT b.batch FROM batch b JOIN record ON record.batch = b.id WHERE record.confirmed_ms < ?
         AND EXISTS (SELECT 1 FROM chunk WHERE chunk.batch = b.batch)`,
      beforeMs,
    );
    for (const { batch } of old) {
      this.#sql.transaction(() => {
        this.#sql.run('DELETE FROM chunk WHERE batch = ?', batch);
        this.#sql.run('DELETE FROM franked WHERE batch = ?', batch);
      });
    }
  }
}
