/**
 * SECURITY.md names attacks with the tests that show what stops them: each test is there, by file and by words.
 *
 * Guarantees: every row of the table names at least one test, and every test that the document quotes stands in its file and is no
 * skipped one. Does not judge whether the test shows what the row says.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { read, root } from './source-tree.ts';

const FILE = 'SECURITY.md';
const LEAST_ATTACKS = 28;

/** `path.test.ts` "words of the test". */
const QUOTED = /`([\w./-]+\.test\.ts)`\s+"([^"|\n]+)"/g;

function rows(): string[] {
  const document = read(FILE);
  const table = document.slice(document.indexOf('| attack | what stops it | shown by |'));
  const lines = table.slice(0, table.indexOf('\n\n')).split('\n').slice(2);
  // Rows with nothing but a name are headings: who attacks.
  return lines.filter((line) => !/^\| \*\*[^|]*\| *\| *\|$/.test(line));
}

test('every attack names a test', () => {
  const attacks = rows();
  expect(attacks.length).toBeGreaterThanOrEqual(LEAST_ATTACKS);
  expect(attacks.filter((row) => [...row.matchAll(QUOTED)].length === 0)).toEqual([]);
});

test('every test that is named is there', () => {
  const missing = [...read(FILE).matchAll(QUOTED)]
    .filter(([, path, words]) => !existsSync(join(root, path!)) || !isTest(read(path!), words!))
    .map(([, path, words]) => `${path!} "${words!}"`);
  expect(missing).toEqual([]);
});

test('what is not stopped is said', () => {
  const document = read(FILE);
  const unstopped = document.slice(document.indexOf('## What is not stopped'));
  expect(unstopped).toContain('cost <= n x min(D + G, U)');
});

/** Whether the words are those of a test or of a group of them, which runs. */
function isTest(source: string, words: string): boolean {
  const at = ["'", '"', '`'].map((quote) => source.indexOf(`${quote}${words}${quote}`)).find((place) => place >= 0);
  if (at === undefined) return false;
  // The call that the words are given to, whatever conditions or tables stand in between; but not one that leaves the test out.
  const call = /(?:\b(?:it|test|describe)((?:\.\w+)*)|\))\(\s*$/.exec(source.slice(0, at).slice(-200));
  return call !== null && !/\.(?:skip|todo)$/.test(call[1] ?? '');
}
