/**
 * The request for the certificate of a device's next key, which two keys must speak for.
 *
 * Guarantees: the key in use has signed these exact bytes of the enrolment request, the new key has signed the request
 * itself, and both speak of the same device and of epochs that follow each other.
 * Does not say that the key in use is the device's last one: who issues the certificate decides that.
 */
import type { EnrolmentRequest } from '@countermark/protocol/messages/enrolment';
import { ROTATION_REQUEST } from '@countermark/protocol/messages/key-rotation';
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { type Trust, type Verified, verifyEnrolmentRequest, verifyMessage } from './verified.ts';

/** The enrolment request inside, and the epoch of the key in use that speaks for it. */
export type VerifiedRotationRequest = { readonly request: Verified<EnrolmentRequest>; readonly usedEpoch: number };

/**
 * Verifies both signatures. `trust` knows the device's certified keys.
 * Rejections: those of `verifyMessage` and `verifyEnrolmentRequest`, `enrolment-mismatch` (device, key epoch).
 */
export function verifyRotationRequest(bytes: Uint8Array, trust: Trust): Result<VerifiedRotationRequest> {
  const outer = verifyMessage(ROTATION_REQUEST, bytes, trust);
  if (!outer.ok) return outer;
  const request = verifyEnrolmentRequest(outer.value.message.request, trust.port);
  if (!request.ok) return request;
  const { device, epoch } = request.value.message;
  const usedEpoch = outer.value.envelope.key.epoch;
  const wrong = device !== outer.value.message.device ? 'device' : epoch !== usedEpoch + 1 ? 'key epoch' : null;
  return wrong === null
    ? accept({ request: request.value, usedEpoch })
    : refuse(rejection('enrolment-mismatch', { type: 'rotation-request', what: wrong }));
}
