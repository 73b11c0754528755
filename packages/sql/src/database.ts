/**
 * One database, SQLite or PostgreSQL, by its URL alone: `sqlite:///absolute/path.db` or `postgres://user@host/name`.
 *
 * Guarantees, the same on both: a transaction is durable when its promise resolves; transactions are serialisable, and one that
 * stood in another's way is run again; integers are `bigint`, exact to 64 bits (so are counts and sums), bytes are
 * `Uint8Array`; texts declared `{text}` are ordered by code point; what breaks is a `DatabaseFault`. On SQLite nothing is tried again
 * after a failed write or fsync: what the disk holds then is for the next start to find out.
 * Flags are integers 0 and 1: SQLite has no others. Times are integers in milliseconds. Work inside a transaction awaits nothing but its
 * own statements: on SQLite everybody else waits for it.
 */
import { Kysely, type SelectQueryBuilder, type Transaction } from 'kysely';
import { asDatabaseFault, DatabaseFault, isSerializationFailure } from './database-fault.ts';
import { type DatabaseKind, type Migration, migrateWithin } from './migrations.ts';

/** How a database is opened. */
export interface DatabaseOptions {
  readonly migrations: readonly Migration[];
  /** PostgreSQL: where the tables lie, so that parties can share a database. */
  readonly schema?: string;
  /** PostgreSQL: connections at most. Default 10. */
  readonly connectionsMax?: number;
  /** SQLite: bounds the file, in pages of 4,096 bytes. */
  readonly pagesMax?: number;
  /** SQLite: told once, of the fault after which nothing more is read or written: the process must end, and start anew. */
  onBroken?(fault: DatabaseFault): void;
}

/** How a transaction runs. */
export interface TransactionOptions {
  /** PostgreSQL only; SQLite is always serialisable. Default `serializable`. */
  readonly isolation?: 'serializable' | 'repeatable read' | 'read committed';
  /** How often it is run at most. Default 20. */
  readonly attemptsMax?: number;
}

const ISOLATION = {
  serializable: 'serializable',
  'repeatable read': 'repeatable read',
  'read committed': 'read committed',
} as const;

/**
 * Opens the database and migrates it. Faults: `database-unreachable`, `database-in-use`, `database-unsafe`, `database-migrations`,
 * `database-damaged`. @throws TypeError for a URL of another form.
 */
export async function openDatabase<Tables>(url: string, options: DatabaseOptions): Promise<SqlDatabase<Tables>> {
  const kind = databaseKind(url);
  let database: SqlDatabase<Tables> | undefined;
  try {
    const dialect =
      kind === 'sqlite'
        ? (await import('./sqlite.ts')).openSqlite(decodeURIComponent(new URL(url).pathname), options.pagesMax)
        : await (await import('./postgres.ts')).openPostgres(url, options);
    database = new SqlDatabase<Tables>(kind, new Kysely<Tables>({ dialect }), options.onBroken?.bind(options));
    await database.transaction(
      (transaction) => migrateWithin(transaction as Transaction<unknown>, kind, options.migrations),
      {
        // The advisory lock must be seen before the snapshot is taken.
        isolation: 'read committed',
      },
    );
    return database;
  } catch (error) {
    await database?.close();
    throw asDatabaseFault(error);
  }
}

/** Which kind a URL names. @throws TypeError where it names none. */
export function databaseKind(url: string): DatabaseKind {
  if (/^sqlite:\/\/\/[^/]/.test(url)) return 'sqlite';
  if (/^postgres(ql)?:\/\/./.test(url)) return 'postgres';
  throw new TypeError('a database is given as sqlite:///absolute/path.db or postgres://user@host/name');
}

/** An open database. */
export class SqlDatabase<Tables> {
  readonly kind: DatabaseKind;
  readonly #kysely: Kysely<Tables>;
  readonly #onBroken: ((fault: DatabaseFault) => void) | undefined;
  #broken: DatabaseFault | undefined;

  /** Use `openDatabase`. */
  constructor(kind: DatabaseKind, kysely: Kysely<Tables>, onBroken?: (fault: DatabaseFault) => void) {
    this.kind = kind;
    this.#kysely = kysely;
    this.#onBroken = onBroken;
  }

  /** Runs reads (or a single statement) outside of a transaction, with failures as faults. */
  async read<T>(work: (tables: Kysely<Tables>) => Promise<T>): Promise<T> {
    if (this.#broken !== undefined) throw this.#broken;
    try {
      return await work(this.#kysely);
    } catch (error) {
      throw this.#fault(error);
    }
  }

  /**
   * Runs the work in one transaction: all of it is durable when this resolves, nothing of it happened when this rejects, except
   * after `database-unreachable` at the end, where only asking can tell. The work may run several times: it must have
   * no effect but in the database. What it throws itself is passed on.
   */
  async transaction<T>(
    work: (transaction: Transaction<Tables>) => Promise<T>,
    options: TransactionOptions = {},
  ): Promise<T> {
    const { isolation = 'serializable', attemptsMax = 20 } = options;
    for (let attempt = 1; ; attempt += 1) {
      if (this.#broken !== undefined) throw this.#broken;
      try {
        const builder = this.#kysely.transaction();
        return await (this.kind === 'postgres' ? builder.setIsolationLevel(ISOLATION[isolation]) : builder).execute(
          work,
        );
      } catch (error) {
        if (!isSerializationFailure(error)) throw this.#fault(error);
        if (attempt >= attemptsMax) {
          throw new DatabaseFault(
            'database-conflict',
            `a transaction was undone ${String(attempt)} times by others`,
            'later',
            error,
          );
        }
        await jitter(attempt);
      }
    }
  }

  /** The fault that an error means; one after which the disk is no longer certain breaks the store. */
  #fault(error: unknown): unknown {
    const fault = asDatabaseFault(error);
    const lossy =
      fault instanceof DatabaseFault && (fault.code === 'database-write-failed' || fault.code === 'database-damaged');
    if (this.kind === 'sqlite' && lossy && this.#broken === undefined) {
      this.#broken = fault;
      this.#onBroken?.(fault);
    }
    return fault;
  }

  /** Locks the rows that a query in a transaction selects until its end. On SQLite the whole database is locked already. */
  locking<DB, TB extends keyof DB, O>(query: SelectQueryBuilder<DB, TB, O>): SelectQueryBuilder<DB, TB, O> {
    return this.kind === 'postgres' ? query.forUpdate() : query;
  }

  /** Ends the connections; the SQLite file is free then. */
  async close(): Promise<void> {
    await this.#kysely.destroy();
  }
}

/** Waits a random time of up to 2, 4, 8 ... 128 ms. */
async function jitter(attempt: number): Promise<void> {
  const ceilingMs = 2 ** Math.min(attempt, 7);
  await new Promise((resolve) => setTimeout(resolve, Math.random() * ceilingMs));
}
