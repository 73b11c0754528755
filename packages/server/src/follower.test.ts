import { ManualClock } from '@countermark/node-platform/manual-clock';
import { openLog } from '@countermark/node-platform/logs';
import { describe, expect, it } from 'vitest';
import { type FollowerOptions, follow } from './follower.ts';

/** Lets everything go on that waits for nothing. */
async function turns(): Promise<void> {
  for (let turn = 0; turn < 20; turn += 1) await new Promise((resolve) => setImmediate(resolve));
}

function options(
  clock: ManualClock,
  step: FollowerOptions['step'],
  changes: Partial<FollowerOptions> = {},
): FollowerOptions {
  return {
    name: 'test',
    step,
    idleMs: 5_000,
    waitingMs: 200,
    giveWay: () => Promise.resolve(),
    clock,
    log: openLog('test', { write: () => undefined }),
    ...changes,
  };
}

describe('A follower', () => {
  it('goes on while there is more, rests when idle, and goes on when it is woken or its rest is over', async () => {
    const clock = new ManualClock(0);
    const outcomes: ('more' | 'idle' | 'waiting')[] = ['more', 'more', 'idle', 'idle', 'waiting', 'idle'];
    let steps = 0;
    const follower = follow(options(clock, () => Promise.resolve(outcomes[steps++] ?? 'idle')));
    await turns();
    expect(steps).toBe(3);
    follower.wake();
    await turns();
    expect(steps).toBe(4);
    clock.advance(5_000);
    await turns();
    expect(steps).toBe(5);
    clock.advance(200);
    await turns();
    expect(steps).toBe(6);
    await follower.stop();
  });

  it('tries again after a failure, after growing waits', async () => {
    const clock = new ManualClock(0);
    let steps = 0;
    const follower = follow(
      options(clock, () => {
        steps += 1;
        return steps <= 3 ? Promise.reject(new Error('away')) : Promise.resolve('idle');
      }),
    );
    await turns();
    for (let wait = 0; wait < 3; wait += 1) {
      clock.advance(30_000);
      await turns();
    }
    expect(steps).toBeGreaterThanOrEqual(4);
    await follower.stop();
  });

  it('gives way to what is more urgent, but not for ever', async () => {
    const clock = new ManualClock(0);
    let steps = 0;
    const step = (): Promise<'idle'> => {
      steps += 1;
      return Promise.resolve('idle');
    };
    const follower = follow(options(clock, step, { giveWay: () => new Promise(() => undefined) }));
    await turns();
    expect(steps).toBe(0);
    clock.advance(250);
    await turns();
    expect(steps).toBe(1);
    await follower.stop();
  });
});
