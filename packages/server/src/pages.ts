/**
 * A table read from its first row to its last, page by page, so that memory stays flat. For examinations: nothing else reads a table whole.
 */
import type { SqlDatabase } from '@countermark/sql/database';
import type { Kysely } from 'kysely';
import type { ServerTables } from './tables.ts';

const PAGE = 200;

/** Rows of a query in the order of its key; `query` gives those after a key, `first` stands before all. */
export async function* pages<Row, Key>(
  database: SqlDatabase<ServerTables>,
  query: (tables: Kysely<ServerTables>, after: Key) => { limit(count: number): { execute(): Promise<readonly Row[]> } },
  keyOf: (row: Row) => Key,
  first: Key,
): AsyncGenerator<Row> {
  let after = first;
  for (;;) {
    const rows = await database.read((tables) => query(tables, after).limit(PAGE).execute());
    yield* rows;
    const last = rows.at(-1);
    if (last === undefined) return;
    after = keyOf(last);
  }
}
