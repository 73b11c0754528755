/**
 * The key store on a hardware security module, by PKCS#11.
 *
 * Guarantees: the private keys are made on the token, one for each role and one for key agreement, sensitive and never extractable, and
 * are refused where they are not; a set of which some are missing is refused, never completed with new ones; keys are made only where
 * none was ever used. Signatures are made on the token; digests of what is signed are made here (modules differ in hashing).
 * What passes through this process: digests, signatures, and of key agreement the shared secret and the MAC keys that follow from it, in
 * memory only. Signatures of others are checked here, by threads: public keys are no secret, and the token is slower at it.
 */
import { type HsmConfig, hsmAccess, hsmRejection } from '@countermark/node-platform/hsm-access';
import { HsmThreads } from '@countermark/node-platform/hsm-threads';
import { equalMacs, hmacSha256, PUBLIC_KEY_BYTES, SIGNATURE_BYTES } from '@countermark/node-platform/signing';
import { sha256 } from '@countermark/node-platform/verification';
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { AgreedKeys, isAgreeable } from './agreed-keys.ts';
import { KEY_ROLES, type KeyRole, type KeyStore, type MacCheck } from './key-store.ts';
import { VerifyWorkers } from './verify-workers.ts';

const EPOCH = 1;
const DIGEST_BYTES = 32;
const SECRET_BYTES = 32;
const AGREEMENT = nameOf('agreement');
const NAMES = [...KEY_ROLES.map(nameOf), AGREEMENT];
/** From here up signatures are divided among the sessions. */
const DIVIDED_FROM = 8;

type Found = { readonly points: Readonly<Record<string, Uint8Array | null>>; readonly complete: boolean };

/**
 * Opens the keys on the token. `first`: nothing was ever signed by the keys of this device, so that they may be made.
 * Rejections: `config-invalid` (the PIN file), `hsm-unavailable`, `hsm-refused`.
 */
export async function openHsmKeys(config: HsmConfig, first: boolean, sessions = 2): Promise<Result<KeyStore>> {
  const access = hsmAccess(config);
  if (!access.ok) return access;
  const threads = new HsmThreads(access.value, sessions);
  try {
    const points = await pointsOf(threads, config.token, first);
    if (points.ok) return accept(new HsmKeys(threads, points.value));
    await threads.close();
    return points;
  } catch (error) {
    await threads.close();
    const refused = hsmRejection(error, config.token);
    if (refused === null) throw error;
    return refuse(refused);
  }
}

async function pointsOf(
  threads: HsmThreads,
  token: string,
  first: boolean,
): Promise<Result<ReadonlyMap<string, Uint8Array>>> {
  let found = (await threads.call('find', { names: NAMES })) as Found;
  if (!found.complete) {
    if (!first)
      return refuse(rejection('hsm-refused', { token, reason: 'the keys of the enrolled devices are not on it' }));
    await threads.call('make', { names: NAMES, deriving: [AGREEMENT] });
    found = (await threads.call('find', { names: NAMES })) as Found;
  }
  const points = new Map<string, Uint8Array>();
  for (const name of NAMES) {
    const point = found.points[name];
    if (point == null) return refuse(rejection('hsm-refused', { token, reason: `the key ${name} is missing on it` }));
    points.set(name, point);
  }
  return accept(points);
}

class HsmKeys implements KeyStore {
  readonly epoch = EPOCH;
  readonly agreementKey: Uint8Array;
  readonly #points: ReadonlyMap<string, Uint8Array>;
  readonly #threads: HsmThreads;
  readonly #verifiers: VerifyWorkers;
  readonly #agreed = new AgreedKeys();

  constructor(threads: HsmThreads, points: ReadonlyMap<string, Uint8Array>) {
    this.#threads = threads;
    this.#points = points;
    this.#verifiers = new VerifyWorkers(threads.count);
    this.agreementKey = this.#point(AGREEMENT);
  }

  publicKey(role: KeyRole): Uint8Array {
    return this.#point(nameOf(role));
  }

  async sign(role: KeyRole, inputs: readonly Uint8Array[]): Promise<readonly Uint8Array[]> {
    const name = nameOf(role);
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
    const wanted = checks.filter((check) => this.#agreed.of(check) === undefined && isAgreeable(check));
    if (wanted.length > 0) {
      const points = packed(
        wanted.map(({ agreementKey }) => agreementKey),
        PUBLIC_KEY_BYTES,
      );
      const secrets = (await this.#threads.call('agree', { name: AGREEMENT, points })) as Uint8Array;
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
    const point = this.#points.get(name);
    if (point === undefined) throw new TypeError(`no key ${name}`);
    return point;
  }
}

/** The label of a key on the token. */
function nameOf(use: KeyRole | 'agreement'): string {
  return `countermark-${use}-${EPOCH}`;
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
