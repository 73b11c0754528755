/**
 * The port behind which the device's private keys lie: in its store (`keys.ts`), or in a token (`token-keys.ts`).
 *
 * Guarantees of every implementation: a private key crosses this interface only as the bytes that its holder wants stored; what a key does is done at once, in order with what is committed before and after it.
 * Only keys whose use the holder can bound are behind it: the session's key is TLS's, and the key of the record codes guards nothing of value.
 */
import type { DeviceId } from '@countermark/protocol/id';

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

export type KeyHolder = {
  readonly kind: 'store' | 'token';
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
