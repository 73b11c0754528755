/**
 * The port behind which the cryptographic device's keys lie: in files, or on a token by PKCS#11.
 *
 * Guarantees of every implementation (key-store.test.ts runs them through one suite): private keys never cross this
 * interface; each role has keys of its own, one for each epoch, the first made with the store; a key that is made is durable before its
 * public part is answered, one that is retired leaves its public part and does nothing ever again; answers come in the order of what was asked; a check of anything malformed is
 * `false`, never a fault. Everything is asynchronous, because an HSM is, and takes many items at once, because a call to one is
 * dear.
 * Does not decide what is signed, nor which epoch of a role is in use (`role-keys.ts`).
 */
import type { DeviceId } from '@countermark/protocol/id';
import { ROTATED_KEYS, type RotatedKey } from '@countermark/protocol/message';
import type { MacPurpose } from '@countermark/protocol/mac-key';

/** What the cryptographic device has keys for. Granting is the postal authority's and not among them. */
export const KEY_ROLES = ROTATED_KEYS;
export type KeyRole = RotatedKey;
/** The key of agreement signs nothing; with the others nothing is agreed. */
export type SigningRole = Exclude<KeyRole, 'agreement'>;
/** The keys that a store is made with. */
export const FIRST_EPOCH = 1;

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
  /** The public agreement key of this store that the device agreed with. */
  readonly agreementPeer: Uint8Array;
  readonly input: Uint8Array;
  readonly code: Uint8Array;
};

export type KeyStore = {
  /** Epochs of which there is a key, from the first without a gap; those that were retired have their public part alone. */
  epochs(role: KeyRole): readonly number[];
  /** 65 bytes, uncompressed. @throws TypeError where there is none. */
  publicKey(role: KeyRole, epoch: number): Uint8Array;
  /** Whether the private part is there. */
  canUse(role: KeyRole, epoch: number): boolean;
  /** Makes the key of the epoch that follows the last one, or, where that was never used yet, another in its place; its public part. */
  make(role: KeyRole, epoch: number): Promise<Uint8Array>;
  /** Destroys the private part; again, it changes nothing. It may not be in use meanwhile. */
  retire(role: KeyRole, epoch: number): Promise<void>;
  /** ES256, 64 bytes r || s each, in order. */
  sign(role: SigningRole, epoch: number, inputs: readonly Uint8Array[]): Promise<readonly Uint8Array[]>;
  /** Whether each is authentic, in order. */
  verifySignatures(checks: readonly SignatureCheck[]): Promise<readonly boolean[]>;
  /** Whether each is authentic, in order; the agreed keys are derived inside and never leave. */
  verifyMacs(checks: readonly MacCheck[]): Promise<readonly boolean[]>;
  close(): Promise<void>;
};
