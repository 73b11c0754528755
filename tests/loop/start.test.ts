/**
 * The main job as a user starts it: `npm start -- --once --json --data DIR` on the sample mailing, again, and with a second
 * mailing; the figures are those that were reckoned independently (samples/expected.py).
 */
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { isAbsolute, join } from 'node:path';
import type { JobReport } from '@countermark/protocol/interfaces/host';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import expected from '../../samples/expected.json' with { type: 'json' };
import { type Ended, json, sampleOf, Workshop } from './command.ts';

const workshop = new Workshop();
afterAll(() => workshop.stopAll());
const data = workshop.path('data');

let ended: Ended;
let report: JobReport;

beforeAll(async () => {
  ended = await workshop.npmStart('--once', '--json', '--data', data);
  report = json<JobReport>(ended);
});

const sumOf = (amounts: readonly { amountMills: string }[]): bigint =>
  amounts.reduce((sum, { amountMills }) => sum + BigInt(amountMills), 0n);

describe('the sample mailing', () => {
  test('is franked, confirmed and rewarded: exit 0, one JSON object', () => {
    expect(ended.code, ended.stderr).toBe(0);
    expect(report).toMatchObject({
      schema: 1,
      currency: 'USD',
      exponent: 3,
      resumed: false,
      pieces: expected.pieces,
      postageMills: expected.postageMills,
      pending: [],
      rejectedRows: 0,
    });
    expect(report.batches.map(({ state, deletedFromPsd }) => `${state} ${deletedFromPsd}`)).toEqual(
      report.batches.map(() => 'confirmed true'),
    );
  });

  test('has the pieces and postage of each customer, by rate cell', () => {
    for (const customer of expected.customers) {
      const batches = report.batches.filter((batch) => batch.customer === customer.customer);
      expect(batches.reduce((sum, { pieces }) => sum + pieces, 0)).toBe(customer.pieces);
      const key = (cell: {
        product: string;
        level: string;
        weightStep: number;
        pieces: number;
        postageMills: string;
      }) => [cell.product, cell.level, cell.weightStep, cell.pieces, cell.postageMills].join(' ');
      expect(batches.flatMap(({ cells }) => cells.map(key)).sort()).toEqual(customer.cells.map(key).sort());
    }
  });

  test('earns each customer its discount, and one its growth credit, with reasons and evidence', () => {
    const digests = new Set(report.batches.map(({ digest }) => digest));
    for (const customer of expected.customers) {
      const own = <T extends { customer: string | null }>(grants: readonly T[]) =>
        grants.filter((grant) => grant.customer === customer.customer);
      expect(sumOf(own(report.discounts)), `discount of ${customer.customer}`).toBe(BigInt(customer.discountMills));
      expect(sumOf(own(report.credits)), `credit of ${customer.customer}`).toBe(BigInt(customer.growthCreditMills));
    }
    for (const grant of [...report.discounts, ...report.credits]) {
      expect(grant.reasons.join(' ')).not.toBe('');
      expect(grant.evidence.every((digest) => digests.has(digest))).toBe(true);
    }
  });

  test('leaves the registers balanced', () => {
    const { ascendingMills, descendingMills, controlTotalMills, pieces } = report.registers;
    expect(ascendingMills).toBe(expected.postageMills);
    expect(BigInt(ascendingMills) + BigInt(descendingMills)).toBe(BigInt(controlTotalMills));
    expect(pieces).toBe(expected.pieces);
  });

  test('says at the start that every key is unsafe', () => {
    for (const line of ['UNSAFE_SERVER_KEYS', 'UNSAFE_PSD_KEYS', 'UNSAFE_AUTHORITY_KEYS']) {
      expect(ended.stderr).toContain(line);
    }
  });

  test('leaves pages, a merge file and records that anyone can verify', async () => {
    const { indicia, merge, records } = report.files;
    for (const file of [indicia, merge, records]) {
      expect(isAbsolute(file ?? '')).toBe(true);
      expect(existsSync(file ?? '')).toBe(true);
    }
    expect(
      readFileSync(indicia ?? '')
        .subarray(0, 5)
        .toString(),
    ).toBe('%PDF-');
    expect(
      readFileSync(merge ?? '', 'utf8')
        .trimEnd()
        .split('\n'),
    ).toHaveLength(expected.pieces + 1);
    const files = readdirSync(records).map((name) => join(records, name));
    const verified = await workshop.run('verify', ...files, '--json', '--data', '/nowhere');
    expect(verified.code, verified.stdout).toBe(0);
    const { results } = json<{ results: { type: string; outcome: string; digest: string }[] }>(verified);
    const types = (type: string): number => results.filter((result) => result.type === type).length;
    expect(types('batch-statistics')).toBe(report.batches.length);
    expect(types('confirmation')).toBe(report.batches.length);
    expect(types('attestation')).toBe(report.batches.length);
    expect(types('discount-grant')).toBe(report.discounts.length);
    expect(types('credit-grant')).toBe(report.credits.length);
  });
});

const tools = ['python3', 'openssl'].filter(
  (tool) => spawnSync(tool, [tool === 'openssl' ? 'version' : '--version']).status !== 0,
);

describe.skipIf(tools.length > 0)(
  `a stranger's verifier${tools.length > 0 ? ` (missing: ${tools.join(', ')})` : ''}`,
  () => {
    const verifier = join(import.meta.dirname, '..', 'vectors', 'stranger.py');
    const judge = (files: readonly string[]): { file: string; verified: boolean }[] =>
      spawnSync('python3', [verifier, data, ...files], { encoding: 'utf8' })
        .stdout.trim()
        .split('\n')
        .map((line) => JSON.parse(line) as { file: string; verified: boolean });
    const cose = (): string[] =>
      readdirSync(report.files.records)
        .filter((name) => name.endsWith('.cose'))
        .map((name) => join(report.files.records, name));

    test('finds every record, confirmation, attestation, grant and certificate authentic', () => {
      const files = cose();
      expect(judge(files)).toEqual(files.map((file) => expect.objectContaining({ file, verified: true }) as unknown));
    });

    test('refuses each of them with one bit altered', () => {
      const certificate = join(report.files.records, 'device-certificate.cose');
      for (const [i, file] of cose().entries()) {
        const bytes = readFileSync(file);
        const at = bytes.length - 1 - ((i * 37) % Math.min(bytes.length, 300));
        bytes[at] = (bytes[at] ?? 0) ^ (1 << (i % 8));
        const altered = workshop.path(`altered-${i}.cose`);
        writeFileSync(altered, bytes);
        const judged = judge(file === certificate ? [altered] : [certificate, altered]);
        expect(
          judged.find((judgement) => judgement.file === altered),
          file,
        ).toMatchObject({ verified: false });
      }
    });
  },
);

test('a rerun franks nothing and says the same', async () => {
  const again = await workshop.run('up', '--once', '--json', '--data', data);
  expect(again.code, again.stderr).toBe(0);
  const repeated = json<JobReport>(again);
  expect(repeated).toEqual({ ...report, resumed: true });
});

test("a second mailing shows its customer's credit drawn, and no other's", async () => {
  const rows = sampleOf('alder-press').map((row) => row.replace('alder-', 'second-'));
  const second = await workshop.run(
    ...['up', '--once', '--json', '--data', data, '--mailing', workshop.mailing('second.csv', rows)],
  );
  expect(second.code, second.stderr).toBe(0);
  const { draws, pieces, registers, pending } = json<JobReport>(second);
  expect(pending).toEqual([]);
  expect(pieces).toBe(rows.length);
  const credit = expected.customers.find(({ customer }) => customer === 'alder-press')?.growthCreditMills ?? '0';
  expect(draws).toEqual([{ customer: 'alder-press', amountMills: credit }]);
  expect(registers.pieces).toBe(expected.pieces + rows.length);
});

test('one mailer: a file without customers, in a folder of its own', async () => {
  const header = 'piece_ref,product,level,weight_oz,name,address,city,state,zip';
  const rows = sampleOf('cedar-clinic').map((row) => row.replace(',cedar-clinic,', ','));
  const file = workshop.mailing('own.csv', rows, header);
  const own = await workshop.run('up', '--once', '--json', '--data', workshop.path('own'), '--mailing', file);
  expect(own.code, own.stderr).toBe(0);
  const { batches, discounts } = json<JobReport>(own);
  expect([...new Set(batches.map(({ customer }) => customer))]).toEqual([null]);
  expect(discounts.every(({ customer }) => customer === null)).toBe(true);
  expect(sumOf(discounts)).toBeGreaterThan(0n);
});
