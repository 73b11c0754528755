/**
 * How PSD and cryptographic device come to the same MAC keys without ever carrying one.
 *
 * Key = HKDF-SHA256 (RFC 5869) over the ECDH shared secret (SP 800-56A, x coordinate) of the two agreement keys of the
 * device certificate; empty salt; info = deterministic CBOR of ["countermark mac key", device, epoch, purpose]; 32 bytes.
 * Per device, epoch and purpose, so that a code of one purpose never fits another.
 */
import { encode } from './cbor.ts';
import type { DeviceId } from './id.ts';

export type MacPurpose = 'statistics' | 'indicium';

/** The info of the derivation. */
export function macKeyInfo(device: DeviceId, epoch: number, purpose: MacPurpose): Uint8Array {
  return encode(['countermark mac key', device, epoch, purpose]);
}
