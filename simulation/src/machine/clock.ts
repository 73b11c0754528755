/**
 * Stands in for node-platform/clock: the machine's clock is virtual time. Clocks of parties that go wrong are the world's
 * (`skewed-clock.ts`); this one is what waits are measured with.
 */
import type { Clock } from '@countermark/node-platform/clock';
import { machine } from './machine.ts';

export type { Clock };

/** Virtual time, as whoever asks sees it. */
export const systemClock: Clock = {
  nowMs: () => machine().scheduler.nowMs,
  sleep: (ms, signal) => {
    if (signal?.aborted === true) return Promise.resolve();
    const world = machine();
    const { scheduler } = world;
    return new Promise((resolve) => {
      const cancel = scheduler.after(world.waitMs(ms), scheduler.running, 'waited', () => {
        signal?.removeEventListener('abort', woken);
        resolve();
      });
      const woken = (): void => {
        cancel();
        resolve();
      };
      signal?.addEventListener('abort', woken, { once: true });
    });
  },
};
