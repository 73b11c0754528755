/**
 * The cryptographic device's own small store: which devices it enrolled, which it withdrew, whose session keys
 * were revoked, and which funds it granted.
 *
 * Guarantees: what a method returns is durable; a certificate per device and epoch, a funds grant per (device, number) and
 * a withdrawal are stored once and never replaced, as is the certificate of a role's key for a ceremony; a stored certificate was verified by its signature when it was read.
 * Does not hold records: storing and order are the server's.
 */
import { join } from 'node:path';
import { type EmbeddedStore, openEmbeddedStore } from '@countermark/node-platform/embedded-store';
import { Examination } from '@countermark/node-platform/examination';
import { Fault } from '@countermark/node-platform/fault';
import { nodeVerification } from '@countermark/node-platform/verification';
import { type Digest, digestText } from '@countermark/protocol/digest';
import type { CeremonyId, DeviceId } from '@countermark/protocol/id';
import type { RotatedKey } from '@countermark/protocol/message';
import { DEVICE_CERTIFICATE, type DeviceCertificate } from '@countermark/protocol/messages/enrolment';
import { FUNDS_GRANT } from '@countermark/protocol/messages/funds';
import { SUSPENSION } from '@countermark/protocol/messages/policy';
import { accept, type Result } from '@countermark/protocol/result';
import { type KeySource, type Trust, type Verified, verifyMessage } from '@countermark/verify/verified';

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
  'CREATE TABLE withdrawal (device TEXT PRIMARY KEY, suspension BLOB NOT NULL) STRICT, WITHOUT ROWID;',
  'CREATE TABLE rotation (device TEXT PRIMARY KEY, epoch INTEGER NOT NULL) STRICT, WITHOUT ROWID;',
  `CREATE TABLE role_certificate (
     number INTEGER PRIMARY KEY, role TEXT NOT NULL, epoch INTEGER NOT NULL, ceremony TEXT NOT NULL UNIQUE, certificate BLOB NOT NULL,
     UNIQUE (role, epoch)
   ) STRICT;`,
  'CREATE TABLE session_revocation (device TEXT PRIMARY KEY, epoch INTEGER NOT NULL) STRICT, WITHOUT ROWID;',
];

const OWN = { party: 'cryptographic-device' } as const;
const CERTIFICATE_ROWS = 'SELECT device, epoch, licensee, certificate FROM device ORDER BY device';
const GRANT_ROWS = 'SELECT device, number, funds_grant FROM funds_grant ORDER BY device';

type CertificateRow = { device: string; epoch: bigint; licensee: string; certificate: Buffer };
const WITHDRAWAL_ROWS = 'SELECT device, suspension FROM withdrawal ORDER BY device';

type WithdrawalRow = { device: string; suspension: Buffer };
type RoleCertificateRow = { role: string; epoch: bigint; certificate: Buffer };
type GrantRow = { device: string; number: bigint; funds_grant: Buffer };

/** The register's file in the folder. */
export function registerPath(folder: string): string {
  return join(folder, 'cryptographic-device.sqlite');
}

/** The certificate of a role's key, and the ceremony that it was made for. */
export type StoredRoleCertificate = { readonly role: string; readonly epoch: number; readonly certificate: Uint8Array };

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
      certificate: database
        .prepare<[string, number], Buffer>('SELECT certificate FROM device WHERE device = ? AND epoch = ?')
        .pluck(),
      licensee: database.prepare<[string], { licensee: string }>(
        'SELECT licensee FROM device WHERE device = ? LIMIT 1',
      ),
      lastEpoch: database.prepare<[string], bigint | null>('SELECT max(epoch) FROM device WHERE device = ?').pluck(),
      enrol: database.prepare<[string, number, string, Uint8Array, Uint8Array, string, number]>(
        `INSERT INTO device (device, epoch, licensee, request_digest, certificate) SELECT ?, ?, ?, ?, ?
           WHERE (SELECT coalesce(max(epoch), 0) FROM device WHERE device = ?) = ?`,
      ),
      epochInUse: database.prepare<[string], bigint>('SELECT epoch FROM rotation WHERE device = ?').pluck(),
      goOver: database.prepare<[string, number]>(
        `INSERT INTO rotation (device, epoch) VALUES (?, ?)
           ON CONFLICT (device) DO UPDATE SET epoch = max(epoch, excluded.epoch)`,
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
      withdrawal: database.prepare<[string], Buffer>('SELECT suspension FROM withdrawal WHERE device = ?').pluck(),
      withdraw: database.prepare<[string, Uint8Array]>(
        'INSERT INTO withdrawal (device, suspension) VALUES (?, ?) ON CONFLICT DO NOTHING',
      ),
      roleCertificates: database.prepare<[], RoleCertificateRow>(
        'SELECT role, epoch, certificate FROM role_certificate ORDER BY number',
      ),
      ceremony: database.prepare<[string], RoleCertificateRow>(
        'SELECT role, epoch, certificate FROM role_certificate WHERE ceremony = ?',
      ),
      addRoleCertificate: database.prepare<[string, number, string, Uint8Array]>(
        'INSERT INTO role_certificate (role, epoch, ceremony, certificate) VALUES (?, ?, ?, ?)',
      ),
      revokedThrough: database
        .prepare<[string], bigint>('SELECT epoch FROM session_revocation WHERE device = ?')
        .pluck(),
      revokeThrough: database.prepare<[string, number]>(
        `INSERT INTO session_revocation (device, epoch) VALUES (?, ?)
           ON CONFLICT (device) DO UPDATE SET epoch = max(epoch, excluded.epoch)`,
      ),
      own: database.prepare<[string], Buffer>('SELECT certificate FROM own_certificate WHERE name = ?').pluck(),
      keepOwn: database.prepare<[string, Uint8Array]>(
        'INSERT OR REPLACE INTO own_certificate (name, certificate) VALUES (?, ?)',
      ),
    };
  }

  get path(): string {
    return this.#store.path;
  }

  /** The certificate of a device's key, or null where it was not enrolled here. Fault: `store-broken`. */
  certificate(device: string, epoch: number): Verified<DeviceCertificate> | null {
    const name = `${device}#${epoch}`;
    const known = this.#certificates.get(name);
    if (known !== undefined) return known;
    const stored = this.#store.read(() => this.#statements.certificate.get(device, epoch));
    if (stored === undefined) return null;
    const verified = verifyMessage(DEVICE_CERTIFICATE, stored, { port: nodeVerification, keys: this.#roleKeys });
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

  /** Whose device it is, or null where no key of it was enrolled. */
  licenseeOf(device: DeviceId): string | null {
    return this.#store.read(() => this.#statements.licensee.get(device))?.licensee ?? null;
  }

  /** The last epoch that the device has a certificate for, 0 for none. */
  lastEpoch(device: DeviceId): number {
    return Number(this.#store.read(() => this.#statements.lastEpoch.get(device)) ?? 0n);
  }

  /** Stores the enrolment if `after` is still the device's last epoch (0: it has none). */
  enrol(
    device: DeviceId,
    epoch: number,
    licensee: string,
    requestDigest: Digest,
    certificate: Uint8Array,
    after: number,
  ): void {
    this.#store.transaction(() =>
      this.#statements.enrol.run(device, epoch, licensee, requestDigest, certificate, device, after),
    );
  }

  /** The epoch that the device has gone over to by an authentic rotation, 0 where it has seen none. */
  epochInUse(device: DeviceId): number {
    return Number(this.#store.read(() => this.#statements.epochInUse.get(device)) ?? 0n);
  }

  /** Notes that the device has gone over to the epoch; it never goes back. */
  goOver(device: DeviceId, epoch: number): void {
    this.#store.transaction(() => this.#statements.goOver.run(device, epoch));
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

  /** The signed withdrawal of a device, or null where it was not withdrawn. */
  withdrawal(device: DeviceId): Uint8Array | null {
    return this.#store.read(() => this.#statements.withdrawal.get(device)) ?? null;
  }

  /** Stores the withdrawal if there is none, and returns what is stored. */
  withdraw(device: DeviceId, suspension: Uint8Array): Uint8Array {
    this.#store.transaction(() => this.#statements.withdraw.run(device, suspension));
    return this.withdrawal(device) ?? suspension;
  }

  /** Certificates of roles' keys, in the order in which they were made. */
  roleCertificates(): readonly StoredRoleCertificate[] {
    return this.#store.read(() => this.#statements.roleCertificates.all()).map(storedRoleCertificate);
  }

  /** The certificate that a ceremony has led to, or null. */
  ceremony(ceremony: CeremonyId): StoredRoleCertificate | null {
    const row = this.#store.read(() => this.#statements.ceremony.get(ceremony));
    return row === undefined ? null : storedRoleCertificate(row);
  }

  /** Stores the certificate of a role's next key: from now on it is in use. */
  addRoleCertificate(role: RotatedKey, epoch: number, ceremony: CeremonyId, certificate: Uint8Array): void {
    this.#store.transaction(() => this.#statements.addRoleCertificate.run(role, epoch, ceremony, certificate));
  }

  /** The last epoch whose session key was revoked, with those before it; 0 where none was. */
  sessionsRevokedThrough(device: DeviceId): number {
    return Number(this.#store.read(() => this.#statements.revokedThrough.get(device)) ?? 0n);
  }

  /** Revokes the session keys of the device up to the epoch; there is no way back but another epoch. */
  revokeSessions(device: DeviceId, epoch: number): void {
    this.#store.transaction(() => this.#statements.revokeThrough.run(device, epoch));
  }

  /** An own certificate by name (those of the session's authority), or null. */
  ownCertificate(name: string): Uint8Array | null {
    return this.#store.read(() => this.#statements.own.get(name)) ?? null;
  }

  /** Stores an own certificate, in the place of one that was never used. */
  keepOwnCertificate(name: string, certificate: Uint8Array): void {
    this.#store.transaction(() => this.#statements.keepOwn.run(name, certificate));
  }

  /**
   * Notes what is wrong with the store: pages, every certificate, grant and withdrawal, each against the columns that it is found by.
   * Testimony: `certificate` and `funds-grant` of each.
   */
  examine(examination: Examination): void {
    for (const problem of this.#store.integrityProblems()) examination.problem(problem);
    if (examination.problems.length > 0) return;
    for (const row of this.#store.database.prepare<[], CertificateRow>(CERTIFICATE_ROWS).iterate()) {
      this.#examineCertificate(row, examination);
    }
    let grants = 0;
    for (const row of this.#store.database.prepare<[], GrantRow>(GRANT_ROWS).iterate()) {
      this.#examineGrant(row, examination);
      if (++grants % 256 === 0) examination.progress('funds grants', grants);
    }
    for (const row of this.#store.database.prepare<[], WithdrawalRow>(WITHDRAWAL_ROWS).iterate()) {
      const verified = verifyMessage(SUSPENSION, row.suspension, this.#trust);
      if (!verified.ok || verified.value.message.device !== row.device || verified.value.message.withdrawn !== true) {
        examination.problem(`the withdrawal of ${row.device} is not one that this cryptographic device signed`);
      }
    }
  }

  /** What is wrong with the last certificate or the last funds grant, or null: whether keys and register belong together. */
  tailProblem(): string | null {
    const examination = new Examination();
    const { database } = this.#store;
    const certificate = database.prepare<[], CertificateRow>(`${CERTIFICATE_ROWS} DESC LIMIT 1`).get();
    const grant = database.prepare<[], GrantRow>(`${GRANT_ROWS} DESC, number DESC LIMIT 1`).get();
    if (certificate !== undefined) this.#examineCertificate(certificate, examination);
    if (grant !== undefined) this.#examineGrant(grant, examination);
    return examination.problems[0] ?? null;
  }

  #examineCertificate({ device, epoch, licensee, certificate }: CertificateRow, examination: Examination): void {
    const name = `the certificate of ${device}, epoch ${epoch},`;
    const verified = verifyMessage(DEVICE_CERTIFICATE, certificate, this.#trust);
    if (!verified.ok) {
      examination.problem(`${name} is not signed by this cryptographic device`);
      return;
    }
    const said = verified.value.message;
    if (said.device !== device || BigInt(said.epoch) !== epoch || said.licensee !== licensee) {
      examination.problem(`${name} is stored as that of another device, epoch or licensee: it is of ${said.device}`);
    }
    const digest = digestText(verified.value.digest);
    examination.testify({ ...OWN, kind: 'certificate', device, epoch: Number(epoch), licensee, digest });
  }

  #examineGrant({ device, number, funds_grant: bytes }: GrantRow, examination: Examination): void {
    const name = `the funds grant ${number} of ${device}`;
    const verified = verifyMessage(FUNDS_GRANT, bytes, this.#trust);
    if (!verified.ok) {
      examination.problem(`${name} is not signed by this cryptographic device`);
      return;
    }
    const said = verified.value.message;
    if (said.device !== device || BigInt(said.number) !== number) {
      examination.problem(
        `${name} is stored under a wrong number or device: it is grant ${said.number} of ${said.device}`,
      );
    }
    const digest = digestText(verified.value.digest);
    const amountMills = String(said.amountMills);
    examination.testify({ ...OWN, kind: 'funds-grant', device, number: Number(number), digest, amountMills });
  }

  get #trust(): Trust {
    return { port: nodeVerification, keys: this.#roleKeys };
  }

  close(): void {
    this.#store.close();
  }
}

function storedRoleCertificate({ role, epoch, certificate }: RoleCertificateRow): StoredRoleCertificate {
  return { role, epoch: Number(epoch), certificate };
}
