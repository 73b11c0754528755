/**
 * MAC keys that were agreed with devices: derived from the shared secret, kept in memory only, a bounded number of them.
 *
 * Guarantees that the oldest is overwritten when there are too many, and all of them at the end. Where the shared secret comes from
 * (software, or a token) is the key store's.
 */
import { deriveKey, importPublicKey } from '@countermark/node-platform/signing';
import { macKeyInfo } from '@countermark/protocol/mac-key';
import type { MacCheck } from './key-store.ts';

const KEYS_MAX = 10_000;
const KEY_BYTES = 32;
const NO_SALT = new Uint8Array(0);

type Named = Pick<MacCheck, 'device' | 'epoch' | 'purpose' | 'agreementKey' | 'agreementPeer'>;

export class AgreedKeys {
  readonly #keys = new Map<string, Uint8Array>();

  /** The key of a check, or undefined where it was not agreed yet, or is not kept any more. */
  of(check: Named): Uint8Array | undefined {
    return this.#keys.get(nameOf(check));
  }

  /** Keeps what follows from the shared secret (the x coordinate, 32 bytes), which is overwritten. */
  agreed(check: Named, secret: Uint8Array): Uint8Array {
    const key = deriveKey(secret, {
      salt: NO_SALT,
      info: macKeyInfo(check.device, check.epoch, check.purpose),
      bytes: KEY_BYTES,
    });
    secret.fill(0);
    const oldest = this.#keys.size >= KEYS_MAX ? this.#keys.entries().next().value : undefined;
    if (oldest !== undefined) {
      oldest[1].fill(0);
      this.#keys.delete(oldest[0]);
    }
    this.#keys.set(nameOf(check), key);
    return key;
  }

  clear(): void {
    for (const key of this.#keys.values()) key.fill(0);
    this.#keys.clear();
  }
}

/** Whether a key can be agreed with it: a point of the curve. */
export function isAgreeable({ agreementKey }: Pick<Named, 'agreementKey'>): boolean {
  return importPublicKey(agreementKey) !== undefined;
}

/** Both keys are part of the name: another enrolment of the same device has other ones. */
function nameOf({ device, epoch, purpose, agreementKey, agreementPeer }: Named): string {
  const keys = Buffer.concat([agreementKey, agreementPeer]).toString('base64');
  return `${device}#${epoch}#${purpose}#${keys}`;
}
