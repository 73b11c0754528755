/**
 * Reads a device's store from its first record and says in words what is wrong; changes nothing.
 *
 * Guarantees, where it finds nothing: SQLite's own structures are whole; certificate and policy are authentic; the
 * registers balance; the sequence has no gap from 1 to the head, whose digest is the last record's (of deleted records no
 * more is known than that); every record that is still held is authentic, has the digest that the chain names, and agrees with itself and its neighbours; the
 * open batch continues the last record; the device's own memory holds every piece of every unconfirmed batch, with the root
 * and the rate cells that its record names. A start asks the same of the last records only (`tailProblem`).
 * That the store was replaced by an older copy of itself it can tell only where a token keeps the device's mark.
 */
import { existsSync } from 'node:fs';
import { Examination } from '@countermark/node-platform/examination';
import { hsmRejection } from '@countermark/node-platform/hsm-access';
import { equalMacs, hmacSha256 } from '@countermark/node-platform/signing';
import { sha256 } from '@countermark/node-platform/verification';
import { cellKeyBytes } from '@countermark/protocol/cell';
import { CellTally } from '@countermark/protocol/cell-tally';
import { parseEnvelope } from '@countermark/protocol/cose';
import { type Digest, digestText, NO_DIGEST, sameBytes } from '@countermark/protocol/digest';
import { append, EMPTY_FRONTIER, root, SALT_BYTES } from '@countermark/protocol/merkle';
import { parsePayload } from '@countermark/protocol/message';
import { type BatchStatistics, BATCH_STATISTICS } from '@countermark/protocol/messages/batch-statistics';
import { pieceRecordHead } from '@countermark/protocol/messages/piece-record';
import type { Registers } from '@countermark/protocol/registers';
import { describeFinding, type Rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { recordIdentity, type VerifiedRecord, verifyRecord } from '@countermark/verify/record';
import { contradiction } from '@countermark/verify/statistics';
import type { KnownKey, Trust } from '@countermark/verify/verified';
import { chunkEntries, recordColumns } from '../core/piece-columns.ts';
import { recountOwn } from '../core/recount.ts';
import { type Batch, batchPieces, type DeviceState, type Identity } from '../core/state.ts';
import type { Ports } from '../core/transition.ts';
import { macKey, STORE_KEYS } from './keys.ts';
import { putBackProblem } from './put-back.ts';
import { type Loaded, openStore, type PsdStore } from './store.ts';

/**
 * What is wrong with the store, from its first record. Rejections: `store-in-use`, `store-damaged` (it cannot be read at all),
 * `hsm-unavailable`, `hsm-refused`.
 * Testimony: `device` once, `record` of each sequence.
 */
export function checkStore(
  path: string,
  examination = new Examination(),
  holder = STORE_KEYS,
): Result<readonly string[]> {
  if (!existsSync(path)) {
    examination.problem(`There is no store at ${path}.`);
    return accept(examination.problems);
  }
  const opened = openStore({ path });
  if (!opened.ok) return opened;
  const store = opened.value;
  try {
    store.embedded.database.pragma('query_only = ON');
    const problems = store.embedded.integrityProblems();
    for (const problem of problems) examination.problem(problem);
    if (problems.length > 0 || !store.initialised) return accept(examination.problems);
    const loaded = store.load(0, holder);
    if (!loaded.ok) {
      examination.problem(describeFinding(loaded.rejection));
      return accept(examination.problems);
    }
    testifyDevice(loaded.value, examination);
    const putBack = putBackProblem(loaded.value, holder, path);
    if (putBack !== null) examination.problem(describeFinding(putBack));
    checkRecords(store, loaded.value, 1, examination);
    checkMemory(store, loaded.value, examination);
    return accept(examination.problems);
  } catch (error) {
    const refused = hsmRejection(error, holder.token ?? '');
    if (refused === null) throw error;
    return refuse(refused);
  } finally {
    store.close();
  }
}

/** Records that a start reads again at most: those of the last chunk of work, not those of a year. */
const TAIL_RECORDS = 32;

/** What is wrong with the end of a store that was just loaded, or null: what a start asks, in a few milliseconds. */
export function tailProblem(store: PsdStore, loaded: Loaded): string | null {
  const examination = new Examination();
  const { state } = loaded;
  checkRecords(store, loaded, Math.max(1, state.sequence - TAIL_RECORDS + 1), examination);
  if (state.batch !== null) checkHeldChunks(state, state.batch, examination);
  return examination.problems[0] ?? null;
}

function testifyDevice({ state, identity }: Loaded, examination: Examination): void {
  const { registers, funds } = state;
  examination.testify({
    party: 'psd',
    kind: 'device',
    device: identity.device,
    licensee: state.certificate?.message.licensee ?? null,
    sequence: state.sequence,
    head: digestText(state.head),
    ascendingMills: String(registers.ascendingMills),
    descendingMills: String(registers.descendingMills),
    pieces: registers.pieces,
    receivedMills: String(funds.receivedMills),
    returnedMills: String(funds.returnedMills),
    lastGrant: funds.lastGrant,
    memory: identity.memory,
    batch: state.batch?.declaration.batch ?? null,
    batchPieces: state.batch === null ? 0 : batchPieces(state, state.batch),
  });
}

/** Records from a sequence on. Of those before, only the last one's digest and registers are taken, as they stand. */
function checkRecords(store: PsdStore, loaded: Loaded, from: number, examination: Examination): void {
  const { state, identity } = loaded;
  const checking = trustIn(loaded);
  let previous: Digest | null = from === 1 ? NO_DIGEST : (store.recordAt(from - 1)?.digest ?? null);
  let closed: Registers | null = null;
  for (let sequence = from; sequence <= state.sequence; sequence++) {
    if (sequence % 256 === 0) examination.progress('records', sequence, state.sequence);
    const stored = store.recordAt(sequence);
    if (stored === null) {
      examination.problem(`record ${sequence} is missing: the chain has a gap`);
      closed = null;
      previous = null;
      continue;
    }
    const { device } = identity;
    const held = stored.record !== null;
    const { batch } = stored;
    examination.testify({
      party: 'psd',
      kind: 'record',
      device,
      sequence,
      digest: digestText(stored.digest),
      held,
      batch,
    });
    if (stored.record === null) {
      closed = null;
    } else {
      const verified = verifyRecord(stored.record, checking);
      if (!verified.ok) {
        examination.problem(`record ${sequence}: ${describeFinding(verified.rejection)}`);
        closed = null;
      } else {
        const { record, wrong, opened, after } = contentOf(verified.value);
        if (wrong !== null) examination.problem(`record ${sequence}: ${describeFinding(wrong)}`);
        if (!sameBytes(record.digest, stored.digest) || record.sequence !== sequence) {
          examination.problem(`record ${sequence} is not the one that the chain names`);
        }
        if (previous !== null && !sameBytes(record.previous, previous)) {
          examination.problem(`record ${sequence} does not follow its predecessor`);
        }
        if (closed !== null) noteGap(`record ${sequence}`, closed, opened, examination);
        closed = after;
      }
    }
    previous = stored.digest;
  }
  if (previous !== null && !sameBytes(previous, state.head)) {
    examination.problem('the head of the chain is not the last record');
  }
  if (closed !== null) {
    const now = state.batch?.opened ?? state.registers;
    noteGap(state.batch === null ? 'the registers' : 'the open batch', closed, now, examination);
  }
}

/** What every record says: where it stands, what contradicts itself in it, and the registers before and after it. */
function contentOf(record: VerifiedRecord): {
  readonly record: ReturnType<typeof recordIdentity>;
  readonly wrong: Rejection | null;
  readonly opened: Registers;
  readonly after: Registers;
} {
  if (record.type === 'key-rotation') {
    const { registers } = record.verified.message;
    return { record: recordIdentity(record), wrong: null, opened: registers, after: registers };
  }
  if (record.type === 'final-statement') {
    const { registers, returnedMills } = record.verified.message;
    const opened = { ...registers, descendingMills: returnedMills };
    return { record: recordIdentity(record), wrong: null, opened, after: registers };
  }
  const statistics = record.verified.message;
  const { opened, closed } = statistics.observed;
  return { record: recordIdentity(record), wrong: contradiction(statistics), opened, after: closed };
}

/** Registers at open(n+1) = at close(n), funds apart. */
function noteGap(what: string, closed: Registers, opened: Registers, examination: Examination): void {
  if (closed.ascendingMills === opened.ascendingMills && closed.pieces === opened.pieces) return;
  examination.problem(`${what}: ascending register or piece counter do not continue those of the record before`);
}

/** The last chunks of an open batch end where registers and Merkle tree stand. */
function checkHeldChunks(state: DeviceState, batch: Batch, examination: Examination): void {
  const last = batch.held.at(-1);
  if (last === undefined) {
    if (batch.frontier.leaves > 0) examination.problem('the open batch lacks its last chunk');
    return;
  }
  const next = last.firstPieceNumber + last.salts.length / 16;
  if (next !== (batch.closing?.registers ?? state.registers).pieces + 1) {
    examination.problem(
      `the last chunk of the open batch ends before piece ${next}, not where the piece counter stands`,
    );
  }
}

/** The memory inside the device: every unconfirmed batch from its index 0, against its record's or the open batch's root. */
function checkMemory(store: PsdStore, { state, identity }: Loaded, examination: Examination): void {
  if (identity.memory !== 'psd') return;
  for (const { sequence, batch, pieces } of state.unconfirmed) {
    examination.progress(`piece records of batch ${batch}`, 0, pieces);
    const record = store.recordAt(sequence)?.record ?? null;
    const envelope = record === null ? null : parseEnvelope(record);
    if (envelope?.ok !== true || envelope.value.type !== BATCH_STATISTICS.type) continue;
    const statistics = parsePayload(BATCH_STATISTICS, envelope.value);
    // What cannot be read was told of with its record.
    if (statistics.ok) checkSealedPieces(store, identity, statistics.value, examination);
  }
  if (state.batch !== null) {
    for (const problem of openBatchProblems(store, state, state.batch)) examination.problem(problem);
  }
}

/** The pieces of a sealed batch: their number, their root, and what they add up to in each rate cell. */
function checkSealedPieces(
  store: PsdStore,
  identity: Identity,
  { declaration: { batch }, closing, observed }: BatchStatistics,
  examination: Examination,
): void {
  const head = pieceRecordHead(identity.device, batch);
  const tally = new CellTally(closing.spoiled);
  let frontier = EMPTY_FRONTIER;
  for (;;) {
    const chunk = store.chunkAt(batch, frontier.leaves);
    if (chunk === null) break;
    const { request, firstPieceNumber, salts } = chunk;
    const entries = chunkEntries(request);
    if (
      entries.length === 0 ||
      salts.length !== entries.length * SALT_BYTES ||
      entries.some(({ cell }) => cell >= request.cells.length)
    ) {
      examination.problem(`batch ${batch}: the piece records from piece ${firstPieceNumber} on are not whole`);
      return;
    }
    const cells = request.cells.map((key) => cellKeyBytes(key));
    const { leaves } = recordColumns(head, request, entries, cells, firstPieceNumber, salts, sha256, null);
    for (const [i, { cell, postageMills }] of entries.entries()) {
      tally.count(cells[cell] as Uint8Array, firstPieceNumber + i, BigInt(postageMills));
    }
    frontier = append(frontier, leaves, sha256);
    examination.progress(`piece records of batch ${batch}`, frontier.leaves, observed.pieces);
  }
  if (frontier.leaves !== observed.pieces) {
    examination.problem(`batch ${batch} has ${frontier.leaves} of its ${observed.pieces} piece records`);
  } else if (!sameBytes(root(frontier, sha256), observed.root)) {
    examination.problem(`batch ${batch}: its piece records do not have the root that its record names`);
  }
  const difference = observed.incomplete ? null : tally.difference(observed.cells);
  if (difference !== null) examination.problem(`batch ${batch}: ${difference}`);
}

function openBatchProblems(store: PsdStore, state: DeviceState, batch: Batch): string[] {
  const id = batch.declaration.batch;
  const closing = batch.closing ?? { registers: state.registers, funds: state.funds, reprints: 0, afterMs: null };
  let counting: DeviceState = { ...state, batch: { ...batch, closing } };
  const ports: Ports = { sha256, recordCode: () => new Uint8Array(0) };
  for (let next = 0; next < batchPieces(state, batch); ) {
    const chunk = store.chunkAt(id, next);
    if (chunk === null) return [`the open batch ${id} lacks its piece records from index ${next} on`];
    const counted = recountOwn(counting, id, chunk, ports);
    if (!counted.ok) return [`the open batch ${id}: ${describeFinding(counted.rejection)}`];
    counting = counted.value.state;
    next = counting.batch?.recount.frontier.leaves ?? Infinity;
  }
  return [];
}

/** A key of an epoch under which records may be held; `code` null where the secret that checks codes was erased. */
type EpochKey = { readonly known: KnownKey; readonly code: Uint8Array | null };

/**
 * The trust under which the device's own records are checked: its own keys, of this epoch and of those before. Once a rotation is
 * confirmed, codes from before it can be checked no more: such a record counts by its digest alone, which the chain names.
 */
function trustIn({ state, keys, retired, identity, trust }: Loaded): Trust {
  const { device, epoch, publicKey, authentication } = identity;
  const mac = authentication === 'mac';
  const epochs = new Map<number, EpochKey>();
  if (state.certificate !== null && keys !== null) {
    const code = mac ? macKey(keys, state.certificate.message, 'statistics') : null;
    epochs.set(epoch, { known: { publicKey, authentication }, code });
  }
  for (const { certificate, agreement } of retired) {
    const of = certificate.message;
    const code = agreement === null ? null : macKey({ agreement }, of, 'statistics');
    epochs.set(of.epoch, { known: of, code });
  }
  return {
    port: trust.port,
    keys: (key) => (key.holder === device ? (epochs.get(key.epoch)?.known ?? null) : null),
    ...(mac
      ? {
          macs: {
            verifyMac: (key, purpose, input, code) => {
              const secret = epochs.get(key.epoch)?.code ?? null;
              if (secret === null) return key.epoch !== epoch;
              return purpose === 'statistics' && equalMacs(hmacSha256(secret, input), code);
            },
          },
        }
      : {}),
  };
}
