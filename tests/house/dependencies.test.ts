/**
 * What the packages declare is what the import table (tests/house/import-table.json) says, in package.json and in the
 * compiler's project references; versions are exact; the lockfile names no registry and nothing that Node 20.19 lacks.
 *
 * Does not cover what is imported: tests/house/import-table.test.ts.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import table from './import-table.json' with { type: 'json' };
import { filesIn, read, root } from './source-tree.ts';

interface Manifest {
  readonly name: string;
  readonly private?: boolean;
  readonly dependencies?: Readonly<Record<string, string>>;
  readonly devDependencies?: Readonly<Record<string, string>>;
  readonly allowScripts?: Readonly<Record<string, boolean>>;
}

interface Lockfile {
  readonly packages: Readonly<
    Record<
      string,
      {
        readonly optionalDependencies?: Readonly<Record<string, string>>;
        readonly resolved?: string;
        readonly engines?: { readonly node?: string };
        readonly hasInstallScript?: boolean;
      }
    >
  >;
}

const packages = Object.entries(table.packages);
const manifestOf = (folder: string): Manifest => JSON.parse(read(join(folder, 'package.json'))) as Manifest;
const lockfile = JSON.parse(read('package-lock.json')) as Lockfile;

describe('the declared dependencies', () => {
  test('the table has a row for each package, and no other', () => {
    const folders = filesIn('packages').filter((path) => /^packages\/[^/]+\/package\.json$/.test(path));
    expect(folders.map((path) => path.split('/')[1]).sort()).toEqual(packages.map(([name]) => name).sort());
  });

  test.each(packages)(
    '%s declares its row of the table, and of others only what the table grants it',
    (name, imported) => {
      const { dependencies = {}, devDependencies = {} } = manifestOf(`packages/${name}`);
      const [ours, others] = [true, false].map((wanted) =>
        Object.keys(dependencies).filter((dependency) => dependency.startsWith('@countermark/') === wanted),
      );
      expect(ours!.sort()).toEqual(imported.map((other) => `@countermark/${other}`).sort());
      const granted = Object.entries(table.onlyIn).filter(([, places]) => places.includes(name));
      expect(granted.map(([dependency]) => dependency)).toEqual(expect.arrayContaining(others!));
      expect(devDependencies, 'development dependencies stand in the root').toEqual({});
    },
  );

  test.each(packages)('%s is compiled against its row of the table alone', (name, imported) => {
    const { references } = JSON.parse(read(`packages/${name}/tsconfig.json`)) as { references: { path: string }[] };
    expect(references.map(({ path }) => path).sort()).toEqual(imported.map((other) => `../${other}`).sort());
  });

  test.each(['.', 'tests', 'bench', 'fuzz', 'simulation', ...packages.map(([name]) => `packages/${name}`)])(
    '%s pins exact versions',
    (folder) => {
      const { dependencies, devDependencies } = manifestOf(folder);
      const loose = Object.entries({ ...dependencies, ...devDependencies }).filter(
        ([, version]) => !/^\d+\.\d+\.\d+(-[0-9a-z.]+)?$/.test(version),
      );
      expect(loose).toEqual([]);
    },
  );

  test('nothing of ours can be published by accident', () => {
    for (const folder of [
      '.',
      'tests',
      'bench',
      'fuzz',
      'simulation',
      ...packages.map(([name]) => `packages/${name}`),
    ]) {
      expect(manifestOf(folder).private, folder).toBe(true);
    }
  });
});

describe('the lockfile', () => {
  const entries = Object.entries(lockfile.packages);

  test('names no registry: whoever installs asks the registry they trust', () => {
    const addressed = entries.filter(([, { resolved }]) => resolved !== undefined && /^[a-z+]+:/.test(resolved));
    expect(addressed.map(([path]) => path)).toEqual([]);
  });

  test('holds the packages of every platform, so that `npm ci` accepts it on each', () => {
    const holds = (path: string, name: string): boolean => {
      const above = path.lastIndexOf('node_modules/');
      return (
        `${path}/node_modules/${name}`.replace(/^\//, '') in lockfile.packages ||
        (path !== '' && holds(above > 0 ? path.slice(0, above - 1) : '', name))
      );
    };
    const missing = entries.flatMap(([path, { optionalDependencies = {} }]) =>
      Object.keys(optionalDependencies).filter((name) => !holds(path, name)),
    );
    expect(missing).toEqual([]);
  });

  test('holds nothing that asks for more than Node 20', () => {
    // The lowest major version that an engines range names, where it names a lower bound at all.
    const tooNew = entries.filter(([, { engines }]) => {
      const bounds = engines?.node?.split('||').map((range) => Number(/(\d+)/.exec(range)?.[1] ?? 0)) ?? [0];
      return Math.min(...bounds) > 20;
    });
    expect(tooNew.map(([path, { engines }]) => `${path}: ${engines?.node ?? ''}`)).toEqual([]);
  });

  test('has an install script only where package.json allows it to run', () => {
    const allowed = manifestOf('.').allowScripts ?? {};
    const scripted = entries.filter(([, { hasInstallScript }]) => hasInstallScript === true).map(([path]) => path);
    const named = scripted.map((path) => path.slice(path.lastIndexOf('node_modules/') + 'node_modules/'.length));
    expect(named.filter((name) => name !== '' && allowed[name] !== true)).toEqual([]);
  });

  test('is the one npm reads in a fresh clone', () => {
    expect(existsSync(join(root, 'npm-shrinkwrap.json'))).toBe(false);
  });
});
