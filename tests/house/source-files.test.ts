/**
 * Style rules (STYLE.md) that a program can check: names, opening comments, forbidden shortcuts.
 *
 * Guarantees they hold in every file that people wrote here. Does not judge whether a comment is true or a name good.
 */
import { describe, expect, test } from 'vitest';
import { filesIn, read } from './source-tree.ts';

const CODE = /\.(ts|mts|mjs|cjs|js|tsx)$/;
const all = filesIn('');
const code = all.filter((path) => CODE.test(path));
const sources = code.filter(
  (path) => /^(packages|bench|simulation|fuzz)\/.*\.ts$/.test(path) && !path.endsWith('.test.ts'),
);

/** Names that a tool prescribes. */
const PRESCRIBED = new Set(['.dependency-cruiser.cjs']);

const FORBIDDEN_NOUNS = ['util', 'utils', 'common', 'helper', 'helpers', 'base', 'manager', 'managers'];

/** Files whose decisions must follow from their inputs alone. */
const isPure = (path: string): boolean =>
  /^packages\/(protocol|verify|tariff)\/src\/|^packages\/psd\/src\/core\//.test(path);

function offendersIn(paths: readonly string[], pattern: RegExp): string[] {
  return paths.flatMap((path) =>
    read(path)
      .split('\n')
      .flatMap((line, index) => (pattern.test(line) ? [`${path}:${index + 1}: ${line.trim()}`] : [])),
  );
}

describe('file names', () => {
  test('are kebab-case', () => {
    const name = /^[a-z0-9]+(-[a-z0-9]+)*(\.(test|config|bench))?\.[a-z]+$/;
    expect(code.filter((path) => !PRESCRIBED.has(path) && !name.test(path.split('/').at(-1)!))).toEqual([]);
  });

  test('are nouns that say what is inside: none of the names for anything', () => {
    const offenders = code.filter((path) => {
      const words = path.split('/').at(-1)!.split('.')[0]!.split('-');
      return words.join('-') === 'index' || FORBIDDEN_NOUNS.some((noun) => words.includes(noun));
    });
    expect(offenders).toEqual([]);
  });

  test('of folders as well', () => {
    const folders = new Set(code.flatMap((path) => path.split('/').slice(0, -1)));
    expect([...folders].filter((folder) => FORBIDDEN_NOUNS.includes(folder))).toEqual([]);
  });
});

describe('source files', () => {
  test('open with a comment that says purpose, guarantees and limits', () => {
    // A test beside its subject (x.test.ts, x.ts) has its subject's.
    const hasSubject = (path: string): boolean =>
      code.includes(path.replace(/\.test\.ts$/, '.ts')) && path.endsWith('.test.ts');
    const headless = code.filter((path) => {
      if (hasSubject(path)) return false;
      const text = read(path).replace(/^#!.*\n/, '');
      const opening = /^(\/\*\*?[\s\S]*?\*\/|(\/\/.*\n)+)/.exec(text)?.[0] ?? '';
      return opening.replaceAll(/[/*\s]/g, '').length < 40;
    });
    expect(headless).toEqual([]);
  });

  test('take clock and randomness as inputs, where decisions are made', () => {
    const pure = sources.filter(isPure);
    expect(pure.length).toBeGreaterThan(0);
    expect(
      offendersIn(
        pure,
        /\bDate\.now\(|\bnew Date\(\)|\bMath\.random\(|\bperformance\.now\(|\brandom(Bytes|UUID|Int)\(|getRandomValues\(/,
      ),
    ).toEqual([]);
  });

  test('sleep nowhere in tests: an event is awaited instead', () => {
    const tests = code.filter((path) => path.endsWith('.test.ts'));
    expect(offendersIn(tests, /\bawait (sleep|delay)\(|timers\/promises/)).toEqual([]);
  });

  test('hide no failure: none swallowed, no test left out or alone', () => {
    const scripts = all.filter((path) => CODE.test(path) || /\.(sh|json)$/.test(path) || path.startsWith('.ci/'));
    expect(
      offendersIn(
        scripts.filter((path) => path !== 'package-lock.json'),
        /\|\|\s*true\b/,
      ),
    ).toEqual([]);
    const tests = code.filter((path) => path.endsWith('.test.ts'));
    expect(offendersIn(tests, /\b(test|it|describe)\.(only|skip|todo)\(/)).toEqual([]);
  });

  test('silence neither compiler nor linter without a reason', () => {
    expect(offendersIn(code, /@ts-(ignore|nocheck)/)).toEqual([]);
    expect(offendersIn(code, /eslint-(disable)(?!.* -- )|@ts-(expect-error)\s*$/)).toEqual([]);
  });

  test('name no path of one machine', () => {
    const written = all.filter((path) => /\.(ts|mjs|cjs|json|md|toml|csv)$/.test(path) && path !== 'package-lock.json');
    expect(offendersIn(written, /(^|[^.\w])\/(work|root)\/|\/home\/(?=[a-z])/)).toEqual([]);
  });
});
