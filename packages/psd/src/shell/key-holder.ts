/**
 * The port behind which the device's private keys lie: in its store (`keys.ts`), or in a token (`token-keys.ts`).
 *
 * Guarantees of every implementation (tests/contract/psd-keys.test.ts runs them through one suite): a private key crosses this interface only as the bytes that its holder wants stored; what a key does is done at once, in order with what is committed before and after it.
 * Only keys whose use the holder can bound are behind it: the session's key is TLS's, and the key of the record codes guards nothing of value.
 */
import type { DeviceId } from '@countermark/protocol/id';
import type { DeviceMark } from './device-mark.ts';

/** Signs many inputs of equal length beside the thread that commits. */
export type PackedSigner = {
  /** One signature (64 bytes) for each `each` bytes of `inputs`, one after the other. */
  signPacked(inputs: Uint8Array, each: number): Promise<Uint8Array>;
  close(): Promise<void>;
};

export type SigningKey = {
  /** 65 bytes, uncompressed. */
  readonly publicKey: Uint8Array;
  /** What the store holds of it: the key itself, or where it is. */
  readonly stored: Uint8Array;
  /** ES256, 64 bytes r || s. */
  sign(bytes: Uint8Array): Uint8Array;
  packedSigner(): PackedSigner;
};

export type AgreementKey = {
  readonly publicKey: Uint8Array;
  readonly stored: Uint8Array;
  /** ECDH with a point: the shared x coordinate, 32 bytes, which the caller overwrites. @throws TypeError where it is no point. */
  agree(point: Uint8Array): Uint8Array;
};

/** The keys of an epoch that a holder has. */
export type HeldKeys = { readonly signing: SigningKey; readonly agreement: AgreementKey };

/** The number outside the store that rises with each commit (`device-mark.ts`). */
export type MarkKeeper = {
  /** The last one that was kept for the device, or null where there is none. */
  readonly last: (device: DeviceId) => DeviceMark | null;
  /**
   * Keeps the next one in place of `before`; kept already, it is without effect. Fault: `device-copied` where another was kept meanwhile.
   */
  readonly raise: (device: DeviceId, before: DeviceMark | null, next: DeviceMark) => void;
};

export type KeyHolder = {
  /** The label of the token; null: the keys lie in the store. */
  readonly token: string | null;
  /** Null: there is nothing outside the store that could tell an older copy of it. */
  readonly marks: MarkKeeper | null;
  /** Resolves when keys can be used. Faults: `hsm-unavailable`, `hsm-refused`. */
  ready(): Promise<void>;
  /** New keys of an epoch; what an interrupted making of the same left is replaced. */
  make(device: DeviceId, epoch: number): HeldKeys;
  /** @throws TypeError where the bytes are no key, or it is not there any more. */
  signingKey(stored: Uint8Array): SigningKey;
  agreementKey(stored: Uint8Array): AgreementKey;
  /** Erases what it has of the device besides the keys whose stored bytes are these. */
  keepOnly(device: DeviceId, stored: readonly Uint8Array[]): void;
  close(): Promise<void>;
};
