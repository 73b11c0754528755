/**
 * From a closed batch to its record, and from the record to its deletion (design 2.4, 2.5, 2.8).
 *
 * Guarantees: declaration and counts are authenticated together; record, sequence and closed state go into one commit;
 * what is sealed does not contradict itself (checked before it is released); a record is deleted only for a verified
 * confirmation of exactly its digest, and sequence and digest stay.
 */
import { cellKeySchema } from '@countermark/protocol/cell';
import { decode } from '@countermark/protocol/cbor';
import { messageDigest } from '@countermark/protocol/cose';
import { type Digest, sameBytes } from '@countermark/protocol/digest';
import type { Software } from '@countermark/protocol/fields';
import type { BatchId } from '@countermark/protocol/id';
import { LAYOUTS } from '@countermark/protocol/layout';
import { root } from '@countermark/protocol/merkle';
import { unsealedMessage } from '@countermark/protocol/message';
import { BATCH_STATISTICS, type BatchStatistics } from '@countermark/protocol/messages/batch-statistics';
import type { Confirmation } from '@countermark/protocol/messages/confirmation';
import { mills } from '@countermark/protocol/money';
import { rejection } from '@countermark/protocol/rejection';
import { accept, refuse } from '@countermark/protocol/result';
import { compareBytes, contradiction } from '@countermark/verify/statistics';
import type { Verified } from '@countermark/verify/verified';
import { recountGap } from './recount.ts';
import {
  type Batch,
  batchPieces,
  batchPostageMills,
  type Closing,
  type Count,
  type DeviceState,
  type HeldRecord,
} from './state.ts';
import { type Effect, notEnrolled, type Operational, operational, type Ports, type Stepped } from './transition.ts';

/**
 * Seals the closed batch: with its cells after the whole recount, or incomplete with the registers' totals alone.
 * Rejections: `wrong-state`, `no-open-batch`, `batch-open` (not closed yet), `recount-missing`.
 */
export function sealBatch(
  state: DeviceState,
  batchId: BatchId,
  incomplete: boolean,
  software: Software,
  ports: Ports,
): Stepped {
  const device = operational(state);
  if (device === null) return refuse(notEnrolled(state, 'seal'));
  const { batch } = state;
  if (batch?.declaration.batch !== batchId) return refuse(rejection('no-open-batch', { batch: batchId }));
  const { closing } = batch;
  if (closing === null) return refuse(rejection('batch-open', { batch: batchId }));
  const gap = incomplete ? null : recountGap(state, batch);
  if (gap !== null) return refuse(gap);
  const statistics = batchStatistics(state, device, batch, closing, incomplete, software, ports);
  const wrong = contradiction(statistics);
  if (wrong !== null) throw new Error(`The device would seal a contradiction: ${String(wrong.detail.reason)}`);
  const { identity } = device;
  const key = { holder: identity.device, epoch: identity.epoch };
  const unsealed = unsealedMessage(BATCH_STATISTICS, identity.authentication, key, statistics);
  const digest = messageDigest(unsealed, ports.sha256);
  const { sequence } = statistics;
  const pieces = batchPieces(state, batch);
  // What was franked waits since the opening: if closing began the deadline anew, it would lift the lock without a report.
  const since = pieces > 0 ? batch.openedAfterMs : null;
  const held = {
    sequence,
    digest,
    batch: batchId,
    pieces,
    postageMills: batchPostageMills(state, batch),
    agedFromMs: since ?? closing.afterMs ?? state.signedTimeMs,
    bytes: unsealed.payload.length,
  };
  return accept({
    state: { ...state, sequence, head: digest, batch: null, unconfirmed: [...state.unconfirmed, held] },
    effects: [{ kind: 'seal-record', unsealed, sequence, digest, batch: batchId }],
  });
}

function batchStatistics(
  state: DeviceState,
  device: Operational,
  batch: Batch,
  closing: Closing,
  incomplete: boolean,
  software: Software,
  ports: Ports,
): BatchStatistics {
  const { identity, certificate, policy } = device;
  const { recount, opened, declaration } = batch;
  return {
    device: identity.device,
    licensee: certificate.licensee,
    sequence: state.sequence + 1,
    previous: state.head,
    declaration,
    closing: { spoiled: incomplete ? [] : batch.spoiled, reprints: closing.reprints },
    observed: {
      firstPieceNumber: opened.pieces + 1,
      pieces: batchPieces(state, batch),
      root: root(batch.frontier, ports.sha256),
      cells: incomplete ? [] : sortedCells(recount.cells.values()),
      spoiledPieces: incomplete ? 0 : recount.spoiledPieces,
      spoiledPostageMills: mills(incomplete ? 0n : recount.spoiledPostageMills),
      opened,
      closed: closing.registers,
      funds: closing.funds,
      incomplete,
      memory: identity.memory,
      layout: LAYOUTS[identity.authentication].number,
      policyVersion: batch.policyVersion,
      software,
      specimen: batch.specimen,
      currency: policy.currency,
      epoch: identity.epoch,
      ...(batch.openedAfterMs === null ? {} : { openedAfterMs: batch.openedAfterMs }),
      ...(closing.afterMs === null ? {} : { closedAfterMs: closing.afterMs }),
    },
  };
}

/** Ascending by the bytes of their keys. */
function sortedCells(counts: Iterable<Count>): BatchStatistics['observed']['cells'] {
  return [...counts]
    .sort((a, b) => compareBytes(a.key, b.key))
    .map(({ key, pieces, postageMills }) => {
      const decoded = decode(key);
      // The key's bytes came from a piece record that this device made.
      if (!decoded.ok) throw new Error('A cell key of this device is not CBOR.');
      return { key: cellKeySchema.parse(decoded.value, 'cell'), pieces, postageMills: mills(postageMills) };
    });
}

/** With a rotation's record those of former epochs go, with the final statement all of them. */
function secretsGone(state: DeviceState, confirmed: HeldRecord): readonly Effect[] {
  if (confirmed.sequence === state.finalSequence) return [{ kind: 'zeroise' }];
  return confirmed.batch === null ? [{ kind: 'forget-keys' }] : [];
}

/**
 * Deletes the record that the confirmation names. `confirmedDigest`: what the store kept of a record deleted before.
 * The same confirmation again is without effect. One for another digest deletes nothing and is an alarm.
 * Rejections: `wrong-state`, `wrong-device`, `enrolment-mismatch`, `unknown-record`.
 */
export function confirmRecord(
  state: DeviceState,
  confirmation: Verified<Confirmation>,
  confirmedDigest: Digest | null,
): Stepped {
  const enrolled = operational(state);
  if (enrolled === null) return refuse(notEnrolled(state, 'confirm'));
  const { device, licensee, sequence, digest } = confirmation.message;
  if (device !== enrolled.device) {
    return refuse(rejection('wrong-device', { type: 'confirmation', device, expected: enrolled.device }));
  }
  if (licensee !== enrolled.certificate.licensee) {
    return refuse(rejection('enrolment-mismatch', { type: 'confirmation', what: 'licensee' }));
  }
  const held = state.unconfirmed.find((record) => record.sequence === sequence);
  const known = held?.digest ?? confirmedDigest;
  if (known === null) return refuse(rejection('unknown-record', { sequence }));
  if (!sameBytes(known, digest)) {
    return accept({
      state: { ...state, alarms: state.alarms + 1 },
      effects: [{ kind: 'alarm', rejection: rejection('confirmation-mismatch', { sequence }) }],
    });
  }
  if (held === undefined) return accept({ state, effects: [] });
  return accept({
    state: { ...state, unconfirmed: state.unconfirmed.filter((record) => record !== held) },
    effects: [{ kind: 'delete-record', sequence, batch: held.batch }, ...secretsGone(state, held)],
  });
}
