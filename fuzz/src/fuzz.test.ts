/**
 * A short run of every target with a fixed seed, with every input that failed once driven first; and that the fuzzer notices what
 * it is there for: a wrong acceptance, a crash, a hang, memory without bound.
 *
 * The long run and its figures: docs/reliability.md.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { bundle } from './bundle.ts';
import { ROOT } from './root.ts';
import { savedInputs } from './regressions.ts';
import { runTarget } from './run.ts';
import { SHARES } from './shares.ts';
import { TARGETS } from './targets/all.ts';

const SEED = '1';
/** Inputs for each part of a target's share. */
const INPUTS = 50;
const LEAST = 25;

describe('Fuzzing, a short run', () => {
  let program = '';
  beforeAll(async () => {
    program = await bundle('test');
  });

  it.each(Object.entries(SHARES))('%s', async (target, share) => {
    const inputs = Math.max(LEAST, Math.round(share * INPUTS));
    const { figures, findings } = await runTarget({
      bundle: program,
      target,
      seed: SEED,
      inputs,
      saved: savedInputs(target),
    });
    expect(findings.map(({ what }) => what)).toEqual([]);
    expect(figures.inputs).toBeGreaterThanOrEqual(inputs);
    expect(figures.branches).toBeGreaterThan(20);
  });

  it('knows a share for each target, and no other', () => {
    expect(TARGETS.map(({ name }) => name)).toEqual(Object.keys(SHARES));
  });

  it('has no saved input without a target', () => {
    const folder = join(ROOT, 'fuzz/regressions');
    const names = existsSync(folder) ? readdirSync(folder) : [];
    const targets = names.map(
      (name) => (JSON.parse(readFileSync(join(folder, name), 'utf8')) as { target: string }).target,
    );
    expect(targets.filter((target) => SHARES[target] === undefined)).toEqual([]);
  });
});
