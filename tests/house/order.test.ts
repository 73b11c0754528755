/** The order of the test files (tests/order.ts) names files that there are: a renamed one would silently lose its place. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { LONGEST } from '../order.ts';
import { root } from './source-tree.ts';

it.each(LONGEST)('%s is there', (name) => {
  expect(existsSync(join(root, name))).toBe(true);
});
