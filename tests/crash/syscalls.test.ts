/**
 * The short run of the failing system calls: of each operation the first write, the last, and the syncing of it, each with a
 * fault. The long one: npm run crash -- syscalls.
 */
import { afterAll, describe, expect, it } from 'vitest';
import { failCalls, OPERATIONS } from './syscalls.ts';
import { type Injection, tracingProblem } from './traced-calls.ts';

const problem = await tracingProblem();

afterAll(() => {
  if (problem !== null) console.warn(`Skipped: system calls cannot be traced here (${problem}).`);
});

describe('A file system call that fails', () => {
  it.skipIf(problem !== null)('is followed by a clean state, or an end that says why', async () => {
    const report = await failCalls({ sample: few, say: () => undefined });
    expect(report.violations).toEqual([]);
    for (const operation of OPERATIONS) {
      const cases = report.cases.filter((one) => one.operation === operation);
      expect(cases.length).toBeGreaterThanOrEqual(2);
      expect(cases.map(({ ending }) => ending)).toContain('ended');
      for (const { fault, ending, words } of cases) {
        // A follower of the log goes on by itself after a full disk.
        expect(['unnoticed', 'refused', 'ended']).toContain(ending);
        if (fault !== 'SIGKILL' && ending !== 'unnoticed') expect(words).toMatch(/disk|write/);
      }
    }
  });
});

/** The first write by SIGKILL, a middle one by ENOSPC, the last sync by EIO. */
function few(all: readonly Injection[]): readonly Injection[] {
  const writes = all.filter(({ call }) => call.startsWith('pwrite'));
  const syncs = all.filter(({ call }) => /^f(data)?sync$/.test(call));
  const middle = writes.filter(({ fault }) => fault === 'ENOSPC');
  return [
    writes.find(({ fault }) => fault === 'SIGKILL'),
    middle[middle.length >> 1],
    syncs.findLast(({ fault }) => fault === 'EIO'),
  ].filter((one) => one !== undefined);
}
