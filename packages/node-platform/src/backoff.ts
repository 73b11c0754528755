/**
 * Exponential backoff with full jitter: waits are drawn evenly between nothing and a ceiling that doubles (AWS Architecture Blog,
 * "Exponential Backoff And Jitter"), so that many clients of one server do not come back together.
 *
 * Randomness is an input. Does not wait itself, and knows no greatest number of attempts.
 */

/** The ceiling of the first wait, and the greatest ceiling, in milliseconds. */
export interface BackoffOptions {
  readonly firstMs: number;
  readonly mostMs: number;
  /** Evenly distributed in [0, 1). */
  readonly random: () => number;
}

/** One series of attempts. */
export class Backoff {
  readonly #options: BackoffOptions;
  #failures = 0;

  constructor(options: BackoffOptions) {
    this.#options = options;
  }

  /** Failures since the last success. */
  get failures(): number {
    return this.#failures;
  }

  /** Counts a failure and returns how long to wait before the next attempt, in whole milliseconds. */
  nextMs(): number {
    const { firstMs, mostMs, random } = this.#options;
    const ceilingMs = Math.min(mostMs, firstMs * 2 ** Math.min(this.#failures, 52));
    this.#failures += 1;
    return Math.floor(random() * ceilingMs);
  }

  /** Starts anew after a success. */
  reset(): void {
    this.#failures = 0;
  }
}
