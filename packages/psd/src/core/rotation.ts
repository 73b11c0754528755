/**
 * The device goes over to new keys (design, section 4).
 *
 * Guarantees: the keys that come are made and durable before anything is asked for them, and made once for an epoch; the record of
 * the rotation, the new certificate and the new epoch are one step, so that every record up to it is under the old key and every
 * one after it under the new; registers, funds and chain go on unchanged. A rotation has room of its own beside the records of
 * batches: one at a time, so that it fits however many of those are held.
 * No batch may be open, because its indicia and its record stand under one key; no funds request may wait for its grant, because
 * the old key speaks for it. What is held under the old key stays as it was sealed.
 */
import { messageDigest } from '@countermark/protocol/cose';
import { sameBytes } from '@countermark/protocol/digest';
import type { Software } from '@countermark/protocol/fields';
import { unsealedMessage } from '@countermark/protocol/message';
import type { Unsealed } from '@countermark/protocol/cose';
import { type DeviceCertificate, ENROLMENT_REQUEST } from '@countermark/protocol/messages/enrolment';
import { KEY_ROTATION, ROTATION_REQUEST } from '@countermark/protocol/messages/key-rotation';
import { mills } from '@countermark/protocol/money';
import { type Rejection, rejection } from '@countermark/protocol/rejection';
import { accept, refuse } from '@countermark/protocol/result';
import type { Verified } from '@countermark/verify/verified';
import { certificateMismatch } from './enrolment.ts';
import { stateName } from './policy.ts';
import { type DeviceState, type Identity, unconfirmedRotation } from './state.ts';
import { notEnrolled, operational, type Ports, type Stepped } from './transition.ts';

/** The highest epoch that a message can name. */
const LAST_EPOCH = 65_535;

/**
 * Takes the keys of the next epoch, to wait for their certificate; those that wait already stay.
 * Rejections: `wrong-state`, `batch-open`, `rotation-unconfirmed`, `limit-exceeded`.
 * @throws where `next` is not this device in its next epoch: a broken invariant of the shell.
 */
export function beginRotation(state: DeviceState, next: Identity): Stepped {
  const device = operational(state);
  if (device === null) return refuse(notEnrolled(state, 'rotate-begin'));
  const refused = rotationRefusal(state, device.identity, 'rotate-begin');
  if (refused !== null) return refuse(refused);
  if (state.nextIdentity !== null) return accept({ state, effects: [] });
  const { identity } = device;
  if (next.device !== identity.device || next.epoch !== identity.epoch + 1) {
    throw new Error('Keys are made for this device and its next epoch.');
  }
  return accept({ state: { ...state, nextIdentity: next }, effects: [] });
}

/**
 * Goes over to the keys of the certificate. The one that is in use again is without effect.
 * Rejections: `wrong-state`, `wrong-device`, `enrolment-mismatch`, `batch-open`, `rotation-unconfirmed`.
 */
export function rotateKeys(state: DeviceState, certificate: Verified<DeviceCertificate>, ports: Ports): Stepped {
  const device = operational(state);
  const { certificate: retired, nextIdentity: next } = state;
  if (device === null || retired === null) return refuse(notEnrolled(state, 'rotate'));
  if (sameBytes(retired.digest, certificate.digest)) return accept({ state, effects: [] });
  if (next === null) {
    return refuse(
      wrongState(
        state,
        'rotate',
        'keys that wait for a certificate',
        'Begin the rotation (countermark device rotate).',
      ),
    );
  }
  const { identity } = device;
  const refused = certificateMismatch(state, next, certificate.message) ?? rotationRefusal(state, identity, 'rotate');
  if (refused !== null) return refuse(refused);
  const sequence = state.sequence + 1;
  const key = { holder: identity.device, epoch: identity.epoch };
  const unsealed = unsealedMessage(KEY_ROTATION, identity.authentication, key, {
    device: identity.device,
    licensee: device.certificate.licensee,
    sequence,
    previous: state.head,
    newEpoch: next.epoch,
    newCertificate: certificate.digest,
    registers: state.registers,
    funds: state.funds,
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
    state: {
      ...state,
      identity: next,
      nextIdentity: null,
      certificate,
      sequence,
      head: digest,
      unconfirmed: [...state.unconfirmed, held],
    },
    effects: [
      { kind: 'seal-record', unsealed, sequence, digest, batch: null },
      { kind: 'change-keys', retired },
    ],
  });
}

/** The enrolment request of these keys, to be signed with the one that it carries. `nonce`: 16 random bytes. */
export function enrolmentRequest(identity: Identity, software: Software, nonce: Uint8Array): Unsealed {
  const { device, epoch, authentication, memory, publicKey, agreementKey, sessionKey } = identity;
  const key = { holder: device, epoch };
  const value = { device, epoch, authentication, memory, publicKey, agreementKey, sessionKey, software, nonce };
  return unsealedMessage(ENROLMENT_REQUEST, 'signature', key, value);
}

/** The word of the key in use for an enrolment request of the next one, to be signed with the key in use. */
export function rotationRequest({ device, epoch }: Identity, request: Uint8Array): Unsealed {
  return unsealedMessage(ROTATION_REQUEST, 'signature', { holder: device, epoch }, { device, request });
}

/** What stands against a rotation now, or null. */
function rotationRefusal(state: DeviceState, identity: Identity, operation: string): Rejection | null {
  if (state.batch !== null) return rejection('batch-open', { batch: state.batch.declaration.batch });
  if (state.pendingFunds !== null) {
    const cure = 'Fetch the funds that were asked for first (countermark funds refill).';
    return wrongState(state, operation, 'that no funds request is pending', cure);
  }
  const held = unconfirmedRotation(state);
  if (held !== null) {
    return rejection('rotation-unconfirmed', { sequence: held.sequence, epoch: identity.epoch });
  }
  return identity.epoch < LAST_EPOCH
    ? null
    : rejection('limit-exceeded', { what: 'the key epoch', value: identity.epoch + 1, limit: LAST_EPOCH });
}

function wrongState(state: DeviceState, operation: string, needs: string, cure: string): Rejection {
  return rejection('wrong-state', { state: stateName(state), operation, needs, cure });
}
