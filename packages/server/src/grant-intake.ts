/**
 * Grants of the postal authority, fetched, verified with the trust bundle, and booked once: a discount is paid to its
 * account, a credit waits in its account until that customer's own postage draws it.
 *
 * Guarantees: a grant is booked once by its digest, and of an entitlement exactly what it lacks, whatever revisions an
 * authority that was restored from a backup pays it in, and under whatever cursors: where it does not have the last grant that it gave, or the
 * last point of its intake (delivery-marks.ts), all of its grants are asked for again; an unauthentic grant, or one in another currency, stops the intake,
 * with a fault in the log, until someone acts; grants and how far the authority has evaluated move in one unit of work.
 */
import { Fault } from '@countermark/node-platform/fault';
import { nodeVerification } from '@countermark/node-platform/verification';
import { parseEnvelope } from '@countermark/protocol/cose';
import { digestText } from '@countermark/protocol/digest';
import type { CustomerId, LicenseeId } from '@countermark/protocol/id';
import type { Currency } from '@countermark/protocol/money';
import { CREDIT_GRANT, DISCOUNT_GRANT, type Grant } from '@countermark/protocol/messages/grant';
import { describeRejection } from '@countermark/protocol/rejection';
import type { SqlDatabase } from '@countermark/sql/database';
import type { Kysely } from 'kysely';
import { type KeySource, type Verified, verifyMessage } from '@countermark/verify/verified';
import type { AuthorityClient, GrantPoint } from './authority-client.ts';
import { DELIVERY_FOLLOWER, evaluatedMark, giveUpMark, GRANTS_FOLLOWER, lastMark } from './delivery-marks.ts';
import { EVALUATED_FOLLOWER, followerCursor, moveCursor } from './follower.ts';
import { ACCOUNT, type Ledger, type LedgerTransaction } from './ledger.ts';
import type { StatisticsLog } from './statistics-log.ts';
import type { ServerTables } from './tables.ts';

export type BookedGrant = {
  /** Ascending in the order of booking: the authority's cursor, or the next one after the last where that is not greater. */
  readonly cursor: bigint;
  readonly digest: Uint8Array;
  readonly kind: string;
  readonly customer: string;
  readonly bytes: Uint8Array;
  readonly bookedAtMs: number;
};

export type GrantIntakeParts = {
  readonly database: SqlDatabase<ServerTables>;
  readonly ledger: Ledger;
  readonly log: StatisticsLog;
  readonly authority: AuthorityClient;
  readonly roleKeys: KeySource;
  readonly currency: Currency;
  readonly nowMs: () => number;
};

export class GrantIntake {
  readonly #parts: GrantIntakeParts;

  constructor(parts: GrantIntakeParts) {
    this.#parts = parts;
  }

  /** Fetches and books what is new. Faults: `authority-unavailable`, `grant-not-authentic`. */
  async take(): Promise<'more' | 'idle' | 'waiting'> {
    const { authority, database } = this.#parts;
    const mark = await lastMark(database);
    const listed = await authority.grants(await this.#last(), mark?.point);
    if (!listed.ok) throw new Fault('authority-unavailable', describeRejection(listed.rejection), { retry: 'later' });
    const { grants, evaluatedThrough, continues } = listed.value;
    if (!continues) {
      await giveUpMark(database, mark);
      return 'more';
    }
    if (grants.length > 0) await this.#bookAll(grants);
    // Only an empty list says that everything which rests on `evaluatedThrough` is booked.
    else await this.#moveEvaluated(BigInt(evaluatedThrough));
    if (grants.length > 0) return 'more';
    const delivered = await followerCursor(database, DELIVERY_FOLLOWER);
    return (await followerCursor(database, EVALUATED_FOLLOWER)) < delivered ? 'waiting' : 'idle';
  }

  async #bookAll(grants: readonly { readonly cursor: number; readonly grant: Uint8Array }[]): Promise<void> {
    const { database, log } = this.#parts;
    const verified = grants.map((item) => ({ cursor: BigInt(item.cursor), grant: this.#verified(item.grant) }));
    const position = await log.position();
    await database.transaction(async (tables) => {
      for (const { cursor, grant } of verified) await this.#book(tables, cursor, grant, position);
      const last = verified.at(-1);
      if (last !== undefined) await moveCursor(tables, GRANTS_FOLLOWER, last.cursor, last.grant.digest);
    });
  }

  /** The grant after which is asked. */
  async #last(): Promise<GrantPoint> {
    const row = await this.#parts.database.read((tables) =>
      tables.selectFrom('follower').selectAll().where('name', '=', GRANTS_FOLLOWER).executeTakeFirst(),
    );
    return { cursor: row?.cursor ?? 0n, digest: row?.digest ?? null };
  }

  /** Writes only where something moves: an idle server asks every few seconds, and a commit is a sync of the disk. */
  async #moveEvaluated(evaluatedThrough: bigint): Promise<void> {
    const { database } = this.#parts;
    const evaluated = await database.read((tables) => evaluatedMark(tables, evaluatedThrough));
    if (evaluated === (await followerCursor(database, EVALUATED_FOLLOWER))) return;
    await database.transaction(async (tables) => {
      await moveCursor(tables, EVALUATED_FOLLOWER, await evaluatedMark(tables, evaluatedThrough));
    });
  }

  /** Booked grants of a licensee after a cursor, oldest first. */
  async booked(
    licensee: LicenseeId,
    after: bigint,
    limit: number,
    customer: CustomerId | null = null,
  ): Promise<readonly BookedGrant[]> {
    const rows = await this.#parts.database.read(async (tables) =>
      tables
        .selectFrom('booked_grant')
        .selectAll()
        .where('licensee', '=', licensee)
        .where('cursor', '>', after)
        .$if(customer !== null, (query) => query.where('customer', '=', customer ?? ''))
        .orderBy('cursor')
        .limit(limit)
        .execute(),
    );
    return rows.map((row) => ({
      cursor: row.cursor,
      digest: row.digest,
      kind: row.kind,
      customer: row.customer,
      bytes: row.grant_bytes,
      bookedAtMs: Number(row.booked_at_ms),
    }));
  }

  #verified(bytes: Uint8Array): Verified<Grant> {
    const envelope = parseEnvelope(bytes);
    const type = envelope.ok && envelope.value.type === CREDIT_GRANT.type ? CREDIT_GRANT : DISCOUNT_GRANT;
    const grant = verifyMessage(type, bytes, { port: nodeVerification, keys: this.#parts.roleKeys });
    if (!grant.ok) throw new Fault('grant-not-authentic', describeRejection(grant.rejection), { retry: 'never' });
    const { code, exponent } = grant.value.message.currency;
    const { currency } = this.#parts;
    if (code !== currency.code || exponent !== currency.exponent) {
      const words = `a grant is in ${code} with exponent ${exponent}, the ledger in ${currency.code}`;
      throw new Fault('grant-in-other-currency', words, { retry: 'never' });
    }
    return grant.value;
  }

  async #book(
    tables: LedgerTransaction,
    cursor: bigint,
    { message, envelope, digest, bytes }: Verified<Grant>,
    position: bigint,
  ): Promise<void> {
    const { ledger, nowMs } = this.#parts;
    const { licensee, customer, programme } = message;
    const bookedAtMs = BigInt(nowMs());
    const credit = envelope.type === CREDIT_GRANT.type;
    const place = await placeOf(tables, cursor);
    const added = await tables
      .insertInto('booked_grant')
      .values({
        cursor: place,
        digest,
        licensee,
        customer: customer ?? '',
        kind: credit ? 'credit' : 'discount',
        grant_bytes: bytes,
        booked_at_ms: bookedAtMs,
      })
      .onConflict((conflict) => conflict.column('digest').doNothing())
      .returning('cursor')
      .executeTakeFirst();
    if (added === undefined) return;
    const amountMills = await dueOf(tables, message);
    await ledger.bookIn(tables, [
      {
        ref: `grant:${digestText(digest)}`,
        kind: credit ? 'credit' : 'discount',
        note: `${programme}, ${message.period}, revision ${message.revision}`,
        atMs: Number(bookedAtMs),
        lines: [
          { account: credit ? ACCOUNT.authorityCredits : ACCOUNT.authorityDiscounts, amountMills: 0n - amountMills },
          { account: ACCOUNT.of(credit ? 'credit' : 'discount', licensee, customer), amountMills },
        ],
      },
    ]);
    if (!credit || amountMills === 0n) return;
    await tables
      .insertInto('credit')
      .values({
        grant_digest: digest,
        licensee,
        customer: customer ?? '',
        remaining_mills: amountMills,
        booked_at_ms: bookedAtMs,
        booked_at_cursor: position,
        place,
      })
      .execute();
  }
}

/**
 * Where a grant is booked. A server that was restored may have booked, under this cursor, a grant of an authority's history that is lost; whoever
 * follows what is booked has passed by it then.
 */
async function placeOf(tables: LedgerTransaction, cursor: bigint): Promise<bigint> {
  const last = (await lastBooked(tables)) + 1n;
  return cursor > last ? cursor : last;
}

/** The cursor of the last grant that is booked, 0 before the first: an authority that was restored gives none up to it again. */
export async function lastBooked(tables: Kysely<ServerTables>): Promise<bigint> {
  const booked = await tables
    .selectFrom('booked_grant')
    .select('cursor')
    .orderBy('cursor', 'desc')
    .limit(1)
    .executeTakeFirst();
  return booked?.cursor ?? 0n;
}

/**
 * What a grant adds to its entitlement as it is booked: what was not booked in other revisions, which is the grant's amount unless the
 * authority or the server was restored from a backup (then it grants again, in other steps and under other digests).
 */
async function dueOf(tables: LedgerTransaction, grant: Grant): Promise<bigint> {
  const { licensee, customer = '', programme, programmeVersion, period, entitlementMills } = grant;
  const booked = await tables
    .selectFrom('entitled')
    .select('entitlement_mills')
    .where('licensee', '=', licensee)
    .where('customer', '=', customer)
    .where('programme', '=', programme)
    .where('version', '=', BigInt(programmeVersion))
    .where('period', '=', period)
    .executeTakeFirst();
  const dueMills = entitlementMills - (booked?.entitlement_mills ?? 0n);
  if (dueMills <= 0n) return 0n;
  const of = { licensee, customer, programme, version: BigInt(programmeVersion), period };
  await tables
    .insertInto('entitled')
    .values({ ...of, entitlement_mills: entitlementMills })
    .onConflict((conflict) =>
      conflict
        .columns(['licensee', 'customer', 'programme', 'version', 'period'])
        .doUpdateSet({ entitlement_mills: entitlementMills }),
    )
    .execute();
  return dueMills;
}
