// Two projects: `unit` runs in parallel and touches no process; `process` runs serially and starts real ones.
import { defineConfig } from 'vitest/config';

const resolve = { conditions: ['source', 'node', 'import', 'module', 'default'] };
const ssr = { resolve: { conditions: ['source', 'node', 'import', 'module', 'default'] } };

export default defineConfig({
  test: {
    projects: [
      {
        resolve,
        ssr,
        test: {
          name: 'unit',
          include: ['packages/*/src/**/*.test.ts', 'tests/{house,vectors,contract}/**/*.test.ts'],
          testTimeout: 60_000,
        },
      },
      {
        resolve,
        ssr,
        test: {
          name: 'process',
          include: ['tests/{ways,loop,bad-input,faults}/**/*.test.ts'],
          fileParallelism: false,
          testTimeout: 600_000,
          hookTimeout: 600_000,
        },
      },
    ],
  },
});
