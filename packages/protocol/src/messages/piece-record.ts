/**
 * The record of one franked piece (claim 1b): the leaf content of the batch's Merkle tree.
 *
 * Written by hand instead of by its schema, because it is made tens of thousands of times a second; a property test
 * holds both encodings equal. The record carries no authenticator of its own: where it lies in host memory, a code
 * that only the PSD can check stands beside it.
 */
import { concat } from '../bytes.ts';
import { encode } from '../cbor.ts';
import { cellKeySchema } from '../cell.ts';
import { batchId, deviceId, pieceNumber } from '../fields.ts';
import type { BatchId, DeviceId } from '../id.ts';
import { bytes, millsSchema, type Of, tuple, uint } from '../schema.ts';

export const PIECE_RECORD_VERSION = 1;
/** Host-entered: first 16 bytes of the SHA-256 of the piece's key, so that a piece can be tied to its row. */
export const REFERENCE_BYTES = 16;

export const pieceRecord = tuple('piece-record', {
  version: uint(1, 1),
  device: deviceId,
  batch: batchId,
  /** Position in the batch, from 0: the leaf's index. */
  index: uint(0xffff_ffff),
  pieceNumber,
  postageMills: millsSchema,
  cell: cellKeySchema,
  reference: bytes(REFERENCE_BYTES),
});
export type PieceRecord = Of<typeof pieceRecord>;

/** What is the same in every piece record of a batch. */
export function pieceRecordHead(device: DeviceId, batch: BatchId): Uint8Array {
  // 0x88: array of 8. Concatenated items of a deterministic array are the items' own encodings.
  return concat([Uint8Array.of(0x88), encode(PIECE_RECORD_VERSION), encode(device), encode(batch)]);
}

/** One piece record; `cell` is `cellKeyBytes` of its key. Equals the schema's encoding. */
export function pieceRecordBytes(
  head: Uint8Array,
  index: number,
  number: number,
  postageMills: bigint,
  cell: Uint8Array,
  reference: Uint8Array,
): Uint8Array {
  const record = new Uint8Array(head.length + 5 + 5 + 9 + cell.length + 1 + REFERENCE_BYTES);
  record.set(head);
  let offset = writeUint(record, head.length, index);
  offset = writeUint(record, offset, number);
  offset =
    postageMills <= 0xffff_ffffn
      ? writeUint(record, offset, Number(postageMills))
      : writeUint64(record, offset, postageMills);
  record.set(cell, offset);
  offset += cell.length;
  record[offset] = 0x40 + REFERENCE_BYTES;
  record.set(reference, offset + 1);
  return record.subarray(0, offset + 1 + REFERENCE_BYTES);
}

/** CBOR head of an unsigned integer below 2^32 in its shortest form (RFC 8949, 4.2.1). */
function writeUint(target: Uint8Array, offset: number, value: number): number {
  if (value < 24) {
    target[offset] = value;
    return offset + 1;
  }
  if (value < 0x100) {
    target[offset] = 0x18;
    target[offset + 1] = value;
    return offset + 2;
  }
  if (value < 0x1_0000) {
    target[offset] = 0x19;
    target[offset + 1] = value >> 8;
    target[offset + 2] = value & 255;
    return offset + 3;
  }
  target[offset] = 0x1a;
  target[offset + 1] = value >>> 24;
  target[offset + 2] = (value >>> 16) & 255;
  target[offset + 3] = (value >>> 8) & 255;
  target[offset + 4] = value & 255;
  return offset + 5;
}

function writeUint64(target: Uint8Array, offset: number, value: bigint): number {
  target[offset] = 0x1b;
  new DataView(target.buffer, target.byteOffset).setBigUint64(offset + 1, value);
  return offset + 9;
}
