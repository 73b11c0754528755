/**
 * The mark: what stands outside the device's store and rises with each commit of it, so that an older copy of the store is known by itself.
 *
 * Guarantees, with what `device.ts` does: the store is durable with a mark before the mark is raised to it, so that the mark is never ahead of
 * what the store shows, wherever the process is killed; and nothing leaves the device before the mark is raised. The nonce tells two commits
 * with the same number apart, of which one was never followed by anything. Registers and sequence are there as evidence: what the store had
 * come to that is not there any more.
 */
import { concat, utf8 } from '@countermark/protocol/bytes';
import { sameBytes } from '@countermark/protocol/digest';
import { type Mills, mills } from '@countermark/protocol/money';

/** What the store has of it. */
export type CommitMark = { readonly commits: number; readonly nonce: Uint8Array };

export type DeviceMark = CommitMark & {
  readonly sequence: number;
  readonly pieces: number;
  readonly ascendingMills: Mills;
};

const FORM = utf8('CmM1');
const NUMBER_BYTES = 8;
export const NONCE_BYTES = 16;
/** Form; commits, sequence, pieces, ascending register, big-endian; nonce. Higher marks compare as higher, byte by byte. */
export const MARK_BYTES = FORM.length + 4 * NUMBER_BYTES + NONCE_BYTES;

export function markBytes({ commits, nonce, sequence, pieces, ascendingMills }: DeviceMark): Uint8Array {
  const numbers = Buffer.alloc(4 * NUMBER_BYTES);
  [commits, sequence, pieces, ascendingMills].forEach((value, i) => {
    numbers.writeBigUInt64BE(BigInt(value), i * NUMBER_BYTES);
  });
  return concat([FORM, new Uint8Array(numbers), nonce]);
}

/** The mark of its bytes, or null where they are none. */
export function markOf(bytes: Uint8Array): DeviceMark | null {
  if (bytes.length !== MARK_BYTES || !sameBytes(bytes.subarray(0, FORM.length), FORM)) return null;
  const view = Buffer.from(bytes.buffer, bytes.byteOffset + FORM.length, 4 * NUMBER_BYTES);
  const number = (i: number): bigint => view.readBigUInt64BE(i * NUMBER_BYTES);
  return {
    commits: Number(number(0)),
    sequence: Number(number(1)),
    pieces: Number(number(2)),
    ascendingMills: mills(number(3)),
    nonce: bytes.slice(MARK_BYTES - NONCE_BYTES),
  };
}

export function isSameMark(one: CommitMark, other: CommitMark): boolean {
  return one.commits === other.commits && sameBytes(one.nonce, other.nonce);
}

/** Whether a store with this mark is an older copy, or another continuation, of what was marked last. */
export function isPutBack(stored: CommitMark, seen: CommitMark): boolean {
  return stored.commits < seen.commits || (stored.commits === seen.commits && !isSameMark(stored, seen));
}
