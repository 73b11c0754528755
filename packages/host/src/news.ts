/**
 * News of the host: that something changed for which someone may be waiting.
 *
 * Guarantees: whoever asked before news came is woken by it. Says only that there is news; what it is, the journal says.
 */
import { systemClock } from '@countermark/node-platform/clock';

/** Reasons change without news, too. */
const LOOK_AGAIN_MS = 500;

export class News {
  #waiting: (() => void)[] = [];

  announce(): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const wake of waiting) wake();
  }

  /** Resolves with the next news, at the deadline, or when it is time to look again anyway. */
  async next(deadline: AbortSignal): Promise<void> {
    const enough = new AbortController();
    this.#waiting.push(() => {
      enough.abort();
    });
    await systemClock.sleep(LOOK_AGAIN_MS, AbortSignal.any([deadline, enough.signal]));
  }
}
