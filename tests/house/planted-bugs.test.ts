/**
 * The planted bugs of the simulation (simulation/mutants) can be planted: each text that they replace is in its file exactly once.
 *
 * Guarantees that none has gone stale. That each is caught is `npm run simulate -- --mutants`.
 */
import { expect, test } from 'vitest';
import { filesIn, read } from './source-tree.ts';

interface PlantedBug {
  readonly name: string;
  readonly says: string;
  readonly edits: readonly { readonly file: string; readonly find: string; readonly replace: string }[];
}

const bugs = filesIn('simulation/mutants').filter((path) => path.endsWith('.json'));

test('there are at least twenty, and the canary', () => {
  expect(bugs.length).toBeGreaterThanOrEqual(20);
  expect(bugs).toContain('simulation/mutants/canary.json');
});

test.each(bugs)('%s is not stale', (path) => {
  const { name, says, edits } = JSON.parse(read(path)) as PlantedBug;
  expect(path).toBe(`simulation/mutants/${name}.json`);
  expect(says).toMatch(/\.$/);
  let found = 0;
  for (const { file, find, replace } of edits) {
    expect(read(file).split(find).length - 1, `${file}: ${find}`).toBe(1);
    expect(replace).not.toBe(find);
    found += 1;
  }
  expect(found).toBeGreaterThan(0);
});
