/**
 * Carrying out the signing effects: indicia by persistent threads or by MAC, records and requests at once.
 *
 * Guarantees: indicia and records are authenticated by the procedure that the device is enrolled with; enrolment and
 * funds requests always by signature. Signing many indicia does not hold up the thread that commits them.
 * Does not decide what is signed.
 */
import { hmacSha256Under, SIGNATURE_BYTES } from '@countermark/node-platform/signing';
import { seal, toBeAuthenticated, type Unsealed } from '@countermark/protocol/cose';
import { LAYOUTS } from '@countermark/protocol/layout';
import type { MacPurpose } from '@countermark/protocol/mac-key';
import type { DeviceCertificate } from '@countermark/protocol/messages/enrolment';
import type { Identity } from '../core/state.ts';
import type { PackedSigner, SigningKey } from './key-holder.ts';
import { type DeviceKeys, macKey } from './keys.ts';

/** The sealed bytes of a message that one key signs. */
export function signedWith(key: Pick<SigningKey, 'sign'>, unsealed: Unsealed): Uint8Array {
  return seal(unsealed, key.sign(toBeAuthenticated(unsealed)));
}

/** Below this number a message to another thread costs more than signing here. */
const HERE_BELOW = 4;

export class Authenticator {
  readonly #keys: DeviceKeys;
  readonly #identity: Identity;
  readonly #workers: PackedSigner | null;
  readonly #macs: Readonly<Record<MacPurpose, (bytes: Uint8Array) => Uint8Array>> | null;
  readonly #inHand = new Set<Promise<Uint8Array>>();

  /** Starts the signing threads where indicia are signed. `certificate`: of these keys; codes are made only with one. */
  constructor(keys: DeviceKeys, identity: Identity, certificate: DeviceCertificate | null) {
    this.#keys = keys;
    this.#identity = identity;
    const signs = identity.authentication === 'signature';
    this.#workers = signs ? keys.signing.packedSigner() : null;
    this.#macs =
      signs || certificate === null
        ? null
        : {
            statistics: hmacSha256Under(macKey(keys, certificate, 'statistics')),
            indicium: hmacSha256Under(macKey(keys, certificate, 'indicium')),
          };
  }

  /**
   * One authenticator for each input of `each` bytes in `inputs`, one after the other.
   * Rejects with a Fault where a signing thread failed.
   */
  async indicia(inputs: Uint8Array, each: number): Promise<Uint8Array> {
    const count = inputs.length / each;
    const input = (i: number): Uint8Array => inputs.subarray(i * each, (i + 1) * each);
    const bytes = LAYOUTS[this.#identity.authentication].authenticatorBytes;
    if (this.#workers !== null && count >= HERE_BELOW) {
      const signing = this.#workers.signPacked(inputs, each);
      this.#inHand.add(signing);
      try {
        return await signing;
      } finally {
        this.#inHand.delete(signing);
      }
    }
    const authenticators = new Uint8Array(count * bytes);
    for (let i = 0; i < count; i++) authenticators.set(this.#indicium(input(i)), i * bytes);
    return authenticators;
  }

  /** The sealed bytes of a record or request, by the procedure that its envelope names. */
  message(unsealed: Unsealed): Uint8Array {
    if (unsealed.authentication === 'signature') return signedWith(this.#keys.signing, unsealed);
    if (this.#macs === null) throw new TypeError('A device that signs, or has no certificate, makes no MAC.');
    return seal(unsealed, this.#macs.statistics(toBeAuthenticated(unsealed)));
  }

  /** Ends the threads when what they have in hand is signed: another key is in use from now on. */
  async retire(): Promise<void> {
    await Promise.allSettled(this.#inHand);
    await this.close();
  }

  /** Ends the threads. */
  async close(): Promise<void> {
    await this.#workers?.close();
  }

  #indicium(input: Uint8Array): Uint8Array {
    if (this.#macs !== null) return this.#macs.indicium(input);
    const signature = this.#keys.signing.sign(input);
    if (signature.length !== SIGNATURE_BYTES) throw new TypeError('A signature has 64 bytes.');
    return signature;
  }
}
