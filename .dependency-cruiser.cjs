// The import table of the design, enforced: the packages are trust boundaries, and neither the compiler nor npm's hoisted
// workspaces keep a forbidden import out. The table itself is data, tests/house/import-table.json; package.json files are
// compared with it by tests/house/dependencies.test.ts, and planted violations by tests/house/import-table.test.ts.
// What this does not see: an import whose specifier is computed at run time.
const table = require('./tests/house/import-table.json');

/** A test may use what the root's devDependencies offer and any built-in, but no package that its own may not import. */
const TESTS = '\\.test\\.ts$';

const names = Object.keys(table.packages);
const escaped = (text) => text.replace(/[.*+?^${}()|[\]\\/]/g, '\\$&');
const installed = (packageNames) => `node_modules/(${packageNames.map(escaped).join('|')})/`;

/** One rule a package: of ours it imports itself and its row of the table, and nothing of tests, bench or other folders. */
const rows = names.map((name) => ({
  name: `row-${name}`,
  comment: `${name} may import ${table.packages[name].join(', ') || 'nothing of ours'} (design, section 1).`,
  severity: 'error',
  from: { path: `^packages/${name}/` },
  to: {
    path: '^(packages|tests|bench|simulation|fuzz)/',
    pathNot: [name, ...table.packages[name]].map((allowed) => `^packages/${allowed}/`),
  },
}));

/** Dependencies that only some packages may load directly: an HTTP framework, a query builder, a token library. */
const places = Object.entries(table.onlyIn).map(([dependency, allowed]) => ({
  name: `only-in-${dependency}`,
  comment: `${dependency} is loaded only by ${allowed.join(', ')}.`,
  severity: 'error',
  from: { path: '^packages/', pathNot: [TESTS, ...allowed.map((name) => `^packages/${name}/`)] },
  to: { path: installed([dependency]) },
}));

/** Neither directly nor through another file: what would slow the start, or widen what the device must trust. */
const reaches = Object.entries(table.neverReaches).map(([name, dependencies]) => ({
  name: `${name}-never-reaches`,
  comment: `${name} loads none of ${dependencies.join(', ')}, not even through another file.`,
  severity: 'error',
  from: { path: `^packages/${name}/src/`, pathNot: TESTS },
  to: { path: installed(dependencies), reachable: true },
}));

/** Packages without disk, network, clock or randomness: no built-in modules but those the table names. */
const builtins = Object.entries(table.builtins).map(([name, allowed]) => ({
  name: `builtins-${name}`,
  comment: `${name} may import of Node only: ${allowed.join(', ') || 'nothing'}.`,
  severity: 'error',
  from: { path: `^packages/${name}/src/`, pathNot: TESTS },
  to: {
    dependencyTypes: ['core'],
    ...(allowed.length > 0 ? { pathNot: `^(node:)?(${allowed.join('|')})$` } : {}),
  },
}));

module.exports = {
  forbidden: [
    ...rows,
    ...places,
    ...reaches,
    ...builtins,
    {
      name: 'psd-no-network',
      comment: 'The PSD speaks over its Unix sockets and through the session it is handed: it opens no connection.',
      severity: 'error',
      from: { path: '^packages/psd/src/', pathNot: TESTS },
      to: { dependencyTypes: ['core'], path: '^(node:)?(http|https|http2|dgram|dns|dns/promises|inspector)$' },
    },
    {
      name: 'psd-core-is-pure',
      comment: 'The core decides from its inputs: no built-in, no platform, no shell.',
      severity: 'error',
      from: { path: '^packages/psd/src/core/', pathNot: TESTS },
      to: { pathNot: ['^packages/psd/src/core/', '^packages/(protocol|verify)/'] },
    },
    {
      name: 'no-circular',
      comment: 'A cycle has no first file to read.',
      severity: 'error',
      from: { path: '^packages/' },
      to: { circular: true, viaOnly: { dependencyTypesNot: ['type-only'] } },
    },
    {
      name: 'not-declared',
      comment: "An import must stand in the importing package's own package.json, at its dependencies.",
      severity: 'error',
      from: { path: '^packages/', pathNot: TESTS },
      to: { dependencyTypes: ['npm-no-pkg', 'npm-dev', 'npm-unknown'] },
    },
    {
      name: 'not-resolvable',
      comment: 'What cannot be resolved cannot be judged. (Programs that start from dist need a build to resolve.)',
      severity: 'error',
      from: { path: '^packages/' },
      to: { couldNotResolve: true, pathNot: '(^|/)dist/' },
    },
    {
      name: 'no-test-in-source',
      comment: 'Sources never import tests.',
      severity: 'error',
      from: { path: '^packages/', pathNot: TESTS },
      to: { path: TESTS },
    },
  ],
  options: {
    doNotFollow: { path: 'node_modules/(?!@countermark/)' },
    exclude: { path: '^(packages/[^/]+|bench|fuzz)/dist/' },
    tsPreCompilationDeps: true,
    combinedDependencies: false,
    preserveSymlinks: false,
    enhancedResolveOptions: {
      exportsFields: ['exports'],
      conditionNames: ['source', 'node', 'import', 'default'],
      mainFields: ['module', 'main', 'types'],
    },
  },
};
