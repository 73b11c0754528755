/**
 * What can break in a database, with a code that callers can branch on. The shape is that of node-platform's `Fault`, which this
 * package, importing nothing of ours, does not know.
 */

/**
 * `database-unreachable`: not there, or the connection broke; a transaction in hand may or may not have happened.
 * `database-in-use`: another process has the SQLite file. `database-unsafe`: a setting would lose what was committed.
 * `database-migrations`: it was made by another version. `database-full`, `database-write-failed`, `database-damaged`: the disk.
 * `database-conflict`: concurrent transactions stood in each other's way too often; nothing happened.
 */
export type DatabaseFaultCode =
  | 'database-unreachable'
  | 'database-in-use'
  | 'database-unsafe'
  | 'database-migrations'
  | 'database-full'
  | 'database-write-failed'
  | 'database-damaged'
  | 'database-conflict';

/** Thrown when the database, not the statement, is at fault. */
export class DatabaseFault extends Error {
  readonly code: DatabaseFaultCode;
  /** Whether trying again can help. */
  readonly retry: 'never' | 'later' | 'now';

  constructor(code: DatabaseFaultCode, message: string, retry: 'never' | 'later' | 'now', cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = 'DatabaseFault';
    this.code = code;
    this.retry = retry;
  }
}

/** The fault that a driver's error means; errors of statements (a constraint, a wrong name) come back as they are. */
export function asDatabaseFault(error: unknown): unknown {
  if (!(error instanceof Error) || error instanceof DatabaseFault) return error;
  const code = driverCode(error);
  const fault = (kind: DatabaseFaultCode, text: string, retry: 'never' | 'later' | 'now'): DatabaseFault =>
    new DatabaseFault(kind, `${text} (${code}: ${error.message})`, retry, error);
  if (code === 'SQLITE_FULL' || code === '53100')
    return fault('database-full', 'the disk of the database is full', 'later');
  if (code.startsWith('SQLITE_IOERR') || code === '58030') {
    return fault('database-write-failed', 'the database could not write', 'never');
  }
  if (code.startsWith('SQLITE_CORRUPT') || code === 'SQLITE_NOTADB' || code === 'XX001' || code === 'XX002') {
    return fault('database-damaged', 'the database is damaged', 'never');
  }
  if (code.startsWith('SQLITE_CANTOPEN'))
    return fault('database-unreachable', 'the database file cannot be opened', 'never');
  if (
    code === 'ECONNREFUSED' ||
    code === 'ENOTFOUND' ||
    code === 'ENOENT' ||
    code === 'ECONNRESET' ||
    code === 'EPIPE'
  ) {
    return fault('database-unreachable', 'the database server cannot be reached', 'later');
  }
  // Class 08: connection exceptions; 57P: shutdown; 53300: too many connections. Without a code: pg's own texts for a lost connection.
  if (
    /^(08...|57P0.|53300)$/.test(code) ||
    /Connection terminated|timeout expired|timeout exceeded/.test(error.message)
  ) {
    return fault('database-unreachable', 'the connection to the database was lost', 'later');
  }
  if (/^28...$/.test(code) || code === '3D000')
    return fault('database-unreachable', 'the database refused the login', 'never');
  return error;
}

/** Whether the transaction was undone because of another one, so that running it again is the cure. */
export function isSerializationFailure(error: unknown): boolean {
  const code = error instanceof Error ? driverCode(error) : '';
  // serialization_failure, deadlock_detected; in SQLite another connection holds the lock.
  return code === '40001' || code === '40P01' || code.startsWith('SQLITE_BUSY');
}

/** Whether a unique or primary key constraint refused a row: the same on both. */
export function isUniqueViolation(error: unknown): boolean {
  const code = error instanceof Error ? driverCode(error) : '';
  return code === '23505' || code === 'SQLITE_CONSTRAINT_UNIQUE' || code === 'SQLITE_CONSTRAINT_PRIMARYKEY';
}

function driverCode(error: Error): string {
  return 'code' in error && typeof error.code === 'string' ? error.code : '';
}
