/**
 * One party's store under examination (`check`): what is wrong, how far it is, and what other parties can be held against it.
 *
 * Guarantees: problems are words for people and bounded in number, the rest is counted; testimony goes to a file line by line
 * and is read line by line, so that memory stays flat however large the stores are. An examination changes no store.
 * Does not know what testimony means: who examines does.
 */
import { appendFileSync, createReadStream } from 'node:fs';
import { createInterface } from 'node:readline';

/** What one party says of itself, for others to compare: flat; amounts as texts of mills, digests in hex. */
export type Testimony = {
  readonly party: string;
  readonly kind: string;
  readonly [field: string]: string | number | boolean | null;
};

/** Problems in words that are kept; beyond, only their number. */
const PROBLEMS_MAX = 200;
const LINES_AT_ONCE = 512;

export type ExaminationOptions = {
  /** Told how far it is; `total` 0: not known. */
  readonly onProgress?: (what: string, done: number, total: number) => void;
  /** A file to which this party's testimony is appended. */
  readonly testimony?: string;
  /** Files with the testimony of others. */
  readonly against?: readonly string[];
};

export class Examination {
  readonly #options: ExaminationOptions;
  readonly #problems: string[] = [];
  #unnamed = 0;
  #lines: string[] = [];

  constructor(options: ExaminationOptions = {}) {
    this.#options = options;
  }

  /** Notes something wrong: what, and where. */
  problem(words: string): void {
    if (this.#problems.length < PROBLEMS_MAX) this.#problems.push(words.replace(/\.$/, ''));
    else this.#unnamed += 1;
  }

  /** What is wrong so far. */
  get problems(): readonly string[] {
    return this.#unnamed === 0 ? this.#problems : [...this.#problems, `and ${this.#unnamed} more problems`];
  }

  progress(what: string, done: number, total = 0): void {
    this.#options.onProgress?.(what, done, total);
  }

  testify(testimony: Testimony): void {
    if (this.#options.testimony === undefined) return;
    this.#lines.push(JSON.stringify(testimony));
    if (this.#lines.length >= LINES_AT_ONCE) this.flush();
  }

  /** Writes out what was testified. */
  flush(): void {
    const { testimony } = this.#options;
    if (testimony === undefined || this.#lines.length === 0) return;
    appendFileSync(testimony, `${this.#lines.join('\n')}\n`, { mode: 0o600 });
    this.#lines = [];
  }

  /** What others testified, in their order; nothing where nobody did. */
  async *others(): AsyncGenerator<Testimony> {
    for (const file of this.#options.against ?? []) {
      for await (const line of createInterface({ input: createReadStream(file, 'utf8') })) {
        if (line !== '') yield JSON.parse(line) as Testimony;
      }
    }
  }
}
