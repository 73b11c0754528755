/**
 * What server and authority rely on in a database, shown on SQLite and on a real PostgreSQL alike.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type DatabaseOptions, databaseKind, openDatabase, type SqlDatabase } from '@countermark/sql/database';
import { isUniqueViolation } from '@countermark/sql/database-fault';
import type { Migration } from '@countermark/sql/migrations';
import { sql } from 'kysely';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { type TestPostgres, testPostgres } from '../postgres.ts';

interface Tables {
  head: { device: string; sequence: bigint };
  record: { device: string; sequence: bigint; bytes: Uint8Array };
}

const migrations: readonly Migration[] = [
  {
    name: 'records',
    statements: [
      'CREATE TABLE head (device {text} PRIMARY KEY, sequence {integer} NOT NULL CHECK (sequence >= 0)){strict}',
      `CREATE TABLE record (device {text} NOT NULL REFERENCES head, sequence {integer} NOT NULL, bytes {bytes} NOT NULL,
        PRIMARY KEY (device, sequence)){strict}`,
    ],
  },
];

const directory = mkdtempSync(join(tmpdir(), 'sql-'));
let server: TestPostgres | string = 'not started';
beforeAll(async () => {
  server = await testPostgres();
});
afterAll(async () => {
  if (typeof server !== 'string') await server.stop();
  rmSync(directory, { recursive: true });
});

describe.each(['sqlite', 'postgres'] as const)('a database on %s', (kind) => {
  let url = '';
  let schema = '';
  let round = 0;
  const open: { close(): Promise<void> }[] = [];

  beforeEach((context) => {
    round += 1;
    schema = `round_${String(round)}`;
    if (kind === 'sqlite') url = `sqlite://${join(directory, `${schema}.db`)}`;
    else if (typeof server === 'string') context.skip(server);
    else url = server.url;
  });
  afterEach(async () => {
    for (const database of open.splice(0)) await database.close();
  });

  async function opened(options: Partial<DatabaseOptions> = {}): Promise<SqlDatabase<Tables>> {
    const database = await openDatabase<Tables>(url, { migrations, schema, ...options });
    open.push(database);
    return database;
  }
  const append = (database: SqlDatabase<Tables>, device: string): Promise<bigint> =>
    database.transaction(async (transaction) => {
      const query = transaction.selectFrom('head').selectAll().where('device', '=', device);
      const head = await database.locking(query).executeTakeFirst();
      const sequence = (head?.sequence ?? 0n) + 1n;
      if (head === undefined) await transaction.insertInto('head').values({ device, sequence }).execute();
      else await transaction.updateTable('head').set({ sequence }).where('device', '=', device).execute();
      await transaction
        .insertInto('record')
        .values({ device, sequence, bytes: Uint8Array.of(1, 2) })
        .execute();
      return sequence;
    });

  it('gives exact integers, also as counts, sums and small literals, and bytes', async () => {
    const database = await opened();
    const amount = 2n ** 62n + 1n;
    const bytes = Uint8Array.from({ length: 256 }, (_, index) => index);
    await database.transaction(async (transaction) => {
      await transaction.insertInto('head').values({ device: 'a', sequence: amount }).execute();
      await transaction.insertInto('record').values({ device: 'a', sequence: 1n, bytes }).execute();
    });
    const row = await database.read((tables) =>
      tables
        .selectFrom('head')
        .select([
          'sequence',
          ({ fn }) => fn.countAll().as('count'),
          ({ fn }) => fn.sum('sequence').as('sum'),
          sql<bigint>`1`.as('one'),
        ])
        .groupBy('sequence')
        .executeTakeFirstOrThrow(),
    );
    expect(row).toEqual({ sequence: amount, count: 1n, sum: amount, one: 1n });
    const record = await database.read((tables) =>
      tables.selectFrom('record').select('bytes').executeTakeFirstOrThrow(),
    );
    expect(record.bytes).toBeInstanceOf(Uint8Array);
    expect(Uint8Array.from(record.bytes)).toEqual(bytes);
    const found = await database.read((tables) =>
      tables.selectFrom('record').select('device').where('bytes', '=', bytes).execute(),
    );
    expect(found).toEqual([{ device: 'a' }]);
  });

  it('orders texts by code point', async () => {
    const database = await opened();
    const devices = ['b', 'a', 'B', 'ä', 'Z', '_', '10', '9'];
    await database.transaction((transaction) =>
      transaction
        .insertInto('head')
        .values(devices.map((device) => ({ device, sequence: 0n })))
        .execute(),
    );
    const rows = await database.read((tables) =>
      tables.selectFrom('head').select('device').orderBy('device').execute(),
    );
    expect(rows.map((row) => row.device)).toEqual(['10', '9', 'B', 'Z', '_', 'a', 'b', 'ä']);
  });

  it('undoes a transaction that throws, and tells a second row of a key from other errors', async () => {
    const database = await opened();
    await expect(
      database.transaction(async (transaction) => {
        await transaction.insertInto('head').values({ device: 'a', sequence: 1n }).execute();
        throw new RangeError('changed my mind');
      }),
    ).rejects.toThrow(RangeError);
    expect(await database.read((tables) => tables.selectFrom('head').selectAll().execute())).toEqual([]);
    await append(database, 'a');
    const second = database.read((tables) => tables.insertInto('head').values({ device: 'a', sequence: 1n }).execute());
    expect(isUniqueViolation(await second.catch((error: unknown) => error))).toBe(true);
    const orphan = database.read((tables) =>
      tables.insertInto('record').values({ device: 'nobody', sequence: 1n, bytes: new Uint8Array() }).execute(),
    );
    const broken: unknown = await orphan.catch((error: unknown) => error);
    expect(broken).toBeInstanceOf(Error);
    expect(isUniqueViolation(broken)).toBe(false);
  });

  it.each(['serializable', 'read committed'] as const)(
    'loses no update of concurrent transactions (%s)',
    async (isolation) => {
      const database = await opened();
      await append(database, 'a');
      const raise = (): Promise<void> =>
        database.transaction(
          async (transaction) => {
            const query = transaction.selectFrom('head').select('sequence').where('device', '=', 'a');
            const { sequence } = await (isolation === 'serializable'
              ? query
              : database.locking(query)
            ).executeTakeFirstOrThrow();
            await transaction
              .updateTable('head')
              .set({ sequence: sequence + 1n })
              .where('device', '=', 'a')
              .execute();
          },
          { isolation, attemptsMax: 200 },
        );
      await Promise.all(Array.from({ length: 12 }, raise));
      expect(await database.read((tables) => tables.selectFrom('head').select('sequence').executeTakeFirst())).toEqual({
        sequence: 13n,
      });
    },
  );

  it('keeps what was committed when it is opened again', async () => {
    const database = await opened();
    for (const expected of [1n, 2n, 3n]) expect(await append(database, 'a')).toBe(expected);
    await open.pop()?.close();
    expect(await append(await opened(), 'a')).toBe(4n);
  });

  it('runs new migrations once, and refuses an altered, a missing and a half one', async () => {
    await opened();
    await open.pop()?.close();
    const added: Migration = {
      name: 'marks',
      statements: {
        sqlite: ['ALTER TABLE record ADD COLUMN mark INTEGER NOT NULL DEFAULT 0'],
        postgres: ['ALTER TABLE record ADD COLUMN mark SMALLINT NOT NULL DEFAULT 0'],
      },
    };
    for (let twice = 0; twice < 2; twice += 1) {
      await opened({ migrations: [...migrations, added] });
      await open.pop()?.close();
    }
    await expect(opened()).rejects.toMatchObject({ code: 'database-migrations' });
    const altered = { name: 'records', statements: ['CREATE TABLE head (device {text})'] };
    await expect(opened({ migrations: [altered, added] })).rejects.toMatchObject({ code: 'database-migrations' });
    const half = { name: 'half', statements: ['CREATE TABLE half (id {integer})', 'nonsense'] };
    await expect(opened({ migrations: [...migrations, added, half] })).rejects.toThrow(/nonsense/);
    const database = await opened({ migrations: [...migrations, added] });
    await expect(database.read((tables) => sql`SELECT * FROM half`.execute(tables))).rejects.toThrow(/half/);
  });

  it('commits durably: what is asked for is read back', async () => {
    const database = await opened();
    if (kind === 'sqlite') {
      const { rows } = await database.read((tables) =>
        sql<{ synchronous: bigint }>`PRAGMA synchronous`.execute(tables),
      );
      expect(rows).toEqual([{ synchronous: 2n }]);
      expect(statSync(new URL(url.replace('sqlite:', 'file:'))).mode & 0o777).toBe(0o600);
    } else {
      const { rows } = await database.read((tables) => sql`SHOW synchronous_commit`.execute(tables));
      expect(rows).toEqual([{ synchronous_commit: 'on' }]);
    }
  });
});

describe('a SQLite file', () => {
  const url = `sqlite://${join(directory, 'one.db')}`;

  it('belongs to one process, until that is killed', async () => {
    const database = await openDatabase<Tables>(url, { migrations });
    await expect(openDatabase(url, { migrations })).rejects.toMatchObject({ code: 'database-in-use' });
    await database.close();
    const library = createRequire(new URL('../../packages/sql/package.json', import.meta.url)).resolve(
      'better-sqlite3',
    );
    const program = `const d = new (require(${JSON.stringify(library)}))(${JSON.stringify(join(directory, 'one.db'))});
      d.pragma('locking_mode = EXCLUSIVE'); d.exec('BEGIN EXCLUSIVE; COMMIT'); console.log('open'); setInterval(() => {}, 1000);`;
    const child = spawn(process.execPath, ['-e', program], { stdio: ['ignore', 'pipe', 'inherit'] });
    await once(child.stdout, 'data');
    await expect(openDatabase(url, { migrations })).rejects.toMatchObject({ code: 'database-in-use' });
    child.kill('SIGKILL');
    await once(child, 'exit');
    await (await openDatabase(url, { migrations })).close();
  });

  it('on a full disk is a fault that says so, and what fits is taken afterwards', async () => {
    const database = await openDatabase<Tables>(`sqlite://${join(directory, 'small.db')}`, {
      migrations,
      pagesMax: 16,
    });
    const insert = (sequence: bigint, bytes: number): Promise<unknown> =>
      database.transaction(async (transaction) => {
        await transaction
          .insertInto('record')
          .values({ device: 'a', sequence, bytes: new Uint8Array(bytes) })
          .execute();
      });
    await database.read((tables) => tables.insertInto('head').values({ device: 'a', sequence: 0n }).execute());
    await expect(insert(1n, 200_000)).rejects.toMatchObject({ code: 'database-full', retry: 'later' });
    await insert(2n, 10);
    expect(await database.read((tables) => tables.selectFrom('record').select('sequence').execute())).toEqual([
      { sequence: 2n },
    ]);
    await database.close();
  });
});

describe('a database that cannot be had', () => {
  it('is a fault', async () => {
    await expect(openDatabase('postgres://nobody@127.0.0.1:1/none', { migrations })).rejects.toMatchObject({
      code: 'database-unreachable',
      retry: 'later',
    });
  });
  it.each(['', 'sqlite:relative.db', 'sqlite://host/x.db', 'mysql://x', '/tmp/x.db'])('or a usage error: %j', (url) => {
    expect(() => databaseKind(url)).toThrow(TypeError);
  });
});
