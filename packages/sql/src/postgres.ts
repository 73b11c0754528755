/**
 * PostgreSQL behind kysely. Every connection asks for `synchronous_commit=on`, and the server is refused where fsync or
 * full_page_writes are off. Integers of every width and whole numerics come back as `bigint`, bytes as `Buffer`.
 *
 * Does not judge replication: what `synchronous_commit=on` waits for is the server's configuration.
 */
import { PostgresDialect } from 'kysely';
import pg from 'pg';
import { DatabaseFault } from './database-fault.ts';

/** Object ids of int8, int2, int4 and numeric (pg_type.dat): the same in every PostgreSQL. */
const INTEGERS: ReadonlySet<number> = new Set([20, 21, 23]);
const NUMERIC = 1700;

/** How a server is used. */
export interface PostgresOptions {
  /** Connections at most. Default 10. */
  readonly connectionsMax?: number;
  /** Where the tables lie; created where it is missing. Default: the server's own default. */
  readonly schema?: string;
}

/** Connects, and checks that commits are durable. Faults: `database-unsafe`; the driver's errors where nobody answers. */
export async function openPostgres(
  url: string,
  { connectionsMax = 10, schema }: PostgresOptions,
): Promise<PostgresDialect> {
  if (schema !== undefined && !/^[a-z_][a-z0-9_]{0,62}$/.test(schema))
    throw new TypeError(`${schema} is no name for a schema`);
  const path = schema === undefined ? '' : ` -c search_path=${schema}`;
  const pool = new pg.Pool({
    connectionString: url,
    max: connectionsMax,
    connectionTimeoutMillis: 10_000,
    options: `-c synchronous_commit=on -c timezone=UTC${path}`,
    types: { getTypeParser: typeParser as typeof pg.types.getTypeParser },
  });
  // An idle connection that breaks must not take the process down; the next statement finds out.
  pool.on('error', () => undefined);
  try {
    for (const [setting, safe] of [
      ['synchronous_commit', /^(on|remote_apply)$/],
      ['fsync', /^on$/],
      ['full_page_writes', /^on$/],
    ] as const) {
      const { rows } = await pool.query<Record<string, string>>(`SHOW ${setting}`);
      const value = rows[0]?.[setting] ?? '';
      if (!safe.test(value)) {
        throw new DatabaseFault(
          'database-unsafe',
          `the PostgreSQL server has ${setting}=${value}: it could lose what it confirmed`,
          'never',
        );
      }
    }
    if (schema !== undefined) await pool.query(`CREATE SCHEMA IF NOT EXISTS ${schema}`);
  } catch (error) {
    await pool.end();
    throw error;
  }
  return new PostgresDialect({ pool });
}

/** `bigint` for every integer, as SQLite gives them; sums of them are numeric on PostgreSQL. */
function typeParser(oid: number, format: 'text' | 'binary' = 'text'): (value: string) => unknown {
  if (format === 'text' && INTEGERS.has(oid)) return BigInt;
  if (format === 'text' && oid === NUMERIC) return (text) => (/^-?\d+$/.test(text) ? BigInt(text) : text);
  // The driver's own parsers are typed by an enumeration of the types it knows.
  const parserOf = pg.types.getTypeParser as (oid: number, format: string) => (value: string) => unknown;
  return parserOf(oid, format);
}
