// What the linter asks: typescript-eslint's strict, type-checked rules for all TypeScript, and the house's own.
// Formatting is biome's; imports between packages are dependency-cruiser's; unused exports are knip's; file names and
// headers are tests/house. Sources are read through tests/tsconfig.json (condition `source`), so no build is needed.
import js from '@eslint/js';
import { defineConfig } from 'eslint/config';
import tseslint from 'typescript-eslint';

const pure = [
  'packages/protocol/src/**',
  'packages/verify/src/**',
  'packages/tariff/src/**',
  'packages/psd/src/core/**',
];
const tests = ['**/*.test.ts', 'tests/**/*.ts'];

/** No clock, no randomness: what a pure package decides must follow from its inputs alone. */
const impure = [
  { object: 'Date', property: 'now', message: 'Time is an input here: take it as a parameter.' },
  { object: 'Math', property: 'random', message: 'Randomness is an input here: take it as a parameter.' },
  { object: 'performance', property: 'now', message: 'Time is an input here: take it as a parameter.' },
  { object: 'AbortSignal', property: 'timeout', message: 'Time is an input here: take it as a parameter.' },
  { object: 'crypto', property: 'getRandomValues', message: 'Randomness is an input here: take it as a parameter.' },
  { object: 'crypto', property: 'randomUUID', message: 'Randomness is an input here: take it as a parameter.' },
];

export default defineConfig(
  { ignores: ['**/dist/', '**/node_modules/', 'coverage/', 'countermark-data/', '.setup/'] },
  { linterOptions: { reportUnusedDisableDirectives: 'error' } },
  {
    files: ['**/*.mjs', '**/*.cjs'],
    ...js.configs.recommended,
    languageOptions: {
      globals: {
        process: 'readonly',
        console: 'readonly',
        URL: 'readonly',
        Buffer: 'readonly',
        require: 'readonly',
        module: 'writable',
        __dirname: 'readonly',
        setTimeout: 'readonly',
        setInterval: 'readonly',
        clearInterval: 'readonly',
      },
    },
  },
  {
    files: ['**/*.ts'],
    extends: [js.configs.recommended, tseslint.configs.strictTypeChecked],
    languageOptions: { parserOptions: { project: ['tests/tsconfig.json'], tsconfigRootDir: import.meta.dirname } },
    rules: {
      // `== null` asks for null and undefined at once.
      eqeqeq: ['error', 'always', { null: 'ignore' }],
      'no-console': 'error',
      'no-restricted-syntax': [
        'error',
        { selector: 'ExportAllDeclaration', message: 'No barrels: import from the file that says it.' },
        {
          selector:
            ":matches(NewExpression[callee.name='TLSSocket'], NewExpression[callee.property.name='TLSSocket']) > ObjectExpression > Property[key.name='isServer']",
          message:
            'A bare server TLSSocket lets an untrusted client certificate in: use tls.createServer (docs/decisions).',
        },
      ],
      '@typescript-eslint/consistent-type-imports': 'error',
      '@typescript-eslint/switch-exhaustiveness-check': ['error', { considerDefaultExhaustiveForUnions: true }],
      // Numbers and bigints in templates print as one expects; objects are still refused.
      '@typescript-eslint/restrict-template-expressions': ['error', { allowNumber: true }],
      // `() => void work()` is the way to say that a result is dropped on purpose.
      '@typescript-eslint/no-confusing-void-expression': [
        'error',
        { ignoreArrowShorthand: true, ignoreVoidOperator: true },
      ],
      // An underscore says that the argument is there for its place only.
      '@typescript-eslint/no-unused-vars': [
        'error',
        { argsIgnorePattern: '^_', varsIgnorePattern: '^_', caughtErrorsIgnorePattern: '^_' },
      ],
      // `while (true)` and `for (;;)` are loops that end from within.
      '@typescript-eslint/no-unnecessary-condition': ['error', { allowConstantLoopConditions: true }],
      // Indexing is checked by noUncheckedIndexedAccess; `!` after a proven bound needs an assertion with words instead.
      '@typescript-eslint/no-non-null-assertion': 'error',
      // An async method that implements a port may have nothing to await.
      '@typescript-eslint/require-await': 'off',
    },
  },
  {
    files: pure,
    ignores: ['**/*.test.ts'],
    rules: {
      'no-restricted-properties': ['error', ...impure],
      'no-restricted-globals': [
        'error',
        { name: 'process', message: 'This package knows no process.' },
        { name: 'fetch', message: 'This package knows no network.' },
        { name: 'setTimeout', message: 'This package knows no clock.' },
        { name: 'setInterval', message: 'This package knows no clock.' },
        { name: 'setImmediate', message: 'This package knows no clock.' },
      ],
    },
  },
  {
    files: ['packages/protocol/src/**', 'packages/verify/src/**', 'packages/tariff/src/**'],
    ignores: ['**/*.test.ts'],
    rules: {
      'no-restricted-globals': [
        'error',
        ...['process', 'Buffer', 'fetch', 'setTimeout', 'setInterval', 'setImmediate'].map((name) => ({
          name,
          message: 'This package also runs in a browser, with no clock and no network.',
        })),
      ],
    },
  },
  {
    files: tests,
    rules: {
      // A test that fails here fails loudly, with the line.
      '@typescript-eslint/no-non-null-assertion': 'off',
      '@typescript-eslint/no-unsafe-assignment': 'off',
      '@typescript-eslint/no-unsafe-member-access': 'off',
      '@typescript-eslint/no-unsafe-argument': 'off',
      // `describe` and `test` return promises that the runner awaits.
      '@typescript-eslint/no-floating-promises': 'error',
      'no-console': 'off',
    },
  },
  { files: ['bench/**/*.ts'], rules: { 'no-console': 'off' } },
);
