/**
 * Inputs that failed once, in fuzz/regressions, one file each: driven first in every run, and by every test run.
 */
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import type { Finding } from './loop.ts';
import { ROOT } from './root.ts';

const FOLDER = join(ROOT, 'fuzz', 'regressions');

/** `what`: what went wrong then; `seed` and `at`: the run that found it. The input is base64. */
type Saved = {
  readonly target: string;
  readonly what: string;
  readonly seed: string;
  readonly at: number;
  readonly input: string;
};

/** The saved inputs of a target. */
export function savedInputs(target: string): readonly Uint8Array[] {
  if (!existsSync(FOLDER)) return [];
  return readdirSync(FOLDER)
    .filter((name) => name.endsWith('.json'))
    .sort()
    .map((name) => JSON.parse(readFileSync(join(FOLDER, name), 'utf8')) as Saved)
    .filter((saved) => saved.target === target)
    .map(({ input }) => Uint8Array.from(Buffer.from(input, 'base64')));
}

/** Writes a finding, and returns the file's name within the checkout. */
export function save(target: string, seed: string, finding: Finding): string {
  mkdirSync(FOLDER, { recursive: true });
  const name = createHash('sha256').update(finding.what).digest('hex').slice(0, 8);
  const file = join(FOLDER, `${target}-${name}.json`);
  const input = Buffer.from(finding.input).toString('base64');
  const saved: Saved = { target, what: finding.what, seed, at: finding.at, input };
  writeFileSync(file, `${JSON.stringify(saved, null, 2)}\n`);
  return relative(ROOT, file);
}
