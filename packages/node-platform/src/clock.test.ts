import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Backoff } from './backoff.ts';
import { systemClock } from './clock.ts';
import { ManualClock } from './manual-clock.ts';

describe("the system's clock", () => {
  it('ends a wait of any length when it is told to', async () => {
    const controller = new AbortController();
    const slept = systemClock.sleep(365 * 86_400_000, controller.signal);
    const order: string[] = [];
    void slept.then(() => order.push('woke'));
    await systemClock.sleep(5);
    order.push('aborted');
    controller.abort();
    await slept;
    expect(order).toEqual(['aborted', 'woke']);
    await systemClock.sleep(10_000, controller.signal);
  });
});

describe('the clock of tests', () => {
  it('wakes whom it is time to wake, in order, and nobody else', async () => {
    const clock = new ManualClock(1_000);
    const woken: string[] = [];
    const sleep = async (name: string, ms: number): Promise<void> => {
      await clock.sleep(ms);
      woken.push(name);
    };
    const all = [sleep('b', 20), sleep('a', 10), sleep('c', 30)];
    clock.advance(25);
    await Promise.all(all.slice(0, 2));
    expect(woken).toEqual(['a', 'b']);
    expect(clock.sleeping).toBe(1);
    clock.set(500);
    expect(clock.nowMs()).toBe(500);
    expect(clock.sleeping).toBe(1);
    clock.set(1_030);
    await all[2];
    expect(clock.sleeping).toBe(0);
  });
});

describe('backoff', () => {
  it('stays under a ceiling that doubles up to the greatest, and starts anew after a success', () => {
    const most = new Backoff({ firstMs: 100, mostMs: 1_000, random: () => 0.999_999 });
    expect(Array.from({ length: 6 }, () => most.nextMs())).toEqual([99, 199, 399, 799, 999, 999]);
    most.reset();
    expect(most.nextMs()).toBe(99);
    expect(most.failures).toBe(1);
    fc.assert(
      fc.property(fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }), fc.nat(3_000), (drawn, failures) => {
        const backoff = new Backoff({ firstMs: 100, mostMs: 30_000, random: () => drawn });
        for (let count = 0; count < failures; count += 1) backoff.nextMs();
        const waitMs = backoff.nextMs();
        expect(waitMs >= 0 && waitMs < 30_000 && Number.isInteger(waitMs)).toBe(true);
      }),
    );
  });
});
