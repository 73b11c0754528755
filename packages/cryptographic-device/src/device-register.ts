/**
 * The cryptographic device's own small store: which devices it enrolled, and which funds it granted.
 *
 * Guarantees: what a method returns is durable; a certificate per device and a funds grant per (device, number) are
 * stored once and never replaced; a stored certificate was verified by its signature when it was read.
 * Does not hold records: storing and order are the server's.
 */
import { join } from 'node:path';
import { type EmbeddedStore, openEmbeddedStore } from '@countermark/node-platform/embedded-store';
import { Fault } from '@countermark/node-platform/fault';
import { nodeVerification } from '@countermark/node-platform/verification';
import type { Digest } from '@countermark/protocol/digest';
import type { DeviceId } from '@countermark/protocol/id';
import { DEVICE_CERTIFICATE, type DeviceCertificate } from '@countermark/protocol/messages/enrolment';
import { FUNDS_GRANT } from '@countermark/protocol/messages/funds';
import { accept, type Result } from '@countermark/protocol/result';
import { type KeySource, type Verified, verifyMessage } from '@countermark/verify/verified';

const APPLICATION_ID = 0x434d_4344; // "CMCD"
const CERTIFICATES_IN_MEMORY = 10_000;

const MIGRATIONS = [
  `CREATE TABLE device (
     device TEXT NOT NULL, epoch INTEGER NOT NULL, licensee TEXT NOT NULL,
     request_digest BLOB NOT NULL, certificate BLOB NOT NULL,
     PRIMARY KEY (device, epoch)
   ) STRICT, WITHOUT ROWID;
   CREATE TABLE funds_grant (
     device TEXT NOT NULL, number INTEGER NOT NULL, request_digest BLOB NOT NULL, funds_grant BLOB NOT NULL,
     PRIMARY KEY (device, number)
   ) STRICT, WITHOUT ROWID;
   CREATE TABLE own_certificate (name TEXT PRIMARY KEY, certificate BLOB NOT NULL) STRICT, WITHOUT ROWID;`,
];

/** The register's file in the folder. */
export function registerPath(folder: string): string {
  return join(folder, 'cryptographic-device.sqlite');
}

/** An enrolment as it was stored. */
export type Enrolment = {
  readonly licensee: string;
  readonly requestDigest: Uint8Array;
  readonly certificate: Uint8Array;
};

/** A funds grant as it was stored. */
export type StoredGrant = { readonly requestDigest: Uint8Array; readonly grant: Uint8Array };

/**
 * Opens the register in the folder. `roleKeys` knows the issuing key; `onBroken` is told once when the store takes nothing more.
 * Rejections: those of `openEmbeddedStore`.
 */
export function openDeviceRegister(
  folder: string,
  roleKeys: KeySource,
  onBroken: (fault: Fault) => void,
): Result<DeviceRegister> {
  const store = openEmbeddedStore({
    path: registerPath(folder),
    applicationId: APPLICATION_ID,
    migrations: MIGRATIONS,
    onBroken,
  });
  return store.ok ? accept(new DeviceRegister(store.value, roleKeys)) : store;
}

export class DeviceRegister {
  readonly #store: EmbeddedStore;
  readonly #roleKeys: KeySource;
  readonly #certificates = new Map<string, Verified<DeviceCertificate>>();
  readonly #statements;

  constructor(store: EmbeddedStore, roleKeys: KeySource) {
    this.#store = store;
    this.#roleKeys = roleKeys;
    const { database } = store;
    this.#statements = {
      enrolment: database.prepare<[string, number], { licensee: string; request_digest: Buffer; certificate: Buffer }>(
        'SELECT licensee, request_digest, certificate FROM device WHERE device = ? AND epoch = ?',
      ),
      licensee: database.prepare<[string], { licensee: string }>(
        'SELECT licensee FROM device WHERE device = ? LIMIT 1',
      ),
      enrol: database.prepare<[string, number, string, Uint8Array, Uint8Array, string]>(
        `INSERT INTO device (device, epoch, licensee, request_digest, certificate) SELECT ?, ?, ?, ?, ?
           WHERE NOT EXISTS (SELECT 1 FROM device WHERE device = ?)`,
      ),
      grant: database.prepare<[string, number], { request_digest: Buffer; funds_grant: Buffer }>(
        'SELECT request_digest, funds_grant FROM funds_grant WHERE device = ? AND number = ?',
      ),
      lastNumber: database
        .prepare<[string], bigint | null>('SELECT max(number) FROM funds_grant WHERE device = ?')
        .pluck(),
      addGrant: database.prepare<[string, number, Uint8Array, Uint8Array]>(
        'INSERT INTO funds_grant (device, number, request_digest, funds_grant) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING',
      ),
      own: database.prepare<[string], Buffer>('SELECT certificate FROM own_certificate WHERE name = ?').pluck(),
      addOwn: database.prepare<[string, Uint8Array]>(
        'INSERT INTO own_certificate (name, certificate) VALUES (?, ?) ON CONFLICT DO NOTHING',
      ),
    };
  }

  /** The certificate of a device's key, or null where it was not enrolled here. Fault: `store-broken`. */
  certificate(device: string, epoch: number): Verified<DeviceCertificate> | null {
    const name = `${device}#${epoch}`;
    const known = this.#certificates.get(name);
    if (known !== undefined) return known;
    const stored = this.enrolment(device, epoch);
    if (stored === null) return null;
    const verified = verifyMessage(DEVICE_CERTIFICATE, stored.certificate, {
      port: nodeVerification,
      keys: this.#roleKeys,
    });
    if (!verified.ok) {
      throw new Fault('store-broken', `${this.#store.path}: the certificate of ${name} is not ours`, {
        retry: 'never',
      });
    }
    // The oldest goes first: a Map keeps the order of insertion.
    if (this.#certificates.size >= CERTIFICATES_IN_MEMORY) {
      this.#certificates.delete(this.#certificates.keys().next().value ?? '');
    }
    this.#certificates.set(name, verified.value);
    return verified.value;
  }

  enrolment(device: string, epoch: number): Enrolment | null {
    const row = this.#store.read(() => this.#statements.enrolment.get(device, epoch));
    return row === undefined
      ? null
      : { licensee: row.licensee, requestDigest: row.request_digest, certificate: row.certificate };
  }

  /** Whose device it is, or null where no key of it was enrolled. */
  licenseeOf(device: DeviceId): string | null {
    return this.#store.read(() => this.#statements.licensee.get(device))?.licensee ?? null;
  }

  /** Stores the enrolment if the device has none, and returns what is stored; null where that is of another epoch. */
  enrol(
    device: DeviceId,
    epoch: number,
    licensee: string,
    requestDigest: Digest,
    certificate: Uint8Array,
  ): Enrolment | null {
    this.#store.transaction(() =>
      this.#statements.enrol.run(device, epoch, licensee, requestDigest, certificate, device),
    );
    return this.enrolment(device, epoch);
  }

  fundsGrant(device: DeviceId, number: number): StoredGrant | null {
    const row = this.#store.read(() => this.#statements.grant.get(device, number));
    return row === undefined ? null : { requestDigest: row.request_digest, grant: row.funds_grant };
  }

  /** The highest number of a request that was answered for the device, 0 for none. */
  lastFundsNumber(device: DeviceId): number {
    return Number(this.#store.read(() => this.#statements.lastNumber.get(device)) ?? 0n);
  }

  /** Stores the grant if there is none, and returns what is stored. */
  addFundsGrant(device: DeviceId, number: number, requestDigest: Digest, grant: Uint8Array): StoredGrant {
    this.#store.transaction(() => this.#statements.addGrant.run(device, number, requestDigest, grant));
    const stored = this.fundsGrant(device, number);
    if (stored === null) throw new TypeError('a funds grant that was just stored is missing');
    return stored;
  }

  /** An own certificate by name (the session's authority), or null. */
  ownCertificate(name: string): Uint8Array | null {
    return this.#store.read(() => this.#statements.own.get(name)) ?? null;
  }

  /** Stores an own certificate if there is none, and returns what is stored. */
  addOwnCertificate(name: string, certificate: Uint8Array): Uint8Array {
    this.#store.transaction(() => this.#statements.addOwn.run(name, certificate));
    return this.ownCertificate(name) ?? certificate;
  }

  /** What is wrong with the store, in words: pages, every certificate, every grant. */
  problems(): string[] {
    const problems = this.#store.integrityProblems();
    const trust = { port: nodeVerification, keys: this.#roleKeys };
    const { database } = this.#store;
    for (const row of database
      .prepare<[], { device: string; epoch: bigint; certificate: Buffer }>(
        'SELECT device, epoch, certificate FROM device',
      )
      .iterate()) {
      if (!verifyMessage(DEVICE_CERTIFICATE, row.certificate, trust).ok) {
        problems.push(
          `the certificate of ${row.device}, epoch ${row.epoch}, is not signed by this cryptographic device`,
        );
      }
    }
    for (const row of database
      .prepare<[], { device: string; number: bigint; funds_grant: Buffer }>(
        'SELECT device, number, funds_grant FROM funds_grant',
      )
      .iterate()) {
      if (!verifyMessage(FUNDS_GRANT, row.funds_grant, trust).ok) {
        problems.push(`the funds grant ${row.number} of ${row.device} is not signed by this cryptographic device`);
      }
    }
    return problems;
  }

  close(): void {
    this.#store.close();
  }
}
