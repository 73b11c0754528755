/**
 * The key store in software: P-256 keys in files. For development and demonstrations: whoever reads the disk has the keys, so
 * the process says so at every start (`UNSAFE_SERVER_KEYS`).
 *
 * Guarantees: files of mode 0600 in a directory of mode 0700, durable before the store is handed out; a store of which some
 * files are missing or broken is refused, never completed with new keys (that would silently start another identity).
 * Agreed MAC keys are kept in memory only, a bounded number of them.
 */
import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  writeSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import type { KeyObject } from 'node:crypto';
import { errorText } from '@countermark/node-platform/fault';
import { SignWorkers } from '@countermark/node-platform/sign-workers';
import {
  equalMacs,
  generateSigningKey,
  hmacSha256,
  importPrivateKey,
  importPublicKey,
  privateKeyBytes,
  publicKeyBytes,
  sharedSecret,
} from '@countermark/node-platform/signing';
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { AgreedKeys } from './agreed-keys.ts';
import { KEY_ROLES, type KeyRole, type KeyStore, type MacCheck } from './key-store.ts';
import { VerifyWorkers } from './verify-workers.ts';

/** The line that the process prints on stderr at every start with software keys. */
export const UNSAFE_SERVER_KEYS =
  'UNSAFE_SERVER_KEYS: the keys of the cryptographic device lie in files; only an HSM keeps them from whoever reads the disk.';

const EPOCH = 1;
const NAMES = [...KEY_ROLES, 'agreement'] as const;

/** Opens the keys in the directory, made at the first start. Rejection: `store-damaged`. */
export function openSoftwareKeys(directory: string, threads = 2): Result<KeyStore> {
  const damaged = (reason: string) => refuse(rejection('store-damaged', { store: directory, reason }));
  const keys = new Map<string, KeyObject>();
  if (!existsSync(directory)) create(directory);
  for (const name of NAMES) {
    try {
      keys.set(name, importPrivateKey(readFileSync(join(directory, `${name}.key`))));
    } catch (error) {
      return damaged(`the key ${name} cannot be read (${errorText(error)})`);
    }
  }
  const agreement = keys.get('agreement');
  if (agreement === undefined) return damaged('the agreement key is missing');
  keys.delete('agreement');
  return accept(new SoftwareKeys(keys, agreement, threads));
}

/** All keys in a new directory that takes its name only when it is whole and durable. */
function create(directory: string): void {
  mkdirSync(dirname(directory), { recursive: true, mode: 0o700 });
  const growing = `${directory}.${process.pid}.new`;
  // Left by a start that died here: its keys were never used.
  rmSync(growing, { recursive: true, force: true });
  mkdirSync(growing, { mode: 0o700 });
  for (const name of NAMES) {
    const file = openSync(join(growing, `${name}.key`), 'wx', 0o600);
    writeSync(file, privateKeyBytes(generateSigningKey().privateKey));
    fsyncSync(file);
    closeSync(file);
  }
  syncDirectory(growing);
  renameSync(growing, directory);
  syncDirectory(dirname(directory));
}

function syncDirectory(path: string): void {
  const handle = openSync(path, 'r');
  fsyncSync(handle);
  closeSync(handle);
}

class SoftwareKeys implements KeyStore {
  readonly epoch = EPOCH;
  readonly agreementKey: Uint8Array;
  readonly #agreement: KeyObject;
  readonly #public: ReadonlyMap<string, Uint8Array>;
  readonly #signers: SignWorkers;
  readonly #verifiers: VerifyWorkers;
  readonly #agreed = new AgreedKeys();

  constructor(keys: ReadonlyMap<string, KeyObject>, agreement: KeyObject, threads: number) {
    this.#agreement = agreement;
    this.agreementKey = publicKeyBytes(agreement);
    this.#public = new Map([...keys].map(([name, key]) => [name, publicKeyBytes(key)]));
    this.#signers = new SignWorkers(keys, threads);
    this.#verifiers = new VerifyWorkers(threads);
  }

  publicKey(role: KeyRole): Uint8Array {
    const key = this.#public.get(role);
    if (key === undefined) throw new TypeError(`no key of the role ${role}`);
    return key;
  }

  async sign(role: KeyRole, inputs: readonly Uint8Array[]): Promise<readonly Uint8Array[]> {
    return this.#signers.sign(role, inputs);
  }

  async verifySignatures(checks: Parameters<KeyStore['verifySignatures']>[0]): Promise<readonly boolean[]> {
    return this.#verifiers.verify(checks);
  }

  async verifyMacs(checks: readonly MacCheck[]): Promise<readonly boolean[]> {
    return checks.map((check) => {
      const key = this.#agreed.of(check) ?? this.#agree(check);
      return key !== undefined && equalMacs(hmacSha256(key, check.input), check.code);
    });
  }

  async close(): Promise<void> {
    this.#agreed.clear();
    await Promise.all([this.#signers.close(), this.#verifiers.close()]);
  }

  #agree(check: MacCheck): Uint8Array | undefined {
    const peer = importPublicKey(check.agreementKey);
    return peer === undefined ? undefined : this.#agreed.agreed(check, sharedSecret(this.#agreement, peer));
  }
}
