/**
 * The limits within which a device franks: hard ones on what is unconfirmed, deadlines by signed time.
 *
 * A lock forbids opening and franking only: closing, recounting, sending, confirming and refilling go on, and reporting
 * lifts it. The deadline runs from the opening of the oldest batch in which was franked and whose record is not confirmed,
 * be it open or sealed: a batch that is never closed would escape it otherwise, and closing would lift the lock.
 * Time is the last signed time that the device has seen; it never reads a clock.
 */
import type { DeviceStatus } from '@countermark/protocol/interfaces/psd';
import type { Policy } from '@countermark/protocol/messages/policy';
import { type Rejection, rejection } from '@countermark/protocol/rejection';
import { batchPieces, type DeviceState, unconfirmedBatches, unconfirmedPostageMills } from './state.ts';

const DAY_MS = 86_400_000;

export type Deadlines = { readonly warnsAtMs: number; readonly locksAtMs: number };

/** When what is unconfirmed warns and locks, by signed time; null where nothing waits or no time is known. */
export function deadlines(state: DeviceState): Deadlines | null {
  const policy = state.policy?.message;
  const { batch } = state;
  const open = batch !== null && batchPieces(state, batch) > 0 ? batch.openedAfterMs : null;
  const since = state.unconfirmed[0]?.agedFromMs ?? open;
  if (policy === undefined || since === null) return null;
  return { warnsAtMs: since + policy.warnAfterDays * DAY_MS, locksAtMs: since + policy.lockAfterDays * DAY_MS };
}

/** Why the policy forbids opening now, in words, or null. A batch that is open counts as unconfirmed. */
export function lockReason(state: DeviceState): string | null {
  const policy = state.policy?.message;
  if (policy === undefined) return null;
  if (isWithdrawn(policy)) return WITHDRAWN;
  const late = deadlineReason(state, policy);
  if (late !== null) return late;
  const batches = unconfirmedBatches(state);
  if (state.batch === null && batches >= policy.maxUnconfirmedBatches) {
    return `${batches} batches are not confirmed, at most ${policy.maxUnconfirmedBatches} may be`;
  }
  const postage = unconfirmedPostageMills(state);
  if (postage >= policy.maxUnconfirmedPostageMills) {
    return `${postage} mills of postage are not confirmed, at most ${policy.maxUnconfirmedPostageMills} may be`;
  }
  return null;
}

/** Why franking these mills more is forbidden, or null. */
export function frankingLock(state: DeviceState, policy: Policy, postageMills: bigint): Rejection | null {
  if (isWithdrawn(policy)) return rejection('device-locked', { reason: WITHDRAWN });
  const late = deadlineReason(state, policy);
  if (late !== null) return rejection('device-locked', { reason: late });
  const total = unconfirmedPostageMills(state) + postageMills;
  if (total > policy.maxUnconfirmedPostageMills) {
    return rejection('device-locked', {
      reason: `${total} mills of postage would not be confirmed, at most ${policy.maxUnconfirmedPostageMills} may be`,
    });
  }
  return null;
}

/** What will lock the device if nothing is done, in words, or null. */
export function lockWarning(state: DeviceState): string | null {
  const due = deadlines(state);
  if (due === null || state.signedTimeMs === null) return null;
  if (state.signedTimeMs < due.warnsAtMs || state.signedTimeMs >= due.locksAtMs) return null;
  return `Unconfirmed batches lock the device at ${new Date(due.locksAtMs).toISOString()}: send them.`;
}

/** A policy that allows no unconfirmed postage at all: closing, sending and confirming are all that is left. */
function isWithdrawn(policy: Policy): boolean {
  return policy.maxUnconfirmedPostageMills === 0n;
}

const WITHDRAWN = 'it was withdrawn: no postage may be franked any more';

/** The state's name as design section 5 has it. */
export function stateName(state: DeviceState): DeviceStatus['state'] {
  if (state.identity === null) return 'uninitialised';
  if (state.certificate === null) return 'keyed';
  if (state.policy === null) return 'authorised';
  if (isWithdrawn(state.policy.message)) return 'withdrawn';
  return lockReason(state) === null ? 'operational' : 'locked';
}

function deadlineReason(state: DeviceState, policy: Policy): string | null {
  const due = deadlines(state);
  if (due === null || state.signedTimeMs === null || state.signedTimeMs < due.locksAtMs) return null;
  return `what is not confirmed is older than ${policy.lockAfterDays} days`;
}
