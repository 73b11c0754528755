/**
 * Which branches an input went through, and how often: what makes an input worth keeping.
 *
 * The counters are in the instrumented bundle (`bundle.ts`); counts are compared by powers of two, so that a loop that runs
 * once more is nothing new and one that runs twice as long is.
 */
/** What the bundle's first lines put into the global object. */
type Counters = {
  readonly counts: Uint32Array;
  /** The first `length()` entries are the counters that were hit since the last reset. */
  readonly touched: Uint32Array;
  length(): number;
  reset(): void;
  readonly words: Readonly<Record<string, readonly string[]>>;
};

declare global {
  var countermarkCoverage: Counters | undefined;
}

export class Coverage {
  readonly #counters: Counters;
  readonly #seen: Uint8Array;
  /** Branches that were ever taken. */
  branches = 0;

  constructor() {
    const counters = globalThis.countermarkCoverage;
    if (counters === undefined) throw new Error('This runs only in the instrumented bundle.');
    this.#counters = counters;
    this.#seen = new Uint8Array(counters.counts.length);
  }

  begin(): void {
    this.#counters.reset();
  }

  /** Whether the input did what none did before; remembers it. */
  isNew(): boolean {
    const { counts, touched } = this.#counters;
    let found = false;
    for (let i = 0; i < this.#counters.length(); i++) {
      const counter = touched[i] as number;
      const bit = 1 << Math.min(7, 31 - Math.clz32(counts[counter] as number));
      const before = this.#seen[counter] as number;
      if ((before & bit) !== 0) continue;
      if (before === 0) this.branches += 1;
      this.#seen[counter] = before | bit;
      found = true;
    }
    return found;
  }

  /** Texts and numbers that the sources of these packages mention. */
  words(packages: readonly string[]): readonly string[] {
    return [
      ...new Set(
        Object.entries(this.#counters.words).flatMap(([name, words]) => (packages.includes(name) ? words : [])),
      ),
    ];
  }
}
