/**
 * The short run of the simulation: the failures that were kept, some seeds, and whether the harness notices anything at all.
 *
 * Guarantees: every replay under simulation/regressions is run and must hold; two runs of a seed are the same run; the canary, a checker that
 * always fails, fails. Thousands of seeds and the planted bugs are `npm run simulate` (docs/simulation.md).
 */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

type Replay = { readonly seed: string };
type Outcome = {
  readonly violation: { readonly checker: string; readonly what: string } | null;
  readonly hash: string;
  readonly events: number;
  readonly batches: number;
};
type Child = { run(replay: Replay): Promise<Outcome>; end(): void };
type Edit = { readonly file: string; readonly find: string; readonly replace: string };

const here = dirname(fileURLToPath(import.meta.url));
const [build, child] = ['./build.mjs', './child.mjs'];
const { bundle } = (await import(build)) as {
  bundle: (entry: string, outfile: string, options?: { readonly mutants: readonly Edit[] }) => Promise<void>;
};
const { Child: ChildProcess } = (await import(child)) as { Child: new (file: string) => Child };

const SEEDS = ['1', '2', '3', '5'];

/** Beside the sources: what is external to a bundle is found from where it lies. */
mkdirSync(join(here, 'dist'), { recursive: true });
const folder = mkdtempSync(join(here, 'dist', 'test-'));
let world: Child;

beforeAll(async () => {
  const file = join(folder, 'world.mjs');
  await bundle('main.ts', file);
  world = new ChildProcess(file);
});

afterAll(() => {
  world.end();
  rmSync(folder, { recursive: true, force: true });
});

describe('The simulated world', () => {
  it.each(SEEDS)('holds for seed %s', async (seed) => {
    const { violation, events, batches } = await world.run({ seed });
    expect(violation).toBeNull();
    expect(batches).toBeGreaterThanOrEqual(50);
    expect(events).toBeGreaterThanOrEqual(1_000);
  });

  it('is the same world each time it is run', async () => {
    const [first, again] = [await world.run({ seed: '4' }), await world.run({ seed: '4' })];
    expect(again.hash).toBe(first.hash);
  });

  const regressions = join(here, 'regressions');
  const kept = existsSync(regressions) ? readdirSync(regressions).filter((name) => name.endsWith('.json')) : [];
  it.each(kept)('holds for what failed once: %s', async (name) => {
    const replay = JSON.parse(readFileSync(join(regressions, name), 'utf8')) as Replay;
    expect((await world.run(replay)).violation).toBeNull();
  });

  it('notices the canary', async () => {
    const { edits } = JSON.parse(readFileSync(join(here, 'mutants', 'canary.json'), 'utf8')) as { edits: Edit[] };
    const file = join(folder, 'canary.mjs');
    await bundle('main.ts', file, { mutants: edits.map((edit) => ({ name: 'canary', ...edit })) });
    const canary = new ChildProcess(file);
    expect((await canary.run({ seed: '1' })).violation).not.toBeNull();
    canary.end();
  });
});
