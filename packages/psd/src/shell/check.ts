/**
 * Reads a device's store from its first record and says in words what is wrong; changes nothing.
 *
 * Guarantees, where it finds nothing: SQLite's own structures are whole; certificate and policy are authentic; the
 * registers balance; the sequence has no gap from 1 to the head, whose digest is the last record's (of deleted records no
 * more is known than that); every record that is still held is authentic, has the digest that the chain names, and agrees with itself and its neighbours; the
 * open batch continues the last record; the device's own memory holds every piece of every unconfirmed batch.
 * It cannot tell that the store was replaced by an older copy of itself.
 */
import { existsSync } from 'node:fs';
import { equalMacs, hmacSha256 } from '@countermark/node-platform/signing';
import { sha256 } from '@countermark/node-platform/verification';
import { type Digest, NO_DIGEST, sameBytes } from '@countermark/protocol/digest';
import { type BatchStatistics, BATCH_STATISTICS } from '@countermark/protocol/messages/batch-statistics';
import type { Registers } from '@countermark/protocol/registers';
import { describeRejection } from '@countermark/protocol/rejection';
import { accept, type Result } from '@countermark/protocol/result';
import { contradiction } from '@countermark/verify/statistics';
import { type Trust, verifyMessage } from '@countermark/verify/verified';
import { recountOwn } from '../core/recount.ts';
import { type Batch, batchPieces, type DeviceState, type Identity } from '../core/state.ts';
import type { Ports } from '../core/transition.ts';
import { macKey } from './keys.ts';
import { type Loaded, openStore, type PsdStore } from './store.ts';

/** What is wrong with the store. Rejections: `store-in-use`, `store-damaged` (it cannot be read at all). */
export function checkStore(path: string): Result<readonly string[]> {
  if (!existsSync(path)) return accept([`There is no store at ${path}.`]);
  const opened = openStore({ path });
  if (!opened.ok) return opened;
  const store = opened.value;
  try {
    const problems = store.embedded.integrityProblems();
    if (problems.length > 0 || !store.initialised) return accept(problems);
    const loaded = store.load(0);
    if (!loaded.ok) return accept([describeRejection(loaded.rejection)]);
    return accept([...recordProblems(store, loaded.value), ...memoryProblems(store, loaded.value)]);
  } finally {
    store.close();
  }
}

function recordProblems(store: PsdStore, { state, keys, identity, trust }: Loaded): string[] {
  const problems: string[] = [];
  const checking = trustIn(state, identity, trust, macKeyOf(identity, keys));
  let previous: Digest = NO_DIGEST;
  let closed: Registers | null = null;
  for (let sequence = 1; sequence <= state.sequence; sequence++) {
    const stored = store.recordAt(sequence);
    if (stored === null) {
      problems.push(`record ${sequence} is missing: the chain has a gap`);
      closed = null;
      continue;
    }
    if (stored.record === null) {
      closed = null;
    } else {
      const verified = verifyMessage(BATCH_STATISTICS, stored.record, checking, 'enrolled');
      if (!verified.ok) {
        problems.push(`record ${sequence}: ${describeRejection(verified.rejection)}`);
        closed = null;
      } else {
        const statistics: BatchStatistics = verified.value.message;
        const wrong = contradiction(statistics);
        if (wrong !== null) problems.push(`record ${sequence}: ${describeRejection(wrong)}`);
        if (!sameBytes(verified.value.digest, stored.digest) || statistics.sequence !== sequence) {
          problems.push(`record ${sequence} is not the one that the chain names`);
        }
        if (!sameBytes(statistics.previous, previous))
          problems.push(`record ${sequence} does not follow its predecessor`);
        if (closed !== null) problems.push(...gap(`record ${sequence}`, closed, statistics.observed.opened));
        closed = statistics.observed.closed;
      }
    }
    previous = stored.digest;
  }
  if (!sameBytes(previous, state.head)) problems.push('the head of the chain is not the last record');
  if (closed !== null) {
    const now = state.batch?.opened ?? state.registers;
    problems.push(...gap(state.batch === null ? 'the registers' : 'the open batch', closed, now));
  }
  return problems;
}

/** Registers at open(n+1) = at close(n), funds apart. */
function gap(what: string, closed: Registers, opened: Registers): string[] {
  return closed.ascendingMills === opened.ascendingMills && closed.pieces === opened.pieces
    ? []
    : [`${what}: ascending register or piece counter do not continue those of the record before`];
}

/** The memory inside the device: every unconfirmed batch from its index 0, against the open batch's Merkle tree. */
function memoryProblems(store: PsdStore, { state }: Loaded): string[] {
  if (state.identity?.memory !== 'psd') return [];
  const problems: string[] = [];
  for (const { batch, pieces } of state.unconfirmed) {
    let counted = 0;
    for (let chunk = store.chunkAt(batch, 0); chunk !== null; chunk = store.chunkAt(batch, counted)) {
      counted += chunk.salts.length / 16;
    }
    if (counted !== pieces) problems.push(`batch ${batch} has ${counted} of its ${pieces} piece records`);
  }
  if (state.batch !== null) problems.push(...openBatchProblems(store, state, state.batch));
  return problems;
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
    if (!counted.ok) return [`the open batch ${id}: ${describeRejection(counted.rejection)}`];
    counting = counted.value.state;
    next = counting.batch?.recount.frontier.leaves ?? Infinity;
  }
  return [];
}

function macKeyOf(identity: Identity, keys: Loaded['keys']): Uint8Array | null {
  return identity.authentication === 'mac' ? macKey(keys, identity, 'statistics') : null;
}

/** The trust under which the device's own records are checked: its own key, and its own MAC key. */
function trustIn(state: DeviceState, identity: Identity, trust: Trust, statisticsKey: Uint8Array | null): Trust {
  const own = { publicKey: identity.publicKey, authentication: identity.authentication };
  return {
    port: trust.port,
    keys: ({ holder, epoch }) =>
      state.certificate !== null && holder === identity.device && epoch === identity.epoch ? own : null,
    ...(statisticsKey === null
      ? {}
      : {
          macs: {
            verifyMac: (_key, purpose, input, code) =>
              purpose === 'statistics' && equalMacs(hmacSha256(statisticsKey, input), code),
          },
        }),
  };
}
