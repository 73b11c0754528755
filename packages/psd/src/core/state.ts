/**
 * What a postal security device is, between two steps: registers, chain, open batch, records not yet confirmed.
 *
 * Guarantees that a state is a value: steps make new ones and never write into an old one, so that a state whose commit
 * failed is simply dropped. Holds no secret: keys are the shell's.
 * Does not say how a state is stored (`shell/store.ts`), and leaves out what only the store needs (bytes of records).
 */
import type { Authentication } from '@countermark/protocol/cose';
import { type Digest, NO_DIGEST } from '@countermark/protocol/digest';
import type { BatchId, DeviceId } from '@countermark/protocol/id';
import type { FrankChunk } from '@countermark/protocol/interfaces/psd';
import { EMPTY_FRONTIER, type Frontier } from '@countermark/protocol/merkle';
import type { BatchDeclaration } from '@countermark/protocol/messages/batch-declaration';
import type { Memory } from '@countermark/protocol/messages/batch-statistics';
import type { DeviceCertificate } from '@countermark/protocol/messages/enrolment';
import type { Policy } from '@countermark/protocol/messages/policy';
import { type Mills, mills } from '@countermark/protocol/money';
import { balanced, type Funds, NO_FUNDS, type Registers, ZERO_REGISTERS } from '@countermark/protocol/registers';
import type { Verified } from '@countermark/verify/verified';

/**
 * Who the device is: fixed when it is initialised but for the keys, which each epoch has its own of. Public halves only.
 */
export type Identity = {
  readonly device: DeviceId;
  readonly epoch: number;
  readonly authentication: Authentication;
  readonly memory: Memory;
  readonly publicKey: Uint8Array;
  readonly agreementKey: Uint8Array;
  readonly sessionKey: Uint8Array;
};

/**
 * What the state holds of a franked chunk, so that it can be asked for again: with the request, which whoever asks brings
 * along, the same pieces are made again. Nothing here is a view of what came in, which would keep whole frames in memory.
 */
export type HeldChunk = {
  readonly firstIndex: number;
  /** SHA-256 over the request's deterministic encoding. */
  readonly requestDigest: Digest;
  readonly firstPieceNumber: number;
  /** The ascending register before the chunk. */
  readonly ascendingMills: Mills;
  /** 16 bytes a piece. */
  readonly salts: Uint8Array;
};

/** A franked chunk as the store keeps it: all that its pieces are made from. `requestBytes` encode `request`. */
export type KeptChunk = HeldChunk & { readonly request: FrankChunk; readonly requestBytes: Uint8Array };

/** Pieces and postage of one rate cell while it is counted; `key` is the cell key's bytes. */
export type Count = { readonly key: Uint8Array; readonly pieces: number; readonly postageMills: bigint };

/** How far a recount has come. Never stored: after a restart it begins again. */
export type Recount = {
  readonly frontier: Frontier;
  readonly cells: ReadonlyMap<string, Count>;
  readonly spoiledPieces: number;
  readonly spoiledPostageMills: bigint;
};

export const RECOUNT_START: Recount = {
  frontier: EMPTY_FRONTIER,
  cells: new Map(),
  spoiledPieces: 0,
  spoiledPostageMills: 0n,
};

/** What was fixed when the batch was closed. */
export type Closing = {
  readonly registers: Registers;
  readonly funds: Funds;
  readonly reprints: number;
  readonly afterMs: number | null;
};

/** The one batch that is open, or closed and not yet sealed. */
export type Batch = {
  readonly declaration: BatchDeclaration;
  readonly opened: Registers;
  readonly openedAfterMs: number | null;
  readonly policyVersion: number;
  readonly specimen: boolean;
  readonly frontier: Frontier;
  /** Texts of the cell keys seen, for the bound. */
  readonly cellKeys: ReadonlySet<string>;
  /** Ascending. */
  readonly spoiled: readonly number[];
  /** The last chunks, at most HELD_CHUNKS, that can be asked for again. */
  readonly held: readonly HeldChunk[];
  readonly closing: Closing | null;
  readonly recount: Recount;
};

/** A sealed record that is not yet confirmed. */
export type HeldRecord = {
  readonly sequence: number;
  readonly digest: Digest;
  /** Null: a key rotation or the final statement, which frank nothing. */
  readonly batch: BatchId | null;
  readonly pieces: number;
  readonly postageMills: Mills;
  /** Signed time from which its reporting deadline runs; null until the device has seen one. */
  readonly agedFromMs: number | null;
  readonly bytes: number;
};

export type PendingFunds = { readonly number: number; readonly amountMills: Mills };

export type DeviceState = {
  readonly identity: Identity | null;
  /** The device with the keys of its next epoch, which wait for their certificate. */
  readonly nextIdentity: Identity | null;
  readonly certificate: Verified<DeviceCertificate> | null;
  readonly policy: Verified<Policy> | null;
  readonly recordCapacity: number;
  readonly registers: Registers;
  readonly funds: Funds;
  /** Of the last sealed record; 0 and zero bytes before the first. */
  readonly sequence: number;
  readonly head: Digest;
  readonly signedTimeMs: number | null;
  readonly batch: Batch | null;
  /** Ascending by sequence. */
  readonly unconfirmed: readonly HeldRecord[];
  readonly lastFundsNumber: number;
  readonly pendingFunds: PendingFunds | null;
  readonly lastGrantDigest: Digest | null;
  /** Of its final statement, null before that. */
  readonly finalSequence: number | null;
  readonly alarms: number;
};

export const UNINITIALISED: DeviceState = {
  identity: null,
  nextIdentity: null,
  certificate: null,
  policy: null,
  recordCapacity: 0,
  registers: ZERO_REGISTERS,
  funds: NO_FUNDS,
  sequence: 0,
  head: NO_DIGEST,
  signedTimeMs: null,
  batch: null,
  unconfirmed: [],
  lastFundsNumber: 0,
  pendingFunds: null,
  lastGrantDigest: null,
  finalSequence: null,
  alarms: 0,
};

/** Pieces franked in the batch. */
export function batchPieces(state: DeviceState, batch: Batch): number {
  return (batch.closing?.registers ?? state.registers).pieces - batch.opened.pieces;
}

/** Postage franked in the batch. */
export function batchPostageMills(state: DeviceState, batch: Batch): Mills {
  return mills((batch.closing?.registers ?? state.registers).ascendingMills - batch.opened.ascendingMills);
}

/** Sums over the held records, remembered by the list itself: lists are never written into. */
const heldTotals = new WeakMap<readonly HeldRecord[], HeldTotals>();

type HeldTotals = { readonly batches: number; readonly pieces: number; readonly postageMills: bigint };

function totalsOf(held: readonly HeldRecord[]): HeldTotals {
  const known = heldTotals.get(held);
  if (known !== undefined) return known;
  let batches = 0;
  let pieces = 0;
  let postageMills = 0n;
  for (const record of held) {
    if (record.batch !== null) batches += 1;
    pieces += record.pieces;
    postageMills += record.postageMills;
  }
  const totals = { batches, pieces, postageMills };
  heldTotals.set(held, totals);
  return totals;
}

/** Records of batches that are not confirmed. A key rotation has room of its own and is not counted. */
export function unconfirmedBatches(state: DeviceState): number {
  return totalsOf(state.unconfirmed).batches;
}

/** Whether the device has come to its end: the final statement is confirmed, and every key erased. */
export function isZeroised(state: DeviceState): boolean {
  return state.finalSequence !== null && state.unconfirmed.length === 0;
}

/** The key rotation that is not confirmed: there is one at most, and none beside a final statement. */
export function unconfirmedRotation(state: DeviceState): HeldRecord | null {
  const { unconfirmed } = state;
  if (totalsOf(unconfirmed).batches === unconfirmed.length) return null;
  return unconfirmed.find((record) => record.batch === null) ?? null;
}

/** Postage franked and not yet confirmed, the open batch included. */
export function unconfirmedPostageMills(state: DeviceState): Mills {
  const open = state.batch === null ? 0n : batchPostageMills(state, state.batch);
  return mills(open + totalsOf(state.unconfirmed).postageMills);
}

/** Piece records held in the memory inside the device; 0 where the memory is the host's. */
export function piecesInMemory(state: DeviceState): number {
  if (state.identity?.memory !== 'psd') return 0;
  const open = state.batch === null ? 0 : batchPieces(state, state.batch);
  return open + totalsOf(state.unconfirmed).pieces;
}

/**
 * What contradicts itself in a state, in words; nothing where all is well. Every step keeps it empty, so a finding in
 * what a store gave back means that the store was altered.
 */
export function stateProblems(state: DeviceState): string[] {
  const problems: string[] = [];
  const { registers, funds, batch, unconfirmed } = state;
  if (!balanced(registers, funds)) problems.push('ascending and descending register are not the funds received');
  unconfirmed.forEach((record, i) => {
    const before = unconfirmed[i - 1]?.sequence ?? 0;
    if (record.sequence <= before || record.sequence > state.sequence) {
      problems.push(`record ${record.sequence} stands out of order`);
    }
  });
  if (unconfirmed.length - totalsOf(unconfirmed).batches > 1) problems.push('two key rotations are not confirmed');
  if (state.finalSequence !== null) {
    if (state.finalSequence !== state.sequence) problems.push('a record comes after the final statement');
    if (batch !== null) problems.push('a batch is open after the final statement');
    if (registers.descendingMills !== 0n) problems.push('funds are left after the final statement');
  }
  if (batch !== null) {
    if (batch.opened.pieces > registers.pieces || batch.opened.ascendingMills > registers.ascendingMills) {
      problems.push('the open batch was opened with higher registers than there are now');
    } else if (batch.frontier.leaves !== batchPieces(state, batch)) {
      problems.push(
        `the open batch has ${batchPieces(state, batch)} pieces, its Merkle tree ${batch.frontier.leaves} leaves`,
      );
    }
  }
  return problems;
}
