/**
 * The device's end on its owner's wish: the last record of its chain, and the erasure of its keys.
 *
 * Guarantees: only under a policy that closes the device, and after everything before it: no batch is open, every record is
 * confirmed, no funds request waits for its grant. What is left to frank with goes back within the record itself, in the same
 * step, so that ascending + descending = received - returned holds before and after it, and there is never a device that holds funds
 * whose statement says that it gave them back. It franks nothing from then on, whatever policy comes. The keys are erased with the
 * confirmation (`sealing.ts`): until then the statement may have to be sent in a session.
 * What a copy of the store from before does is another device's doing in all but name: its next record is a fork of this one.
 */
import { messageDigest } from '@countermark/protocol/cose';
import type { Software } from '@countermark/protocol/fields';
import { unsealedMessage } from '@countermark/protocol/message';
import { FINAL_STATEMENT } from '@countermark/protocol/messages/final-statement';
import { mills } from '@countermark/protocol/money';
import { type Rejection, rejection } from '@countermark/protocol/rejection';
import { accept, refuse } from '@countermark/protocol/result';
import { stateName } from './policy.ts';
import type { DeviceState } from './state.ts';
import { notEnrolled, operational, type Ports, type Stepped } from './transition.ts';

/**
 * Seals the final statement. Where it is made already, without effect.
 * Rejections: `wrong-state`, `batch-open`, `records-unconfirmed`.
 */
export function makeFinalStatement(state: DeviceState, software: Software, ports: Ports): Stepped {
  const device = operational(state);
  const order = state.policy?.digest;
  if (device === null || order === undefined) return refuse(notEnrolled(state, 'final-statement'));
  if (state.finalSequence !== null) return accept({ state, effects: [] });
  const refused = refusal(state, device.policy.closing === true);
  if (refused !== null) return refuse(refused);
  const { identity, certificate, policy } = device;
  const sequence = state.sequence + 1;
  const returnedMills = state.registers.descendingMills;
  const registers = { ...state.registers, descendingMills: mills(0n) };
  const funds = { ...state.funds, returnedMills: mills(state.funds.returnedMills + returnedMills) };
  const key = { holder: identity.device, epoch: identity.epoch };
  const unsealed = unsealedMessage(FINAL_STATEMENT, identity.authentication, key, {
    device: identity.device,
    licensee: certificate.licensee,
    sequence,
    previous: state.head,
    registers,
    funds,
    returnedMills,
    order,
    software,
    currency: policy.currency,
  });
  const digest = messageDigest(unsealed, ports.sha256);
  const held = {
    sequence,
    digest,
    batch: null,
    pieces: 0,
    postageMills: mills(0n),
    agedFromMs: state.signedTimeMs,
    bytes: unsealed.payload.length,
  };
  return accept({
    state: { ...state, registers, funds, sequence, head: digest, finalSequence: sequence, unconfirmed: [held] },
    effects: [{ kind: 'seal-record', unsealed, sequence, digest, batch: null }],
  });
}

/** What stands against the end of the device now, or null. */
function refusal(state: DeviceState, closing: boolean): Rejection | null {
  const wrongState = (needs: string, cure: string): Rejection =>
    rejection('wrong-state', { state: stateName(state), operation: 'final-statement', needs, cure });
  if (!closing) {
    return wrongState('a policy that closes it', 'An operator of the server closes it (countermark device close).');
  }
  if (state.batch !== null) return rejection('batch-open', { batch: state.batch.declaration.batch });
  if (state.pendingFunds !== null) {
    return wrongState(
      'that no funds request is pending',
      'Fetch the funds that were asked for first (countermark funds refill).',
    );
  }
  const records = state.unconfirmed.length;
  return records === 0 ? null : rejection('records-unconfirmed', { records });
}
