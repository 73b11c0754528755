/**
 * From a chunk's request to what stands on and for its pieces: indicium inputs, piece records, leaves, codes.
 *
 * Guarantees that the same request, numbers and salts give the same bytes at any time: a chunk asked again, a recount of
 * the memory inside the device, and the first franking all come here.
 * Does not sign, and does not check limits (`franking.ts`).
 */
import type { Digest, Sha256 } from '@countermark/protocol/digest';
import { CHUNK_ENTRY_BYTES, type FrankChunk, RECORD_CODE_BYTES } from '@countermark/protocol/interfaces/psd';
import { type IndiciumFrame, indiciumInputBytes, writeIndiciumInput } from '@countermark/protocol/layout';
import { SALT_BYTES } from '@countermark/protocol/merkle';
import { pieceRecordMaxBytes, REFERENCE_BYTES, writePieceRecord } from '@countermark/protocol/messages/piece-record';

/** One piece of a chunk request, without its reference. */
export type ChunkEntry = { readonly cell: number; readonly postageMills: number };

/** Number of pieces in a request. */
export function chunkPieces(request: FrankChunk): number {
  return request.pieces.length / CHUNK_ENTRY_BYTES;
}

/** The entries of a request (big-endian: cell u16, postage u32, reference 16 bytes), in order. */
export function chunkEntries(request: FrankChunk): ChunkEntry[] {
  const { pieces } = request;
  const view = new DataView(pieces.buffer, pieces.byteOffset, pieces.byteLength);
  const entries: ChunkEntry[] = [];
  for (let offset = 0; offset < pieces.length; offset += CHUNK_ENTRY_BYTES) {
    entries.push({ cell: view.getUint16(offset), postageMills: view.getUint32(offset + 2) });
  }
  return entries;
}

/** The bytes to be authenticated for each indicium, one after the other, each {@link indiciumInputBytes} long. */
export function indiciumInputs(
  frame: IndiciumFrame,
  entries: readonly ChunkEntry[],
  firstPieceNumber: number,
  ascendingMills: bigint,
): Uint8Array {
  const each = indiciumInputBytes(frame.layout);
  const inputs = new Uint8Array(each * entries.length);
  let ascending = ascendingMills;
  let number = firstPieceNumber;
  let offset = 0;
  for (const { postageMills } of entries) {
    const postage = BigInt(postageMills);
    ascending += postage;
    writeIndiciumInput(inputs, offset, frame, number, postage, ascending);
    number += 1;
    offset += each;
  }
  return inputs;
}

export type RecordColumns = {
  /** Leaves of the Merkle tree: H(0x00 || salt || record), RFC 6962. */
  readonly leaves: readonly Digest[];
  /** Codes beside the records in host memory, one after the other; empty without a `recordCode`. */
  readonly codes: Uint8Array;
};

/** Leaves and codes of a chunk's piece records. `cells` are the bytes of the request's cell keys. */
export function recordColumns(
  head: Uint8Array,
  request: FrankChunk,
  entries: readonly ChunkEntry[],
  cells: readonly Uint8Array[],
  firstPieceNumber: number,
  salts: Uint8Array,
  sha256: Sha256,
  recordCode: ((bytes: Uint8Array) => Uint8Array) | null,
): RecordColumns {
  const leaves: Digest[] = [];
  const codes = new Uint8Array(recordCode === null ? 0 : entries.length * RECORD_CODE_BYTES);
  let longest = 0;
  for (const cell of cells) longest = Math.max(longest, pieceRecordMaxBytes(head, cell));
  // 0x00, salt, record: the leaf's input, and from the salt on the code's.
  const input = new Uint8Array(1 + SALT_BYTES + longest);
  entries.forEach(({ cell, postageMills }, i) => {
    input.set(salts.subarray(i * SALT_BYTES, (i + 1) * SALT_BYTES), 1);
    const reference = (i + 1) * CHUNK_ENTRY_BYTES - REFERENCE_BYTES;
    const end = writePieceRecord(
      input,
      1 + SALT_BYTES,
      head,
      request.firstIndex + i,
      firstPieceNumber + i,
      BigInt(postageMills),
      cells[cell] as Uint8Array,
      request.pieces.subarray(reference, reference + REFERENCE_BYTES),
    );
    leaves.push(sha256(input.subarray(0, end)) as Digest);
    if (recordCode !== null) codes.set(recordCode(input.subarray(1, end)), i * RECORD_CODE_BYTES);
  });
  return { leaves, codes };
}
