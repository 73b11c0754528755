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
import { sameBytes } from '../digest.ts';
import { batchId, deviceId, pieceNumber } from '../fields.ts';
import type { BatchId, DeviceId } from '../id.ts';
import { bytes, millsSchema, tuple, uint } from '../schema.ts';

const PIECE_RECORD_VERSION = 1;
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

/** What is the same in every piece record of a batch. */
export function pieceRecordHead(device: DeviceId, batch: BatchId): Uint8Array {
  // 0x88: array of 8. Concatenated items of a deterministic array are the items' own encodings.
  return concat([Uint8Array.of(0x88), encode(PIECE_RECORD_VERSION), encode(device), encode(batch)]);
}

/** The most bytes that a piece record of this head and cell takes. */
export function pieceRecordMaxBytes(head: Uint8Array, cell: Uint8Array): number {
  return head.length + 5 + 5 + 9 + cell.length + 1 + REFERENCE_BYTES;
}

/**
 * Writes one piece record at `offset` of `target` and returns where it ends; `cell` is `cellKeyBytes` of its key. Equals
 * the schema's encoding.
 */
export function writePieceRecord(
  target: Uint8Array,
  offset: number,
  head: Uint8Array,
  index: number,
  number: number,
  postageMills: bigint,
  cell: Uint8Array,
  reference: Uint8Array,
): number {
  target.set(head, offset);
  let end = writeUint(target, offset + head.length, index);
  end = writeUint(target, end, number);
  end =
    postageMills <= 0xffff_ffffn
      ? writeUint(target, end, Number(postageMills))
      : writeUint64(target, end, postageMills);
  target.set(cell, end);
  end += cell.length;
  target[end] = 0x40 + REFERENCE_BYTES;
  target.set(reference, end + 1);
  return end + 1 + REFERENCE_BYTES;
}

/** One piece record by itself, as {@link writePieceRecord} writes it. */
export function pieceRecordBytes(
  head: Uint8Array,
  index: number,
  number: number,
  postageMills: bigint,
  cell: Uint8Array,
  reference: Uint8Array,
): Uint8Array {
  const record = new Uint8Array(pieceRecordMaxBytes(head, cell));
  return record.subarray(0, writePieceRecord(record, 0, head, index, number, postageMills, cell, reference));
}

/** What a piece record says besides its head; `cell` and `reference` are views of the record. */
export type PieceRecordParts = {
  readonly index: number;
  readonly pieceNumber: number;
  readonly postageMills: bigint;
  readonly cell: Uint8Array;
  readonly reference: Uint8Array;
};

/**
 * Takes apart a piece record whose authenticity its reader has established already (by its code): the quick way of a
 * recount. Null where the bytes are not a record under this head; `cell` is not parsed.
 */
export function readPieceRecord(head: Uint8Array, record: Uint8Array): PieceRecordParts | null {
  if (record.length < head.length + 3 + 2 + REFERENCE_BYTES) return null;
  if (!sameBytes(record.subarray(0, head.length), head)) return null;
  const reference = record.length - REFERENCE_BYTES;
  if (record[reference - 1] !== 0x40 + REFERENCE_BYTES) return null;
  const index = readUint(record, head.length);
  const number = index === null ? null : readUint(record, index.end);
  const postage = number === null ? null : readUint(record, number.end);
  if (index === null || number === null || postage === null || postage.end >= reference - 1) return null;
  return {
    index: Number(index.value),
    pieceNumber: Number(number.value),
    postageMills: BigInt(postage.value),
    cell: record.subarray(postage.end, reference - 1),
    reference: record.subarray(reference),
  };
}

/** The unsigned integer of a CBOR head, and where it ends; null for anything else. */
function readUint(bytes: Uint8Array, offset: number): { readonly value: number | bigint; readonly end: number } | null {
  const head = bytes[offset];
  if (head === undefined || head > 0x1b) return null;
  if (head < 24) return { value: head, end: offset + 1 };
  const length = 1 << (head - 24);
  const end = offset + 1 + length;
  if (end > bytes.length) return null;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (length === 8) return { value: view.getBigUint64(offset + 1), end };
  return {
    value:
      length === 4 ? view.getUint32(offset + 1) : length === 2 ? view.getUint16(offset + 1) : view.getUint8(offset + 1),
    end,
  };
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
