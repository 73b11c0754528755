/**
 * Single pieces in the journal: found by number, key or row, and their piece records made again from chunk and answer.
 *
 * Guarantees that a record made here has the bytes that the device hashed, as long as the journal is unaltered; that it is, only
 * the device's recount (or the root in the sealed record) can tell.
 */
import { cellKeyBytes } from '@countermark/protocol/cell';
import type { BatchId, DeviceId } from '@countermark/protocol/id';
import { CHUNK_ENTRY_BYTES, RECORD_CODE_BYTES } from '@countermark/protocol/interfaces/psd';
import { SALT_BYTES } from '@countermark/protocol/merkle';
import { pieceRecordBytes, pieceRecordHead, REFERENCE_BYTES } from '@countermark/protocol/messages/piece-record';
import { type Rejection, rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import type { Journal } from './journal.ts';
import type { BatchRow, ChunkRow, FrankedRow, RunCell } from './journal-rows.ts';
import { keyOf, readIndex, readPostage, readReference } from './staging.ts';

/** A chunk with its answer. */
export type FrankedChunkRows = { readonly chunk: ChunkRow; readonly franked: FrankedRow };

/**
 * The chunks of a batch that were franked, in order. Rejection: `journal-damaged`, naming the first piece that the journal has no
 * usable record of.
 */
export function* frankedChunks(journal: Journal, batch: BatchRow, codes: boolean): Generator<Result<FrankedChunkRows>> {
  let next = 0;
  while (next < batch.franked) {
    const franked = journal.chunks.franked(batch.batch, next);
    const chunk = journal.chunks.get(batch.batch, next);
    const reason = defectOf(chunk, franked, codes);
    if (reason !== null || chunk === undefined || franked === undefined) {
      yield refuse(damaged(batch, next, reason ?? 'it is missing'));
      return;
    }
    yield accept({ chunk, franked });
    next += franked.pieces;
  }
}

/** The rejection that names piece `index` of the batch. */
export function damaged(batch: BatchRow, index: number, reason: string): Rejection {
  return rejection('journal-damaged', {
    batch: batch.id,
    pieceNumber: batch.firstNumber === null ? `(the ${index + 1}.)` : batch.firstNumber + index,
    reason,
  });
}

function defectOf(chunk: ChunkRow | undefined, franked: FrankedRow | undefined, codes: boolean): string | null {
  if (franked === undefined || chunk === undefined) return 'it is missing';
  const { pieces } = franked;
  if (
    pieces < 1 ||
    chunk.pieces !== pieces ||
    chunk.entries.length !== pieces * CHUNK_ENTRY_BYTES ||
    chunk.rows.length !== pieces ||
    franked.salts.length !== pieces * SALT_BYTES ||
    franked.codes.length !== (codes ? pieces * RECORD_CODE_BYTES : 0) ||
    franked.indicia.length % pieces !== 0
  ) {
    return 'its entry is not whole';
  }
  return null;
}

/** The piece records of a chunk, as the device made them. */
export function pieceRecords(
  device: DeviceId,
  batch: BatchId,
  cells: readonly RunCell[],
  { chunk, franked }: FrankedChunkRows,
): Uint8Array[] {
  const head = pieceRecordHead(device, batch);
  const keys = Array.from(chunk.cells, (cell) => {
    const known = cells[cell];
    return known === undefined ? null : cellKeyBytes(known.key);
  });
  return Array.from({ length: chunk.pieces }, (_, i) => {
    // An index that no cell has can only come from an altered journal; the recount then refuses the piece by its code.
    const key = keys[readIndex(chunk.entries, i)] ?? Uint8Array.of(0x80);
    return pieceRecordBytes(
      head,
      chunk.firstIndex + i,
      franked.firstNumber + i,
      BigInt(readPostage(chunk.entries, i)),
      key,
      readReference(chunk.entries, i),
    );
  });
}

/** Where a piece is. */
export type PiecePlace = FrankedChunkRows & { readonly batch: BatchRow; readonly at: number };

export function pieceByNumber(journal: Journal, pieceNumber: number): PiecePlace | null {
  const found = journal.chunks.frankedByNumber(pieceNumber);
  if (found === undefined) return null;
  const batch = journal.batches.byNumber(found.batch);
  const chunk = journal.chunks.get(found.batch, found.franked.firstIndex);
  if (batch === undefined || chunk === undefined) return null;
  return { batch, chunk, franked: found.franked, at: pieceNumber - found.franked.firstNumber };
}

/** Goes over the job's pieces: keys and rows have no index, because they are asked for seldom and written always. */
export function pieceByKey(journal: Journal, job: string, pieceRef: string): PiecePlace | null {
  const reference = Buffer.from(keyOf(pieceRef).subarray(0, REFERENCE_BYTES));
  return search(journal, job, (chunk) => {
    for (let i = 0; i < chunk.pieces; i++) if (reference.equals(readReference(chunk.entries, i))) return i;
    return -1;
  });
}

export function pieceByRow(journal: Journal, job: string, row: number): PiecePlace | null {
  return search(journal, job, (chunk) => chunk.rows.indexOf(row));
}

function search(journal: Journal, job: string, find: (chunk: ChunkRow) => number): PiecePlace | null {
  for (const batch of journal.batches.ofJob(job).reverse()) {
    for (const firstIndex of journal.chunks.frankedIndices(batch.batch)) {
      const chunk = journal.chunks.get(batch.batch, firstIndex);
      const franked = journal.chunks.franked(batch.batch, firstIndex);
      const at = chunk === undefined ? -1 : find(chunk);
      if (chunk !== undefined && franked !== undefined && at >= 0) return { batch, chunk, franked, at };
    }
  }
  return null;
}
