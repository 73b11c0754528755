/**
 * Migrations: the schema's history, ordered, the same list for SQLite and PostgreSQL.
 *
 * Guarantees: each runs once, in order, in one transaction with its entry in `schema_migration`; an entry keeps the checksum of
 * what was run, and a list that differs from the entries is refused; of several processes that start at once one migrates.
 * A migration that was released is never altered; a new one is appended.
 */
import { createHash } from 'node:crypto';
import { type Kysely, sql, type Transaction } from 'kysely';
import { DatabaseFault } from './database-fault.ts';

/** The two kinds of database. */
export type DatabaseKind = 'sqlite' | 'postgres';

/** Statements, one text each: the same for both, or one list for each kind where they differ. */
export interface Migration {
  readonly name: string;
  /**
   * In every text `{integer}` (64 bits), `{bytes}`, `{text}` (ordered by code point on both), `{sequence}` (a primary key that the
   * database counts up) and `{strict}` (at the end of CREATE TABLE) stand for what the kind of database calls them.
   */
  readonly statements: readonly string[] | Readonly<Record<DatabaseKind, readonly string[]>>;
}

const WORDS: Readonly<Record<DatabaseKind, Readonly<Record<string, string>>>> = {
  sqlite: {
    integer: 'INTEGER',
    bytes: 'BLOB',
    text: 'TEXT',
    sequence: 'INTEGER PRIMARY KEY AUTOINCREMENT',
    strict: ' STRICT',
  },
  postgres: {
    integer: 'BIGINT',
    bytes: 'BYTEA',
    text: 'TEXT COLLATE "C"',
    sequence: 'BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY',
    strict: '',
  },
};

interface MigrationTables {
  schema_migration: { number: bigint; name: string; checksum: string };
}

/** The lock that migrating workers take on PostgreSQL: any fixed number. */
const MIGRATION_LOCK = 4_201_967_001n;

/** Runs what is missing within the transaction. Faults: `database-migrations`. */
export async function migrateWithin(
  transaction: Transaction<unknown>,
  kind: DatabaseKind,
  migrations: readonly Migration[],
): Promise<void> {
  // Typed anew: these tables are this file's own.
  const tables = transaction as unknown as Kysely<MigrationTables>;
  if (kind === 'postgres') await sql`SELECT pg_advisory_xact_lock(${MIGRATION_LOCK})`.execute(tables);
  for (const statement of rendered(kind, [
    'CREATE TABLE IF NOT EXISTS schema_migration (number {integer} PRIMARY KEY, name {text} NOT NULL, checksum {text} NOT NULL){strict}',
  ])) {
    await sql.raw(statement).execute(tables);
  }
  const applied = await tables.selectFrom('schema_migration').selectAll().orderBy('number').execute();
  for (const [index, entry] of applied.entries()) {
    const migration = migrations[index];
    if (migration === undefined) {
      throw new DatabaseFault(
        'database-migrations',
        `the database is newer than this program: it has the migration ${entry.name}`,
        'never',
      );
    }
    if (
      entry.number !== BigInt(index + 1) ||
      entry.name !== migration.name ||
      entry.checksum !== checksum(kind, migration)
    ) {
      throw new DatabaseFault(
        'database-migrations',
        `the migration ${migration.name} was altered after it had run as ${entry.name}`,
        'never',
      );
    }
  }
  for (const [index, migration] of migrations.entries()) {
    if (index < applied.length) continue;
    for (const statement of statementsOf(kind, migration)) await sql.raw(statement).execute(tables);
    await tables
      .insertInto('schema_migration')
      .values({ number: BigInt(index + 1), name: migration.name, checksum: checksum(kind, migration) })
      .execute();
  }
}

function statementsOf(kind: DatabaseKind, { statements }: Migration): string[] {
  return rendered(kind, 'sqlite' in statements ? statements[kind] : statements);
}

function rendered(kind: DatabaseKind, statements: readonly string[]): string[] {
  return statements.map((text) =>
    text.replace(/\{(\w+)\}/g, (_, word: string) => {
      const meaning = WORDS[kind][word];
      if (meaning === undefined) throw new TypeError(`a migration has the unknown word {${word}}`);
      return meaning;
    }),
  );
}

function checksum(kind: DatabaseKind, migration: Migration): string {
  return createHash('sha256')
    .update(JSON.stringify(statementsOf(kind, migration)))
    .digest('hex');
}
