/**
 * The port behind which the cryptographic device's keys lie: software keys today, an HSM by PKCS#11 later.
 *
 * Guarantees of every implementation (key-store.test.ts runs them through one suite): private keys never cross this
 * interface; each role has a key of its own; answers come in the order of what was asked; a check of anything malformed is
 * `false`, never a fault. Everything is asynchronous, because an HSM is, and takes many items at once, because a call to one is
 * dear.
 * Does not decide what is signed.
 */
import type { DeviceId } from '@countermark/protocol/id';
import type { MacPurpose } from '@countermark/protocol/mac-key';

/** Keys of the cryptographic device. Granting is the postal authority's and not among them. */
export const KEY_ROLES = ['issuing', 'confirming', 'attesting', 'funds', 'policy', 'session-authority'] as const;
export type KeyRole = (typeof KEY_ROLES)[number];

/** A signature to check: ES256 of `publicKey` (65 bytes) over `input`. */
export type SignatureCheck = {
  readonly publicKey: Uint8Array;
  readonly input: Uint8Array;
  readonly signature: Uint8Array;
};

/** A code to check: HMAC-SHA256 over `input` under the key agreed with the device (protocol/mac-key.ts). */
export type MacCheck = {
  readonly device: DeviceId;
  readonly epoch: number;
  readonly purpose: MacPurpose;
  /** The device's public agreement key. */
  readonly agreementKey: Uint8Array;
  readonly input: Uint8Array;
  readonly code: Uint8Array;
};

export type KeyStore = {
  readonly epoch: number;
  /** 65 bytes, uncompressed. */
  publicKey(role: KeyRole): Uint8Array;
  /** Public half of the agreement key. */
  readonly agreementKey: Uint8Array;
  /** ES256, 64 bytes r || s each, in order. */
  sign(role: KeyRole, inputs: readonly Uint8Array[]): Promise<readonly Uint8Array[]>;
  /** Whether each is authentic, in order. */
  verifySignatures(checks: readonly SignatureCheck[]): Promise<readonly boolean[]>;
  /** Whether each is authentic, in order; the agreed keys are derived inside and never leave. */
  verifyMacs(checks: readonly MacCheck[]): Promise<readonly boolean[]>;
  close(): Promise<void>;
};
