/**
 * The import table (tests/house/import-table.json) is kept, and dependency-cruiser would see it broken.
 *
 * Guarantees: today's tree has no violation; each planted violation, one for each kind of rule, is reported by the rule
 * meant for it, in a tree that is otherwise without fault. Does not cover imports computed at run time.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import table from './import-table.json' with { type: 'json' };
import { root } from './source-tree.ts';

interface Violation {
  readonly from: string;
  readonly rule: { readonly name: string };
}

/** Runs dependency-cruiser as `npm run imports` does. Returns "rule: file" for each violation. */
function violations(checkout: string): string[] {
  const program = join(root, 'node_modules/dependency-cruiser/bin/dependency-cruise.mjs');
  const parameters = ['packages', '--config', join(root, '.dependency-cruiser.cjs'), '--output-type', 'json'];
  const result = JSON.parse(
    execFileSync(process.execPath, [program, ...parameters], {
      cwd: checkout,
      encoding: 'utf8',
      maxBuffer: 64 * 1024 * 1024,
    }),
  ) as { summary: { violations: Violation[] } };
  return result.summary.violations.map((violation) => `${violation.rule.name}: ${violation.from}`);
}

const planted = mkdtempSync(join(tmpdir(), 'countermark-imports-'));
afterAll(() => {
  rmSync(planted, { recursive: true, force: true });
});

function write(path: string, text: string): void {
  const file = join(planted, path);
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, text);
}

/** A tree with every package of the table, each importing all it may, and nothing else. */
function writeCleanTree(): void {
  write('package.json', '{ "name": "planted", "private": true, "workspaces": ["packages/*"] }');
  for (const dependency of ['vitest', ...Object.keys(table.onlyIn)]) {
    write(
      `node_modules/${dependency}/package.json`,
      JSON.stringify({ name: dependency, version: '1.0.0', main: 'dist/main.js' }),
    );
    write(`node_modules/${dependency}/dist/main.js`, 'module.exports = {};');
  }
  mkdirSync(join(planted, 'node_modules/@countermark'));
  for (const [name, imported] of Object.entries(table.packages)) {
    const externals = Object.entries(table.onlyIn).filter(([, places]) => places.includes(name));
    const dependencies = [
      ...imported.map((other) => `@countermark/${other}`),
      ...externals.map(([dependency]) => dependency),
    ];
    write(
      `packages/${name}/package.json`,
      JSON.stringify({
        name: `@countermark/${name}`,
        type: 'module',
        exports: { './*': { source: './src/*.ts', default: './dist/*.js' } },
        dependencies: Object.fromEntries(dependencies.map((dependency) => [dependency, '1.0.0'])),
      }),
    );
    const specifiers = [
      ...imported.map((other) => `@countermark/${other}/noun`),
      ...externals.map(([dependency]) => dependency),
    ];
    write(`packages/${name}/src/noun.ts`, 'export type Noun = string;\n');
    write(`packages/${name}/src/main.ts`, specifiers.map((specifier) => `import '${specifier}';\n`).join(''));
    write(`packages/${name}/src/main.test.ts`, "import 'node:fs';\nimport 'vitest';\nimport './main.ts';\n");
    symlinkSync(`../../packages/${name}`, join(planted, 'node_modules/@countermark', name));
  }
}

/** Each kind of violation: where it is planted, the code, and the rules that must report it. */
const plants: readonly (readonly [path: string, code: string, rules: readonly string[]])[] = [
  ['packages/psd/src/ours.ts', "import '@countermark/host/noun';", ['row-psd']],
  ['packages/host/src/ours.ts', "import '../../psd/src/noun.ts';", ['row-host']],
  [
    'packages/host/src/type-only.ts',
    "import type { Noun } from '../../psd/src/noun.ts';\nexport type N = Noun;",
    ['row-host'],
  ],
  ['packages/cli/src/dynamic.ts', "export const late = () => import('../../server/src/noun.ts');", ['row-cli']],
  ['packages/verify/src/ours.test.ts', "import '../../node-platform/src/noun.ts';", ['row-verify']],
  ['packages/server/src/harness.ts', "import '../../../tests/house/harness.ts';", ['row-server']],
  ['packages/psd/src/framework.ts', "import 'fastify';", ['only-in-fastify', 'psd-never-reaches', 'not-declared']],
  ['packages/cli/src/device.ts', "import 'pkcs11js';", ['only-in-pkcs11js', 'not-declared']],
  ['packages/server/src/store.ts', "import 'better-sqlite3';", ['only-in-better-sqlite3', 'not-declared']],
  ['packages/protocol/src/random.ts', "import 'node:crypto';", ['builtins-protocol']],
  ['packages/verify/src/disk.ts', "import 'fs';", ['builtins-verify']],
  ['packages/tariff/src/disk.ts', "import 'node:fs/promises';", ['builtins-tariff']],
  ['packages/indicia/src/network.ts', "import 'node:net';", ['builtins-indicia']],
  ['packages/psd/src/network.ts', "import 'node:https';", ['psd-no-network']],
  ['packages/psd/src/core/clock.ts', "import 'node:perf_hooks';", ['psd-core-is-pure']],
  ['packages/psd/src/core/shell.ts', "import '../noun.ts';", ['psd-core-is-pure']],
  ['packages/sql/src/first.ts', "import './second.ts';", ['no-circular']],
  // A cycle is reported once, at its first file.
  ['packages/sql/src/second.ts', "import './first.ts';", []],
  ['packages/sql/src/lost.ts', "import './nowhere.ts';", ['not-resolvable']],
  ['packages/sql/src/tested.ts', "import './main.test.ts';", ['no-test-in-source']],
];

describe('the import table', () => {
  test('is kept by the tree', () => {
    expect(violations(root)).toEqual([]);
  });

  test('has no planted violation in a tree where each package imports all it may', () => {
    writeCleanTree();
    expect(violations(planted)).toEqual([]);
  });

  test('is seen broken by each planted violation', () => {
    write('tests/house/harness.ts', 'export {};\n');
    for (const [path, code] of plants) write(path, `${code}\n`);
    const seen = new Set(violations(planted));
    const expected = plants.flatMap(([path, , rules]) => rules.map((rule) => `${rule}: ${path}`));
    expect([...seen].sort()).toEqual(expected.sort());
  });
});
