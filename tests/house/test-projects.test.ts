/**
 * Every test file belongs to exactly one vitest project, so that none is written and never run.
 *
 * Guarantees it for the files of this checkout, as vitest itself lists them.
 */
import { execFileSync } from 'node:child_process';
import { join, relative } from 'node:path';
import { expect, test } from 'vitest';
import { filesIn, root } from './source-tree.ts';

test('every test file is run, once', () => {
  const program = join(root, 'node_modules/vitest/vitest.mjs');
  const listed = JSON.parse(
    execFileSync(process.execPath, [program, 'list', '--filesOnly', '--json'], { cwd: root, encoding: 'utf8' }),
  ) as { file: string }[];
  const run = listed.map(({ file }) => relative(root, file).replaceAll('\\', '/'));
  expect(run.sort()).toEqual(
    filesIn('')
      .filter((path) => /\.(test|spec)\.[a-z]+$/.test(path))
      .sort(),
  );
});
