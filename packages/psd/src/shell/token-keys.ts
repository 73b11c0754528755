/**
 * A token, by PKCS#11, as the holder of the device's signature and agreement keys, and of its mark.
 *
 * Guarantees: the keys are made on the token, sensitive and never extractable, and refused where they are not; the store has their names
 * alone. Signatures are made on the token over digests that are made here; of a key agreement the shared secret passes through this process.
 * The mark is a data object of the token: SoftHSM and most tokens have no counter of their own that can be raised to a number, so whoever has
 * the PIN can write it (SECURITY.md).
 * What fails is the fault `hsm-unavailable` or `hsm-refused`; nothing is tried again here.
 */
import { Fault } from '@countermark/node-platform/fault';
import { type HsmConfig, hsmAccess, hsmRejection } from '@countermark/node-platform/hsm-access';
import { HsmThreads } from '@countermark/node-platform/hsm-threads';
import { importPublicKey, SIGNATURE_BYTES } from '@countermark/node-platform/signing';
import { sha256 } from '@countermark/node-platform/verification';
import { utf8 } from '@countermark/protocol/bytes';
import type { DeviceId } from '@countermark/protocol/id';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { type DeviceMark, MARK_BYTES, markBytes, markOf } from './device-mark.ts';
import type { AgreementKey, HeldKeys, KeyHolder, SigningKey } from './key-holder.ts';
import { REFERENCE } from './key-reference.ts';

const DIGEST_BYTES = 32;
/** From here up the signatures of a chunk are divided among the sessions. */
const DIVIDED_FROM = 8;

/** Opens the token. `sessions`: those that sign chunks. Rejections: `config-invalid` (the PIN file), `hsm-unavailable`, `hsm-refused`. */
export async function openTokenKeys(config: HsmConfig, sessions = 2): Promise<Result<KeyHolder>> {
  const access = hsmAccess(config);
  if (!access.ok) return access;
  const threads = new HsmThreads(access.value, sessions, { immediate: true });
  try {
    await threads.ready();
    return accept(new TokenKeys(threads, config.token));
  } catch (error) {
    await threads.close();
    const refused = hsmRejection(error, config.token);
    if (refused === null) throw error;
    return refuse(refused);
  }
}

class TokenKeys implements KeyHolder {
  readonly token: string;
  readonly #threads: HsmThreads;

  constructor(threads: HsmThreads, token: string) {
    this.#threads = threads;
    this.token = token;
  }

  readonly marks = {
    last: (device: DeviceId): DeviceMark | null => {
      const bytes = this.#threads.callNow('mark', { name: markName(device), length: MARK_BYTES }) as Uint8Array | null;
      return bytes === null ? null : markOf(bytes);
    },
    raise: (device: DeviceId, before: DeviceMark | null, next: DeviceMark): void => {
      const words = {
        name: markName(device),
        before: before === null ? null : markBytes(before),
        next: markBytes(next),
      };
      if (this.#threads.callNow('raise', words) !== true) return;
      throw new Fault('device-copied', `another process has used the device ${device} with the token ${this.token}`, {
        retry: 'never',
      });
    },
  };

  ready(): Promise<void> {
    return this.#threads.ready();
  }

  make(device: DeviceId, epoch: number): HeldKeys {
    const [signing, agreement] = [nameOf(device, 'signing', epoch), nameOf(device, 'agreement', epoch)];
    const asked = { names: [signing, agreement], deriving: [agreement] };
    const points = this.#threads.callNow('generate', asked) as Readonly<Record<string, Uint8Array | null>>;
    return {
      signing: this.#signingKey(signing, points[signing] ?? null),
      agreement: this.#agreementKey(agreement, points[agreement] ?? null),
    };
  }

  signingKey(stored: Uint8Array): SigningKey {
    const name = referred(stored);
    return this.#signingKey(name, this.#point(name));
  }

  agreementKey(stored: Uint8Array): AgreementKey {
    const name = referred(stored);
    return this.#agreementKey(name, this.#point(name));
  }

  keepOnly(device: DeviceId, stored: readonly Uint8Array[]): void {
    this.#threads.callNow('keep', { prefix: prefixOf(device), names: stored.map(referred) });
  }

  close(): Promise<void> {
    return this.#threads.close();
  }

  #signingKey(name: string, point: Uint8Array | null): SigningKey {
    const threads = this.#threads;
    return {
      publicKey: thatIsThere(name, point),
      stored: utf8(REFERENCE + name),
      sign: (bytes) => threads.callNow('sign', { name, digests: sha256(bytes) }) as Uint8Array,
      packedSigner: () => ({
        signPacked: (inputs, each) => signedByParts(threads, name, digestsOf(inputs, each)),
        // The sessions are the holder's.
        close: () => Promise.resolve(),
      }),
    };
  }

  #agreementKey(name: string, point: Uint8Array | null): AgreementKey {
    return {
      publicKey: thatIsThere(name, point),
      stored: utf8(REFERENCE + name),
      agree: (points) => {
        if (importPublicKey(points) === undefined) throw new TypeError('it is no point on P-256');
        return this.#threads.callNow('agree', { name, points }) as Uint8Array;
      },
    };
  }

  #point(name: string): Uint8Array | null {
    return this.#threads.callNow('point', { name }) as Uint8Array | null;
  }
}

function thatIsThere(name: string, point: Uint8Array | null): Uint8Array {
  if (point !== null) return point;
  throw new Fault('hsm-refused', `the key ${name} is not on it`, { retry: 'never' });
}

/** The names on the token begin with the device: several devices may have one token. */
function prefixOf(device: DeviceId): string {
  return `countermark-${device}-`;
}

function nameOf(device: DeviceId, use: 'signing' | 'agreement', epoch: number): string {
  return `${prefixOf(device)}${use}-${epoch}`;
}

function markName(device: DeviceId): string {
  return `${prefixOf(device)}mark`;
}

/** The name that the store has of a key. @throws TypeError where the bytes are none. */
function referred(stored: Uint8Array): string {
  const text = Buffer.from(stored).toString('utf8');
  if (!text.startsWith(REFERENCE)) throw new TypeError('a key is not on the token');
  return text.slice(REFERENCE.length);
}

function digestsOf(inputs: Uint8Array, each: number): Uint8Array {
  const count = inputs.length / each;
  const digests = new Uint8Array(count * DIGEST_BYTES);
  for (let i = 0; i < count; i += 1) digests.set(sha256(inputs.subarray(i * each, (i + 1) * each)), i * DIGEST_BYTES);
  return digests;
}

async function signedByParts(threads: HsmThreads, name: string, digests: Uint8Array): Promise<Uint8Array> {
  const count = digests.length / DIGEST_BYTES;
  const each = Math.ceil(count / (count >= DIVIDED_FROM ? threads.count : 1));
  const parts: Promise<unknown>[] = [];
  for (let from = 0; from < count; from += each) {
    const share = digests.slice(from * DIGEST_BYTES, (from + each) * DIGEST_BYTES);
    parts.push(threads.call('sign', { name, digests: share }));
  }
  const signatures = new Uint8Array(count * SIGNATURE_BYTES);
  for (const [i, part] of (await Promise.all(parts)).entries())
    signatures.set(part as Uint8Array, i * each * SIGNATURE_BYTES);
  return signatures;
}
