/**
 * Stands in for the platform's `AbortController` and `AbortSignal` under the parties: the same, but that timeouts pass in virtual
 * time, where the platform's own would fire by the machine's clock and make two runs of a seed differ.
 *
 * What is here is what the parties use: abort, aborted, any, timeout, and listeners for `abort`, which run at once.
 */
import { machine } from './machine.ts';

type Listener = () => void;

class Signal {
  aborted = false;
  #listeners: Set<Listener> | undefined;

  static any(signals: readonly Signal[]): Signal {
    const either = new Signal();
    const abort = (): void => {
      for (const signal of signals) signal.removeEventListener('abort', abort);
      either.abort();
    };
    if (signals.some(({ aborted }) => aborted)) either.aborted = true;
    else for (const signal of signals) signal.addEventListener('abort', abort);
    return either;
  }

  static timeout(ms: number): Signal {
    const signal = new Signal();
    const { scheduler } = machine();
    scheduler.after(ms, scheduler.running, 'a time limit', () => {
      signal.abort();
    });
    return signal;
  }

  addEventListener(_event: 'abort', listener: Listener): void {
    this.#listeners ??= new Set();
    this.#listeners.add(listener);
  }

  removeEventListener(_event: 'abort', listener: Listener): void {
    this.#listeners?.delete(listener);
  }

  abort(): void {
    if (this.aborted) return;
    this.aborted = true;
    const listeners = [...(this.#listeners ?? [])];
    this.#listeners = undefined;
    for (const listener of listeners) listener();
  }
}

class Controller {
  readonly signal = new Signal();

  abort(): void {
    this.signal.abort();
  }
}

export { Controller as AbortController, Signal as AbortSignal };
