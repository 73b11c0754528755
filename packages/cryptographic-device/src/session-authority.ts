/**
 * The authority of sessions through the rotations of its key: its certificates, and who signs by the key in use.
 *
 * A device has the authority of its time in its own certificate, for as long as its keys are in use. Therefore each key but the first is
 * certified twice: by itself, for devices that come after it, and by the key before it, so that the session's end leads older devices from
 * theirs to the one in use. After that the key before is not needed any more, and is destroyed (`role-keys.ts`).
 * Guarantees: both certificates are durable before the key is in use. Does not decide when it is rotated, nor who gets a session.
 */
import type { Clock } from '@countermark/node-platform/clock';
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import type { DeviceRegister } from './device-register.ts';
import { FIRST_EPOCH, type KeyStore } from './key-store.ts';
import type { RoleKeys } from './role-keys.ts';
import { isAuthorityCertificate, sessionAuthorityCertificate } from './session-certificates.ts';
import type { Issuer } from './x509-authority.ts';

const ROLE = 'session-authority';

type Parts = {
  readonly keys: KeyStore;
  readonly roleKeys: RoleKeys;
  readonly register: DeviceRegister;
  readonly clock: Clock;
};

/** The authority as the register has it; its first certificate is made here. Rejection: `store-damaged`. */
export async function openSessionAuthority(parts: Parts): Promise<Result<SessionAuthority>> {
  const { roleKeys, register } = parts;
  const authority = new SessionAuthority(parts);
  if (register.ownCertificate(ownName(FIRST_EPOCH)) === null) await authority.introduce(FIRST_EPOCH);
  const { epoch } = roleKeys.inUse(ROLE);
  for (let known = FIRST_EPOCH; known <= epoch; known += 1) {
    const names = known === FIRST_EPOCH ? [ownName(known)] : [ownName(known), crossName(known)];
    const missing = names.find((name) => register.ownCertificate(name) === null);
    if (missing === undefined) continue;
    const reason = `the session authority's certificate ${missing} is missing`;
    return refuse(rejection('store-damaged', { store: register.path, reason }));
  }
  roleKeys.beforeUse(ROLE, (next) => authority.introduce(next));
  return accept(authority);
}

/** What is wrong with the certificates of the authority, in words: each of its key, by itself, and by the key before it. */
export function sessionAuthorityProblems({ keys, roleKeys, register }: Omit<Parts, 'clock'>): string[] {
  const problems: string[] = [];
  let before: Uint8Array | null = null;
  for (let epoch = FIRST_EPOCH; epoch <= roleKeys.inUse(ROLE).epoch; epoch += 1) {
    const own = register.ownCertificate(ownName(epoch));
    // Killed in its first start, before it was made: the next one makes it.
    if (own === null && epoch === FIRST_EPOCH && roleKeys.inUse(ROLE).epoch === FIRST_EPOCH) return problems;
    const point = keys.publicKey(ROLE, epoch);
    if (own === null || !isAuthorityCertificate(own, point, own)) {
      problems.push(`the certificate of the session authority of epoch ${epoch} is missing, or not of its key`);
    }
    const cross = epoch === FIRST_EPOCH ? null : register.ownCertificate(crossName(epoch));
    if (before !== null && (cross === null || !isAuthorityCertificate(cross, point, before))) {
      problems.push(`no certificate leads from the session authority of epoch ${epoch - 1} to the next one`);
    }
    before = own;
  }
  return problems;
}

export class SessionAuthority {
  readonly #parts: Parts;
  readonly #told: (() => void)[] = [];

  constructor(parts: Parts) {
    this.#parts = parts;
    parts.roleKeys.onRotated(ROLE, () => {
      for (const tell of this.#told) tell();
    });
  }

  /** Self-signed, of the key in use (DER). */
  get certificate(): Uint8Array {
    return this.#own(ownName(this.#epoch));
  }

  /** Those of all keys (DER): certificates that they issued are still good. */
  get certificates(): readonly Uint8Array[] {
    return this.#epochs(FIRST_EPOCH).map((epoch) => this.#own(ownName(epoch)));
  }

  /** From the key in use to the first: the certificate of each by the one before it (DER). */
  get chain(): readonly Uint8Array[] {
    return this.#epochs(FIRST_EPOCH + 1)
      .map((epoch) => this.#own(crossName(epoch)))
      .reverse();
  }

  /** Has something certified by the key in use. */
  issuing<T>(work: (issuer: Issuer) => Promise<T>): Promise<T> {
    return this.#parts.roleKeys.using(ROLE, ({ epoch }, sign) => work({ name: subjectOf(epoch), sign: one(sign) }));
  }

  /** Tells of each rotation when the new key is in use. */
  onRotated(tell: () => void): void {
    this.#told.push(tell);
  }

  /** Makes the certificates of a key that is not in use yet; what an interrupted rotation left of them is replaced. */
  async introduce(epoch: number): Promise<void> {
    const { keys, register, clock } = this.#parts;
    const of = { name: subjectOf(epoch), point: keys.publicKey(ROLE, epoch) };
    const itself = { name: of.name, sign: one((inputs) => keys.sign(ROLE, epoch, inputs)) };
    const nowMs = clock.nowMs();
    register.keepOwnCertificate(ownName(epoch), await sessionAuthorityCertificate(itself, of, nowMs));
    if (epoch === FIRST_EPOCH) return;
    const byTheOneBefore = await this.issuing((issuer) => sessionAuthorityCertificate(issuer, of, nowMs));
    register.keepOwnCertificate(crossName(epoch), byTheOneBefore);
  }

  get #epoch(): number {
    return this.#parts.roleKeys.inUse(ROLE).epoch;
  }

  #epochs(from: number): number[] {
    return Array.from({ length: this.#epoch - from + 1 }, (_, i) => from + i);
  }

  #own(name: string): Uint8Array {
    const certificate = this.#parts.register.ownCertificate(name);
    if (certificate === null) throw new TypeError(`${name} is missing`);
    return certificate;
  }
}

/** Another name for each key: two issuers of one name would be taken for one another, and the chain not found. */
function subjectOf(epoch: number): string {
  const name = 'CN=countermark session authority';
  return epoch === FIRST_EPOCH ? name : `${name} ${epoch}`;
}

function ownName(epoch: number): string {
  return epoch === FIRST_EPOCH ? ROLE : `${ROLE}-${epoch}`;
}

function crossName(epoch: number): string {
  return `${ROLE}-${epoch}-by-${epoch - 1}`;
}

function one(sign: (inputs: readonly Uint8Array[]) => Promise<readonly Uint8Array[]>): Issuer['sign'] {
  return async (input) => {
    const [signature] = await sign([input]);
    if (signature === undefined) throw new TypeError('one input gave no signature');
    return signature;
  };
}
