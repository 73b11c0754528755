/**
 * docs/claims.md has a row for each claim, 1 to 24, and the files and tests it names exist.
 *
 * Guarantees: each row names at least one code file and one test file; each is there; a test named in words after its file
 * (`x.test.ts` "words of the test") stands in that file. Does not judge whether they implement the claim.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { read, root } from './source-tree.ts';

const FILE = 'docs/claims.md';
const LAST_CLAIM = 24;

interface ClaimRow {
  readonly claim: string;
  readonly text: string;
  readonly files: readonly string[];
}

/** Rows of the tables whose first cell is a claim: `1`, `1a`, `C1a`, or several: `14, 15` and `13a-f`. */
function claimRows(document: string): ClaimRow[] {
  return document.split('\n').flatMap((line) => {
    const first = /^\|\s*([^|]*?)\s*\|/.exec(line)?.[1];
    if (first === undefined || !/^(\*\*)?C?\d+/.test(first)) return [];
    const files = [...line.matchAll(/`([\w./-]+\/[\w.-]+\.(?:ts|mjs|py|json))`/g)].map(([, path]) => path!);
    return [{ claim: first, text: line, files }];
  });
}

/** The numbers that a first cell names: `C2` is 2, `14, 15` are both, `13a-f` is 13. */
function numbersIn(claim: string): number[] {
  return [...claim.matchAll(/\d+/g)].map(([digits]) => Number(digits));
}

describe.skipIf(!existsSync(join(root, FILE)))(FILE, () => {
  const rows = existsSync(join(root, FILE)) ? claimRows(read(FILE)) : [];
  const isTest = (path: string): boolean => /\.test\.ts$|_test\.py$|^tests\//.test(path);

  test('has a row for each claim', () => {
    const named = new Set(rows.flatMap(({ claim }) => numbersIn(claim)));
    const missing = Array.from({ length: LAST_CLAIM }, (_, index) => index + 1).filter((number) => !named.has(number));
    expect(missing).toEqual([]);
  });

  test('has a row for each part of claim 1', () => {
    const parts = ['1a', '1b', '1c', '1d', '1e', '1f'];
    const text = rows.map(({ claim }) => claim).join(' ');
    expect(parts.filter((part) => !new RegExp(`\\bC?${part}\\b`).test(text))).toEqual([]);
  });

  test('names code and test in each row', () => {
    const incomplete = rows.filter(({ files }) => !files.some(isTest) || !files.some((path) => !isTest(path)));
    expect(incomplete.map(({ claim }) => claim)).toEqual([]);
  });

  test('names only files that are there', () => {
    const missing = rows.flatMap(({ claim, files }) =>
      files.filter((path) => !existsSync(join(root, path))).map((path) => `${claim}: ${path}`),
    );
    expect(missing).toEqual([]);
  });

  test('names only tests that stand in the file named before them', () => {
    const missing = rows.flatMap(({ claim, text }) =>
      [...text.matchAll(/`([\w./-]+\.test\.ts)`\s+[“"]([^”"|]+)[”"]/g)]
        .filter(([, path, words]) => !existsSync(join(root, path!)) || !read(path!).includes(words!))
        .map(([, path, words]) => `${claim}: ${path!} "${words!}"`),
    );
    expect(missing).toEqual([]);
  });
});
