/**
 * A clock for tests of real processes: the machine's, moved on by what stands in a file.
 *
 * It enters a party only through a main of the tests (tests/host-with-clock.mjs); no shipped program reads such a file.
 */
import { readFileSync } from 'node:fs';
import { systemClock } from '@countermark/node-platform/clock';

const POLL_MS = 25;

/** The machine's clock plus the milliseconds that stand in the file; none while it is not there. */
export function fileClock(file) {
  const nowMs = () => {
    try {
      return Date.now() + Number(readFileSync(file, 'utf8'));
    } catch {
      return Date.now();
    }
  };
  return {
    nowMs,
    sleep: async (ms, signal) => {
      const until = nowMs() + ms;
      while (nowMs() < until && signal?.aborted !== true) await systemClock.sleep(Math.min(POLL_MS, ms), signal);
    },
  };
}
