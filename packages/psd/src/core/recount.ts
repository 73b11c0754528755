/**
 * Building the rate cells of a closed batch from its piece records (design 2.3), from host memory or from the device's own.
 *
 * Guarantees: nothing is counted that this device did not frank in this place of this batch: each record's code, place
 * and number are checked, and in the end the Merkle root. What is altered is named by its piece number. A recount can
 * begin again at any time and is never stored, so nothing is counted twice.
 */
import { cellKeyBytes } from '@countermark/protocol/cell';
import { type Digest, sameBytes } from '@countermark/protocol/digest';
import type { BatchId } from '@countermark/protocol/id';
import { RECORD_CODE_BYTES } from '@countermark/protocol/interfaces/psd';
import { append, SALT_BYTES } from '@countermark/protocol/merkle';
import { pieceRecordHead, readPieceRecord } from '@countermark/protocol/messages/piece-record';
import { type Rejection, rejection } from '@countermark/protocol/rejection';
import { accept, refuse } from '@countermark/protocol/result';
import { chunkEntries, chunkPieces, recordColumns } from './piece-columns.ts';
import {
  type Batch,
  batchPieces,
  type Count,
  type DeviceState,
  type KeptChunk,
  RECOUNT_START,
  type Recount,
} from './state.ts';
import { notEnrolled, type Ports, type Stepped } from './transition.ts';

/** Records of consecutive pieces as they lay in host memory; `salts` and `codes` hold 16 bytes a piece. */
export type HostRecords = {
  readonly batch: BatchId;
  readonly firstIndex: number;
  readonly records: readonly Uint8Array[];
  readonly salts: Uint8Array;
  readonly codes: Uint8Array;
};

/**
 * Counts records from host memory; index 0 begins anew. What was counted already is checked again without effect, so that
 * a lost answer can be asked for. Wrong records leave the recount where it was.
 * Rejections: `wrong-state`, `not-available`, `no-open-batch`, `batch-open`, `recount-out-of-order`, `malformed`,
 * `recount-altered`.
 */
export function recountFromHost(state: DeviceState, given: HostRecords, ports: Ports): Stepped {
  const { identity, batch } = state;
  if (identity === null) return refuse(notEnrolled(state, 'recount'));
  if (identity.memory !== 'host') {
    return refuse(
      rejection('not-available', {
        what: 'A recount from host memory on a device that keeps the records itself',
        cure: 'Seal the batch: the device counts its own records.',
      }),
    );
  }
  const refusal = notClosed(batch, given.batch);
  if (batch === null || refusal !== null) return refuse(refusal ?? rejection('no-open-batch', { batch: given.batch }));
  const { firstIndex, records, salts, codes } = given;
  const recount = firstIndex === 0 ? RECOUNT_START : batch.recount;
  const counted = recount.frontier.leaves;
  const again = firstIndex < counted && firstIndex + records.length <= counted;
  if (firstIndex !== counted && !again) {
    return refuse(rejection('recount-out-of-order', { index: firstIndex, expected: counted }));
  }
  if (salts.length !== records.length * SALT_BYTES || codes.length !== records.length * RECORD_CODE_BYTES) {
    return refuse(rejection('malformed', { path: 'salts', reason: 'one salt and one code a record are expected' }));
  }
  const head = pieceRecordHead(identity.device, batch.declaration.batch);
  const pieces = batchPieces(state, batch);
  const tally = new Tally(recount, batch);
  const leaves: Digest[] = [];
  let cell = cellOf(new Uint8Array(0));
  for (const [i, record] of records.entries()) {
    const number = batch.opened.pieces + 1 + firstIndex + i;
    const altered = (): Stepped => refuse(rejection('recount-altered', { pieceNumber: number }));
    const input = new Uint8Array(1 + SALT_BYTES + record.length);
    input.set(salts.subarray(i * SALT_BYTES, (i + 1) * SALT_BYTES), 1);
    input.set(record, 1 + SALT_BYTES);
    const code = codes.subarray(i * RECORD_CODE_BYTES, (i + 1) * RECORD_CODE_BYTES);
    if (!equalCodes(ports.recordCode(input.subarray(1)), code)) return altered();
    const parts = readPieceRecord(head, record);
    if (parts === null || parts.index !== firstIndex + i || parts.pieceNumber !== number) return altered();
    if (parts.index >= pieces) return altered();
    leaves.push(ports.sha256(input) as Digest);
    if (!sameBytes(parts.cell, cell.key)) cell = cellOf(parts.cell);
    tally.count(cell, number, parts.postageMills);
  }
  if (again) return accept({ state, effects: [] });
  return finish(state, batch, tally.recount(append(recount.frontier, leaves, ports.sha256)));
}

/**
 * Counts the next chunk of the device's own memory. Rejections: those of {@link recountFromHost}; `recount-altered` here
 * means that the device's store was altered.
 */
export function recountOwn(state: DeviceState, batchId: BatchId, chunk: KeptChunk, ports: Ports): Stepped {
  const { identity, batch } = state;
  if (identity === null) return refuse(notEnrolled(state, 'recount'));
  const refusal = notClosed(batch, batchId);
  if (batch === null || refusal !== null) return refuse(refusal ?? rejection('no-open-batch', { batch: batchId }));
  const { request, firstPieceNumber, salts } = chunk;
  const recount = request.firstIndex === 0 ? RECOUNT_START : batch.recount;
  const expected = recount.frontier.leaves;
  const tally = new Tally(recount, batch);
  const entries = chunkEntries(request);
  const outside = entries.findIndex(({ cell }) => cell >= request.cells.length);
  if (
    request.firstIndex !== expected ||
    firstPieceNumber !== batch.opened.pieces + 1 + expected ||
    salts.length !== entries.length * SALT_BYTES ||
    outside !== -1 ||
    expected + chunkPieces(request) > batchPieces(state, batch)
  ) {
    return refuse(rejection('recount-altered', { pieceNumber: batch.opened.pieces + 1 + expected }));
  }
  const cells = request.cells.map((key) => cellOf(cellKeyBytes(key)));
  const { leaves } = recordColumns(
    pieceRecordHead(identity.device, batchId),
    request,
    entries,
    cells.map(({ key }) => key),
    firstPieceNumber,
    salts,
    ports.sha256,
    null,
  );
  entries.forEach(({ cell, postageMills }, i) => {
    tally.count(cells[cell] as CountedCell, firstPieceNumber + i, BigInt(postageMills));
  });
  return finish(state, batch, tally.recount(append(recount.frontier, leaves, ports.sha256)));
}

/** Why a closed batch cannot be sealed with its cells yet, or null. */
export function recountGap(state: DeviceState, batch: Batch): Rejection | null {
  const counted = batch.recount.frontier.leaves;
  const franked = batchPieces(state, batch);
  if (counted === franked) return null;
  return rejection('recount-missing', { counted, franked, pieceNumber: batch.opened.pieces + 1 + counted });
}

/** Takes the recount over; at its end the root must be the one of franking. */
function finish(state: DeviceState, batch: Batch, recount: Recount): Stepped {
  const counted = recount.frontier.leaves;
  const whole = counted === batchPieces(state, batch);
  if (whole && !recount.frontier.peaks.every((peak, i) => sameBytes(peak, batch.frontier.peaks[i] as Digest))) {
    // Each code was right: a copy of this device franked other pieces under the same numbers. Which, no code can tell.
    const first = batch.opened.pieces + 1;
    return refuse(rejection('recount-altered', { pieceNumber: `${first} to ${first + counted - 1} (one of them)` }));
  }
  return accept({ state: { ...state, batch: { ...batch, recount } }, effects: [] });
}

function notClosed(batch: Batch | null, batchId: BatchId): Rejection | null {
  if (batch?.declaration.batch !== batchId) return rejection('no-open-batch', { batch: batchId });
  return batch.closing === null ? rejection('batch-open', { batch: batchId }) : null;
}

/** A cell key's bytes, and the text by which they are found again. */
type CountedCell = { readonly key: Uint8Array; readonly text: string };

function cellOf(key: Uint8Array): CountedCell {
  return { key, text: String.fromCharCode(...key) };
}

/** Counts by rate cell; spoiled pieces apart. Begins where a recount stands and leaves that one as it was. */
class Tally {
  readonly #cells: Map<string, { key: Uint8Array; pieces: number; postageMills: bigint }>;
  readonly #spoiled: ReadonlySet<number>;
  #spoiledPieces: number;
  #spoiledPostageMills: bigint;

  constructor(from: Recount, batch: Batch) {
    this.#cells = new Map([...from.cells].map(([text, count]) => [text, { ...count }]));
    this.#spoiled = new Set(batch.spoiled);
    this.#spoiledPieces = from.spoiledPieces;
    this.#spoiledPostageMills = from.spoiledPostageMills;
  }

  count({ key, text }: CountedCell, pieceNumber: number, postageMills: bigint): void {
    if (this.#spoiled.has(pieceNumber)) {
      this.#spoiledPieces += 1;
      this.#spoiledPostageMills += postageMills;
      return;
    }
    const count = this.#cells.get(text);
    if (count === undefined) {
      this.#cells.set(text, { key: key.slice(), pieces: 1, postageMills });
    } else {
      count.pieces += 1;
      count.postageMills += postageMills;
    }
  }

  recount(frontier: Recount['frontier']): Recount {
    const cells: ReadonlyMap<string, Count> = this.#cells;
    return {
      frontier,
      cells,
      spoiledPieces: this.#spoiledPieces,
      spoiledPostageMills: this.#spoiledPostageMills,
    };
  }
}

/** In constant time: whoever supplies the records must not learn a code byte by byte. */
function equalCodes(one: Uint8Array, other: Uint8Array): boolean {
  let difference = one.length ^ other.length;
  for (let i = 0; i < one.length; i++) difference |= (one[i] as number) ^ (other[i] ?? 0);
  return difference === 0;
}
