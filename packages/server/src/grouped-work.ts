/**
 * Group commit: what is asked while one unit of work is running is done together in the next.
 *
 * Guarantees: every item is worked on once, in the order in which it was asked; whoever asked gets exactly its own outcomes;
 * when a unit fails, all who had items in it hear of it. Bounded in each unit, not in all: callers are.
 */

type Waiting<Item, Outcome> = {
  readonly items: readonly Item[];
  readonly resolve: (outcomes: readonly Outcome[]) => void;
  readonly reject: (error: unknown) => void;
};

export class GroupedWork<Item, Outcome> {
  readonly #work: (items: readonly Item[]) => Promise<readonly Outcome[]>;
  readonly #most: number;
  #waiting: Waiting<Item, Outcome>[] = [];
  #running = false;

  /** `most`: items in one unit; a single request with more is a unit of its own. */
  constructor(work: (items: readonly Item[]) => Promise<readonly Outcome[]>, most: number) {
    this.#work = work;
    this.#most = most;
  }

  /** Does the items in a unit of work, perhaps with others; one outcome each, in order. */
  async run(items: readonly Item[]): Promise<readonly Outcome[]> {
    if (items.length === 0) return [];
    return new Promise((resolve, reject) => {
      this.#waiting.push({ items, resolve, reject });
      if (!this.#running) void this.#drain();
    });
  }

  async #drain(): Promise<void> {
    this.#running = true;
    while (this.#waiting.length > 0) {
      const group = this.#next();
      try {
        const outcomes = await this.#work(group.flatMap((waiting) => waiting.items));
        let first = 0;
        for (const waiting of group) {
          waiting.resolve(outcomes.slice(first, first + waiting.items.length));
          first += waiting.items.length;
        }
      } catch (error) {
        for (const waiting of group) waiting.reject(error);
      }
    }
    this.#running = false;
  }

  #next(): Waiting<Item, Outcome>[] {
    let count = 0;
    let taken = 0;
    for (const waiting of this.#waiting) {
      if (taken > 0 && count + waiting.items.length > this.#most) break;
      count += waiting.items.length;
      taken += 1;
    }
    return this.#waiting.splice(0, taken);
  }
}
