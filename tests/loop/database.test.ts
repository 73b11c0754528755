/**
 * The whole loop with server and authority on PostgreSQL: `--database postgres://...` at the first start, and nothing else
 * differs. Skipped, visibly, where no PostgreSQL can be had.
 */
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import type { JobReport } from '@countermark/protocol/interfaces/host';
import pg from 'pg';
import { afterAll, describe, expect, it } from 'vitest';
import { expectSampleResult } from '../accounting.ts';
import { testPostgres } from '../postgres.ts';
import { json, Workshop } from './command.ts';

const postgres = await testPostgres();
const workshop = new Workshop();
const data = workshop.path('data');

afterAll(async () => {
  workshop.stopAll();
  if (typeof postgres !== 'string') await postgres.stop();
});

describe.skipIf(typeof postgres === 'string')('The loop on PostgreSQL', () => {
  const url = typeof postgres === 'string' ? '' : postgres.url;

  it('franks the sample, confirms it, and earns the same grants', async () => {
    const ended = await workshop.run('up', '--once', '--json', '--no-pages', '--data', data, '--database', url);
    expect(ended.code, ended.stderr).toBe(0);
    const report = json<JobReport>(ended);
    expect(report).toMatchObject({ resumed: false, pending: [] });
    expect(report.batches.map(({ state, deletedFromPsd }) => [state, deletedFromPsd])).toEqual(
      report.batches.map(() => ['confirmed', true]),
    );
    expectSampleResult(report);
    const { ascendingMills, descendingMills, controlTotalMills } = report.registers;
    expect(BigInt(ascendingMills) + BigInt(descendingMills)).toBe(BigInt(controlTotalMills));
  });

  it('keeps records and grants there, each party in its own schema, and none in the data folder', async () => {
    const client = new pg.Client({ connectionString: url });
    await client.connect();
    const count = async (table: string): Promise<number> =>
      Number((await client.query<{ n: string }>(`SELECT count(*) AS n FROM ${table}`)).rows[0]?.n);
    try {
      const { rows } = await client.query<{ schema: string }>(
        `SELECT DISTINCT table_schema AS schema FROM information_schema.tables WHERE table_schema LIKE 'countermark%' ORDER BY 1`,
      );
      expect(rows.map(({ schema }) => schema)).toEqual(['countermark_authority', 'countermark_server']);
      expect(await count('countermark_server.record')).toBe(4);
      expect(await count('countermark_authority.record')).toBe(4);
    } finally {
      await client.end();
    }
    for (const party of ['server', 'authority']) {
      const folder = join(data, party);
      const files = existsSync(folder) ? readdirSync(folder) : [];
      expect(files.filter((name) => /\.(sqlite|db)$/.test(name))).toEqual([]);
    }
  });

  it('is checked from its first record, and damage in a row is named', async () => {
    const checked = await workshop.run('check', data, '--json');
    expect(checked.code, checked.stdout).toBe(0);
    expect(json<{ checked: { party: string }[] }>(checked).checked).toHaveLength(5);
    const client = new pg.Client({ connectionString: url });
    await client.connect();
    const move = (mills: number): Promise<unknown> =>
      client.query(
        `UPDATE countermark_server.entry_line SET amount_mills = amount_mills + ${mills} WHERE account LIKE 'postage:%' AND entry =
           (SELECT max(number) FROM countermark_server.entry WHERE kind = 'postage')`,
      );
    try {
      await move(5);
      const damaged = await workshop.run('check', data);
      expect(damaged.code).toBe(6);
      expect(damaged.stdout).toMatch(/ledger entry \d+ does not sum to zero/);
    } finally {
      await move(-5);
      await client.end();
    }
  });

  it('goes on from there at the next start, and franks nothing twice', async () => {
    const ended = await workshop.run('up', '--once', '--json', '--no-pages', '--data', data);
    expect(ended.code, ended.stderr).toBe(0);
    const report = json<JobReport>(ended);
    expect(report.resumed).toBe(true);
    expectSampleResult(report);
  });
});
