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
import { PLANTED_BUGS } from './planted-bugs.ts';
import { ROOT } from './root.ts';
import { savedInputs } from './regressions.ts';
import { runTarget } from './run.ts';
import { SHARES } from './shares.ts';

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

  it('gives the same inputs for the same seed', async () => {
    const once = () => runTarget({ bundle: program, target: 'envelope', seed: SEED, inputs: 400, saved: [] });
    const [one, other] = [await once(), await once()];
    expect(other.figures.outcomes).toEqual(one.figures.outcomes);
    expect(other.figures.branches).toBe(one.figures.branches);
  });

  it('finds a planted bug, with the smallest input that shows it', async () => {
    const bug = PLANTED_BUGS.find(({ name }) => name === 'frame-bound-is-off-by-one');
    const planted = await bundle('planted', bug);
    const { findings } = await runTarget({ bundle: planted, target: 'frames', seed: SEED, inputs: 500, saved: [] });
    const [finding] = findings;
    expect(finding).toMatchObject({ again: true });
    // The byte that says how it is cut, and a frame of one byte more than may be.
    expect([...(finding?.input ?? []).slice(1, 5)]).toEqual([0, 0, 1, 45]);
  });

  it('knows a share for each target, and no other', () => {
    // From the text: loading them here would load every package once more.
    const folder = join(ROOT, 'fuzz/src/targets');
    const names = readdirSync(folder).flatMap((file) =>
      [...readFileSync(join(folder, file), 'utf8').matchAll(/^ {2}name: '([a-z-]+)',$/gm)].map(([, name]) => name),
    );
    expect(names.sort()).toEqual(Object.keys(SHARES).sort());
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
