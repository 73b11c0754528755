/**
 * The chain of a device's records (design, invariants 3 and 5): one line of sequences and digests without gap.
 *
 * A pure judgement, the same in the server, in the authority, and for anyone who has the records. The caller stores
 * the new head in one atomic compare-and-append.
 */
import { type Digest, NO_DIGEST, sameBytes } from '@countermark/protocol/digest';
import type { Funds, Registers } from '@countermark/protocol/registers';
import { balanced, controlTotalMills, NO_FUNDS, ZERO_REGISTERS } from '@countermark/protocol/registers';
import { type Rejection, rejection } from '@countermark/protocol/rejection';
import { type RecordIdentity, recordIdentity, type VerifiedRecord } from './record.ts';
import { contradiction } from './statistics.ts';

/** What a head has for its epoch after a final statement: beyond every key, so that no key continues the chain. */
export const ENDED_EPOCH = 65_536;

/** What is known of a chain after its last accepted record; `epoch` 0 before the first: any epoch may begin. */
export type ChainHead = {
  readonly sequence: number;
  readonly digest: Digest;
  readonly registers: Registers;
  readonly funds: Funds;
  readonly epoch: number;
};

export const CHAIN_START: ChainHead = {
  sequence: 0,
  digest: NO_DIGEST,
  registers: ZERO_REGISTERS,
  funds: NO_FUNDS,
  epoch: 0,
};

export type Verdict =
  | { readonly outcome: 'continues'; readonly head: ChainHead }
  | { readonly outcome: 'already-accepted' }
  | { readonly outcome: 'rejected'; readonly rejection: Rejection };

/**
 * Judges a record against the head. `acceptedAt(sequence)` gives the digest that was accepted at or below the head.
 * Rejections: `fork`, `out-of-order`, `chain-ended`, `superseded-key`, `inconsistent`, `unsupported-version` (scheme).
 */
export function judge(
  head: ChainHead,
  record: VerifiedRecord,
  acceptedAt: (sequence: number) => Digest | null,
): Verdict {
  const identity = recordIdentity(record);
  if (identity.sequence <= head.sequence) {
    const accepted = acceptedAt(identity.sequence);
    return accepted !== null && sameBytes(accepted, identity.digest) ? { outcome: 'already-accepted' } : fork(identity);
  }
  if (identity.sequence > head.sequence + 1) {
    const { device, sequence } = identity;
    return {
      outcome: 'rejected',
      rejection: rejection('out-of-order', { device, sequence, expected: head.sequence + 1 }),
    };
  }
  if (!sameBytes(identity.previous, head.digest)) return fork(identity);
  if (head.epoch === ENDED_EPOCH) {
    const { device, sequence } = identity;
    return { outcome: 'rejected', rejection: rejection('chain-ended', { device, sequence }) };
  }
  const { epoch } = record.verified.envelope.key;
  if (epoch < head.epoch) {
    const { device, sequence } = identity;
    const detail = { type: `record ${sequence}`, device, sequence, epoch, current: head.epoch };
    return { outcome: 'rejected', rejection: rejection('superseded-key', detail) };
  }
  if (head.epoch !== 0 && epoch !== head.epoch) {
    return inconsistent(identity, `it is under the key of epoch ${epoch}, the chain under ${head.epoch}`);
  }
  if (record.type === 'batch-statistics') return afterBatch(head, record, identity);
  return record.type === 'key-rotation'
    ? afterRotation(head, record, identity)
    : afterFinalStatement(head, record, identity);
}

function afterBatch(
  head: ChainHead,
  record: VerifiedRecord & { type: 'batch-statistics' },
  identity: RecordIdentity,
): Verdict {
  const { observed } = record.verified.message;
  const internal = contradiction(record.verified.message);
  if (internal !== null) return { outcome: 'rejected', rejection: internal };
  if (observed.epoch !== record.verified.envelope.key.epoch)
    return inconsistent(identity, 'epoch and key do not agree');
  const broken = discontinuity(head, observed.opened, observed.funds);
  if (broken !== null) return inconsistent(identity, broken);
  // Funds that came between opening and closing can only have raised the total.
  if (
    controlTotalMills(observed.opened) >
    controlTotalMills(observed.closed) + (observed.funds.returnedMills - head.funds.returnedMills)
  ) {
    return inconsistent(identity, 'funds vanished while the batch was open');
  }
  return {
    outcome: 'continues',
    head: {
      sequence: identity.sequence,
      digest: identity.digest,
      registers: observed.closed,
      funds: observed.funds,
      epoch: observed.epoch,
    },
  };
}

function afterRotation(
  head: ChainHead,
  record: VerifiedRecord & { type: 'key-rotation' },
  identity: RecordIdentity,
): Verdict {
  const { newEpoch, registers, funds } = record.verified.message;
  if (newEpoch <= record.verified.envelope.key.epoch) return inconsistent(identity, 'the new epoch is not later');
  const broken = discontinuity(head, registers, funds);
  if (broken !== null) return inconsistent(identity, broken);
  if (!balanced(registers, funds)) return inconsistent(identity, 'the registers are not funds received minus returned');
  return {
    outcome: 'continues',
    head: { sequence: identity.sequence, digest: identity.digest, registers, funds, epoch: newEpoch },
  };
}

/** Its registers, with what it gives back, continue the chain; nothing is left in the descending register. */
function afterFinalStatement(
  head: ChainHead,
  record: VerifiedRecord & { type: 'final-statement' },
  identity: RecordIdentity,
): Verdict {
  const { registers, funds, returnedMills } = record.verified.message;
  if (registers.descendingMills !== 0n) return inconsistent(identity, 'funds are left after the final statement');
  if (funds.returnedMills - head.funds.returnedMills !== returnedMills) {
    return inconsistent(identity, 'the funds returned are not what the device gives back');
  }
  if (!balanced(registers, funds)) return inconsistent(identity, 'the registers are not funds received minus returned');
  const before = { ...registers, descendingMills: returnedMills };
  const broken = discontinuity(head, before, { ...funds, returnedMills: head.funds.returnedMills });
  if (broken !== null) return inconsistent(identity, broken);
  return {
    outcome: 'continues',
    head: { sequence: identity.sequence, digest: identity.digest, registers, funds, epoch: ENDED_EPOCH },
  };
}

/** Registers at open(n+1) = at close(n), funds apart. */
function discontinuity(head: ChainHead, opened: Registers, funds: Funds): string | null {
  if (opened.ascendingMills !== head.registers.ascendingMills) return 'the ascending register does not continue';
  if (opened.pieces !== head.registers.pieces) return 'the piece counter does not continue';
  if (funds.receivedMills < head.funds.receivedMills || funds.returnedMills < head.funds.returnedMills)
    return 'cumulative funds went down';
  if (funds.lastGrant < head.funds.lastGrant) return 'the number of the last funds grant went down';
  const moved = opened.descendingMills - head.registers.descendingMills;
  const received = funds.receivedMills - head.funds.receivedMills;
  const returned = funds.returnedMills - head.funds.returnedMills;
  if (moved > received || moved < -returned) return 'the descending register does not continue';
  return null;
}

function fork(identity: RecordIdentity): Verdict {
  return {
    outcome: 'rejected',
    rejection: rejection('fork', { device: identity.device, sequence: identity.sequence }),
  };
}

function inconsistent(identity: RecordIdentity, reason: string): Verdict {
  return {
    outcome: 'rejected',
    rejection: rejection('inconsistent', { device: identity.device, sequence: identity.sequence, reason }),
  };
}
