import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { CUSTOMERS, writeMailing } from './mailing-file.ts';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'cm-mailing-'));
});
afterAll(() => {
  rmSync(folder, { recursive: true });
});

async function mailing(rows: number, series?: string): Promise<string> {
  const path = join(folder, 'mailing.csv');
  await writeMailing(path, rows, series);
  return readFileSync(path, 'utf8');
}

test('a mailing has as many rows as asked, each with its own reference, of every customer', async () => {
  const [header, ...rows] = (await mailing(4_321)).trimEnd().split('\n');
  expect(header).toContain('piece_ref,customer,product');
  expect(rows).toHaveLength(4_321);
  expect(new Set(rows.map((row) => row.split(',')[0])).size).toBe(4_321);
  expect(new Set(rows.map((row) => row.split(',')[1]))).toEqual(new Set(CUSTOMERS));
});

test('the same series gives the same bytes, another one another mailing', async () => {
  const first = await mailing(100);
  expect(await mailing(100)).toBe(first);
  expect(await mailing(100, 'b')).not.toBe(first);
});
