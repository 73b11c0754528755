/**
 * Time as an input: what asks for it takes a `Clock`, so that a day's hold can be tested in no time.
 *
 * No option or variable of a shipped program sets another clock than the system's; tests enter theirs (manual-clock.ts) through mains
 * of their own.
 */

/** Wall time and waiting. */
export interface Clock {
  /** Milliseconds since 1970-01-01 UTC. May go back: whoever cannot bear that keeps the greatest seen. */
  nowMs(): number;
  /** Resolves after `ms`, or at once when the signal is aborted: ask the signal afterwards. Waits of any length are safe. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
}

/** Longer timers of Node fire at once. */
const TIMER_MS_MAX = 2 ** 31 - 1;

/** The machine's clock. */
export const systemClock: Clock = {
  nowMs: () => Date.now(),
  sleep: async (ms, signal) => {
    let leftMs = ms;
    do {
      const stepMs = Math.min(leftMs, TIMER_MS_MAX);
      leftMs -= stepMs;
      await timer(stepMs, signal);
    } while (leftMs > 0 && signal?.aborted !== true);
  },
};

function timer(ms: number, signal: AbortSignal | undefined): Promise<void> {
  if (signal?.aborted === true) return Promise.resolve();
  return new Promise((resolve) => {
    const done = (): void => {
      clearTimeout(handle);
      signal?.removeEventListener('abort', done);
      resolve();
    };
    const handle = setTimeout(done, ms);
    signal?.addEventListener('abort', done, { once: true });
  });
}
