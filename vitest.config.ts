// Two projects: `unit` runs in parallel, from the sources, and starts no party; `process` starts real ones from the built
// programs, three files at a time, once the others are done. Each has up to six processes, which mostly wait: for a disk, for each
// other, for the next attempt of one that was killed. A third file uses what two leave idle on two processors.
import { availableParallelism } from 'node:os';
import { defineConfig } from 'vitest/config';
import { LongestFirst } from './tests/order.ts';

const conditions = ['source', 'node'];
const resolve = { conditions };
const ssr = { resolve: { conditions } };

export default defineConfig({
  test: {
    sequence: { sequencer: LongestFirst },
    projects: [
      {
        resolve,
        ssr,
        test: {
          name: 'unit',
          include: [
            'packages/*/src/**/*.test.ts',
            'bench/src/**/*.test.ts',
            'fuzz/src/**/*.test.ts',
            'simulation/*.test.ts',
            'tests/{house,vectors,contract}/**/*.test.ts',
            'tests/adversary/*.test.ts',
          ],
          testTimeout: 60_000,
          hookTimeout: 60_000,
          // One more than processors: some wait for disks and databases. vitest's own choice leaves one processor of two idle.
          maxWorkers: availableParallelism() + 1,
          // A file's modules are loaded once in a worker, not once for each file: a third of the time went there.
          isolate: false,
          sequence: { groupOrder: 0 },
        },
      },
      {
        resolve,
        ssr,
        test: {
          name: 'process',
          include: ['tests/{ways,loop,bad-input,faults,crash}/**/*.test.ts', 'tests/adversary/processes/*.test.ts'],
          globalSetup: 'tests/build.ts',
          maxWorkers: 3,
          isolate: false,
          testTimeout: 600_000,
          hookTimeout: 600_000,
          sequence: { groupOrder: 1 },
        },
      },
    ],
  },
});
