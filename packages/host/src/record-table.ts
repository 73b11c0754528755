/**
 * The journal's records: sealed, waiting, confirmed or in quarantine, with their confirmations and attestations.
 *
 * Guarantees: what a method wrote is durable when it returns; a record is there in one step with its batch's state. Bytes are kept
 * exactly as they were authenticated.
 */
import type { BatchId } from '@countermark/protocol/id';
import { type ConfirmedRecord, recordOf, type RecordRow, recordTypeOf } from './journal-rows.ts';
import type { JournalStatements } from './journal-statements.ts';

export class RecordTable {
  readonly #sql: JournalStatements;

  constructor(sql: JournalStatements) {
    this.#sql = sql;
  }

  /** The sealed record, in one step with its batch's state. */
  add(
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
    this.#sql.transaction(() => {
      this.#sql.run(
        `INSERT INTO record (sequence, digest, batch, bytes, sealed_ms, hold_until_ms, state) VALUES (?, ?, ?, ?, ?, ?, 'waiting')
         ON CONFLICT (sequence) DO NOTHING`,
        record.sequence,
        record.digest,
        record.id,
        record.bytes,
        record.sealedMs,
        record.holdUntilMs,
      );
      if (batch !== null) this.#sql.run("UPDATE batch SET state = 'sealed' WHERE batch = ?", batch);
    });
  }

  /**
   * A record that was confirmed already and comes back from the server, which had it, in one step with its batch's state: the journal that
   * lacked it may still have the batch to be franked, and the device opens no batch twice.
   */
  addConfirmed(record: {
    readonly sequence: number;
    readonly digest: Uint8Array;
    readonly id: BatchId | null;
    readonly bytes: Uint8Array;
    readonly confirmation: Uint8Array;
    readonly attestation: Uint8Array;
    readonly atMs: number;
  }): void {
    this.#sql.transaction(() => {
      this.#sql.run(
        `INSERT INTO record (sequence, digest, batch, bytes, sealed_ms, state, sent, confirmation, attestation, confirmed_ms)
         VALUES (?, ?, ?, ?, ?, 'confirmed', 1, ?, ?, ?) ON CONFLICT (sequence) DO NOTHING`,
        record.sequence,
        record.digest,
        record.id,
        record.bytes,
        record.atMs,
        record.confirmation,
        record.attestation,
        record.atMs,
      );
      this.#sql.run("UPDATE batch SET state = 'sealed' WHERE id = ?", record.id);
    });
  }

  get(sequence: number): RecordRow | undefined {
    const row = this.#sql.one('SELECT * FROM record WHERE sequence = ?', sequence);
    return row === undefined ? undefined : recordOf(row);
  }

  ofBatch(id: string): RecordRow | undefined {
    const row = this.#sql.one('SELECT * FROM record WHERE batch = ?', id);
    return row === undefined ? undefined : recordOf(row);
  }

  /** The key rotations, ascending. */
  rotations(): RecordRow[] {
    return this.#ofNoBatch().filter((row) => recordTypeOf(row) === 'key-rotation');
  }

  /** The final statement of the device, once it is made. */
  finalStatement(): RecordRow | undefined {
    return this.#ofNoBatch().find((row) => recordTypeOf(row) === 'final-statement');
  }

  #ofNoBatch(): RecordRow[] {
    return this.#sql.all('SELECT * FROM record WHERE batch IS NULL ORDER BY sequence').map(recordOf);
  }

  all(): RecordRow[] {
    return this.#sql.all('SELECT * FROM record ORDER BY sequence').map(recordOf);
  }

  /** Those waiting or in quarantine, of this job; of all where none is named. */
  unconfirmed(job?: string): RecordRow[] {
    return this.#sql
      .all(
        `SELECT * FROM record WHERE state IN ('waiting', 'quarantined') ${ofJob(job)} ORDER BY sequence`,
        ...given(job),
      )
      .map(recordOf);
  }

  /** The last sequence that is confirmed, of this job or of all; 0 for none. */
  lastConfirmed(job?: string): number {
    const last = this.#sql.one(
      `SELECT max(sequence) AS last FROM record WHERE state = 'confirmed' ${ofJob(job)}`,
      ...given(job),
    );
    return Number(last?.last ?? 0);
  }

  from(sequence: number, limit: number): RecordRow[] {
    return this.#sql
      .all('SELECT * FROM record WHERE sequence >= ? ORDER BY sequence LIMIT ?', sequence, limit)
      .map(recordOf);
  }

  waiting(limit: number): RecordRow[] {
    return this.#sql.all("SELECT * FROM record WHERE state = 'waiting' ORDER BY sequence LIMIT ?", limit).map(recordOf);
  }

  /** The last sequence whose record is confirmed, 0 for none; and of any record. */
  lastSequences(): { readonly confirmed: number; readonly sealed: number } {
    const row = this.#sql.one(
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
    this.#sql.transaction(() => {
      for (const { sequence, confirmation, attestation } of confirmed) {
        this.#sql.run(
          `UPDATE record SET state = 'confirmed', sent = 1, reason = NULL, confirmation = ?, confirmed_ms = ?,
             attestation = coalesce(attestation, ?) WHERE sequence = ?`,
          confirmation,
          nowMs,
          attestation,
          sequence,
        );
      }
      for (const sequence of sequences) {
        this.#sql.run(
          `UPDATE record SET attempts = attempts + 1, reason = CASE WHEN state = 'waiting' THEN ? ELSE reason END
             WHERE sequence = ?`,
          reason,
          sequence,
        );
      }
    });
  }

  noteReason(sequence: number, reason: string | null): void {
    this.#sql.run('UPDATE record SET reason = ? WHERE sequence = ?', reason, sequence);
  }

  /** Holds every waiting record that was sealed after a moment anew from it, as long as each was to be held: not one after the other. */
  holdAnew(fromMs: number): void {
    this.#sql.run(
      `UPDATE record SET sealed_ms = ?, hold_until_ms = ? + hold_until_ms - sealed_ms
       WHERE state = 'waiting' AND hold_until_ms IS NOT NULL AND sealed_ms > ?`,
      fromMs,
      fromMs,
      fromMs,
    );
  }

  replaceBytes(sequence: number, bytes: Uint8Array): void {
    this.#sql.run('UPDATE record SET bytes = ? WHERE sequence = ?', bytes, sequence);
  }

  /** The server has it and confirmed it; the PSD has not been told yet. */
  markSent(sequence: number, confirmation: Uint8Array): void {
    this.#sql.run('UPDATE record SET sent = 1, confirmation = ? WHERE sequence = ?', confirmation, sequence);
  }

  addAttestation(sequence: number, attestation: Uint8Array): void {
    this.#sql.run('UPDATE record SET attestation = ? WHERE sequence = ?', attestation, sequence);
  }

  unattested(limit: number): number[] {
    return this.#sql
      .all(
        "SELECT sequence FROM record WHERE state = 'confirmed' AND attestation IS NULL ORDER BY sequence LIMIT ?",
        limit,
      )
      .map((row) => Number(row.sequence));
  }

  quarantine(sequence: number, reason: string): void {
    this.#sql.run("UPDATE record SET state = 'quarantined', reason = ? WHERE sequence = ?", reason, sequence);
  }

  /** What was quarantined waits again. */
  requeue(): void {
    this.#sql.run("UPDATE record SET state = 'waiting' WHERE state = 'quarantined'");
  }
}

function ofJob(job: string | undefined): string {
  return job === undefined
    ? ''
    : `AND batch IN (SELECT b.id FROM batch b JOIN run r ON r.run = b.run
         WHERE r.job = ? AND r.state <> 'staging' AND b.state <> 'dropped')`;
}

function given(job: string | undefined): string[] {
  return job === undefined ? [] : [job];
}
