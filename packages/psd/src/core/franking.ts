/**
 * Opening, franking, spoiling, closing (design 2.1 to 2.3).
 *
 * Guarantees: one batch at a time, its declaration fixed with the registers at opening and room reserved for it; a chunk
 * is debited whole or leaves no trace; the last two chunks can be asked again until the record is sealed and give the
 * same pieces (two, so that a host can ask for the next while the answer to this one is on its way); closed is closed.
 * A chunk goes in two halves, `admitChunk` and `frankChunk`, so that signing can begin while leaves and codes are made
 * and the chunk is committed. Between the two no other step may come.
 */
import { cellKeyBytes, cellKeyText } from '@countermark/protocol/cell';
import { type Digest, digestOf, sameBytes } from '@countermark/protocol/digest';
import type { BatchId } from '@countermark/protocol/id';
import {
  CHUNK_ENTRY_BYTES,
  type FrankChunk,
  frankChunkSchema,
  HELD_CHUNKS,
} from '@countermark/protocol/interfaces/psd';
import {
  type IndiciumFrame,
  indiciumFrame,
  LAYOUTS,
  MAX_ASCENDING_MILLS,
  mailingDay,
} from '@countermark/protocol/layout';
import { append, EMPTY_FRONTIER } from '@countermark/protocol/merkle';
import { type BatchDeclaration, batchDeclaration } from '@countermark/protocol/messages/batch-declaration';
import { MAX_SPOILED } from '@countermark/protocol/messages/batch-statistics';
import { pieceRecordHead } from '@countermark/protocol/messages/piece-record';
import { debit, type Registers } from '@countermark/protocol/registers';
import { inCurrency, type Rejection, rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { encodeWith } from '@countermark/protocol/schema';
import { SCHEME } from '@countermark/protocol/scheme';
import { refusedIn } from './lifecycle.ts';
import { type ChunkEntry, chunkEntries, chunkPieces, indiciumInputs, recordColumns } from './piece-columns.ts';
import { frankingLock, openingLock } from './policy.ts';
import {
  type Batch,
  batchPieces,
  type DeviceState,
  type HeldChunk,
  type Identity,
  type KeptChunk,
  piecesInMemory,
  RECOUNT_START,
  unconfirmedBatches,
} from './state.ts';
import { notEnrolled, type Operational, operational, type Ports, type Stepped } from './transition.ts';

const MAX_PIECE_NUMBER = 0xffff_ffff;

/**
 * Opens a batch. The one that is open is opened again without effect. `usedBefore`: a record of this batch exists.
 * Rejections: `wrong-state`, `batch-exists`, `batch-open`, `device-locked`, `memory-full`, `unknown-customer`,
 * `customer-missing`, `unsupported-version` (scheme), `not-in-policy` (product, scheme), `limit-exceeded`, `malformed`.
 */
export function openBatch(state: DeviceState, declaration: BatchDeclaration, usedBefore: boolean): Stepped {
  const device = operational(state);
  if (device === null) return refuse(notEnrolled(state, 'open-batch'));
  const { batch } = state;
  if (batch?.declaration.batch === declaration.batch) {
    return sameDeclaration(batch.declaration, declaration)
      ? accept({ state, effects: [] })
      : refuse(rejection('batch-exists', { batch: declaration.batch }));
  }
  if (usedBefore) return refuse(rejection('batch-exists', { batch: declaration.batch }));
  if (batch !== null) return refuse(rejection('batch-open', { batch: batch.declaration.batch }));
  const wrong = openingRefusal(state, device, declaration);
  if (wrong !== null) return refuse(wrong);
  const opened: Batch = {
    declaration,
    opened: state.registers,
    openedAfterMs: state.signedTimeMs,
    policyVersion: device.policy.version,
    specimen: !device.certificate.certified,
    frontier: EMPTY_FRONTIER,
    cellKeys: new Set(),
    spoiled: [],
    held: [],
    closing: null,
    recount: RECOUNT_START,
  };
  return accept({ state: { ...state, batch: opened }, effects: [] });
}

function openingRefusal(state: DeviceState, device: Operational, declaration: BatchDeclaration): Rejection | null {
  const { policy, identity } = device;
  const lock = openingLock(state);
  if (lock !== null) return lock;
  const records = unconfirmedBatches(state);
  if (records >= state.recordCapacity) {
    return rejection('memory-full', {
      what: 'records',
      used: records,
      capacity: state.recordCapacity,
    });
  }
  const { customer, product, expectedPieces, expectedCells, scheme, currency, mailingDate } = declaration;
  if (policy.customers.length === 0 && customer !== undefined) return rejection('unknown-customer', { customer });
  if (policy.customers.length > 0) {
    if (customer === undefined) return rejection('customer-missing', {});
    if (!policy.customers.includes(customer)) return rejection('unknown-customer', { customer });
  }
  if (scheme !== SCHEME) {
    return rejection('unsupported-version', { type: 'scheme', version: scheme, supported: SCHEME });
  }
  if (policy.scheme !== undefined && scheme !== policy.scheme) {
    return rejection('not-in-policy', { what: 'statistics scheme', value: scheme, allowed: policy.scheme });
  }
  if (policy.products !== undefined && !policy.products.includes(product)) {
    return rejection('not-in-policy', { what: 'product', value: product, allowed: policy.products.join(', ') });
  }
  if (currency.code !== policy.currency.code || currency.exponent !== policy.currency.exponent) {
    return rejection('malformed', { path: 'declaration.currency', reason: `it must be ${policy.currency.code}` });
  }
  if (!isMailingDay(mailingDate)) {
    return rejection('malformed', { path: 'declaration.mailingDate', reason: 'it must be a day from 2020 to 2199' });
  }
  const over = (what: string, value: number, limit: number): Rejection | null =>
    value > limit ? rejection('limit-exceeded', { what, value, limit }) : null;
  const bound =
    over('expectedPieces', expectedPieces, policy.maxPiecesPerBatch) ??
    over('expectedCells', expectedCells, policy.maxCellsPerBatch) ??
    over('the piece counter at the end of the batch', state.registers.pieces + expectedPieces, MAX_PIECE_NUMBER);
  if (bound !== null) return bound;
  const held = piecesInMemory(state);
  if (identity.memory === 'psd' && held + expectedPieces > policy.memoryPieces) {
    return rejection('memory-full', {
      what: `piece records (${expectedPieces} more are declared)`,
      used: held,
      capacity: policy.memoryPieces,
    });
  }
  return null;
}

/** Checked, debited, not yet franked: the first half of a chunk. `inputs` are what is authenticated, one per piece. */
export type AdmittedChunk = {
  /** The state that it was admitted to; the second half asks for exactly this one. */
  readonly basis: DeviceState;
  readonly request: FrankChunk;
  readonly requestBytes: Uint8Array;
  readonly requestDigest: Digest;
  readonly entries: readonly ChunkEntry[];
  readonly cells: readonly Uint8Array[];
  readonly cellKeys: ReadonlySet<string>;
  readonly registers: Registers;
  readonly inputs: Uint8Array;
};

/** A chunk that was franked before, made again: the same numbers, salts, codes and inputs. */
export type RepeatedChunk = { readonly chunk: HeldChunk; readonly inputs: Uint8Array; readonly codes: Uint8Array };

export type Admission =
  | { readonly kind: 'new'; readonly admitted: AdmittedChunk }
  | { readonly kind: 'again'; readonly repeated: RepeatedChunk };

/**
 * Admits a chunk, or makes one of the last again.
 * Rejections: `wrong-state`, `no-open-batch`, `chunk-conflict`, `chunk-no-longer-held`, `chunk-out-of-order`, `malformed`,
 * `too-many-pieces`, `too-many-cells`, `postage-out-of-range`, `insufficient-funds`, `device-locked`, `limit-exceeded`.
 */
export function admitChunk(state: DeviceState, request: FrankChunk, ports: Ports): Result<Admission> {
  const refused = refusedIn(state, 'frank');
  if (refused !== null) return refuse(refused);
  const device = operational(state);
  if (device === null) return refuse(notEnrolled(state, 'frank-chunk'));
  const { batch } = state;
  if (batch?.declaration.batch !== request.batch) return refuse(rejection('no-open-batch', { batch: request.batch }));
  const requestBytes = encodeWith(frankChunkSchema, request);
  const requestDigest = digestOf(ports.sha256(requestBytes));
  const next = batchPieces(state, batch);
  if (request.firstIndex < next) {
    const held = batch.held.find((chunk) => chunk.firstIndex === request.firstIndex);
    if (held !== undefined && sameBytes(held.requestDigest, requestDigest)) {
      return accept({ kind: 'again', repeated: remake(batch, device.identity, request, held, ports) });
    }
    const index = request.firstIndex;
    return refuse(
      held === undefined && index < (batch.held[0]?.firstIndex ?? 0)
        ? rejection('chunk-no-longer-held', { index })
        : rejection('chunk-conflict', { index }),
    );
  }
  if (batch.closing !== null) return refuse(rejection('no-open-batch', { batch: request.batch }));
  if (request.firstIndex > next) {
    return refuse(rejection('chunk-out-of-order', { index: request.firstIndex, expected: next }));
  }
  const checked = checkChunk(state, device, batch, request);
  if (!checked.ok) return checked;
  const { entries, registers, cellKeys } = checked.value;
  const frame = frameOf(batch, device.identity);
  return accept({
    kind: 'new',
    admitted: {
      basis: state,
      request,
      requestBytes,
      requestDigest,
      entries,
      cells: request.cells.map(cellKeyBytes),
      cellKeys,
      registers,
      inputs: indiciumInputs(frame, entries, state.registers.pieces + 1, state.registers.ascendingMills),
    },
  });
}

type Checked = {
  readonly entries: readonly ChunkEntry[];
  readonly registers: Registers;
  readonly cellKeys: ReadonlySet<string>;
};

function checkChunk(state: DeviceState, device: Operational, batch: Batch, request: FrankChunk): Result<Checked> {
  const { policy } = device;
  const { declaration } = batch;
  const malformed = (path: string, reason: string) => refuse(rejection('malformed', { path, reason }));
  if (request.pieces.length % CHUNK_ENTRY_BYTES !== 0) {
    return malformed('pieces', `entries of ${CHUNK_ENTRY_BYTES} bytes are expected`);
  }
  const pieces = batchPieces(state, batch) + chunkPieces(request);
  if (pieces > declaration.expectedPieces) {
    return refuse(rejection('too-many-pieces', { pieces, expected: declaration.expectedPieces }));
  }
  for (const [i, cell] of request.cells.entries()) {
    if (cell.product !== declaration.product || cell.entry !== declaration.entry) {
      return malformed(`cells.${i}`, `product and entry must be those of the declaration`);
    }
  }
  const entries = chunkEntries(request);
  const used = new Set<number>();
  const lowest = Number(policy.lowestPostageMills);
  const highest = Number(policy.highestPostageMills);
  // Exact: at most 1,024 amounts below 2^32.
  let total = 0;
  for (const [i, entry] of entries.entries()) {
    if (entry.cell >= request.cells.length) return malformed(`pieces.${i}`, 'its cell is not in the list');
    if (entry.postageMills < lowest || entry.postageMills > highest) {
      return refuse(
        rejection('postage-out-of-range', {
          postageMills: entry.postageMills,
          lowestMills: String(policy.lowestPostageMills),
          highestMills: String(policy.highestPostageMills),
          ...inCurrency(policy.currency),
        }),
      );
    }
    used.add(entry.cell);
    total += entry.postageMills;
  }
  const cellKeys = keysWith(batch, request, used);
  if (cellKeys.size > declaration.expectedCells) {
    return refuse(rejection('too-many-cells', { cells: cellKeys.size, expected: declaration.expectedCells }));
  }
  const neededMills = BigInt(total);
  const locked = frankingLock(state, policy, neededMills);
  if (locked !== null) return refuse(locked);
  const registers = debit(state.registers, neededMills, entries.length);
  if (registers === null) {
    return refuse(
      rejection('insufficient-funds', {
        neededMills: String(neededMills),
        availableMills: String(state.registers.descendingMills),
        ...inCurrency(policy.currency),
      }),
    );
  }
  if (registers.ascendingMills > MAX_ASCENDING_MILLS) {
    return refuse(
      rejection('limit-exceeded', {
        what: 'the ascending register',
        value: String(registers.ascendingMills),
        limit: String(MAX_ASCENDING_MILLS),
      }),
    );
  }
  return accept({ entries, registers, cellKeys });
}

/** The batch's cell keys with those that the chunk uses: the same set where none is new. */
function keysWith(batch: Batch, request: FrankChunk, used: ReadonlySet<number>): ReadonlySet<string> {
  let keys: Set<string> | null = null;
  for (const index of used) {
    const key = cellKeyText(request.cells[index] as FrankChunk['cells'][number]);
    if (batch.cellKeys.has(key)) continue;
    keys ??= new Set(batch.cellKeys);
    keys.add(key);
  }
  return keys ?? batch.cellKeys;
}

/** Franked: the state with the debit, and the codes of the answer (empty with the memory inside the device). */
export type Franked = { readonly state: DeviceState; readonly chunk: KeptChunk; readonly codes: Uint8Array };

/**
 * The second half: leaves and codes under the salts (16 random bytes a piece), and the state with the debit.
 * @throws where another step came between: a broken invariant of the shell.
 */
export function frankChunk(state: DeviceState, admitted: AdmittedChunk, salts: Uint8Array, ports: Ports): Franked {
  const { batch, identity } = state;
  if (state !== admitted.basis || batch === null || identity === null) {
    throw new Error('A chunk is franked in the state that admitted it.');
  }
  const { request, requestBytes, requestDigest, entries, cells, cellKeys, registers } = admitted;
  const firstPieceNumber = state.registers.pieces + 1;
  const { leaves, codes } = recordColumns(
    pieceRecordHead(identity.device, request.batch),
    request,
    entries,
    cells,
    firstPieceNumber,
    salts,
    ports.sha256,
    identity.memory === 'host' ? ports.recordCode : null,
  );
  const { ascendingMills } = state.registers;
  const { firstIndex } = request;
  const held: HeldChunk = { firstIndex, requestDigest, firstPieceNumber, ascendingMills, salts };
  return {
    state: {
      ...state,
      registers,
      batch: {
        ...batch,
        frontier: append(batch.frontier, leaves, ports.sha256),
        cellKeys,
        held: [...batch.held, held].slice(-HELD_CHUNKS),
      },
    },
    chunk: { ...held, request, requestBytes },
    codes,
  };
}

/** Makes the answer of a held chunk again; the request is the same, by its digest. */
function remake(batch: Batch, identity: Identity, request: FrankChunk, chunk: HeldChunk, ports: Ports): RepeatedChunk {
  const { firstPieceNumber, ascendingMills, salts } = chunk;
  const entries = chunkEntries(request);
  const { codes } = recordColumns(
    pieceRecordHead(identity.device, request.batch),
    request,
    entries,
    request.cells.map(cellKeyBytes),
    firstPieceNumber,
    salts,
    ports.sha256,
    identity.memory === 'host' ? ports.recordCode : null,
  );
  return { chunk, inputs: indiciumInputs(frameOf(batch, identity), entries, firstPieceNumber, ascendingMills), codes };
}

/**
 * Declares pieces spoiled. Numbers declared before are taken again without effect; one bad number and none is taken.
 * Rejections: `no-open-batch`, `unknown-piece`, `too-many-spoiled`.
 */
export function spoilPieces(state: DeviceState, batchId: BatchId, numbers: readonly number[]): Stepped {
  const { batch } = state;
  if (batch?.declaration.batch !== batchId || batch.closing !== null) {
    return refuse(rejection('no-open-batch', { batch: batchId }));
  }
  const first = batch.opened.pieces + 1;
  const unknown = numbers.find((number) => number < first || number > state.registers.pieces);
  if (unknown !== undefined) return refuse(rejection('unknown-piece', { pieceNumber: unknown }));
  const spoiled = new Set([...batch.spoiled, ...numbers]);
  if (spoiled.size === batch.spoiled.length) return accept({ state, effects: [] });
  if (spoiled.size > MAX_SPOILED) {
    return refuse(rejection('too-many-spoiled', { spoiled: spoiled.size, limit: MAX_SPOILED }));
  }
  return accept({
    state: { ...state, batch: { ...batch, spoiled: [...spoiled].sort((a, b) => a - b) } },
    effects: [],
  });
}

/**
 * Closes the batch: franking and spoiling end. Asked again it changes nothing but the number of reprints, which the
 * operator may correct until the record is sealed. Rejection: `no-open-batch`.
 */
export function closeBatch(state: DeviceState, batchId: BatchId, reprints: number): Stepped {
  const { batch } = state;
  if (batch?.declaration.batch !== batchId) return refuse(rejection('no-open-batch', { batch: batchId }));
  if (batch.closing?.reprints === reprints) return accept({ state, effects: [] });
  const closing = batch.closing ?? {
    registers: state.registers,
    funds: state.funds,
    reprints,
    afterMs: state.signedTimeMs,
  };
  return accept({ state: { ...state, batch: { ...batch, closing: { ...closing, reprints } } }, effects: [] });
}

function frameOf(batch: Batch, identity: Identity): IndiciumFrame {
  const { device, epoch, authentication } = identity;
  return indiciumFrame(LAYOUTS[authentication], batch.specimen, device, epoch, batch.declaration.mailingDate);
}

/** Whether a day exists and fits in an indicium. The schema has checked the form only: 2026-02-30 has it. */
function isMailingDay(date: string): boolean {
  try {
    mailingDay(date);
  } catch (error) {
    if (error instanceof RangeError) return false;
    throw error;
  }
  return new Date(`${date}T00:00:00Z`).toISOString().startsWith(date);
}

function sameDeclaration(one: BatchDeclaration, other: BatchDeclaration): boolean {
  return sameBytes(encodeWith(batchDeclaration, one), encodeWith(batchDeclaration, other));
}
