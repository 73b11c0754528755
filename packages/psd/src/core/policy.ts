/**
 * The limits within which a device franks: hard ones on what is unconfirmed, deadlines and inspections by signed time.
 *
 * A lock forbids opening and franking only: closing, recounting, sending, confirming and refilling go on, and reporting
 * lifts it (a lock for want of an inspection: a policy that names a later one). The deadline runs from the opening of the oldest batch in which was franked and whose record is not confirmed,
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

/** Why the device is locked, and what lifts it: in words for people. */
export type Lock = { readonly why: string; readonly lifts: string };

const REPORTING =
  'Send the waiting records (countermark statistics send): the confirmation of the oldest lifts the lock.';
const CLOSING =
  'Close the open batch (countermark batch close): it is sent, its confirmation lifts the lock, and the mailing goes on with another batch.';
const INSPECTED =
  "Have it inspected (the server's operator: countermark device inspected): its next policy lifts the lock.";
const WITHDRAWN: Lock = {
  why: 'it was withdrawn: no postage may be franked any more',
  lifts:
    'Nothing lifts it: withdrawal is for good. Its open batch can still be closed, and what it holds sent and confirmed.',
};

const CLOSED: Lock = {
  why: 'it is being closed: no postage may be franked any more',
  lifts: 'Nothing lifts it. What it holds is sent and confirmed; then its funds go back to the deposit.',
};

/** What the policy forbids opening for now, or null. A batch that is open counts as unconfirmed. */
export function lockOf(state: DeviceState): Lock | null {
  const policy = state.policy?.message;
  if (policy === undefined) return null;
  if (isWithdrawn(policy)) return policy.closing === true ? CLOSED : WITHDRAWN;
  const late = deadlineReason(state, policy);
  // Nothing waits that could be sent, where it is the open batch that is too old.
  if (late !== null) return { why: late, lifts: state.unconfirmed.length === 0 ? CLOSING : REPORTING };
  const inspection = inspectionDates(policy);
  if (inspection !== null && state.signedTimeMs !== null && state.signedTimeMs >= inspection.locksAtMs) {
    return { why: `its inspection was due at ${new Date(inspection.locksAtMs).toISOString()}`, lifts: INSPECTED };
  }
  const batches = unconfirmedBatches(state);
  if (state.batch === null && batches >= policy.maxUnconfirmedBatches) {
    return {
      why: `${batches} batches are not confirmed, at most ${policy.maxUnconfirmedBatches} may be`,
      lifts: REPORTING,
    };
  }
  const postage = unconfirmedPostageMills(state);
  if (postage >= policy.maxUnconfirmedPostageMills) {
    return {
      why: `${postage} mills of postage are not confirmed, at most ${policy.maxUnconfirmedPostageMills} may be`,
      lifts: REPORTING,
    };
  }
  return null;
}

/** The refusal of opening by the policy, or null. */
export function openingLock(state: DeviceState): Rejection | null {
  const lock = lockOf(state);
  return lock === null ? null : lockedBy(lock);
}

/** Why franking these mills more is forbidden, or null. */
export function frankingLock(state: DeviceState, policy: Policy, postageMills: bigint): Rejection | null {
  const lock = lockOf(state);
  if (lock !== null) return lockedBy(lock);
  const total = unconfirmedPostageMills(state) + postageMills;
  if (total <= policy.maxUnconfirmedPostageMills) return null;
  return lockedBy({
    why: `${total} mills of postage would not be confirmed, at most ${policy.maxUnconfirmedPostageMills} may be`,
    lifts: REPORTING,
  });
}

function lockedBy({ why, lifts }: Lock): Rejection {
  return rejection('device-locked', { reason: why, lifts });
}

/** What will lock the device if nothing is done, in words, or null: what locks first. */
export function lockWarning(state: DeviceState): string | null {
  const { signedTimeMs } = state;
  const policy = state.policy?.message;
  if (signedTimeMs === null || policy === undefined) return null;
  const near = (due: Deadlines | null): due is Deadlines =>
    due !== null && signedTimeMs >= due.warnsAtMs && signedTimeMs < due.locksAtMs;
  const report = deadlines(state);
  const inspection = inspectionDates(policy);
  if (near(inspection) && !(near(report) && report.locksAtMs <= inspection.locksAtMs)) {
    return `Its inspection is due: it locks at ${new Date(inspection.locksAtMs).toISOString()}.`;
  }
  if (!near(report)) return null;
  return `Unconfirmed batches lock the device at ${new Date(report.locksAtMs).toISOString()}: send them.`;
}

/** When the device warns of its inspection, and locks without it, by signed time; null where its policy wants none. */
export function inspectionDates({ inspection }: Policy): Deadlines | null {
  if (inspection === undefined) return null;
  const { inspectedAtMs, warnAfterDays, lockAfterDays } = inspection;
  return { warnsAtMs: inspectedAtMs + warnAfterDays * DAY_MS, locksAtMs: inspectedAtMs + lockAfterDays * DAY_MS };
}

/** A policy that allows no unconfirmed postage at all: closing, sending and confirming are all that is left. */
export function isWithdrawn(policy: Policy): boolean {
  return policy.maxUnconfirmedPostageMills === 0n;
}

/** The state's name as design section 5 has it. */
export function stateName(state: DeviceState): DeviceStatus['state'] {
  if (state.identity === null) return 'uninitialised';
  if (state.certificate === null) return 'keyed';
  if (state.policy === null) return 'authorised';
  if (state.finalSequence !== null || isWithdrawn(state.policy.message)) return 'withdrawn';
  return lockOf(state) === null ? 'operational' : 'locked';
}

function deadlineReason(state: DeviceState, policy: Policy): string | null {
  const due = deadlines(state);
  if (due === null || state.signedTimeMs === null || state.signedTimeMs < due.locksAtMs) return null;
  return `what is not confirmed is older than ${policy.lockAfterDays} days`;
}
