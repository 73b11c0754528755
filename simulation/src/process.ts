/**
 * A party's process in the world: it has effects until it is killed, and none after.
 *
 * Guarantees: a killed process changes nothing any more, whatever of its code still runs: every effect of it throws or never
 * resolves; a kill can be set for the n-th boundary between effects from now, so that every such boundary is reached by some
 * seed.
 */
import type { Owner } from './scheduler.ts';

/** Thrown by the effects of a process that has ended. */
export class ProcessEnded extends Error {
  constructor(name: string) {
    super(`${name} has ended`);
    this.name = 'ProcessEnded';
  }
}

export class SimulatedProcess implements Owner {
  readonly name: string;
  #alive = true;
  #boundariesLeft: number | undefined;
  readonly #onBoundary: (process: SimulatedProcess, label: string) => void;
  readonly #onEnd: (process: SimulatedProcess, why: string) => void;

  constructor(
    name: string,
    onBoundary: (process: SimulatedProcess, label: string) => void,
    onEnd: (process: SimulatedProcess, why: string) => void,
  ) {
    this.name = name;
    this.#onBoundary = onBoundary;
    this.#onEnd = onEnd;
  }

  get alive(): boolean {
    return this.#alive;
  }

  /** Kills it at the n-th boundary from now. */
  killAtBoundary(n: number): void {
    this.#boundariesLeft = n;
  }

  /** Between two effects. @throws ProcessEnded where it is dead, or dies here. */
  boundary(label: string): void {
    if (!this.#alive) throw new ProcessEnded(this.name);
    this.#onBoundary(this, label);
    if (this.#boundariesLeft !== undefined) {
      this.#boundariesLeft -= 1;
      if (this.#boundariesLeft < 0) {
        this.end(`killed at ${label}`);
        throw new ProcessEnded(this.name);
      }
    }
  }

  /** Ends it, at once and without a word to its code. */
  end(why: string): void {
    if (!this.#alive) return;
    this.#alive = false;
    this.#onEnd(this, why);
  }
}
