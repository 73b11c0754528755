/**
 * The keys of a PSD: three P-256 pairs (signatures, key agreement, session), which a rotation replaces, and the key of the
 * record codes, which stays: codes of pieces franked under an older epoch are checked with it, and only by this device.
 *
 * Guarantees that each key has one use. Those of signatures and of key agreement are behind a key holder; session key and record key lie in
 * the device's store, readable by its user alone, and in this process's memory. The holder that is here has all of them there: whoever copies
 * the store copies the device (SECURITY.md). With `token-keys.ts` a token has the others.
 */
import { type KeyObject, randomBytes } from 'node:crypto';
import type { DeviceId } from '@countermark/protocol/id';
import { macKeyInfo, type MacPurpose } from '@countermark/protocol/mac-key';
import {
  deriveKey,
  generateSigningKey,
  importPrivateKey,
  importPublicKey,
  privateKeyBytes,
  publicKeyBytes,
  sharedSecret,
  signP1363,
} from '@countermark/node-platform/signing';
import { SignWorkers } from '@countermark/node-platform/sign-workers';
import type { DeviceCertificate } from '@countermark/protocol/messages/enrolment';
import type { Identity } from '../core/state.ts';
import type { AgreementKey, HeldKeys, KeyHolder, SigningKey } from './key-holder.ts';

const RECORD_KEY_BYTES = 32;
const MAC_KEY_BYTES = 32;
const INDICIUM = 'indicium';

/** The keys of one epoch. */
export type EpochKeys = HeldKeys & { readonly session: KeyObject };
export type DeviceKeys = EpochKeys & { readonly record: Uint8Array };

/** The names of an epoch's keys in the store; those of the next epoch have the prefix. */
export const EPOCH_KEY_NAMES = ['signing', 'agreement', 'session'] as const;
export const NEXT_PREFIX = 'next-';

/** Keys that lie in the store, as PKCS8. */
export const STORE_KEYS: KeyHolder = {
  token: null,
  marks: null,
  ready: () => Promise.resolve(),
  make: () => ({ signing: signingKey(newKey()), agreement: agreementKey(newKey()) }),
  signingKey: (stored) => signingKey(importPrivateKey(stored)),
  agreementKey: (stored) => agreementKey(importPrivateKey(stored)),
  // The store erases what it held itself.
  keepOnly: () => undefined,
  close: () => Promise.resolve(),
};

/** A signature key in this process's memory. */
export function signingKey(key: KeyObject): SigningKey {
  return {
    publicKey: publicKeyBytes(key),
    get stored() {
      return privateKeyBytes(key);
    },
    sign: (bytes) => signP1363(key, bytes),
    packedSigner: () => {
      const workers = new SignWorkers(new Map([[INDICIUM, key]]));
      return {
        signPacked: (inputs, each) => workers.signPacked(INDICIUM, inputs, each),
        close: () => workers.close(),
      };
    },
  };
}

function agreementKey(key: KeyObject): AgreementKey {
  return {
    publicKey: publicKeyBytes(key),
    get stored() {
      return privateKeyBytes(key);
    },
    agree: (point) => {
      const peer = importPublicKey(point);
      if (peer === undefined) throw new TypeError('it is no point on P-256');
      return sharedSecret(key, peer);
    },
  };
}

function newKey(): KeyObject {
  return generateSigningKey().privateKey;
}

/** New keys of an epoch, from the system's randomness or the token's. */
export function generateEpochKeys(holder: KeyHolder, device: DeviceId, epoch: number): EpochKeys {
  return { ...holder.make(device, epoch), session: newKey() };
}

/** New keys of a new device. */
export function generateKeys(holder: KeyHolder, device: DeviceId): DeviceKeys {
  return { ...generateEpochKeys(holder, device, 1), record: randomBytes(RECORD_KEY_BYTES) };
}

/** What an identity says of an epoch's keys. */
export function publicHalves(keys: EpochKeys): Pick<Identity, 'publicKey' | 'agreementKey' | 'sessionKey'> {
  return {
    publicKey: keys.signing.publicKey,
    agreementKey: keys.agreement.publicKey,
    sessionKey: publicKeyBytes(keys.session),
  };
}

/** What is left of them in an identity whose keys are erased: nothing asks for a certificate of them any more. */
export const NO_PUBLIC_HALVES: ReturnType<typeof publicHalves> = {
  publicKey: new Uint8Array(0),
  agreementKey: new Uint8Array(0),
  sessionKey: new Uint8Array(0),
};

/** The keys as the store holds them: name and bytes (the holder's, PKCS8 of the session key, the 32 bytes of the record key). */
export function keyBytes(keys: DeviceKeys): (readonly [string, Uint8Array])[] {
  return [...epochKeyBytes(keys), ['record', keys.record] as const];
}

/** The keys of the next epoch as the store holds them. */
export function nextKeyBytes(keys: EpochKeys): (readonly [string, Uint8Array])[] {
  return epochKeyBytes(keys).map(([name, bytes]) => [NEXT_PREFIX + name, bytes] as const);
}

function epochKeyBytes({ signing, agreement, session }: EpochKeys): (readonly [string, Uint8Array])[] {
  return [
    ['signing', signing.stored],
    ['agreement', agreement.stored],
    ['session', privateKeyBytes(session)],
  ];
}

/** The keys from the store's bytes. @throws TypeError where one is missing or is none: the store was altered. */
export function keysOf(bytes: ReadonlyMap<string, Uint8Array>, holder = STORE_KEYS): DeviceKeys {
  const record = bytes.get('record');
  if (record?.length !== RECORD_KEY_BYTES) throw new TypeError('the key record is missing or none');
  return { ...epochKeysOf(bytes, '', holder), record };
}

/** The keys of the next epoch, or null where none wait. @throws TypeError where only some of them are there. */
export function nextKeysOf(bytes: ReadonlyMap<string, Uint8Array>, holder: KeyHolder): EpochKeys | null {
  return EPOCH_KEY_NAMES.some((name) => bytes.has(NEXT_PREFIX + name)) ? epochKeysOf(bytes, NEXT_PREFIX, holder) : null;
}

function epochKeysOf(bytes: ReadonlyMap<string, Uint8Array>, prefix: string, holder: KeyHolder): EpochKeys {
  const stored = (name: (typeof EPOCH_KEY_NAMES)[number]): Uint8Array => {
    const found = bytes.get(prefix + name);
    if (found === undefined) throw new TypeError(`the key ${prefix}${name} is missing`);
    return found;
  };
  return {
    signing: holder.signingKey(stored('signing')),
    agreement: holder.agreementKey(stored('agreement')),
    session: importPrivateKey(stored('session')),
  };
}

/** Whether a key can be agreed with the one that the certificate names. */
export function isAgreeable({ agreementPeer }: Pick<DeviceCertificate, 'agreementPeer'>): boolean {
  return importPublicKey(agreementPeer) !== undefined;
}

/**
 * The device's MAC key of one purpose (protocol, `mac-key.ts`), agreed with the key that the certificate names.
 * @throws TypeError where that is no point: {@link isAgreeable} was asked when the certificate was taken.
 */
export function macKey(
  { agreement }: { readonly agreement: Pick<AgreementKey, 'agree'> },
  certificate: Pick<DeviceCertificate, 'device' | 'epoch' | 'agreementPeer'>,
  purpose: MacPurpose,
): Uint8Array {
  const secret = agreement.agree(certificate.agreementPeer);
  try {
    return deriveKey(secret, {
      salt: new Uint8Array(0),
      info: macKeyInfo(certificate.device, certificate.epoch, purpose),
      bytes: MAC_KEY_BYTES,
    });
  } finally {
    secret.fill(0);
  }
}
