/**
 * How far the authority is known to have come: after each delivery, the point of its history at which it has the log up to a cursor.
 *
 * Guarantees: what a mark says stays true of every history that comes by its point, whichever of the two was restored from a backup in
 * between; every exchange with the authority names the last mark's point. Where the authority has lost it, the mark is given up, and
 * delivery and evaluation stand at the one before: the authority is fed again from there, also where no further record comes. All grants of
 * such an authority are asked for again: under cursors that were passed it has other ones.
 */
import { digestOf, NO_DIGEST, sameBytes } from '@countermark/protocol/digest';
import type { HistoryPoint } from '@countermark/protocol/interfaces/delivery';
import type { SqlDatabase } from '@countermark/sql/database';
import type { Kysely } from 'kysely';
import { EVALUATED_FOLLOWER, moveCursor } from './follower.ts';
import type { LedgerTransaction } from './ledger.ts';
import type { ServerTables } from './tables.ts';

export const DELIVERY_FOLLOWER = 'delivery';
/** Up to which of the authority's cursors its grants were asked for. */
export const GRANTS_FOLLOWER = 'grants';

export type DeliveryMark = { readonly logCursor: bigint; readonly point: HistoryPoint };

/** The last mark, or null before the first. */
export async function lastMark(database: SqlDatabase<ServerTables>): Promise<DeliveryMark | null> {
  return database.read(lastOf);
}

/** Notes within the unit of work of a delivery that the authority has the log up to a cursor. */
export async function addMark(tables: LedgerTransaction, { logCursor, point }: DeliveryMark): Promise<void> {
  const at = { intake_cursor: BigInt(point.cursor), history: point.digest };
  await tables
    .insertInto('delivery_mark')
    .values({ log_cursor: logCursor, ...at })
    .onConflict((conflict) => conflict.column('log_cursor').doUpdateSet(at))
    .execute();
}

/** The log's cursor up to which an authority has the records that evaluated its intake through a cursor. */
export async function evaluatedMark(tables: Kysely<ServerTables>, intakeCursor: bigint): Promise<bigint> {
  const mark = await tables
    .selectFrom('delivery_mark')
    .select('log_cursor')
    .where('intake_cursor', '<=', intakeCursor)
    .orderBy('log_cursor', 'desc')
    .limit(1)
    .executeTakeFirst();
  return mark?.log_cursor ?? 0n;
}

/**
 * Gives up a mark whose point the authority has lost, or whose grants it has: then one delivery comes again, without effect. Without a mark
 * only the grants are asked for again.
 */
export async function giveUpMark(database: SqlDatabase<ServerTables>, lost: DeliveryMark | null): Promise<void> {
  await database.transaction(async (tables) => {
    if (lost === null) {
      await moveCursor(tables, GRANTS_FOLLOWER, 0n);
      return;
    }
    const last = await lastOf(tables);
    // Another worker, or the other follower, was there first.
    if (last?.logCursor !== lost.logCursor || !sameBytes(last.point.digest, lost.point.digest)) return;
    await tables.deleteFrom('delivery_mark').where('log_cursor', '=', lost.logCursor).execute();
    const before = (await lastOf(tables))?.logCursor ?? 0n;
    await moveCursor(tables, DELIVERY_FOLLOWER, before);
    await moveCursor(tables, GRANTS_FOLLOWER, 0n);
    await tables
      .updateTable('follower')
      .set({ cursor: before })
      .where('name', '=', EVALUATED_FOLLOWER)
      .where('cursor', '>', before)
      .execute();
  });
}

async function lastOf(tables: Kysely<ServerTables>): Promise<DeliveryMark | null> {
  const row = await tables
    .selectFrom('delivery_mark')
    .selectAll()
    .orderBy('log_cursor', 'desc')
    .limit(1)
    .executeTakeFirst();
  if (row === undefined) return null;
  const digest = row.history === null ? NO_DIGEST : digestOf(row.history);
  return { logCursor: row.log_cursor, point: { cursor: Number(row.intake_cursor), digest } };
}
