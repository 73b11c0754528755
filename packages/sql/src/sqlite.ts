/**
 * SQLite behind kysely, opened the only way in which a commit is durable: WAL, `synchronous=FULL` set and read back, the file owned
 * by this process until it ends. Integers come back as `bigint`, bytes as `Buffer`.
 *
 * There is one connection: transactions run one after the other, and other statements wait for them. Results are not streamed.
 */
import { chmodSync, closeSync, mkdirSync, openSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import BetterSqlite from 'better-sqlite3';
import {
  CompiledQuery,
  type DatabaseConnection,
  type Driver,
  SqliteDialect,
  type SqliteDialectConfig,
  SqliteDriver,
} from 'kysely';
import { DatabaseFault } from './database-fault.ts';

const SYNCHRONOUS_FULL = 2n;
const STATEMENTS_MAX = 500;

/**
 * Opens the file. `pagesMax` bounds it, in pages of 4,096 bytes.
 * Faults: `database-in-use`, `database-unsafe`; the driver's errors for a damaged file or a full disk.
 */
export function openSqlite(path: string, pagesMax?: number): SqliteDialect {
  createPrivately(path);
  const database = new BetterSqlite(path, { timeout: 0 });
  try {
    database.defaultSafeIntegers(true);
    database.pragma('locking_mode = EXCLUSIVE');
    const mode = database.pragma('journal_mode = WAL', { simple: true });
    database.exec('BEGIN EXCLUSIVE; COMMIT');
    database.pragma('synchronous = FULL');
    database.pragma('foreign_keys = ON');
    database.pragma('trusted_schema = OFF');
    if (
      mode !== 'wal' ||
      database.pragma('synchronous', { simple: true }) !== SYNCHRONOUS_FULL ||
      database.pragma('foreign_keys', { simple: true }) !== 1n
    ) {
      throw new DatabaseFault(
        'database-unsafe',
        `${path}: SQLite did not take WAL, synchronous=FULL and foreign_keys=ON`,
        'never',
      );
    }
    if (pagesMax !== undefined) database.pragma(`max_page_count = ${String(Math.trunc(pagesMax))}`);
  } catch (error) {
    database.close();
    if (error instanceof BetterSqlite.SqliteError && error.code.startsWith('SQLITE_BUSY')) {
      throw new DatabaseFault(
        'database-in-use',
        `${path} is in use by another process: stop that one first`,
        'never',
        error,
      );
    }
    throw error;
  }
  return new ImmediateSqliteDialect(database);
}

/** Preparing costs more than running most statements: the last ones are kept. */
function withPreparedStatements(
  database: BetterSqlite.Database,
): Exclude<SqliteDialectConfig['database'], () => unknown> {
  const statements = new Map<string, BetterSqlite.Statement>();
  return {
    close: () => {
      database.close();
    },
    prepare: (text) => {
      const known = statements.get(text);
      if (known !== undefined) return known;
      const statement = database.prepare(text);
      if (statements.size >= STATEMENTS_MAX) statements.clear();
      statements.set(text, statement);
      return statement;
    },
  };
}

class ImmediateSqliteDriver extends SqliteDriver {
  readonly #database: BetterSqlite.Database;

  constructor(config: SqliteDialectConfig, database: BetterSqlite.Database) {
    super(config);
    this.#database = database;
  }

  /** Takes the write lock when a transaction begins, not in its middle. */
  override async beginTransaction(connection: DatabaseConnection): Promise<void> {
    await connection.executeQuery(CompiledQuery.raw('begin immediate'));
  }

  /** On a full disk SQLite has rolled back already; a second rollback would fail and hide the reason. */
  override async rollbackTransaction(connection: DatabaseConnection): Promise<void> {
    if (this.#database.inTransaction) await super.rollbackTransaction(connection);
  }
}

class ImmediateSqliteDialect extends SqliteDialect {
  readonly #config: SqliteDialectConfig;
  readonly #database: BetterSqlite.Database;

  constructor(database: BetterSqlite.Database) {
    const config = { database: withPreparedStatements(database) };
    super(config);
    this.#config = config;
    this.#database = database;
  }

  override createDriver(): Driver {
    return new ImmediateSqliteDriver(this.#config, this.#database);
  }
}

/** An existing file is never opened here: closing another handle of it would drop SQLite's lock in this process (POSIX, fcntl). */
function createPrivately(path: string): void {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  try {
    closeSync(openSync(path, 'wx', 0o600));
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'EEXIST')) throw error;
    if ((statSync(path).mode & 0o077) !== 0) chmodSync(path, 0o600);
  }
}
