/**
 * People: each with a name, one role, and a credential of their own.
 *
 * Guarantees: a credential is `NAME.` and 32 random bytes in hex, made here and shown once; of this hex only an argon2id hash is
 * stored. A name is never given twice, also not after its credential was revoked, so that what the audit trail says of a name is one
 * person's. A revocation holds from the next request on, at every worker: the row is read each time. What was verified is remembered
 * by a keyed hash in this process only, so that argon2id is computed once for each credential and start, not at each request.
 * Whether two names are two people only those know who gave them out.
 */
import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto';
import type { CustomerId, LicenseeId } from '@countermark/protocol/id';
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import type { SqlDatabase } from '@countermark/sql/database';
import { type Actor, recordAct } from './audit-trail.ts';
import { Refusal } from './refusal.ts';
import type { PersonRole } from './role.ts';
import type { ServerTables } from './tables.ts';

export const PERSON_NAME = /^[a-z0-9][a-z0-9-]{0,31}$/;
const CREDENTIAL = /^([a-z0-9][a-z0-9-]{0,31})\.([0-9a-f]{64})$/;

/** OWASP's second choice of parameters (Password Storage Cheat Sheet): 19 MiB, two passes. */
const ARGON2ID = { memoryCost: 19_456, timeCost: 2, parallelism: 1, outputLen: 32 } as const;
/** Verifications that wait: one is computed at a time, in a thread of the pool, with 19 MiB. */
const WAITING_MAX = 32;
const REMEMBERED_MAX = 10_000;

export type Person = {
  readonly name: string;
  readonly role: PersonRole;
  readonly licensee: LicenseeId | null;
  readonly customer: CustomerId | null;
  readonly addedBy: string;
  readonly addedAtMs: number;
  readonly revokedBy: string | null;
  readonly revokedAtMs: number | null;
};
export type NewPerson = Pick<Person, 'name' | 'role' | 'licensee' | 'customer'>;

export type PeopleParts = {
  readonly database: SqlDatabase<ServerTables>;
  /** Names of the configured credentials. */
  readonly configured: ReadonlySet<string>;
  readonly nowMs: () => number;
};

export class People {
  readonly #parts: PeopleParts;
  readonly #key = randomBytes(32);
  readonly #verified = new Map<string, { readonly hash: string; readonly mac: Buffer }>();
  #waiting = 0;
  #last: Promise<unknown> = Promise.resolve();

  constructor(parts: PeopleParts) {
    this.#parts = parts;
  }

  /** Adds a person and answers their credential, which is nowhere else. Rejections: `person-exists`, `unknown-licensee`. */
  async add({ name, role, licensee, customer }: NewPerson, by: Actor): Promise<Result<string>> {
    const { database, configured, nowMs } = this.#parts;
    if (configured.has(name)) return refuse(rejection('person-exists', { person: name }));
    const secret = randomBytes(32).toString('hex');
    const { hash } = await import('@node-rs/argon2');
    const hashed = await hash(secret, ARGON2ID);
    const refused = await database.transaction(async (tables) => {
      if (licensee !== null) {
        const known = await tables
          .selectFrom('licensee')
          .select('licensee')
          .where('licensee', '=', licensee)
          .executeTakeFirst();
        if (known === undefined) return rejection('unknown-licensee', { licensee });
      }
      const atMs = nowMs();
      const added = await tables
        .insertInto('person')
        .values({
          name,
          role,
          licensee,
          customer,
          hash: hashed,
          added_by: by.name,
          added_at_ms: BigInt(atMs),
          revoked_by: null,
          revoked_at_ms: null,
        })
        .onConflict((conflict) => conflict.doNothing())
        .returning('name')
        .executeTakeFirst();
      if (added === undefined) return rejection('person-exists', { person: name });
      const words = [role, licensee, customer].filter((part) => part !== null).join(' ');
      await recordAct(tables, { act: 'person-added', by, subject: name, words, atMs });
      return null;
    });
    return refused === null ? accept(`${name}.${secret}`) : refuse(refused);
  }

  /** All people, revoked ones too, by name. */
  async list(): Promise<readonly Person[]> {
    const rows = await this.#parts.database.read(async (tables) =>
      tables.selectFrom('person').selectAll().orderBy('name').execute(),
    );
    return rows.map(personOf);
  }

  /** Revokes a person's credential for good; again, it changes nothing. Rejection: `unknown-person`. */
  async revoke(name: string, by: Actor): Promise<Result<Person>> {
    const { database, nowMs } = this.#parts;
    await database.transaction(async (tables) => {
      const atMs = nowMs();
      const revoked = await tables
        .updateTable('person')
        .set({ revoked_by: by.name, revoked_at_ms: BigInt(atMs) })
        .where('name', '=', name)
        .where('revoked_at_ms', 'is', null)
        .returning('role')
        .executeTakeFirst();
      if (revoked === undefined) return;
      await recordAct(tables, { act: 'person-revoked', by, subject: name, words: revoked.role, atMs });
    });
    this.#verified.delete(name);
    const row = await this.#row(name);
    return row === undefined ? refuse(rejection('unknown-person', { person: name })) : accept(personOf(row));
  }

  /**
   * Whose credential it is, or null. `beforeVerifying` is told the name before argon2id is computed for it, and may throw.
   * @throws Refusal `try-again` where too many are being verified
   */
  async of(credential: string, beforeVerifying: (name: string) => Promise<void>): Promise<Person | null> {
    const [, name = '', secret = ''] = CREDENTIAL.exec(credential) ?? [];
    if (name === '') return null;
    const row = await this.#row(name);
    if (row === undefined || row.revoked_at_ms !== null) return null;
    const mac = createHmac('sha256', this.#key).update(secret).digest();
    const known = this.#verified.get(name);
    if (known?.hash === row.hash) return timingSafeEqual(known.mac, mac) ? personOf(row) : null;
    return (await this.#inTurn(name, row.hash, secret, mac, beforeVerifying)) ? personOf(row) : null;
  }

  /** Verifies when those before are done; what they have remembered by then is not computed again. */
  async #inTurn(
    name: string,
    hash: string,
    secret: string,
    mac: Buffer,
    beforeVerifying: (name: string) => Promise<void>,
  ): Promise<boolean> {
    if (this.#waiting >= WAITING_MAX) {
      throw new Refusal(rejection('try-again', { reason: `${WAITING_MAX} credentials wait to be verified` }));
    }
    this.#waiting += 1;
    const turn = this.#last.then(async () => {
      const known = this.#verified.get(name);
      if (known?.hash === hash) return timingSafeEqual(known.mac, mac);
      await beforeVerifying(name);
      const { verify } = await import('@node-rs/argon2');
      if (!(await verify(hash, secret))) return false;
      // The oldest goes first: a Map keeps the order of insertion.
      if (this.#verified.size >= REMEMBERED_MAX) this.#verified.delete(this.#verified.keys().next().value ?? '');
      this.#verified.set(name, { hash, mac });
      return true;
    });
    this.#last = turn.catch(() => undefined);
    try {
      return await turn;
    } finally {
      this.#waiting -= 1;
    }
  }

  #row(name: string): Promise<ServerTables['person'] | undefined> {
    return this.#parts.database.read(async (tables) =>
      tables.selectFrom('person').selectAll().where('name', '=', name).executeTakeFirst(),
    );
  }
}

function personOf(row: ServerTables['person']): Person {
  return {
    name: row.name,
    role: row.role as PersonRole,
    licensee: row.licensee as LicenseeId | null,
    customer: row.customer as CustomerId | null,
    addedBy: row.added_by,
    addedAtMs: Number(row.added_at_ms),
    revokedBy: row.revoked_by,
    revokedAtMs: row.revoked_at_ms === null ? null : Number(row.revoked_at_ms),
  };
}
