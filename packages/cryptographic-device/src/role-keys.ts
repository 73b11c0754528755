/**
 * The keys of the cryptographic device's roles: which one of each is in use, its certificates, and how it gives way to the next. So for the
 * key that MAC keys are agreed with, whose older ones stay, and for that of the sessions' authority.
 *
 * Guarantees: nothing is signed by a key before its certificate is durable in the register, nor by the one before it after that; what is
 * being signed meanwhile ends first, then the private part of the old key is destroyed. A ceremony makes one key, whatever is asked
 * again and wherever the process ended: a key without a certificate was never used and is made anew; an old key that is still there at
 * the next start is destroyed then. A role's key is rotated at most once an hour, by this device's clock, whoever asks.
 * Does not know who ordered a ceremony: two people at the server did, or somebody who has taken it over. All that he gets is a newer key.
 */
import type { Clock } from '@countermark/node-platform/clock';
import { nodeVerification } from '@countermark/node-platform/verification';
import { CARRIED_MAX, seal, toBeAuthenticated } from '@countermark/protocol/cose';
import { sameBytes } from '@countermark/protocol/digest';
import type { CeremonyId } from '@countermark/protocol/id';
import {
  CERTIFIED_ROLES,
  type CertifiedRole,
  ROLE_EPOCHS_MAX,
  ROTATED_KEYS,
  type RotatedKey,
  unsealedMessage,
} from '@countermark/protocol/message';
import { ROLE_CERTIFICATE } from '@countermark/protocol/messages/role-certificate';
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { type KeySource, type Verified, verifyMessage } from '@countermark/verify/verified';
import type { DeviceRegister } from './device-register.ts';
import { FIRST_EPOCH, type KeyStore, type SigningRole } from './key-store.ts';

const BETWEEN_ROTATIONS_MS = 3_600_000;

/** A role's key by which is signed; `certificates` lead to it from the first issuing key, none for a first key. */
export type KeyInUse = { readonly epoch: number; readonly certificates: readonly Uint8Array[] };

type Certificate = Verified<Parameters<typeof ROLE_CERTIFICATE.schema.toCbor>[0]>;
type Sign = (inputs: readonly Uint8Array[]) => Promise<readonly Uint8Array[]>;

/**
 * The roles' keys as the register says. Changes nothing.
 * Rejection: `store-damaged`, where keys and register are not of the same time, or a certificate is not of its key.
 */
export function openRoleKeys(keys: KeyStore, register: DeviceRegister, clock: Clock): Result<RoleKeys> {
  const damaged = (reason: string) => refuse(rejection('store-damaged', { store: register.path, reason }));
  const certificates: Certificate[] = [];
  for (const { role, epoch, certificate } of register.roleCertificates()) {
    const verified = verifyMessage(ROLE_CERTIFICATE, certificate, { port: nodeVerification, keys: publicKeysOf(keys) });
    const said = verified.ok ? verified.value.message : null;
    const isOfKey =
      said?.role === role &&
      said.epoch === epoch &&
      keys.epochs(said.role).includes(epoch) &&
      sameBytes(keys.publicKey(said.role, epoch), said.publicKey);
    if (!verified.ok || !isOfKey)
      return damaged(`the certificate of the ${role} key of epoch ${epoch} is not of the key that is there`);
    certificates.push(verified.value);
  }
  const opened = new RoleKeys(keys, register, clock, certificates);
  for (const role of ROTATED_KEYS) {
    const { epoch } = opened.inUse(role);
    if (keys.canUse(role, epoch)) continue;
    return damaged(
      `by the register the ${role} key of epoch ${epoch} is in use, which is not there: keys and register are not of the same time`,
    );
  }
  return accept(opened);
}

/** Every public key of the store. */
export function publicKeysOf(keys: KeyStore): KeySource {
  return ({ holder, epoch }) => {
    const role = CERTIFIED_ROLES.find((known) => known === holder);
    if (role === undefined || !keys.epochs(role).includes(epoch)) return null;
    return { publicKey: keys.publicKey(role, epoch), authentication: 'signature' };
  };
}

export class RoleKeys {
  readonly #keys: KeyStore;
  readonly #register: DeviceRegister;
  readonly #clock: Clock;
  readonly #certificates: Certificate[];
  /** What is being signed, by role and epoch. */
  readonly #signing = new Map<string, Set<Promise<unknown>>>();
  readonly #beforeUse = new Map<RotatedKey, (epoch: number) => Promise<void>>();
  readonly #told = new Map<RotatedKey, () => void>();
  #turn: Promise<unknown> = Promise.resolve();

  constructor(keys: KeyStore, register: DeviceRegister, clock: Clock, certificates: readonly Certificate[]) {
    this.#keys = keys;
    this.#register = register;
    this.#clock = clock;
    this.#certificates = [...certificates];
  }

  /** Public keys of every epoch up to the one in use. */
  readonly source: KeySource = (key) => {
    const role = CERTIFIED_ROLES.find((known) => known === key.holder);
    return role !== undefined && key.epoch <= this.inUse(role).epoch ? publicKeysOf(this.#keys)(key) : null;
  };

  /** The same as a list, by role and epoch. */
  all(): readonly { readonly role: CertifiedRole; readonly epoch: number; readonly publicKey: Uint8Array }[] {
    return CERTIFIED_ROLES.flatMap((role) =>
      this.#keys
        .epochs(role)
        .filter((epoch) => epoch <= this.inUse(role).epoch)
        .map((epoch) => ({ role, epoch, publicKey: this.#keys.publicKey(role, epoch) })),
    );
  }

  /** The certificates of all keys that are not a role's first, in the order in which they were made. */
  certificates(): readonly Uint8Array[] {
    return this.#certificates.map(({ bytes }) => bytes);
  }

  inUse(role: RotatedKey): KeyInUse {
    const epoch = this.#last(role)?.message.epoch ?? FIRST_EPOCH;
    return { epoch, certificates: this.#leadingTo(role, epoch).slice(-CARRIED_MAX) };
  }

  /** The public key that devices agree MAC keys with from now on. */
  get agreementKey(): Uint8Array {
    return this.#keys.publicKey('agreement', this.inUse('agreement').epoch);
  }

  /** Has something signed by the role's key in use, which stays until the work has ended. */
  async using<T>(role: SigningRole, work: (key: KeyInUse, sign: Sign) => Promise<T>): Promise<T> {
    const key = this.inUse(role);
    const signing = this.#signingBy(role, key.epoch);
    const done = work(key, (inputs) => this.#keys.sign(role, key.epoch, inputs));
    signing.add(done);
    try {
      return await done;
    } finally {
      signing.delete(done);
    }
  }

  /** Has something done with a role's next key, durably, before that is in use; again, where a rotation was interrupted. */
  beforeUse(role: RotatedKey, work: (epoch: number) => Promise<void>): void {
    this.#beforeUse.set(role, work);
  }

  /** Tells of each rotation of the role when its next key is in use. */
  onRotated(role: RotatedKey, tell: () => void): void {
    this.#told.set(role, tell);
  }

  /**
   * Gives the role its next key; one rotation at a time. The certificate, the same at every repeat of the ceremony.
   * Rejections: `ceremony-conflict`, `rotation-too-soon`, `limit-exceeded`. A fault leaves the old key in use, or the new one: the same
   * ceremony says which, and goes on.
   */
  async rotate(role: RotatedKey, ceremony: CeremonyId): Promise<Result<Uint8Array>> {
    const rotated = this.#turn.then(() => this.#rotate(role, ceremony));
    this.#turn = Promise.allSettled([rotated]);
    return rotated;
  }

  /** Destroys old keys that a process which ended left behind. */
  async retireOld(): Promise<void> {
    for (const role of ROTATED_KEYS) await this.#retireOthers(role);
  }

  async #rotate(role: RotatedKey, ceremony: CeremonyId): Promise<Result<Uint8Array>> {
    const known = this.#register.ceremony(ceremony);
    if (known !== null) {
      if (known.role !== role)
        return refuse(rejection('ceremony-conflict', { ceremony, role: known.role, asked: role }));
      await this.#retireOthers(role);
      return accept(known.certificate);
    }
    const last = this.#last(role)?.message;
    const issuedAtMs = this.#clock.nowMs();
    // A clock that was put right is no reason to wait for years.
    if (last !== undefined && Math.abs(issuedAtMs - last.issuedAtMs) < BETWEEN_ROTATIONS_MS) {
      return refuse(rejection('rotation-too-soon', { role }));
    }
    const epoch = (last?.epoch ?? FIRST_EPOCH) + 1;
    if (epoch > ROLE_EPOCHS_MAX) {
      return refuse(
        rejection('limit-exceeded', { what: `keys of the role ${role}`, value: epoch, limit: ROLE_EPOCHS_MAX }),
      );
    }
    const publicKey = await this.#keys.make(role, epoch);
    await this.#beforeUse.get(role)?.(epoch);
    const certificate = await this.#certified({ role, epoch, publicKey, issuedAtMs });
    this.#register.addRoleCertificate(role, epoch, ceremony, certificate.bytes);
    this.#certificates.push(certificate);
    this.#told.get(role)?.();
    await this.#retireOthers(role);
    return accept(certificate.bytes);
  }

  /** By the issuing key in use, be it over its own successor. */
  async #certified(value: Certificate['message']): Promise<Certificate> {
    const bytes = await this.using('issuing', async ({ epoch }, sign) => {
      const message = unsealedMessage(ROLE_CERTIFICATE, 'signature', { holder: 'issuing', epoch }, value);
      const [signature] = await sign([toBeAuthenticated(message)]);
      return seal(message, signature ?? new Uint8Array(0));
    });
    const verified = verifyMessage(ROLE_CERTIFICATE, bytes, { port: nodeVerification, keys: this.source });
    if (!verified.ok)
      throw new TypeError(`a certificate that was just signed does not verify: ${verified.rejection.code}`);
    return verified.value;
  }

  async #retireOthers(role: RotatedKey): Promise<void> {
    // With the older ones codes are checked: of devices that keep their keys, and of records that are held for days or come from an archive.
    if (role === 'agreement') return;
    const { epoch: inUse } = this.inUse(role);
    for (const epoch of this.#keys.epochs(role)) {
      if (epoch === inUse || !this.#keys.canUse(role, epoch)) continue;
      await Promise.allSettled(this.#signingBy(role, epoch));
      await this.#keys.retire(role, epoch);
    }
  }

  #signingBy(role: RotatedKey, epoch: number): Set<Promise<unknown>> {
    const name = `${role}#${epoch}`;
    const signing = this.#signing.get(name) ?? new Set();
    this.#signing.set(name, signing);
    return signing;
  }

  #last(role: RotatedKey): Certificate | undefined {
    return this.#certificates.findLast(({ message }) => message.role === role);
  }

  /** The certificate of the key, after those of the issuing key that signed it. */
  #leadingTo(role: RotatedKey, epoch: number): Uint8Array[] {
    const own = this.#certificates.find(({ message }) => message.role === role && message.epoch === epoch);
    return own === undefined ? [] : [...this.#leadingTo('issuing', own.envelope.key.epoch), own.bytes];
  }
}
