/**
 * What a step yields, and the ports that it may use.
 *
 * Guarantees that a step is a function: hashing and the record code are synchronous and without effect; everything
 * else (signing, storing, telling) is an effect that the shell carries out, in this order: what is durable first, what
 * leaves the device after it.
 */
import type { Unsealed } from '@countermark/protocol/cose';
import type { Digest, Sha256 } from '@countermark/protocol/digest';
import type { BatchId, DeviceId } from '@countermark/protocol/id';
import type { DeviceCertificate } from '@countermark/protocol/messages/enrolment';
import type { Policy } from '@countermark/protocol/messages/policy';
import type { Mills } from '@countermark/protocol/money';
import { type Rejection, rejection } from '@countermark/protocol/rejection';
import type { Result } from '@countermark/protocol/result';
import type { Verified } from '@countermark/verify/verified';
import { stateName } from './policy.ts';
import type { DeviceState, Identity, KeptChunk } from './state.ts';

export type Ports = {
  readonly sha256: Sha256;
  /** HMAC-SHA256 over `bytes` (salt, then piece record) under a key of this device alone, first 16 bytes. */
  readonly recordCode: (bytes: Uint8Array) => Uint8Array;
};

export type Effect =
  /** To be stored with the state: the chunk that was franked. `codes` go out beside its records in host memory. */
  | { readonly kind: 'keep-chunk'; readonly chunk: KeptChunk; readonly codes: Uint8Array }
  /** To be authenticated as enrolled, and stored with the state under sequence and digest. */
  | {
      readonly kind: 'seal-record';
      readonly unsealed: Unsealed;
      readonly sequence: number;
      readonly digest: Digest;
      /** Null: a key rotation or the final statement. */
      readonly batch: BatchId | null;
    }
  /** To be deleted with the state's commit, piece records of its batch included; sequence and digest stay. */
  | { readonly kind: 'delete-record'; readonly sequence: number; readonly batch: BatchId | null }
  /**
   * To be stored with the state, after its record was authenticated under the old keys: those that waited are in use, and the old
   * private keys are gone, but for what checks codes of records that are held.
   */
  | { readonly kind: 'change-keys'; readonly retired: Verified<DeviceCertificate> }
  /** To be carried out with the state's commit: whatever secret is left of former epochs is gone. */
  | { readonly kind: 'forget-keys' }
  /** To be carried out with the state's commit: every secret of the device is gone, for good. */
  | { readonly kind: 'zeroise' }
  /** To be signed (ES256 in MAC mode too) and stored with the state: answered again while it is pending. */
  | {
      readonly kind: 'request-funds';
      readonly unsealed: Unsealed;
      readonly number: number;
      readonly amountMills: Mills;
    }
  /** To be stored, and the caller to be refused: something happened that must never. */
  | { readonly kind: 'alarm'; readonly rejection: Rejection };

/** The same state and no effect: what was asked had been done before. */
export type Step = { readonly state: DeviceState; readonly effects: readonly Effect[] };

export type Stepped = Result<Step>;

/** A device that may frank: enrolled and under a policy. */
export type Operational = {
  readonly identity: Identity;
  readonly device: DeviceId;
  readonly certificate: DeviceCertificate;
  readonly policy: Policy;
};

/** The parts that exist once the device is enrolled, or null. */
export function operational(state: DeviceState): Operational | null {
  const { identity, certificate, policy } = state;
  if (identity === null || certificate === null || policy === null) return null;
  return { identity, device: identity.device, certificate: certificate.message, policy: policy.message };
}

/** The refusal of an operation that needs an enrolled device. */
export function notEnrolled(state: DeviceState, operation: string): Rejection {
  return rejection('wrong-state', {
    state: stateName(state),
    operation,
    needs: 'an enrolled device with a policy',
    cure: 'Enrol it first (countermark up does).',
  });
}
