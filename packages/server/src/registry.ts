/**
 * The registry: licensees with their credentials, customers, devices with their certificates and policies.
 *
 * Guarantees: credentials are stored as SHA-256 of their 32 random bytes only; a certificate that is handed out was
 * verified against the trust bundle when it was read; certificates and policies are stored once and never replaced.
 * Does not decide who may do what: `http.ts` does.
 */
import { randomBytes } from 'node:crypto';
import { nodeVerification, sha256 } from '@countermark/node-platform/verification';
import { type Digest, digestText } from '@countermark/protocol/digest';
import { type CustomerId, type DeviceId, hex, type LicenseeId, unhex } from '@countermark/protocol/id';
import { DEVICE_CERTIFICATE, type DeviceCertificate } from '@countermark/protocol/messages/enrolment';
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import type { SqlDatabase } from '@countermark/sql/database';
import { type KeySource, type Verified, verifyMessage } from '@countermark/verify/verified';
import type { Kysely } from 'kysely';
import { type Actor, recordAct } from './audit-trail.ts';
import type { ServerTables } from './tables.ts';

export type LicenseeKind = 'mailer' | 'bureau';
export type Licensee = { readonly licensee: LicenseeId; readonly name: string; readonly kind: LicenseeKind };

/** `profile`: of the reporting deadlines, empty for the server's own; `inspectedAtMs`: null before the first inspection. */
export type DeviceSetting = { readonly profile: string; readonly inspectedAtMs: number | null };

const CERTIFICATES_IN_MEMORY = 20_000;
const CREDENTIALS_IN_MEMORY = 10_000;
/** What one policy can name: its schema's bound, and the signed message's 64 KiB. */
const CUSTOMERS_MAX = 4_096;
const CUSTOMERS_BYTES = 60_000;

export class Registry {
  readonly #database: SqlDatabase<ServerTables>;
  readonly #roleKeys: KeySource;
  readonly #certificates = new Map<string, Verified<DeviceCertificate>>();
  readonly #credentials = new Map<string, LicenseeId>();

  /** `roleKeys`: the trust bundle's keys. */
  constructor(database: SqlDatabase<ServerTables>, roleKeys: KeySource) {
    this.#database = database;
    this.#roleKeys = roleKeys;
  }

  /** Registers the licensee where it is not, and answers a new credential for its hosts; earlier ones stay good. */
  async addLicensee({ licensee, name, kind }: Licensee, by: Actor, nowMs: number): Promise<string> {
    const credential = randomBytes(32).toString('hex');
    await this.#database.transaction(async (tables) => {
      await tables
        .insertInto('licensee')
        .values({ licensee, name, kind, created_at_ms: BigInt(nowMs) })
        .onConflict((conflict) => conflict.doNothing())
        .execute();
      await tables
        .insertInto('credential')
        .values({ hash: credentialHash(credential) ?? '', licensee })
        .execute();
      const words = `${kind} ${name}: a credential for its hosts`;
      await recordAct(tables, { act: 'licensee-registered', by, subject: licensee, words, atMs: nowMs });
    });
    return credential;
  }

  async licensee(licensee: string): Promise<Licensee | null> {
    const row = await this.#database.read(async (tables) =>
      tables.selectFrom('licensee').selectAll().where('licensee', '=', licensee).executeTakeFirst(),
    );
    return row === undefined
      ? null
      : {
          licensee: row.licensee as LicenseeId,
          name: row.name,
          kind: row.kind === 'bureau' ? 'bureau' : 'mailer',
        };
  }

  /** Whose credential it is, or null. */
  async licenseeOf(credential: string): Promise<LicenseeId | null> {
    const hash = credentialHash(credential);
    if (hash === null) return null;
    const known = this.#credentials.get(hash);
    if (known !== undefined) return known;
    const row = await this.#database.read(async (tables) =>
      tables.selectFrom('credential').select('licensee').where('hash', '=', hash).executeTakeFirst(),
    );
    if (row === undefined) return null;
    remember(this.#credentials, hash, row.licensee as LicenseeId, CREDENTIALS_IN_MEMORY);
    return row.licensee as LicenseeId;
  }

  /** The licensee's customers, in order. */
  async customersOf(licensee: LicenseeId): Promise<readonly CustomerId[]> {
    return this.#database.read((tables) => customersIn(tables, licensee));
  }

  /**
   * Registers customers that are not yet, and answers all of the licensee's, in order; none where a policy could not name
   * them all. Rejection: `limit-exceeded`.
   */
  async addCustomers(
    licensee: LicenseeId,
    customers: readonly CustomerId[],
    by: Actor,
    nowMs: number,
  ): Promise<Result<readonly CustomerId[]>> {
    return this.#database.transaction(async (tables) => {
      const known = await customersIn(tables, licensee);
      const all = [...new Set([...known, ...customers])].sort((one, other) => (one < other ? -1 : 1));
      if (all.length > CUSTOMERS_MAX || all.reduce((sum, name) => sum + name.length + 2, 0) > CUSTOMERS_BYTES) {
        const limit = `${CUSTOMERS_MAX}, with their names in ${CUSTOMERS_BYTES} bytes`;
        return refuse(rejection('limit-exceeded', { what: 'the number of customers', value: all.length, limit }));
      }
      if (customers.length > 0) {
        await tables
          .insertInto('customer')
          .values([...new Set(customers)].map((customer) => ({ licensee, customer })))
          .onConflict((conflict) => conflict.doNothing())
          .execute();
      }
      const added = all.filter((customer) => !known.includes(customer));
      if (added.length > 0) {
        const words = `${added.length}: ${added.join(', ')}`;
        await recordAct(tables, { act: 'customers-registered', by, subject: licensee, words, atMs: nowMs });
      }
      return accept(all);
    });
  }

  /** Stores a device's certificate if there is none for its epoch; without request where it comes back from an archive. */
  async addDevice(
    request: Uint8Array,
    certificate: Verified<DeviceCertificate>,
    by: Actor,
    nowMs: number,
  ): Promise<void> {
    const { device, licensee, epoch } = certificate.message;
    await this.#database.transaction(async (tables) => {
      await tables
        .insertInto('device')
        .values({ device, licensee, suspension: null })
        .onConflict((conflict) => conflict.doNothing())
        .execute();
      const added = await tables
        .insertInto('certificate')
        .values({
          device,
          epoch: BigInt(epoch),
          request,
          certificate: certificate.bytes,
          digest: certificate.digest,
        })
        .onConflict((conflict) => conflict.doNothing())
        .returning('epoch')
        .executeTakeFirst();
      if (added === undefined) return;
      const act = request.length === 0 ? 'certificate-restored' : 'certificate-issued';
      const words = `key epoch ${epoch} of ${licensee}, ${digestText(certificate.digest)}`;
      await recordAct(tables, { act, by, subject: device, words, atMs: nowMs });
    });
  }

  async deviceLicensee(device: string): Promise<LicenseeId | null> {
    const row = await this.#database.read(async (tables) =>
      tables.selectFrom('device').select('licensee').where('device', '=', device).executeTakeFirst(),
    );
    return row === undefined ? null : (row.licensee as LicenseeId);
  }

  async devicesOf(licensee: LicenseeId): Promise<readonly DeviceId[]> {
    const rows = await this.#database.read(async (tables) =>
      tables.selectFrom('device').select('device').where('licensee', '=', licensee).orderBy('device').execute(),
    );
    return rows.map((row) => row.device as DeviceId);
  }

  /** The certificate of a device's key if it is in memory: for what cannot wait. */
  certificateInMemory(device: string, epoch: number): Verified<DeviceCertificate> | null {
    return this.#certificates.get(`${device}#${epoch}`) ?? null;
  }

  /** The certificate of a device's key, verified, or null where the device is not enrolled here. */
  async certificate(device: string, epoch: number): Promise<Verified<DeviceCertificate> | null> {
    const known = this.certificateInMemory(device, epoch);
    if (known !== null) return known;
    const row = await this.#database.read(async (tables) =>
      tables
        .selectFrom('certificate')
        .select('certificate')
        .where('device', '=', device)
        .where('epoch', '=', BigInt(epoch))
        .executeTakeFirst(),
    );
    return row === undefined ? null : this.#verified(row.certificate);
  }

  /** The certificates of these digests, exact bytes, for whoever verifies records elsewhere. */
  async certificates(digests: readonly Digest[]): Promise<readonly Uint8Array[]> {
    if (digests.length === 0) return [];
    const rows = await this.#database.read(async (tables) =>
      tables
        .selectFrom('certificate')
        .select('certificate')
        .where('digest', 'in', [...digests])
        .execute(),
    );
    return rows.map((row) => row.certificate);
  }

  #verified(bytes: Uint8Array): Verified<DeviceCertificate> {
    const verified = verifyMessage(DEVICE_CERTIFICATE, bytes, { port: nodeVerification, keys: this.#roleKeys });
    if (!verified.ok) throw new TypeError('a stored certificate is not authentic under this trust bundle');
    const { device, epoch } = verified.value.message;
    remember(this.#certificates, `${device}#${epoch}`, verified.value, CERTIFICATES_IN_MEMORY);
    return verified.value;
  }

  /** The device's newest policy, exact bytes, or null. */
  async policy(device: DeviceId): Promise<{ readonly version: number; readonly policy: Uint8Array } | null> {
    const row = await this.#database.read(async (tables) =>
      tables
        .selectFrom('policy')
        .select(['version', 'policy'])
        .where('device', '=', device)
        .orderBy('version', 'desc')
        .executeTakeFirst(),
    );
    return row === undefined ? null : { version: Number(row.version), policy: row.policy };
  }

  /** What operators chose for the device. */
  async setting(device: DeviceId): Promise<DeviceSetting> {
    const row = await this.#database.read(async (tables) =>
      tables.selectFrom('device_setting').selectAll().where('device', '=', device).executeTakeFirst(),
    );
    const inspected = row?.inspected_at_ms ?? null;
    return { profile: row?.profile ?? '', inspectedAtMs: inspected === null ? null : Number(inspected) };
  }

  /** Whether an operator has ordered that the device be closed. */
  async isClosing(device: DeviceId): Promise<boolean> {
    const row = await this.#database.read(async (tables) =>
      tables
        .selectFrom('closure')
        .select('device')
        .where('device', '=', device)
        .where('operator', '<>', '')
        .executeTakeFirst(),
    );
    return row !== undefined;
  }

  /** Stores the policy if that version is not stored yet; false if it is. */
  async addPolicy(device: DeviceId, version: number, policy: Uint8Array): Promise<boolean> {
    const done = await this.#database.transaction(async (tables) =>
      tables
        .insertInto('policy')
        .values({ device, version: BigInt(version), policy })
        .onConflict((conflict) => conflict.doNothing())
        .returning('version')
        .executeTakeFirst(),
    );
    return done !== undefined;
  }

  /** The signed withdrawal of a device, or else its signed suspension, or null. */
  async suspension(device: DeviceId): Promise<Uint8Array | null> {
    const withdrawal = await this.withdrawal(device);
    if (withdrawal?.suspension != null) return withdrawal.suspension;
    const row = await this.#database.read(async (tables) =>
      tables.selectFrom('device').select('suspension').where('device', '=', device).executeTakeFirst(),
    );
    return row?.suspension ?? null;
  }

  /** That the device was withdrawn, with the signed word once there is one, or null. */
  async withdrawal(
    device: DeviceId,
  ): Promise<{ readonly reason: string; readonly suspension: Uint8Array | null } | null> {
    const row = await this.#database.read(async (tables) =>
      tables.selectFrom('withdrawal').select(['reason', 'suspension']).where('device', '=', device).executeTakeFirst(),
    );
    return row ?? null;
  }

  /** Stores the signed word that a device is suspended, or withdrawn, if there is none. */
  async setSuspension(device: DeviceId, suspension: Uint8Array, withdrawn: boolean): Promise<void> {
    await this.#database.transaction(async (tables) => {
      await tables
        .updateTable(withdrawn ? 'withdrawal' : 'device')
        .set({ suspension })
        .where('device', '=', device)
        .where('suspension', 'is', null)
        .execute();
    });
  }
}

/** SHA-256 of the credential's bytes, hex, or null where it is none. */
export function credentialHash(credential: string): string | null {
  const bytes = unhex(credential);
  return bytes?.length === 32 ? hex(sha256(bytes)) : null;
}

async function customersIn(
  tables: Pick<Kysely<ServerTables>, 'selectFrom'>,
  licensee: LicenseeId,
): Promise<readonly CustomerId[]> {
  const rows = await tables
    .selectFrom('customer')
    .select('customer')
    .where('licensee', '=', licensee)
    .orderBy('customer')
    .execute();
  return rows.map((row) => row.customer as CustomerId);
}

function remember<T>(memory: Map<string, T>, name: string, value: T, most: number): void {
  // The oldest goes first: a Map keeps the order of insertion.
  if (memory.size >= most) memory.delete(memory.keys().next().value ?? '');
  memory.set(name, value);
}
