/**
 * What a device tells about itself: nothing secret, nothing that is not in its state.
 */
import type { Software } from '@countermark/protocol/fields';
import type { BatchState, DeviceStatus } from '@countermark/protocol/interfaces/psd';
import type { Policy } from '@countermark/protocol/messages/policy';
import { deadlines, inspectionDates, lockOf, lockWarning, stateName } from './policy.ts';
import {
  type Batch,
  batchPieces,
  batchPostageMills,
  type DeviceState,
  isZeroised,
  piecesInMemory,
  unconfirmedPostageMills,
} from './state.ts';

/** The device's status. @throws before it is initialised: nobody can ask then. */
export function deviceStatus(state: DeviceState, software: Software): DeviceStatus {
  const { identity, nextIdentity, certificate, policy, batch } = state;
  if (identity === null) throw new Error('A device without identity has no status.');
  const due = deadlines(state);
  const lock = lockOf(state);
  const warning = lockWarning(state);
  return {
    device: identity.device,
    state: stateName(state),
    ...(certificate === null ? {} : { licensee: certificate.message.licensee }),
    epoch: identity.epoch,
    authentication: identity.authentication,
    memory: identity.memory,
    certified: certificate?.message.certified ?? false,
    registers: state.registers,
    funds: state.funds,
    ...(policy === null
      ? {}
      : { currency: policy.message.currency, policyVersion: policy.message.version, policyDigest: policy.digest }),
    sequence: state.sequence,
    head: state.head,
    ...(batch === null ? {} : { batch: batchState(state, batch) }),
    unconfirmedRecords: state.unconfirmed.length,
    unconfirmedPostageMills: unconfirmedPostageMills(state),
    recordCapacity: state.recordCapacity,
    customers: policy?.message.customers ?? [],
    ...(lock === null ? {} : { lock: lock.why, lockLifts: lock.lifts }),
    ...(warning === null ? {} : { warning }),
    ...(state.signedTimeMs === null ? {} : { signedTimeMs: state.signedTimeMs }),
    ...(state.pendingFunds === null ? {} : { pendingFundsRequest: state.pendingFunds.number }),
    software,
    piecesInMemory: piecesInMemory(state),
    alarms: state.alarms,
    ...(nextIdentity === null ? {} : { pendingEpoch: nextIdentity.epoch }),
    ...(due === null ? {} : { warnsAtMs: due.warnsAtMs, locksAtMs: due.locksAtMs }),
    ...(policy === null ? {} : policyTold(policy.message)),
    ...(state.finalSequence === null ? {} : { finalSequence: state.finalSequence }),
    ...(isZeroised(state) ? { zeroised: true } : {}),
  };
}

/** What the policy asks of its user, for people and for planning; amounts and limits are told when they are reached. */
function policyTold(policy: Policy): Partial<DeviceStatus> {
  const { warnAfterDays, lockAfterDays, products, scheme, closing } = policy;
  const inspection = inspectionDates(policy);
  return {
    warnAfterDays,
    lockAfterDays,
    ...(inspection === null
      ? {}
      : { inspectionWarnsAtMs: inspection.warnsAtMs, inspectionLocksAtMs: inspection.locksAtMs }),
    ...(products === undefined ? {} : { products }),
    ...(scheme === undefined ? {} : { scheme }),
    ...(closing === undefined ? {} : { closing }),
  };
}

/** The open or closed batch as the host sees it. */
export function batchState(state: DeviceState, batch: Batch): BatchState {
  const { declaration, closing, recount, opened, spoiled } = batch;
  return {
    batch: declaration.batch,
    ...(declaration.customer === undefined ? {} : { customer: declaration.customer }),
    state: closing === null ? 'open' : 'closed',
    firstPieceNumber: opened.pieces + 1,
    pieces: batchPieces(state, batch),
    postageMills: batchPostageMills(state, batch),
    spoiled: spoiled.length,
    recounted: recount.frontier.leaves,
  };
}
