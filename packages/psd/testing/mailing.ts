/**
 * Declarations of batches and chunks of pieces for tests, small and in a few rate cells; nothing here is priced by a tariff.
 */
import { createHash } from 'node:crypto';
import type { Digest } from '@countermark/protocol/digest';
import type { BatchId, CustomerId, JobId } from '@countermark/protocol/id';
import { CHUNK_ENTRY_BYTES, type FrankChunk } from '@countermark/protocol/interfaces/psd';
import type { BatchDeclaration } from '@countermark/protocol/messages/batch-declaration';
import { USD } from './authority.ts';

/** One piece: which of the test's levels, and its postage in mills. */
export type TestPiece = { readonly level: number; readonly postageMills: number };

const LEVELS = ['five-digit', 'aadc', 'mixed-aadc', 'three-digit', 'adc', 'mixed-adc', 'nonautomation', 'single'];

/** A batch id from a small number. */
export function batchNumbered(n: number): BatchId {
  return `bat_${n.toString(16).padStart(32, '0')}` as BatchId;
}

export function declarationOf(batch: BatchId, over: Partial<BatchDeclaration> = {}): BatchDeclaration {
  return {
    batch,
    job: 'job-1' as JobId,
    customer: 'acme' as CustomerId,
    submitter: 'Bureau',
    preparer: 'Bureau',
    product: 'first-class-letter',
    entry: 'origin',
    mailingDate: '2026-11-22',
    expectedPieces: 1_000,
    expectedCells: LEVELS.length,
    tariff: new Uint8Array(32) as Digest,
    scheme: 1,
    currency: USD,
    ...over,
  };
}

/** A chunk of these pieces; each has a reference of its own. */
export function chunkOf(batch: BatchId, firstIndex: number, pieces: readonly TestPiece[]): FrankChunk {
  const levels = [...new Set(pieces.map((piece) => piece.level))];
  const entries = Buffer.alloc(pieces.length * CHUNK_ENTRY_BYTES);
  pieces.forEach((piece, i) => {
    const offset = i * CHUNK_ENTRY_BYTES;
    entries.writeUInt16BE(levels.indexOf(piece.level), offset);
    entries.writeUInt32BE(piece.postageMills, offset + 2);
    createHash('sha256')
      .update(`${batch} ${firstIndex + i}`)
      .digest()
      .copy(entries, offset + 6, 0, 16);
  });
  return {
    batch,
    firstIndex,
    cells: levels.map((level) => ({
      product: 'first-class-letter',
      shape: 'letter',
      affixed: 'single-piece-metered',
      level: LEVELS[level % LEVELS.length] ?? 'none',
      entry: 'origin',
      weightStep: 10,
    })),
    pieces: new Uint8Array(entries),
  };
}

/** The same piece `count` times. */
export function pieces(count: number, postageMills = 740, level = 0): TestPiece[] {
  return Array.from({ length: count }, () => ({ level, postageMills }));
}
