/**
 * A clock for tests, moved by hand. No shipped program imports this file.
 */
import type { Clock } from './clock.ts';

interface Sleeper {
  readonly wakeMs: number;
  readonly wake: () => void;
}

/** Time stands still until `advance` or `set`. */
export class ManualClock implements Clock {
  #nowMs: number;
  readonly #sleepers = new Set<Sleeper>();

  constructor(nowMs: number) {
    this.#nowMs = nowMs;
  }

  nowMs(): number {
    return this.#nowMs;
  }

  /** How many sleep now: lets a test wait until the tested part waits. */
  get sleeping(): number {
    return this.#sleepers.size;
  }

  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    if (ms <= 0 || signal?.aborted === true) return Promise.resolve();
    return new Promise((resolve) => {
      const sleeper: Sleeper = {
        wakeMs: this.#nowMs + ms,
        wake: () => {
          this.#sleepers.delete(sleeper);
          signal?.removeEventListener('abort', sleeper.wake);
          resolve();
        },
      };
      this.#sleepers.add(sleeper);
      signal?.addEventListener('abort', sleeper.wake, { once: true });
    });
  }

  /** Moves time on and wakes whose time has come, in its order. */
  advance(ms: number): void {
    this.#nowMs += ms;
    const due = [...this.#sleepers].filter((sleeper) => sleeper.wakeMs <= this.#nowMs);
    for (const sleeper of due.sort((one, other) => one.wakeMs - other.wakeMs)) sleeper.wake();
  }

  /** Sets the time, also back, as a wrong host clock does. Wakes whose time has come. */
  set(nowMs: number): void {
    this.#nowMs = nowMs;
    this.advance(0);
  }
}
