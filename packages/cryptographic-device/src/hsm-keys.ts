/**
 * The key store on a hardware security module, by PKCS#11.
 *
 * Guarantees: the private keys are made on the token, one for each role and one for key agreement, sensitive and never extractable, and
 * are refused where they are not; a set of which some are missing is refused, never completed with new ones; keys are made only where
 * none was ever used, or as a role's next. Of a key that was retired the token keeps the public part alone. Signatures are made on the token; digests of what is signed are made here (modules differ in hashing).
 * What passes through this process: digests, signatures, and of key agreement the shared secret and the MAC keys that follow from it, in
 * memory only. Signatures of others are checked here, by threads: public keys are no secret, and the token is slower at it.
 */
import { type HsmConfig, hsmAccess, hsmRejection } from '@countermark/node-platform/hsm-access';
import { HsmThreads } from '@countermark/node-platform/hsm-threads';
import { equalMacs, hmacSha256, PUBLIC_KEY_BYTES, SIGNATURE_BYTES } from '@countermark/node-platform/signing';
import { sha256 } from '@countermark/node-platform/verification';
import { sameBytes } from '@countermark/protocol/digest';
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { AgreedKeys, isAgreeable } from './agreed-keys.ts';
import { FIRST_EPOCH, KEY_ROLES, type KeyRole, type KeyStore, type MacCheck, type SigningRole } from './key-store.ts';
import { VerifyWorkers } from './verify-workers.ts';

const DIGEST_BYTES = 32;
const SECRET_BYTES = 32;
const PREFIX = 'countermark-';
const NAMES = KEY_ROLES.map((role) => nameOf(role, FIRST_EPOCH));
/** From here up signatures are divided among the sessions. */
const DIVIDED_FROM = 8;

/** A key on the token: its public part, and whether the private one is there. */
type TokenKey = { readonly point: Uint8Array; readonly signs: boolean };
type Found = { readonly keys: Readonly<Record<string, TokenKey>>; readonly complete: boolean };

/**
 * Opens the keys on the token. `first`: nothing was ever signed by the keys of this device, so that they may be made.
 * Rejections: `config-invalid` (the PIN file), `hsm-unavailable`, `hsm-refused`.
 */
export async function openHsmKeys(config: HsmConfig, first: boolean, sessions = 2): Promise<Result<KeyStore>> {
  const access = hsmAccess(config);
  if (!access.ok) return access;
  const threads = new HsmThreads(access.value, sessions);
  try {
    const keys = await keysOn(threads, config.token, first);
    if (keys.ok) return accept(new HsmKeys(threads, keys.value));
    await threads.close();
    return keys;
  } catch (error) {
    await threads.close();
    const refused = hsmRejection(error, config.token);
    if (refused === null) throw error;
    return refuse(refused);
  }
}

async function keysOn(threads: HsmThreads, token: string, first: boolean): Promise<Result<Map<string, TokenKey>>> {
  let found = (await threads.call('find', { prefix: PREFIX })) as Found;
  if (!found.complete) {
    if (!first)
      return refuse(rejection('hsm-refused', { token, reason: 'the keys of the enrolled devices are not on it' }));
    await threads.call('make', { names: NAMES, deriving: [nameOf('agreement', FIRST_EPOCH)] });
    found = (await threads.call('find', { prefix: PREFIX })) as Found;
  }
  const keys = new Map(Object.entries(found.keys));
  const missing = KEY_ROLES.find((role) => !epochsOf(keys, role).some((epoch) => keys.get(nameOf(role, epoch))?.signs));
  if (missing === undefined) return accept(keys);
  return refuse(rejection('hsm-refused', { token, reason: `the key of ${missing} is missing on it` }));
}

class HsmKeys implements KeyStore {
  readonly #keys: Map<string, TokenKey>;
  readonly #threads: HsmThreads;
  readonly #verifiers: VerifyWorkers;
  readonly #agreed = new AgreedKeys();

  constructor(threads: HsmThreads, keys: Map<string, TokenKey>) {
    this.#threads = threads;
    this.#keys = keys;
    this.#verifiers = new VerifyWorkers(threads.count);
  }

  epochs(role: KeyRole): readonly number[] {
    return epochsOf(this.#keys, role);
  }

  publicKey(role: KeyRole, epoch: number): Uint8Array {
    return this.#point(nameOf(role, epoch));
  }

  canUse(role: KeyRole, epoch: number): boolean {
    return this.#keys.get(nameOf(role, epoch))?.signs === true;
  }

  async make(role: KeyRole, epoch: number): Promise<Uint8Array> {
    const name = nameOf(role, epoch);
    const point = (await this.#threads.call('renew', { name, derives: role === 'agreement' })) as Uint8Array;
    this.#keys.set(name, { point, signs: true });
    return point;
  }

  async retire(role: KeyRole, epoch: number): Promise<void> {
    const name = nameOf(role, epoch);
    await this.#threads.call('retire', { name });
    this.#keys.set(name, { point: this.#point(name), signs: false });
  }

  async sign(role: SigningRole, epoch: number, inputs: readonly Uint8Array[]): Promise<readonly Uint8Array[]> {
    if (!this.canUse(role, epoch)) throw new TypeError(`the ${role} key of epoch ${epoch} signs nothing any more`);
    const name = nameOf(role, epoch);
    const shares = inputs.length >= DIVIDED_FROM ? this.#threads.count : 1;
    const each = Math.ceil(inputs.length / shares);
    const parts: Promise<Uint8Array>[] = [];
    for (let from = 0; from < inputs.length; from += each) {
      const digests = packed(inputs.slice(from, from + each).map(sha256), DIGEST_BYTES);
      parts.push(this.#threads.call('sign', { name, digests }) as Promise<Uint8Array>);
    }
    return (await Promise.all(parts)).flatMap((signatures) => unpacked(signatures, SIGNATURE_BYTES));
  }

  async verifySignatures(checks: Parameters<KeyStore['verifySignatures']>[0]): Promise<readonly boolean[]> {
    return this.#verifiers.verify(checks);
  }

  async verifyMacs(checks: readonly MacCheck[]): Promise<readonly boolean[]> {
    const unknown = checks.filter((check) => this.#agreed.of(check) === undefined && isAgreeable(check));
    for (const epoch of this.epochs('agreement')) {
      const point = this.publicKey('agreement', epoch);
      const wanted = unknown.filter(({ agreementPeer }) => sameBytes(agreementPeer, point));
      if (wanted.length === 0 || !this.canUse('agreement', epoch)) continue;
      const points = packed(
        wanted.map(({ agreementKey }) => agreementKey),
        PUBLIC_KEY_BYTES,
      );
      const secrets = (await this.#threads.call('agree', { name: nameOf('agreement', epoch), points })) as Uint8Array;
      for (const [i, secret] of unpacked(secrets, SECRET_BYTES).entries()) {
        const check = wanted[i];
        if (check !== undefined) this.#agreed.agreed(check, secret);
      }
    }
    return checks.map((check) => {
      const key = this.#agreed.of(check);
      return key !== undefined && equalMacs(hmacSha256(key, check.input), check.code);
    });
  }

  async close(): Promise<void> {
    this.#agreed.clear();
    await Promise.all([this.#threads.close(), this.#verifiers.close()]);
  }

  #point(name: string): Uint8Array {
    const key = this.#keys.get(name);
    if (key === undefined) throw new TypeError(`no key ${name}`);
    return key.point;
  }
}

/** The label of a key on the token. */
function nameOf(role: KeyRole, epoch: number): string {
  return `${PREFIX}${role}-${epoch}`;
}

function epochsOf(keys: ReadonlyMap<string, TokenKey>, role: KeyRole): readonly number[] {
  const epochs: number[] = [];
  for (let epoch = FIRST_EPOCH; keys.has(nameOf(role, epoch)); epoch += 1) epochs.push(epoch);
  return epochs;
}

function packed(parts: readonly Uint8Array[], each: number): Uint8Array {
  const all = new Uint8Array(parts.length * each);
  parts.forEach((part, i) => {
    all.set(part, i * each);
  });
  return all;
}

function unpacked(all: Uint8Array, each: number): Uint8Array[] {
  return Array.from({ length: all.length / each }, (_, i) => all.subarray(i * each, (i + 1) * each));
}
