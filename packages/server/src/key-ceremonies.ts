/**
 * Key ceremonies: two officers have the cryptographic device rotate a role's key; and the trust bundle that this server gives out.
 *
 * Guarantees: nobody confirms their own order, nor that of somebody whose credential they made or who made theirs; both names stand in the
 * audit trail. A confirmed ceremony is carried out once, however often it is confirmed again: the cryptographic device knows it by its
 * name. The bundle has every epoch whose certificate verifies under the bundle of the configuration; the cryptographic device is asked for
 * those that a restored server lacks.
 * Does not sign, and could not: a server that lied here would get a newer key certified, seldom (`role-keys.ts` there), and no other power.
 */
import { randomBytes } from 'node:crypto';
import { nodeVerification } from '@countermark/node-platform/verification';
import type { CeremonyId } from '@countermark/protocol/id';
import type { RotatedKey } from '@countermark/protocol/message';
import { ROLE_CERTIFICATE, type RoleCertificate } from '@countermark/protocol/messages/role-certificate';
import { type Rejection, rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import type { SqlDatabase } from '@countermark/sql/database';
import {
  formatTrustBundle,
  type TrustBundle,
  trustedKeys,
  withRoleCertificates,
} from '@countermark/verify/trust-bundle';
import { type Verified, verifyMessage } from '@countermark/verify/verified';
import { type Actor, BY_ITSELF, recordAct } from './audit-trail.ts';
import type { CryptographicDevice } from './cryptographic-device-client.ts';
import { dependence } from './second-person.ts';
import type { ServerTables } from './tables.ts';

/** The cryptographic device is asked for certificates at most so often: whoever wants a bundle needs no credential. */
const ASKED_AGAIN_MS = 60_000;

export type KeyCeremonyParts = {
  readonly database: SqlDatabase<ServerTables>;
  readonly cryptographicDevice: CryptographicDevice;
  /** Of the configuration: it begins with the first keys. */
  readonly bundle: TrustBundle;
  readonly nowMs: () => number;
};

/** An order, and what became of it. */
export type KeyCeremony = {
  readonly ceremony: CeremonyId;
  readonly role: RotatedKey;
  readonly reason: string;
  readonly orderedBy: string;
  readonly orderedAtMs: number;
  readonly confirmedBy: string | null;
  readonly confirmedAtMs: number | null;
  /** Who took the order back before anybody had confirmed it. */
  readonly cancelledBy: string | null;
  readonly cancelledAtMs: number | null;
  /** Of the key that it led to; null before the cryptographic device has made it. */
  readonly epoch: number | null;
};

export class KeyCeremonies {
  readonly #parts: KeyCeremonyParts;
  #askedAtMs: number | null = null;

  constructor(parts: KeyCeremonyParts) {
    this.#parts = parts;
  }

  /** All of them, oldest first. */
  async list(): Promise<readonly KeyCeremony[]> {
    const rows = await this.#parts.database.read(async (tables) =>
      tables.selectFrom('key_ceremony').selectAll().orderBy('ordered_at_ms').orderBy('ceremony').execute(),
    );
    return rows.map(ceremonyOf);
  }

  /** Orders that the role's key be rotated: no effect before another officer confirms it. One that is open for the role is answered again. */
  async order(role: RotatedKey, reason: string, by: Actor): Promise<KeyCeremony> {
    const { database, nowMs } = this.#parts;
    return database.transaction(async (tables) => {
      const open = await tables
        .selectFrom('key_ceremony')
        .selectAll()
        .where('role', '=', role)
        .where('epoch', 'is', null)
        .where('cancelled_by', 'is', null)
        .executeTakeFirst();
      if (open !== undefined) return ceremonyOf(open);
      const atMs = nowMs();
      const row = {
        ceremony: `cer_${randomBytes(16).toString('hex')}`,
        role,
        reason,
        ordered_by: by.name,
        ordered_at_ms: BigInt(atMs),
        confirmed_by: null,
        confirmed_at_ms: null,
        cancelled_by: null,
        cancelled_at_ms: null,
        epoch: null,
      };
      await tables.insertInto('key_ceremony').values(row).execute();
      const words = `${row.ceremony}: ${reason}`;
      await recordAct(tables, { act: 'ceremony-ordered', by, subject: role, words, atMs });
      return ceremonyOf(row);
    });
  }

  /**
   * Confirms another officer's order, and has it carried out; again, it carries out what was not.
   * Rejections: `unknown-ceremony`, `ceremony-cancelled`, `second-person-needed`, `second-person-dependent`, `try-again`, `rotation-too-soon`,
   * `limit-exceeded`.
   */
  async confirm(ceremony: CeremonyId, by: Actor): Promise<Result<KeyCeremony>> {
    const { database, cryptographicDevice, nowMs } = this.#parts;
    const ordered = await this.#of(ceremony);
    if (ordered === null) return refuse(rejection('unknown-ceremony', { ceremony }));
    const { role, orderedBy } = ordered;
    const operator = by.name;
    const did = `ordered the key ceremony ${ceremony}`;
    if (orderedBy === operator) return refuse(rejection('second-person-needed', { operator, did }));
    if (ordered.epoch !== null) return accept(ordered);
    const dependent = await dependence(database, orderedBy, operator, did);
    if (dependent !== null) return refuse(dependent);
    // The names stand before anything is done: whoever wonders about a new key finds both.
    const stands = await database.transaction(async (tables) => {
      const atMs = nowMs();
      const confirmed = await tables
        .updateTable('key_ceremony')
        .set({ confirmed_by: operator, confirmed_at_ms: BigInt(atMs) })
        .where('ceremony', '=', ceremony)
        .where('confirmed_by', 'is', null)
        .where('cancelled_by', 'is', null)
        .returning('ceremony')
        .executeTakeFirst();
      if (confirmed !== undefined) {
        await recordAct(tables, { act: 'ceremony-confirmed', by, subject: role, words: ceremony, atMs });
      }
      return tables.selectFrom('key_ceremony').selectAll().where('ceremony', '=', ceremony).executeTakeFirstOrThrow();
    });
    if (stands.cancelled_by !== null) return refuse(cancelled(ceremonyOf(stands)));
    const rotated = await cryptographicDevice.rotateRoleKey(role, ceremony);
    if (!rotated.ok) return rotated;
    const certificate = await this.#verified(rotated.value);
    return certificate.ok ? this.#carriedOut(ceremony, certificate.value) : certificate;
  }

  /**
   * Takes an order back that nobody has confirmed yet; any officer may, whoever ordered it. Again, it changes nothing.
   * Rejections: `unknown-ceremony`, `ceremony-confirmed`.
   */
  async cancel(ceremony: CeremonyId, reason: string, by: Actor): Promise<Result<KeyCeremony>> {
    const { database, nowMs } = this.#parts;
    return database.transaction(async (tables): Promise<Result<KeyCeremony>> => {
      const atMs = nowMs();
      const taken = await tables
        .updateTable('key_ceremony')
        .set({ cancelled_by: by.name, cancelled_at_ms: BigInt(atMs) })
        .where('ceremony', '=', ceremony)
        .where('confirmed_by', 'is', null)
        .where('cancelled_by', 'is', null)
        .returningAll()
        .executeTakeFirst();
      if (taken !== undefined) {
        const words = `${ceremony}: ${reason}`;
        await recordAct(tables, { act: 'ceremony-cancelled', by, subject: taken.role, words, atMs });
        return accept(ceremonyOf(taken));
      }
      const stands = await tables
        .selectFrom('key_ceremony')
        .selectAll()
        .where('ceremony', '=', ceremony)
        .executeTakeFirst();
      if (stands === undefined) return refuse(rejection('unknown-ceremony', { ceremony }));
      return stands.cancelled_by === null
        ? refuse(rejection('ceremony-confirmed', { ceremony, role: stands.role, by: stands.confirmed_by ?? '' }))
        : accept(ceremonyOf(stands));
    });
  }

  /** The bundle with every key that this server knows the certificate of, as the text of `trust-bundle.json`. */
  async trustBundle(): Promise<string> {
    const nowMs = this.#parts.nowMs();
    if (this.#askedAtMs === null || Math.abs(nowMs - this.#askedAtMs) >= ASKED_AGAIN_MS) {
      this.#askedAtMs = nowMs;
      await this.#askForCertificates();
    }
    return formatTrustBundle(await this.#bundle());
  }

  async #carriedOut(
    ceremony: CeremonyId,
    { message: { role, epoch }, bytes }: Verified<RoleCertificate>,
  ): Promise<Result<KeyCeremony>> {
    const { database, nowMs } = this.#parts;
    await database.transaction(async (tables) => {
      await tables
        .insertInto('role_certificate')
        .values({ role, epoch: BigInt(epoch), certificate: bytes })
        .onConflict((conflict) => conflict.columns(['role', 'epoch']).doUpdateSet({ certificate: bytes }))
        .execute();
      const done = await tables
        .updateTable('key_ceremony')
        .set({ epoch: BigInt(epoch) })
        .where('ceremony', '=', ceremony)
        .where('role', '=', role)
        .where('epoch', 'is', null)
        .returning('ceremony')
        .executeTakeFirst();
      if (done === undefined) return;
      const words = `epoch ${epoch}, by ${ceremony}`;
      await recordAct(tables, { act: 'role-key-rotated', by: BY_ITSELF, subject: role, words, atMs: nowMs() });
    });
    const stored = await this.#of(ceremony);
    if (stored === null) throw new TypeError('a ceremony that was just carried out is missing');
    return accept(stored);
  }

  /** It may rest on an issuing key that a server which was restored knows nothing of. */
  async #verified(certificate: Uint8Array): Promise<Result<Verified<RoleCertificate>>> {
    const verify = (bundle: TrustBundle) =>
      verifyMessage(ROLE_CERTIFICATE, certificate, { port: nodeVerification, keys: trustedKeys(bundle) });
    const verified = verify(await this.#bundle());
    if (verified.ok) return verified;
    await this.#askForCertificates();
    return verify(await this.#bundle());
  }

  /** Stores the certificates that are not there yet, of those that verify. */
  async #askForCertificates(): Promise<void> {
    const { database, cryptographicDevice } = this.#parts;
    const known = await cryptographicDevice.roleCertificates();
    // Away: the bundle has what is stored.
    if (!known.ok) return;
    const bundle = withRoleCertificates(await this.#bundle(), known.value, nodeVerification);
    const trust = { port: nodeVerification, keys: trustedKeys(bundle) };
    for (const certificate of known.value) {
      const verified = verifyMessage(ROLE_CERTIFICATE, certificate, trust);
      if (!verified.ok) continue;
      const { role, epoch } = verified.value.message;
      await database.transaction(async (tables) =>
        tables
          .insertInto('role_certificate')
          .values({ role, epoch: BigInt(epoch), certificate })
          .onConflict((conflict) => conflict.doNothing())
          .execute(),
      );
    }
  }

  async #bundle(): Promise<TrustBundle> {
    const { database, bundle } = this.#parts;
    const rows = await database.read(async (tables) =>
      tables.selectFrom('role_certificate').select('certificate').orderBy('role').orderBy('epoch').execute(),
    );
    return withRoleCertificates(
      bundle,
      rows.map(({ certificate }) => certificate),
      nodeVerification,
    );
  }

  async #of(ceremony: CeremonyId): Promise<KeyCeremony | null> {
    const row = await this.#parts.database.read(async (tables) =>
      tables.selectFrom('key_ceremony').selectAll().where('ceremony', '=', ceremony).executeTakeFirst(),
    );
    return row === undefined ? null : ceremonyOf(row);
  }
}

function cancelled({ ceremony, role, cancelledBy }: KeyCeremony): Rejection {
  return rejection('ceremony-cancelled', { ceremony, role, by: cancelledBy ?? '' });
}

function ceremonyOf(row: ServerTables['key_ceremony']): KeyCeremony {
  return {
    ceremony: row.ceremony as CeremonyId,
    role: row.role as RotatedKey,
    reason: row.reason,
    orderedBy: row.ordered_by,
    orderedAtMs: Number(row.ordered_at_ms),
    confirmedBy: row.confirmed_by,
    confirmedAtMs: row.confirmed_at_ms === null ? null : Number(row.confirmed_at_ms),
    cancelledBy: row.cancelled_by,
    cancelledAtMs: row.cancelled_at_ms === null ? null : Number(row.cancelled_at_ms),
    epoch: row.epoch === null ? null : Number(row.epoch),
  };
}
