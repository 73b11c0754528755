/**
 * One party's embedded store: SQLite in WAL mode, opened the only way in which a commit is durable when it returns.
 *
 * Guarantees: `synchronous=FULL` is set at every open and read back (a reopened WAL database has NORMAL); integers are exact
 * (`bigint`); one process owns the store until it closes it or dies, SIGKILL included (the lock is the system's); migrations run
 * in order, each with its version number in one transaction; after a failed write or fsync nothing is tried again: every later
 * transaction fails with the same fault until the process has started anew.
 * Covers no backup, and does not detect a store that was replaced by an older copy of itself.
 */
import { chmodSync, closeSync, mkdirSync, openSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { type Rejection, rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import Database from 'better-sqlite3';
import { errorCode, errorText, Fault } from './fault.ts';

/** How a store is opened. */
export interface EmbeddedStoreOptions {
  /** The file; its directory is created (0700) where it is missing. */
  readonly path: string;
  /** Written into the file's header; a file with another one is not this party's store. A 31-bit number. */
  readonly applicationId: number;
  /** SQL texts, strictly in order; only ever appended to. The store's version is the number of those applied. */
  readonly migrations: readonly string[];
  /** Bounds the file, in pages of 4,096 bytes. */
  readonly pagesMax?: number;
  /** Told once, of the fault after which this store takes nothing more: the process must end, and start anew. */
  onBroken?(fault: Fault): void;
}

const SYNCHRONOUS_FULL = 2;

/**
 * Opens the store and takes it for this process alone.
 * Rejections: `store-in-use` (another process, or this one, has it open), `store-damaged` (no database, another party's, written by
 * a newer version, or broken). Faults: `store-unwritable`, `store-full`, `store-write-failed`.
 */
export function openEmbeddedStore(options: EmbeddedStoreOptions): Result<EmbeddedStore> {
  const { path } = options;
  let database: Database.Database | undefined;
  try {
    createPrivately(path);
    database = new Database(path, { timeout: 0 });
    database.defaultSafeIntegers(true);
    // Before the first access: the WAL index then lies in this process's memory, and the file's lock is held until the end.
    database.pragma('locking_mode = EXCLUSIVE');
    const mode = database.pragma('journal_mode = WAL', { simple: true });
    if (mode !== 'wal')
      throw new Fault('store-unwritable', `${path}: journal mode is ${String(mode)}, not wal`, { retry: 'never' });
    database.exec('BEGIN EXCLUSIVE; COMMIT');
    database.pragma('synchronous = FULL');
    database.pragma('foreign_keys = ON');
    database.pragma('trusted_schema = OFF');
    database.pragma('cell_size_check = ON');
    if (numberPragma(database, 'synchronous') !== SYNCHRONOUS_FULL || numberPragma(database, 'foreign_keys') !== 1) {
      throw new Fault('store-unwritable', `${path}: SQLite did not take synchronous=FULL and foreign_keys=ON`, {
        retry: 'never',
      });
    }
    if (options.pagesMax !== undefined) database.pragma(`max_page_count = ${String(Math.trunc(options.pagesMax))}`);
    const wrong = adopt(database, options);
    if (wrong !== undefined) {
      database.close();
      return refuse(wrong);
    }
    return accept(new EmbeddedStore(path, database, options.onBroken?.bind(options)));
  } catch (error) {
    database?.close();
    const code = errorCode(error) ?? '';
    if (code.startsWith('SQLITE_BUSY') || code.startsWith('SQLITE_LOCKED'))
      return refuse(rejection('store-in-use', { store: path }));
    if (isDamage(code)) return refuse(rejection('store-damaged', { store: path, reason: errorText(error) }));
    throw asFault(path, error);
  }
}

/** An open store. */
export class EmbeddedStore {
  readonly path: string;
  /** For preparing statements. Run writes inside `transaction`, so that failures become faults. */
  readonly database: Database.Database;
  readonly #begin: Database.Statement;
  readonly #commit: Database.Statement;
  readonly #rollback: Database.Statement;
  readonly #onBroken: ((fault: Fault) => void) | undefined;
  #broken: Fault | undefined;

  /** Use `openEmbeddedStore`. */
  constructor(path: string, database: Database.Database, onBroken?: (fault: Fault) => void) {
    this.path = path;
    this.database = database;
    this.#onBroken = onBroken;
    this.#begin = database.prepare('BEGIN IMMEDIATE');
    this.#commit = database.prepare('COMMIT');
    this.#rollback = database.prepare('ROLLBACK');
  }

  /** The fault after which this store takes nothing more; the process should end. */
  get broken(): Fault | undefined {
    return this.#broken;
  }

  /**
   * Runs `work` in one transaction: when this returns, all of it is durable; when it throws, none of it happened, except after
   * `store-write-failed`, where only the next start can tell. What `work` throws itself is passed on after the rollback.
   * Faults: `store-full` (nothing was written; later may help), `store-write-failed`, `store-broken`.
   */
  transaction<T>(work: () => T): T {
    if (this.#broken !== undefined) throw this.#broken;
    try {
      this.#begin.run();
      const value = work();
      this.#commit.run();
      return value;
    } catch (error) {
      const thrown = isSqlite(error) ? asFault(this.path, error) : error;
      if (thrown instanceof Fault && thrown.code !== 'store-full' && isSqlite(error) && isLossy(error)) {
        this.#break(thrown);
      }
      if (this.database.inTransaction) {
        try {
          this.#rollback.run();
        } catch (cause) {
          this.#break(new Fault('store-write-failed', `${this.path}: rolling back failed`, { retry: 'never', cause }));
        }
      }
      throw thrown;
    }
  }

  /** Runs reads, with SQLite's failures as faults. */
  read<T>(work: () => T): T {
    if (this.#broken !== undefined) throw this.#broken;
    try {
      return work();
    } catch (error) {
      const thrown = isSqlite(error) ? asFault(this.path, error) : error;
      if (thrown instanceof Fault && isSqlite(error) && isLossy(error)) this.#break(thrown);
      throw thrown;
    }
  }

  #break(fault: Fault): void {
    if (this.#broken !== undefined) return;
    this.#broken = fault;
    this.#onBroken?.(fault);
  }

  /** Reads every page and index and checks foreign keys. Returns what is wrong, in words; nothing when all is well. */
  integrityProblems(): string[] {
    const problems: string[] = [];
    try {
      for (const row of this.database.pragma('integrity_check') as { integrity_check: string }[]) {
        if (row.integrity_check !== 'ok') problems.push(row.integrity_check);
      }
      for (const row of this.database.pragma('foreign_key_check') as { table: string; parent: string }[]) {
        problems.push(`a row of ${row.table} points to none of ${row.parent}`);
      }
    } catch (error) {
      problems.push(errorText(error));
    }
    return problems;
  }

  /** Writes the log back into the file and releases it. */
  close(): void {
    this.database.close();
  }
}

/**
 * Creates the file with mode 0600. An existing file is never opened here: closing any other handle of it would drop the lock that
 * SQLite holds in this process (POSIX, fcntl).
 */
function createPrivately(path: string): void {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  try {
    closeSync(openSync(path, 'wx', 0o600));
  } catch (error) {
    if (errorCode(error) !== 'EEXIST') throw error;
    if ((statSync(path).mode & 0o077) !== 0) chmodSync(path, 0o600);
  }
}

function adopt(
  database: Database.Database,
  { path, applicationId, migrations }: EmbeddedStoreOptions,
): Rejection | undefined {
  const damaged = (reason: string): Rejection => rejection('store-damaged', { store: path, reason });
  const version = numberPragma(database, 'user_version');
  const tables = database.prepare('SELECT count(*) FROM sqlite_schema').pluck().get() as bigint;
  if (version > 0 || tables > 0n) {
    if (numberPragma(database, 'application_id') !== applicationId)
      return damaged('it is a database of something else');
    if (version > migrations.length) {
      return damaged(
        `it was written by a newer version of this program (${String(version)}; this one knows ${String(migrations.length)})`,
      );
    }
  }
  for (const [index, sql] of migrations.entries()) {
    if (index < version) continue;
    database.exec('BEGIN IMMEDIATE');
    try {
      database.exec(sql);
      database.pragma(`application_id = ${String(applicationId)}`);
      database.pragma(`user_version = ${String(index + 1)}`);
      database.exec('COMMIT');
    } catch (error) {
      if (database.inTransaction) database.exec('ROLLBACK');
      throw error;
    }
  }
  return undefined;
}

function numberPragma(database: Database.Database, name: string): number {
  return Number(database.pragma(name, { simple: true }));
}

function isSqlite(error: unknown): boolean {
  return error instanceof Database.SqliteError;
}

function isDamage(code: string): boolean {
  return code.startsWith('SQLITE_CORRUPT') || code === 'SQLITE_NOTADB';
}

/** Whether what lies on the disk is no longer certain. */
function isLossy(error: unknown): boolean {
  const code = errorCode(error) ?? '';
  return code.startsWith('SQLITE_IOERR') || isDamage(code);
}

function asFault(path: string, error: unknown): unknown {
  if (error instanceof Fault) return error;
  const code = errorCode(error) ?? '';
  if (code === 'SQLITE_FULL' || code === 'ENOSPC') {
    return new Fault('store-full', `${path}: the disk is full; nothing was written. Make room, then try again`, {
      retry: 'later',
      cause: error,
    });
  }
  if (code.startsWith('SQLITE_IOERR')) {
    return new Fault(
      'store-write-failed',
      `${path}: a write to the disk failed (${code}); the process must end and check its store`,
      {
        retry: 'never',
        cause: error,
      },
    );
  }
  if (isDamage(code))
    return new Fault('store-broken', `${path}: the store is damaged (${errorText(error)})`, {
      retry: 'never',
      cause: error,
    });
  if (
    code.startsWith('SQLITE_CANTOPEN') ||
    code.startsWith('SQLITE_READONLY') ||
    code === 'EACCES' ||
    code === 'ENOENT' ||
    code === 'EROFS'
  ) {
    return new Fault('store-unwritable', `${path} cannot be opened for writing (${errorText(error)})`, {
      retry: 'never',
      cause: error,
    });
  }
  // A constraint, a wrong statement: an error of the program, not of the disk.
  return error;
}
