/**
 * The whole loop once with server and authority on PostgreSQL: nothing changes but `--database`, and the figures are the same.
 */
import type { JobReport } from '@countermark/protocol/interfaces/host';
import { afterAll, expect, test } from 'vitest';
import expected from '../../samples/expected.json' with { type: 'json' };
import { testPostgres } from '../postgres.ts';
import { json, Workshop } from './command.ts';

const workshop = new Workshop();
const postgres = await testPostgres();
afterAll(async () => {
  workshop.stopAll();
  if (typeof postgres !== 'string') await postgres.stop();
});

test.skipIf(typeof postgres === 'string')('on PostgreSQL, then again from it', async () => {
  if (typeof postgres === 'string') return;
  const data = workshop.path('data');
  const up = ['up', '--once', '--json', '--data', data, '--no-pages'];
  const first = await workshop.run(...up, '--database', postgres.url);
  expect(first.code, first.stderr).toBe(0);
  const report = json<JobReport>(first);
  expect(report).toMatchObject({ pieces: expected.pieces, postageMills: expected.postageMills, pending: [] });
  for (const [grants, total] of [
    [report.discounts, expected.discountMills],
    [report.credits, expected.growthCreditMills],
  ] as const) {
    expect(grants.reduce((sum, { amountMills }) => sum + BigInt(amountMills), 0n)).toBe(BigInt(total));
  }
  // The database is written down at the first start: the second finds it by itself.
  const again = await workshop.run(...up);
  expect(again.code, again.stderr).toBe(0);
  expect(json<JobReport>(again)).toEqual({ ...report, resumed: true });
});
