/**
 * The key store in software: P-256 keys in files. For development and demonstrations: whoever reads the disk has the keys, so
 * the process says so at every start (`UNSAFE_SERVER_KEYS`).
 *
 * Guarantees: files of mode 0600 in a directory of mode 0700, durable before the store is handed out; a store of which some
 * files are missing or broken is refused, never completed with new keys (that would silently start another identity).
 * Of a key that was retired its file is removed and its public part stays in another; a disk may still have what was removed.
 * Agreed MAC keys are kept in memory only, a bounded number of them.
 */
import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
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
import { sameBytes } from '@countermark/protocol/digest';
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { AgreedKeys } from './agreed-keys.ts';
import { FIRST_EPOCH, KEY_ROLES, type KeyRole, type KeyStore, type MacCheck, type SigningRole } from './key-store.ts';
import { VerifyWorkers } from './verify-workers.ts';

/** The line that the process prints on stderr at every start with software keys. */
export const UNSAFE_SERVER_KEYS =
  'UNSAFE_SERVER_KEYS: the keys of the cryptographic device lie in files; only an HSM keeps them from whoever reads the disk.';

/** A role's key of its first epoch, or of a later one; the public part alone of one that was retired. */
const KEY_FILE = /^([a-z-]+?)(?:-([1-9]\d*))?\.(key|pub)$/;

const AGREEMENT_KEY = /^agreement(-\d+)?$/;

/** Opens the keys in the directory, made at the first start. Rejection: `store-damaged`. */
export function openSoftwareKeys(directory: string, threads = 2): Result<KeyStore> {
  const damaged = (reason: string) => refuse(rejection('store-damaged', { store: directory, reason }));
  if (!existsSync(directory)) create(directory);
  const privates = new Map<string, KeyObject>();
  const publics = new Map<string, Uint8Array>();
  for (const file of readdirSync(directory)) {
    const [, name = '', epoch = String(FIRST_EPOCH), kind] = KEY_FILE.exec(file) ?? [];
    const role = KEY_ROLES.find((known) => known === name);
    if (role === undefined) continue;
    const of = nameOf(role, Number(epoch));
    try {
      const bytes = readFileSync(join(directory, file));
      if (kind === 'key') privates.set(of, importPrivateKey(bytes));
      else if (importPublicKey(bytes) === undefined) return damaged(`${file} is no public key`);
      else publics.set(of, new Uint8Array(bytes));
    } catch (error) {
      return damaged(`the key ${of} cannot be read (${errorText(error)})`);
    }
  }
  for (const [name, key] of privates) publics.set(name, publicKeyBytes(key));
  const keys = new SoftwareKeys(directory, privates, publics, threads);
  const missing = KEY_ROLES.find((role) => !keys.epochs(role).some((epoch) => keys.canUse(role, epoch)));
  if (missing !== undefined) {
    void keys.close();
    return damaged(`the key ${missing} is missing`);
  }
  return accept(keys);
}

/** All keys in a new directory that takes its name only when it is whole and durable. */
function create(directory: string): void {
  mkdirSync(dirname(directory), { recursive: true, mode: 0o700 });
  const growing = `${directory}.${process.pid}.new`;
  // Left by a start that died here: its keys were never used.
  rmSync(growing, { recursive: true, force: true });
  mkdirSync(growing, { mode: 0o700 });
  for (const role of KEY_ROLES) write(join(growing, `${role}.key`), privateKeyBytes(generateSigningKey().privateKey));
  syncDirectory(growing);
  renameSync(growing, directory);
  syncDirectory(dirname(directory));
}

function write(path: string, bytes: Uint8Array): void {
  const file = openSync(path, 'wx', 0o600);
  writeSync(file, bytes);
  fsyncSync(file);
  closeSync(file);
}

/** Whole and durable under its name, or not there. */
function writeWhole(path: string, bytes: Uint8Array): void {
  const growing = `${path}.new`;
  rmSync(growing, { force: true });
  write(growing, bytes);
  renameSync(growing, path);
  syncDirectory(dirname(path));
}

function syncDirectory(path: string): void {
  const handle = openSync(path, 'r');
  fsyncSync(handle);
  closeSync(handle);
}

/** The first key of a role has its role's name alone, as it had before there were others. */
function nameOf(role: KeyRole, epoch: number): string {
  return epoch === FIRST_EPOCH ? role : `${role}-${epoch}`;
}

class SoftwareKeys implements KeyStore {
  readonly #directory: string;
  readonly #privates: Map<string, KeyObject>;
  readonly #publics: Map<string, Uint8Array>;
  readonly #threads: number;
  readonly #verifiers: VerifyWorkers;
  readonly #agreed = new AgreedKeys();
  readonly #inHand = new Set<Promise<unknown>>();
  #signers: SignWorkers;

  constructor(directory: string, privates: Map<string, KeyObject>, publics: Map<string, Uint8Array>, threads: number) {
    this.#directory = directory;
    this.#privates = privates;
    this.#publics = publics;
    this.#threads = threads;
    this.#signers = new SignWorkers(this.#signing(), threads);
    this.#verifiers = new VerifyWorkers(threads);
  }

  epochs(role: KeyRole): readonly number[] {
    const epochs: number[] = [];
    for (let epoch = FIRST_EPOCH; this.#publics.has(nameOf(role, epoch)); epoch += 1) epochs.push(epoch);
    return epochs;
  }

  publicKey(role: KeyRole, epoch: number): Uint8Array {
    const key = this.#publics.get(nameOf(role, epoch));
    if (key === undefined) throw new TypeError(`no key of the role ${role} and epoch ${epoch}`);
    return key;
  }

  canUse(role: KeyRole, epoch: number): boolean {
    return this.#privates.has(nameOf(role, epoch));
  }

  async make(role: KeyRole, epoch: number): Promise<Uint8Array> {
    const name = nameOf(role, epoch);
    const { privateKey } = generateSigningKey();
    writeWhole(join(this.#directory, `${name}.key`), privateKeyBytes(privateKey));
    this.#privates.set(name, privateKey);
    this.#publics.set(name, publicKeyBytes(privateKey));
    this.#renewSigners();
    return this.publicKey(role, epoch);
  }

  async retire(role: KeyRole, epoch: number): Promise<void> {
    const name = nameOf(role, epoch);
    if (!this.#privates.has(name)) return;
    writeWhole(join(this.#directory, `${name}.pub`), this.publicKey(role, epoch));
    rmSync(join(this.#directory, `${name}.key`));
    syncDirectory(this.#directory);
    this.#privates.delete(name);
    this.#renewSigners();
  }

  async sign(role: SigningRole, epoch: number, inputs: readonly Uint8Array[]): Promise<readonly Uint8Array[]> {
    if (!this.canUse(role, epoch)) throw new TypeError(`the ${role} key of epoch ${epoch} signs nothing any more`);
    const signing = this.#signers.sign(nameOf(role, epoch), inputs);
    this.#inHand.add(signing);
    try {
      return await signing;
    } finally {
      this.#inHand.delete(signing);
    }
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

  /** Keys cross to the threads when these begin: others get new ones. Those before end what they have in hand. */
  #renewSigners(): void {
    const before = this.#signers;
    this.#signers = new SignWorkers(this.#signing(), this.#threads);
    void Promise.allSettled([...this.#inHand]).then(() => before.close());
  }

  /** The keys that sign: no thread has one for key agreement. */
  #signing(): ReadonlyMap<string, KeyObject> {
    return new Map([...this.#privates].filter(([name]) => !AGREEMENT_KEY.test(name)));
  }

  #agree(check: MacCheck): Uint8Array | undefined {
    const theirs = importPublicKey(check.agreementKey);
    const epoch = this.epochs('agreement').find((known) =>
      sameBytes(this.publicKey('agreement', known), check.agreementPeer),
    );
    const ours = epoch === undefined ? undefined : this.#privates.get(nameOf('agreement', epoch));
    return theirs === undefined || ours === undefined
      ? undefined
      : this.#agreed.agreed(check, sharedSecret(ours, theirs));
  }
}
