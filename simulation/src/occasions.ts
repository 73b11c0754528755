/**
 * When what goes wrong happens: at random times of its own kind, as long as there are faults at all, and no more often than the run allows.
 *
 * Guarantees: each kind draws from a stream of its own, so that leaving one out does not change the others; all kinds together
 * happen at most `most` times, which makes a failure small.
 */
import type { RandomStream } from './random-stream.ts';
import type { World } from './world.ts';

export type OccasionOptions = {
  /** The kinds that this seed has. */
  readonly chosen: ReadonlySet<string>;
  readonly most: number;
  readonly untilMs: number;
};

export class Occasions {
  readonly #world: World;
  readonly #options: OccasionOptions;
  #happened = 0;
  #ended = false;

  constructor(world: World, options: OccasionOptions) {
    this.#world = world;
    this.#options = options;
  }

  get ended(): boolean {
    return this.#ended;
  }

  /** Whether the seed has this kind. */
  has(kind: string): boolean {
    return this.#options.chosen.has(kind);
  }

  /** Whether one more of the kind may happen; counts it. */
  may(kind: string): boolean {
    if (this.#ended || this.#happened >= this.#options.most) return false;
    this.#happened += 1;
    this.#world.count(`fault: ${kind}`);
    return true;
  }

  /** At random times until the faults end, about once in `meanMs`. */
  nowAndThen(kind: string, meanMs: number, happen: (random: RandomStream) => void): void {
    if (!this.has(kind)) return;
    const random = this.#world.stream(kind);
    const every = meanMs * (0.3 + 1.4 * random.fraction());
    const next = (): void => {
      const delayMs = -Math.log(1 - random.fraction()) * every;
      this.#world.scheduler.after(delayMs, this.#world.people, kind, () => {
        if (this.#ended || this.#world.scheduler.nowMs > this.#options.untilMs) return;
        if (this.may(kind)) happen(random);
        next();
      });
    };
    next();
  }

  later(delayMs: number, happen: () => void): void {
    this.#world.scheduler.after(delayMs, this.#world.people, 'a fault ends', happen);
  }

  end(): void {
    this.#ended = true;
  }
}
