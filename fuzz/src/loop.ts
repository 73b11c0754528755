/**
 * The loop: take an input of the corpus, change it, drive it, keep it where it went where none went before.
 *
 * Guarantees: the same seed, bundle and number of inputs give the same inputs (for targets without timers of their own); a
 * finding is minimised by removing and plainer bytes as long as the same thing goes wrong. It does not notice a hang: the
 * watchdog outside does (`run.ts`).
 */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { Coverage } from './coverage.ts';
import { type Material, type Mutation, mutateBytes } from './mutation.ts';
import { Random } from './random.ts';
import type { Opened, Target } from './target.ts';

/** Something went wrong with an input. */
export type Finding = {
  /** `Violation: what must hold`, or the error's name, text and place. */
  readonly what: string;
  readonly stack: string;
  readonly input: Uint8Array;
  /** Number of the input in the run; 0 for a saved one. */
  readonly at: number;
  /** Whether the input alone shows it again in the same process. */
  readonly again: boolean;
};

export type Figures = {
  readonly inputs: number;
  readonly corpus: number;
  readonly branches: number;
  /** Outcome -> how many inputs. */
  readonly outcomes: Readonly<Record<string, number>>;
  readonly rssStartBytes: number;
  readonly rssEndBytes: number;
  /** Live heap and buffers after a collection, early in the run and at its end. */
  readonly heapStartBytes: number;
  readonly heapEndBytes: number;
  readonly elapsedMs: number;
};

export type LoopOptions = {
  readonly seed: string;
  readonly inputs: number;
  /** Inputs that failed before: driven first. */
  readonly saved: readonly Uint8Array[];
  /** Told before each input. */
  readonly begin: (input: Uint8Array, number: number) => void;
  readonly found: (finding: Finding) => void;
};

const CORPUS_MAX = 4_096;
const CORPUS_BYTES = 24 * 1024 * 1024;
/** Different findings after which a run of a target ends. */
const FINDINGS_MAX = 8;
const MINIMISING_RUNS = 2_000;
const TURN = 2_048;
/** After so many parts of the run, what is remembered for good (caches, corpus) has mostly come. */
const WARM_UP = 5;

/** Runs a target that was opened. */
export async function loop(target: Target, opened: Opened, options: LoopOptions): Promise<Figures> {
  const random = new Random(`${target.name} ${options.seed}`);
  const coverage = new Coverage();
  const corpus: Uint8Array[] = [];
  const outcomes: Record<string, number> = {};
  const known = new Set<string>();
  const words = coverage.words(target.words);
  const mutations: readonly Mutation[] = [mutateBytes, ...target.mutations];
  const begun = performance.now();
  let corpusBytes = 0;
  let done = 0;
  let runs = 0;

  const failure = async (input: Uint8Array): Promise<{ what: string; stack: string } | string> => {
    runs += 1;
    options.begin(input, runs);
    try {
      const outcome = opened.run(input);
      return typeof outcome === 'string' ? outcome : await outcome;
    } catch (error) {
      return described(error);
    }
  };
  const drive = async (input: Uint8Array): Promise<void> => {
    coverage.begin();
    const outcome = await failure(input);
    const isNew = coverage.isNew();
    if (typeof outcome !== 'string') {
      outcomes['(failed)'] = (outcomes['(failed)'] ?? 0) + 1;
      if (known.has(outcome.what)) return;
      known.add(outcome.what);
      const at = done;
      const again = await isSame(failure, input, outcome.what);
      const minimal = again ? await minimised(failure, input, outcome.what) : input;
      options.found({ ...outcome, input: minimal, at, again });
      return;
    }
    const isNewOutcome = outcomes[outcome] === undefined;
    outcomes[outcome] = (outcomes[outcome] ?? 0) + 1;
    if ((isNew || isNewOutcome) && corpus.length < CORPUS_MAX && corpusBytes + input.length <= CORPUS_BYTES) {
      corpus.push(input);
      corpusBytes += input.length;
    }
  };
  const pick = (): Uint8Array => {
    if (corpus.length === 0) return new Uint8Array();
    // The newest lead furthest.
    const from = random.once(2) ? Math.max(0, corpus.length - 32) : 0;
    const one = corpus[from + random.below(corpus.length - from)] as Uint8Array;
    // Of two the shorter, mostly: it takes less time and its mutations meet more of what matters.
    const other = corpus[from + random.below(corpus.length - from)] as Uint8Array;
    return other.length < one.length && !random.once(4) ? other : one;
  };
  const material: Material = { random, words, other: pick, maxBytes: target.maxBytes };

  for (const input of options.saved) await drive(input);
  const rssStartBytes = process.memoryUsage.rss();
  let heapStartBytes = 0;
  for (const seed of opened.seeds) {
    done += 1;
    await drive(seed);
    if (corpus.at(-1) !== seed) corpus.push(seed);
  }
  while (done < options.inputs && known.size < FINDINGS_MAX) {
    let input = pick();
    do input = random.pick(mutations)(input, material);
    while (!random.once(3));
    done += 1;
    await drive(input);
    // Faults that nobody awaits come to light only between turns of the event loop.
    if (done % TURN === 0) await new Promise(setImmediate);
    if (done === Math.ceil(options.inputs / WARM_UP)) heapStartBytes = liveBytes();
  }
  const heapEndBytes = liveBytes();
  return {
    inputs: done,
    corpus: corpus.length,
    branches: coverage.branches,
    outcomes,
    rssStartBytes,
    rssEndBytes: process.memoryUsage.rss(),
    heapStartBytes: heapStartBytes === 0 ? heapEndBytes : heapStartBytes,
    heapEndBytes,
    elapsedMs: performance.now() - begun,
  };
}

/** Error, text without its numbers (so that one defect is one finding), and the place in our code. */
export function described(error: unknown): { readonly what: string; readonly stack: string } {
  if (!(error instanceof Error)) return { what: `thrown: ${String(error)}`, stack: '' };
  const stack = error.stack ?? error.message;
  const place = /\n\s+at (?:async )?([\w.#<>]+)/.exec(stack)?.[1] ?? '';
  const text = error.message
    .slice(0, 200)
    .replaceAll(/\bfault [0-9a-f]{12}\b/g, 'fault N')
    .replaceAll(/\d+/g, 'N');
  return { what: error.name === 'Violation' ? `Violation: ${text}` : `${error.name}: ${text} (${place})`, stack };
}

type Failure = (input: Uint8Array) => Promise<{ readonly what: string } | string>;

async function isSame(failure: Failure, input: Uint8Array, what: string): Promise<boolean> {
  const outcome = await failure(input);
  return typeof outcome !== 'string' && outcome.what === what;
}

/** The shortest, plainest input found that fails in the same way. */
async function minimised(failure: Failure, input: Uint8Array, what: string): Promise<Uint8Array> {
  let best = input;
  let left = MINIMISING_RUNS;
  const better = async (candidate: Uint8Array): Promise<boolean> => {
    if (left <= 0) return false;
    left -= 1;
    if (!(await isSame(failure, candidate, what))) return false;
    best = candidate;
    return true;
  };
  for (let size = Math.ceil(best.length / 2); size >= 1; size = size === 1 ? 0 : Math.ceil(size / 2)) {
    for (let at = 0; at < best.length; ) {
      const cut = Uint8Array.from([...best.subarray(0, at), ...best.subarray(at + size)]);
      if (!(await better(cut))) at += size;
    }
  }
  for (let at = 0; at < best.length; at++) {
    if (best[at] === 0 || best[at] === 0x30) continue;
    const plain = Uint8Array.from(best);
    plain[at] = 0x30;
    await better(plain);
  }
  return best;
}

let collect: (() => void) | undefined;

/** What is alive after a collection. */
function liveBytes(): number {
  if (collect === undefined) {
    setFlagsFromString('--expose-gc');
    collect = runInNewContext('gc') as () => void;
  }
  collect();
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
}
