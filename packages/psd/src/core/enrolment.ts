/**
 * What the server side says to a device: certificate, policy, signed time.
 *
 * Guarantees: a certificate is taken only for exactly this device's keys; with whom it agrees codes and who vouches for the session's other
 * end it says itself, and the pinned issuing key for it; a policy never gives way to an older one, changes licensee or currency, nor brings a withdrawn device back; time moves forward only. Whatever was taken before is taken again
 * without effect.
 */
import { sameBytes } from '@countermark/protocol/digest';
import type { DeviceCertificate } from '@countermark/protocol/messages/enrolment';
import type { Policy, SignedTime } from '@countermark/protocol/messages/policy';
import { type Rejection, rejection } from '@countermark/protocol/rejection';
import { accept, refuse } from '@countermark/protocol/result';
import type { Verified } from '@countermark/verify/verified';
import { isWithdrawn } from './policy.ts';
import { type DeviceState, type Identity, UNINITIALISED } from './state.ts';
import { notEnrolled, type Stepped } from './transition.ts';

/** What a certificate says of the other side of key agreement, in words. */
export const AGREEMENT_PEER = 'agreement key of the cryptographic device';

/** The device gets its identity. The table of states lets it happen once. */
export function initialise(state: DeviceState, identity: Identity): Stepped {
  return accept({ state: { ...UNINITIALISED, recordCapacity: state.recordCapacity, identity }, effects: [] });
}

/** Takes certificate and policy together. Rejections: `wrong-device`, `enrolment-mismatch`, `stale-policy`. */
export function install(
  state: DeviceState,
  certificate: Verified<DeviceCertificate>,
  policy: Verified<Policy>,
): Stepped {
  const { identity } = state;
  if (identity === null) return refuse(notEnrolled(state, 'install'));
  const wrong = certificateMismatch(state, identity, certificate.message);
  if (wrong !== null) return refuse(wrong);
  const known = state.certificate !== null && sameBytes(state.certificate.digest, certificate.digest);
  return installPolicy(known ? state : { ...state, certificate }, policy);
}

/**
 * Takes a policy. One that lets a withdrawn device frank again is refused: withdrawal is for good.
 * Rejections: `wrong-state`, `wrong-device`, `enrolment-mismatch`, `stale-policy`, `device-withdrawn`.
 */
export function installPolicy(state: DeviceState, policy: Verified<Policy>): Stepped {
  const { identity, certificate, policy: current } = state;
  if (identity === null || certificate === null) return refuse(notEnrolled(state, 'policy'));
  const { device, licensee, version, currency } = policy.message;
  if (device !== identity.device) {
    return refuse(rejection('wrong-device', { type: 'policy', device, expected: identity.device }));
  }
  if (licensee !== certificate.message.licensee) return refuse(mismatch('policy', 'licensee'));
  if (current !== null) {
    if (sameBytes(current.digest, policy.digest)) return accept({ state, effects: [] });
    if (version <= current.message.version) {
      return refuse(rejection('stale-policy', { version, current: current.message.version }));
    }
    const before = current.message.currency;
    if (before.code !== currency.code || before.exponent !== currency.exponent) {
      return refuse(mismatch('policy', 'currency'));
    }
    if (isWithdrawn(current.message) && !isWithdrawn(policy.message)) {
      return refuse(rejection('device-withdrawn', { device }));
    }
  }
  return accept({ state: { ...state, policy }, effects: [] });
}

/**
 * Moves time forward. The deadline of records sealed before the first signed time runs from that time.
 * Rejections: `wrong-state`, `wrong-device`, `stale-time`.
 */
export function setTime(state: DeviceState, time: Verified<SignedTime>): Stepped {
  const { identity } = state;
  if (identity === null) return refuse(notEnrolled(state, 'signed-time'));
  const { device, timeMs } = time.message;
  if (device !== identity.device) {
    return refuse(rejection('wrong-device', { type: 'signed-time', device, expected: identity.device }));
  }
  if (state.signedTimeMs !== null && timeMs < state.signedTimeMs) return refuse(rejection('stale-time', {}));
  if (timeMs === state.signedTimeMs) return accept({ state, effects: [] });
  const first = state.signedTimeMs === null;
  return accept({
    state: {
      ...state,
      signedTimeMs: timeMs,
      unconfirmed: first
        ? state.unconfirmed.map((record) => ({ ...record, agedFromMs: record.agedFromMs ?? timeMs }))
        : state.unconfirmed,
    },
    effects: [],
  });
}

/** In what a certificate is not one for this device with these keys, or null. */
export function certificateMismatch(
  state: DeviceState,
  identity: Identity,
  message: DeviceCertificate,
): Rejection | null {
  if (message.device !== identity.device) {
    return rejection('wrong-device', {
      type: 'device-certificate',
      device: message.device,
      expected: identity.device,
    });
  }
  const before = state.certificate?.message;
  const licensee = before?.licensee ?? message.licensee;
  // Codes of one epoch are made with one key, whatever is certified anew.
  const agreementPeer = before?.epoch === identity.epoch ? before.agreementPeer : message.agreementPeer;
  const same: readonly (readonly [string, boolean])[] = [
    ['licensee', message.licensee === licensee],
    ['key epoch', message.epoch === identity.epoch],
    ['procedure of authentication', message.authentication === identity.authentication],
    ['memory', message.memory === identity.memory],
    ['signature key', sameBytes(message.publicKey, identity.publicKey)],
    ['agreement key', sameBytes(message.agreementKey, identity.agreementKey)],
    [AGREEMENT_PEER, sameBytes(message.agreementPeer, agreementPeer)],
  ];
  const wrong = same.find(([, equal]) => !equal);
  return wrong === undefined ? null : mismatch('device-certificate', wrong[0]);
}

function mismatch(type: string, what: string): Rejection {
  return rejection('enrolment-mismatch', { type, what });
}
