/**
 * One-time codes with which an operator lets a licensee enrol one new device.
 *
 * Guarantees: 160 random bits, said once and stored as SHA-256 only; good for one device of one licensee, until it ends or is revoked. A
 * code is taken for a device before anything is certified, so that two devices that have it at the same time do not both get in; the same
 * device may come with it again, after a lost answer. What was done with a code stays listed.
 * Does not decide who may issue one (`http.ts`), nor which devices are new (`enrolment.ts`).
 */
import { randomBytes } from 'node:crypto';
import { sha256 } from '@countermark/node-platform/verification';
import { type DeviceId, hex, type LicenseeId, unhex } from '@countermark/protocol/id';
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import type { SqlDatabase } from '@countermark/sql/database';
import { type Actor, recordAct } from './audit-trail.ts';
import type { ServerTables } from './tables.ts';

const DAY_MS = 86_400_000;
const CODE_BYTES = 20;
const ID_DIGITS = 16;
/** Codes of one licensee that are open at the same time. */
const OPEN_MAX = 1_000;
const LISTED_MAX = 1_000;

/** A code as operators see it, without the code itself. */
export type EnrolmentCode = {
  /** The beginning of its hash. */
  readonly id: string;
  readonly issuedBy: string;
  readonly issuedAtMs: number;
  readonly endsAtMs: number;
  readonly state: 'open' | 'used' | 'revoked' | 'ended';
  /** The device that has used it. */
  readonly device: DeviceId | null;
  readonly revokedBy: string | null;
};

export class EnrolmentCodes {
  readonly #database: SqlDatabase<ServerTables>;
  readonly #nowMs: () => number;

  constructor(database: SqlDatabase<ServerTables>, nowMs: () => number) {
    this.#database = database;
    this.#nowMs = nowMs;
  }

  /** A new code; it is not to be had again. Rejection: `limit-exceeded`. */
  async issue(
    licensee: LicenseeId,
    by: Actor,
    days: number,
  ): Promise<Result<EnrolmentCode & { readonly code: string }>> {
    const code = randomBytes(CODE_BYTES).toString('hex');
    const hash = hashOf(code) ?? '';
    const atMs = this.#nowMs();
    return this.#database.transaction(async (tables): Promise<Result<EnrolmentCode & { readonly code: string }>> => {
      const open = await tables
        .selectFrom('enrolment_code')
        .select((eb) => eb.fn.countAll<bigint>().as('count'))
        .where('licensee', '=', licensee)
        .where('device', 'is', null)
        .where('revoked_by', 'is', null)
        .where('ends_at_ms', '>', BigInt(atMs))
        .executeTakeFirst();
      const count = Number(open?.count ?? 0n);
      if (count >= OPEN_MAX) {
        const what = `the number of open enrolment codes of ${licensee}`;
        return refuse(rejection('limit-exceeded', { what, value: count + 1, limit: OPEN_MAX }));
      }
      const row = {
        hash,
        licensee,
        issued_by: by.name,
        issued_at_ms: BigInt(atMs),
        ends_at_ms: BigInt(atMs + days * DAY_MS),
        revoked_by: null,
        device: null,
      };
      await tables.insertInto('enrolment_code').values(row).execute();
      const issued = codeOf(row, atMs);
      const words = `${issued.id}, for ${days} days`;
      await recordAct(tables, { act: 'code-issued', by, subject: licensee, words, atMs });
      return accept({ ...issued, code });
    });
  }

  /** Those of a licensee, newest first. */
  async of(licensee: LicenseeId): Promise<readonly EnrolmentCode[]> {
    const rows = await this.#database.read(async (tables) =>
      tables
        .selectFrom('enrolment_code')
        .selectAll()
        .where('licensee', '=', licensee)
        .orderBy('issued_at_ms', 'desc')
        .orderBy('hash')
        .limit(LISTED_MAX)
        .execute(),
    );
    return rows.map((row) => codeOf(row, this.#nowMs()));
  }

  /** Revokes a code that is not used; one that is used stays so. Rejection: `unknown-enrolment-code`. */
  async revoke(licensee: LicenseeId, id: string, by: Actor): Promise<Result<EnrolmentCode>> {
    return this.#database.transaction(async (tables): Promise<Result<EnrolmentCode>> => {
      const found = () =>
        tables
          .selectFrom('enrolment_code')
          .selectAll()
          .where('licensee', '=', licensee)
          .where('hash', '>=', id)
          .where('hash', '<', `${id}g`)
          .executeTakeFirst();
      const row = await found();
      if (row === undefined) return refuse(rejection('unknown-enrolment-code', { id, licensee }));
      const revoked = await tables
        .updateTable('enrolment_code')
        .set({ revoked_by: by.name })
        .where('hash', '=', row.hash)
        .where('device', 'is', null)
        .where('revoked_by', 'is', null)
        .returning('hash')
        .executeTakeFirst();
      const atMs = this.#nowMs();
      if (revoked !== undefined) {
        await recordAct(tables, { act: 'code-revoked', by, subject: licensee, words: codeOf(row, atMs).id, atMs });
      }
      return accept(codeOf((await found()) ?? row, atMs));
    });
  }

  /** Takes the code for the device. Rejection: `enrolment-code-refused`. */
  async take(code: string, licensee: LicenseeId, device: DeviceId): Promise<Result<void>> {
    const hash = hashOf(code);
    const refused = (reason: string) => refuse(rejection('enrolment-code-refused', { device, reason }));
    if (hash === null) return refused('it is no code of 40 hex digits');
    return this.#database.transaction(async (tables): Promise<Result<void>> => {
      const taken = await tables
        .updateTable('enrolment_code')
        .set({ device })
        .where('hash', '=', hash)
        .where('licensee', '=', licensee)
        .where('revoked_by', 'is', null)
        .where('ends_at_ms', '>', BigInt(this.#nowMs()))
        .where((eb) => eb.or([eb('device', 'is', null), eb('device', '=', device)]))
        .returning('hash')
        .executeTakeFirst();
      if (taken !== undefined) return accept(undefined);
      const row = await tables.selectFrom('enrolment_code').selectAll().where('hash', '=', hash).executeTakeFirst();
      // Whose else it is, is nobody's to know who has it.
      if (row?.licensee !== licensee) return refused(`it is no code of ${licensee}`);
      if (row.revoked_by !== null) return refused('it was revoked');
      return refused(row.device === null ? 'its time is over' : 'it was used for another device');
    });
  }

  /** Gives a code back that was taken for a device which then was not enrolled. */
  async giveBack(code: string, device: DeviceId): Promise<void> {
    await this.#database.transaction(async (tables) => {
      await tables
        .updateTable('enrolment_code')
        .set({ device: null })
        .where('hash', '=', hashOf(code) ?? '')
        .where('device', '=', device)
        .execute();
    });
  }
}

/** SHA-256 of the code's bytes, hex, or null where it is none. */
function hashOf(code: string): string | null {
  const bytes = unhex(code.toLowerCase());
  return bytes?.length === CODE_BYTES ? hex(sha256(bytes)) : null;
}

function codeOf(row: ServerTables['enrolment_code'], nowMs: number): EnrolmentCode {
  const over = row.ends_at_ms <= BigInt(nowMs) ? 'ended' : 'open';
  return {
    id: row.hash.slice(0, ID_DIGITS),
    issuedBy: row.issued_by,
    issuedAtMs: Number(row.issued_at_ms),
    endsAtMs: Number(row.ends_at_ms),
    state: row.device !== null ? 'used' : row.revoked_by !== null ? 'revoked' : over,
    device: row.device as DeviceId | null,
    revokedBy: row.revoked_by,
  };
}
