/**
 * What verification needs from the platform: hashing, signatures, and a way to ask about MACs without holding keys.
 *
 * `node-platform` implements it with `node:crypto`; a browser may with another library. Implementations are synchronous.
 */
import type { KeyId } from '@countermark/protocol/cose';
import type { Sha256 } from '@countermark/protocol/digest';
import type { MacPurpose } from '@countermark/protocol/mac-key';

export type VerificationPort = {
  readonly sha256: Sha256;
  /** ECDSA P-256 with SHA-256; `publicKey` uncompressed (65 bytes), `signature` r||s (64 bytes). False for any defect. */
  readonly verifySignature: (publicKey: Uint8Array, input: Uint8Array, signature: Uint8Array) => boolean;
};

/** Checks MACs of devices; only the PSD itself and the cryptographic device have one. */
export type MacPort = {
  /** False for an unknown key as for a wrong code; constant-time in the code. */
  readonly verifyMac: (key: KeyId, purpose: MacPurpose, input: Uint8Array, code: Uint8Array) => boolean;
};
