/**
 * The keys of a software PSD: three P-256 pairs (signatures, key agreement, session) and the key of the record codes.
 *
 * Guarantees that each key has one use. They lie in the device's store, readable by its user alone, and in this
 * process's memory: whoever copies the store copies the device (SECURITY.md). A token holds them in a later version.
 */
import { type KeyObject, randomBytes } from 'node:crypto';
import { macKeyInfo, type MacPurpose } from '@countermark/protocol/mac-key';
import {
  agreedKey,
  generateSigningKey,
  importPrivateKey,
  importPublicKey,
  privateKeyBytes,
} from '@countermark/node-platform/signing';
import type { Identity } from '../core/state.ts';

const RECORD_KEY_BYTES = 32;
const MAC_KEY_BYTES = 32;
const PAIRS = ['signing', 'agreement', 'session'] as const;

export type DeviceKeys = Readonly<Record<(typeof PAIRS)[number], KeyObject>> & { readonly record: Uint8Array };

/** New keys, from the system's randomness. */
export function generateKeys(): DeviceKeys {
  const pair = () => generateSigningKey().privateKey;
  return { signing: pair(), agreement: pair(), session: pair(), record: randomBytes(RECORD_KEY_BYTES) };
}

/** The keys as the store holds them: name and bytes (PKCS8, and the 32 bytes of the record key). */
export function keyBytes(keys: DeviceKeys): (readonly [string, Uint8Array])[] {
  return [...PAIRS.map((name) => [name, privateKeyBytes(keys[name])] as const), ['record', keys.record] as const];
}

/** The keys from the store's bytes. @throws TypeError where one is missing or is none: the store was altered. */
export function keysOf(bytes: ReadonlyMap<string, Uint8Array>): DeviceKeys {
  const stored = (name: string): Uint8Array => {
    const found = bytes.get(name);
    if (found === undefined) throw new TypeError(`the key ${name} is missing`);
    return found;
  };
  const [signing, agreement, session] = PAIRS.map((name) => importPrivateKey(stored(name)));
  const record = stored('record');
  if (signing === undefined || agreement === undefined || session === undefined || record.length !== RECORD_KEY_BYTES) {
    throw new TypeError('the keys are not those of a device');
  }
  return { signing, agreement, session, record };
}

/**
 * The device's MAC key of one purpose (protocol, `mac-key.ts`), agreed with the cryptographic device of the trust bundle.
 * @throws TypeError where the peer's key is no point: the bundle was checked when it was pinned.
 */
export function macKey(keys: DeviceKeys, identity: Identity, purpose: MacPurpose): Uint8Array {
  const peer = importPublicKey(identity.agreementPeer);
  if (peer === undefined) throw new TypeError('the agreement key of the trust bundle is no point on P-256');
  return agreedKey(keys.agreement, peer, {
    salt: new Uint8Array(0),
    info: macKeyInfo(identity.device, identity.epoch, purpose),
    bytes: MAC_KEY_BYTES,
  });
}
