/**
 * What needs two people: whether the second is another one than the first.
 *
 * Guarantees that nobody counts who made the other's credential, and could have kept it. That both may act is their roles'. Does not know
 * who sits behind a credential.
 */
import { type Rejection, rejection } from '@countermark/protocol/rejection';
import type { SqlDatabase } from '@countermark/sql/database';
import type { ServerTables } from './tables.ts';

/** Why `operator` cannot confirm what `declarer` did, or null; `did` in words: "declared the device psd_... dead". */
export async function dependence(
  database: SqlDatabase<ServerTables>,
  declarer: string,
  operator: string,
  did: string,
): Promise<Rejection | null> {
  const added = await database.read(async (tables) =>
    tables
      .selectFrom('person')
      .select('name')
      .where((eb) =>
        eb.or([
          eb.and([eb('name', '=', declarer), eb('added_by', '=', operator)]),
          eb.and([eb('name', '=', operator), eb('added_by', '=', declarer)]),
        ]),
      )
      .executeTakeFirst(),
  );
  return added === undefined ? null : rejection('second-person-dependent', { operator, declarer, did });
}
