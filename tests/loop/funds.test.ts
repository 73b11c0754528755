/**
 * Funds in a running installation: what is said before a mailing begins, refills that the host asks for by itself, the report.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { DryRunAnswer, HostStatusAnswer, JobReport } from '@countermark/protocol/interfaces/host';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Ended, json, type Running, sampleOf, Workshop } from './command.ts';

const workshop = new Workshop();
const data = workshop.path('data');
const small = workshop.mailing('small.csv', sampleOf('alder-press').slice(0, 60));
const large = workshop.mailing('large.csv', sampleOf('birch-mutual').slice(0, 120));
let up: Running;

beforeAll(async () => {
  const settings = { customers: 'many', deposit: '85.00', refill: '20.00', refillBelow: '15.00', refillTo: '40.00' };
  mkdirSync(data);
  writeFileSync(
    join(data, 'countermark.toml'),
    Object.entries(settings)
      .map(([name, value]) => `${name} = "${value}"\n`)
      .join(''),
  );
  up = workshop.start('up', '--data', data, '--no-mailing');
  await up.says(/is up/);
});
afterAll(async () => {
  up.child.kill('SIGTERM');
  const { code, stderr } = await up.ended;
  workshop.stopAll();
  expect(code, stderr).toBe(0);
});

const run = (...args: string[]): Promise<Ended> => workshop.run(...args, '--data', data);

test('A mailing that costs more than the device has is warned of before it begins, and refilled by itself while it is franked', async () => {
  const dry = await run('batch', 'frank', small, '--dry-run', '--json');
  const { fundsAfterMills, warnings } = json<DryRunAnswer>(dry);
  expect(BigInt(fundsAfterMills)).toBeLessThan(0n);
  expect(warnings.join()).toMatch(/are missing\. The host asks for refills by itself/);
  const franked = await run('batch', 'frank', small, '--json');
  expect(franked.code, franked.stderr).toBe(0);
  expect(json<JobReport>(franked).pieces).toBe(60);
  const warned = franked.stderr.indexOf('Warning: The mailing needs');
  expect(warned).toBeGreaterThanOrEqual(0);
  expect(warned).toBeLessThan(franked.stderr.indexOf('Franking: '));
});

test('What is not granted is said once, and franking goes on until the funds are used up', async () => {
  const franked = await run('batch', 'frank', large, '--json');
  expect(franked.code).toBe(4);
  expect(json<JobReport>(franked).pieces).toBeGreaterThan(0);
  expect(franked.stderr).toMatch(/The deposit holds USD \d+\.\d+: USD \d+\.\d+ more must be paid in/);
  expect(franked.stderr.match(/An automatic refill was not granted \(insufficient-deposit/g)).toHaveLength(1);
  const status = json<HostStatusAnswer>(await run('status', '--json'));
  expect(status.host.automaticRefill).toMatchObject({ belowMills: '15000', toMills: '40000' });
  expect(status.host.automaticRefill?.refused?.reason).toMatch(/^insufficient-deposit/);
  expect((await run('status')).stdout).toMatch(/^Funds +USD .* by itself, which was refused .*insufficient-deposit/m);
});

test('The report has the registers with their check, the deposit, and a receipt for each refill and each refusal', async () => {
  const shown = await run('funds', 'report');
  expect(shown.code, shown.stderr).toBe(0);
  expect(shown.stdout).toMatch(
    /^Control Sum +USD 79\.480, as it should be: received USD 79\.480 less returned USD 0\.000/m,
  );
  expect(shown.stdout).toMatch(/^ +1 +\d{4}-\d\d-\d\d .* 20\.000 +20\.000 +0\.000 +granted$/m);
  expect(shown.stdout).toMatch(/ 0\.000 +0\.000 +0\.000 +refused: insufficient-deposit/);
  expect(shown.stdout).not.toContain('Missing');
  const report = json<{ controlSumRight: boolean; receipts: { taken: boolean }[] }>(
    await run('funds', 'report', '--json'),
  );
  expect(report.controlSumRight).toBe(true);
  expect(report.receipts.every(({ taken }) => taken)).toBe(true);
});
