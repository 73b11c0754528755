/**
 * The keys of a software PSD: three P-256 pairs (signatures, key agreement, session), which a rotation replaces, and the key of the
 * record codes, which stays: codes of pieces franked under an older epoch are checked with it, and only by this device.
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
  publicKeyBytes,
} from '@countermark/node-platform/signing';
import type { Identity } from '../core/state.ts';

const RECORD_KEY_BYTES = 32;
const MAC_KEY_BYTES = 32;
const PAIRS = ['signing', 'agreement', 'session'] as const;

/** The keys of one epoch. */
export type EpochKeys = Readonly<Record<(typeof PAIRS)[number], KeyObject>>;
export type DeviceKeys = EpochKeys & { readonly record: Uint8Array };

/** The names of an epoch's keys in the store; those of the next epoch have the prefix. */
export const EPOCH_KEY_NAMES: readonly string[] = PAIRS;
export const NEXT_PREFIX = 'next-';

/** New keys of an epoch, from the system's randomness. */
export function generateEpochKeys(): EpochKeys {
  const pair = () => generateSigningKey().privateKey;
  return { signing: pair(), agreement: pair(), session: pair() };
}

/** New keys of a new device. */
export function generateKeys(): DeviceKeys {
  return { ...generateEpochKeys(), record: randomBytes(RECORD_KEY_BYTES) };
}

/** What an identity says of an epoch's keys. */
export function publicHalves(keys: EpochKeys): Pick<Identity, 'publicKey' | 'agreementKey' | 'sessionKey'> {
  return {
    publicKey: publicKeyBytes(keys.signing),
    agreementKey: publicKeyBytes(keys.agreement),
    sessionKey: publicKeyBytes(keys.session),
  };
}

/** What is left of them in an identity whose keys are erased: nothing asks for a certificate of them any more. */
export const NO_PUBLIC_HALVES: ReturnType<typeof publicHalves> = {
  publicKey: new Uint8Array(0),
  agreementKey: new Uint8Array(0),
  sessionKey: new Uint8Array(0),
};

/** The keys as the store holds them: name and bytes (PKCS8, and the 32 bytes of the record key). */
export function keyBytes(keys: DeviceKeys): (readonly [string, Uint8Array])[] {
  return [...epochKeyBytes(keys), ['record', keys.record] as const];
}

/** The keys of the next epoch as the store holds them. */
export function nextKeyBytes(keys: EpochKeys): (readonly [string, Uint8Array])[] {
  return epochKeyBytes(keys).map(([name, bytes]) => [NEXT_PREFIX + name, bytes] as const);
}

function epochKeyBytes(keys: EpochKeys): (readonly [string, Uint8Array])[] {
  return PAIRS.map((name) => [name, privateKeyBytes(keys[name])] as const);
}

/** The keys from the store's bytes. @throws TypeError where one is missing or is none: the store was altered. */
export function keysOf(bytes: ReadonlyMap<string, Uint8Array>): DeviceKeys {
  const record = bytes.get('record');
  if (record?.length !== RECORD_KEY_BYTES) throw new TypeError('the key record is missing or none');
  return { ...epochKeysOf(bytes, ''), record };
}

/** The keys of the next epoch, or null where none wait. @throws TypeError where only some of them are there. */
export function nextKeysOf(bytes: ReadonlyMap<string, Uint8Array>): EpochKeys | null {
  return PAIRS.some((name) => bytes.has(NEXT_PREFIX + name)) ? epochKeysOf(bytes, NEXT_PREFIX) : null;
}

function epochKeysOf(bytes: ReadonlyMap<string, Uint8Array>, prefix: string): EpochKeys {
  const stored = (name: (typeof PAIRS)[number]): KeyObject => {
    const found = bytes.get(prefix + name);
    if (found === undefined) throw new TypeError(`the key ${prefix}${name} is missing`);
    return importPrivateKey(found);
  };
  return { signing: stored('signing'), agreement: stored('agreement'), session: stored('session') };
}

/**
 * The device's MAC key of one purpose (protocol, `mac-key.ts`), agreed with the cryptographic device of the trust bundle.
 * @throws TypeError where the peer's key is no point: the bundle was checked when it was pinned.
 */
export function macKey(
  keys: Pick<EpochKeys, 'agreement'>,
  identity: Pick<Identity, 'device' | 'epoch' | 'agreementPeer'>,
  purpose: MacPurpose,
): Uint8Array {
  const peer = importPublicKey(identity.agreementPeer);
  if (peer === undefined) throw new TypeError('the agreement key of the trust bundle is no point on P-256');
  return agreedKey(keys.agreement, peer, {
    salt: new Uint8Array(0),
    info: macKeyInfo(identity.device, identity.epoch, purpose),
    bytes: MAC_KEY_BYTES,
  });
}
