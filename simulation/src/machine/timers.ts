/**
 * Stands in for the timers of the platform under the parties, those that are global and those of `node:timers/promises`: virtual
 * time. Giving way to others for a turn is done at once: there are no others within an event.
 */
import { machine } from './machine.ts';

type Timer = { readonly cancel: () => void; unref(): Timer; ref(): Timer; refresh(): Timer };

function startTimer(run: (...values: unknown[]) => void, delayMs = 0, ...values: unknown[]): Timer {
  const { scheduler } = machine();
  const cancel = scheduler.after(delayMs, scheduler.running, 'timer', () => {
    run(...values);
  });
  const timer: Timer = { cancel, unref: () => timer, ref: () => timer, refresh: () => timer };
  return timer;
}

function cancelTimer(timer: Timer | undefined): void {
  timer?.cancel();
}

export { startTimer as setTimeout, cancelTimer as clearTimeout };

/** Called with a function as the global one is, or without as that of `node:timers/promises`. */
export function setImmediate(run?: (...values: unknown[]) => void, ...values: unknown[]): Promise<void> {
  if (typeof run === 'function') {
    queueMicrotask(() => {
      run(...values);
    });
  }
  return Promise.resolve();
}

/** What `Date.now` is in the parties' code. */
export function dateNow(): number {
  return machine().scheduler.nowMs;
}

/** What `Math.random` is in the parties' code. */
export function mathRandom(): number {
  return machine().jitter.fraction();
}
