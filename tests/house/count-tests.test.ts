/** .ci/count-tests.mjs counts a run that failed as failed, whatever its report says. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { root } from './source-tree.ts';

const folder = mkdtempSync(join(tmpdir(), 'countermark-count-'));
afterAll(() => {
  rmSync(folder, { recursive: true, force: true });
});

function counted(testResults: unknown[] | undefined, exitCode: number): string {
  const report = join(folder, 'report.json');
  rmSync(report, { force: true });
  if (testResults !== undefined) writeFileSync(report, JSON.stringify({ testResults }));
  const program = join(root, '.ci/count-tests.mjs');
  return spawnSync(process.execPath, [program, report, String(exitCode)], { encoding: 'utf8' }).stdout;
}

const file = (status: string, ...outcomes: string[]): unknown => ({
  name: 'x.test.ts',
  status,
  message: '',
  assertionResults: outcomes.map((outcome) => ({ status: outcome, fullName: 'a test' })),
});

test('passed, failed and skipped tests', () => {
  expect(counted([file('passed', 'passed', 'pending', 'passed'), file('failed', 'failed', 'passed')], 1)).toBe(
    '3 1 1\n',
  );
  expect(counted([file('passed', 'passed')], 0)).toBe('1 0 0\n');
});

test('a file that could not be loaded is a failure', () => {
  expect(counted([file('passed', 'passed'), file('failed')], 1)).toBe('1 1 0\n');
});

test('so are an error outside any test, a run without tests and a missing report', () => {
  expect(counted([file('passed', 'passed')], 1)).toBe('1 1 0\n');
  expect(counted([], 0)).toBe('0 1 0\n');
  expect(counted(undefined, 0)).toBe('0 1 0\n');
});
