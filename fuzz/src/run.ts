/**
 * Runs targets, each in a thread of its own, and watches them.
 *
 * Guarantees: an input that takes longer than the hang limit, or more memory than the thread is given, ends the thread, is a
 * finding with its bytes, and the target goes on with another stream; what is alive at the end of a run may not have grown
 * by more than the growth limit since its first fifth.
 * Time serves to notice hangs and to report speed, and decides nothing else.
 */
import { Worker } from 'node:worker_threads';
import type { Figures, Finding } from './loop.ts';
import { SHARED, type WorkerMessage, type WorkerOrder } from './worker-order.ts';

export type TargetRun = { readonly target: string; readonly figures: Figures; readonly findings: readonly Finding[] };

export type RunOptions = {
  readonly bundle: string;
  readonly target: string;
  readonly seed: string;
  readonly inputs: number;
  readonly saved: readonly Uint8Array[];
  /** Told now and then how many inputs this target has had. */
  readonly progress?: (inputs: number) => void;
  /** Ends the thread at the first finding. */
  readonly untilFound?: boolean;
  /** After how long for one input it hangs. */
  readonly hangMs?: number;
};

/** No input of at most a mebibyte may take so long, on the slowest machine that is busy with something else. */
const HANG_MS = 30_000;
const LOOK_MS = 250;
const HEAP_MB = 1_024;
const GROWTH_BYTES = 64 * 1024 * 1024;
const RESTARTS_MAX = 3;

type Ending = { readonly figures?: Figures; readonly finding?: Finding; readonly inputs: number };

/** Runs one target to its number of inputs. */
export async function runTarget(options: RunOptions): Promise<TargetRun> {
  const findings: Finding[] = [];
  const parts: Figures[] = [];
  let left = options.inputs;
  for (let restart = 0; restart <= RESTARTS_MAX && left > 0; restart++) {
    const seed = restart === 0 ? options.seed : `${options.seed}+${restart}`;
    const before = options.inputs - left;
    const ending = await runThread({ ...options, seed, inputs: left }, findings, before);
    left -= Math.max(1, ending.inputs);
    if (ending.figures !== undefined) parts.push(ending.figures);
    if (ending.finding !== undefined) findings.push(ending.finding);
    if (ending.figures !== undefined || (options.untilFound === true && findings.length > 0)) break;
  }
  const figures = parts[0] ?? emptyFigures(options.inputs - left);
  const grown = figures.heapEndBytes - figures.heapStartBytes;
  if (grown > GROWTH_BYTES) {
    const what = `memory: ${Math.round(grown / 2 ** 20)} MiB more are alive at the end than after a fifth of the inputs`;
    findings.push({ what, stack: '', input: new Uint8Array(), at: figures.inputs, again: false });
  }
  return { target: options.target, figures, findings };
}

function emptyFigures(inputs: number): Figures {
  const none = { corpus: 0, branches: 0, outcomes: {}, rssStartBytes: 0, rssEndBytes: 0, elapsedMs: 0 };
  return { inputs, ...none, heapStartBytes: 0, heapEndBytes: 0 };
}

function runThread(options: RunOptions, findings: Finding[], before: number): Promise<Ending> {
  const shared = new SharedArrayBuffer(SHARED.headerBytes + SHARED.bytesMax);
  const counters = new Int32Array(shared, 0, 2);
  const { target, seed, inputs, saved, hangMs = HANG_MS } = options;
  const order: WorkerOrder = { target, seed, inputs, saved, shared };
  const thread = new Worker(options.bundle, { workerData: order, resourceLimits: { maxOldGenerationSizeMb: HEAP_MB } });
  const number = (): number => Atomics.load(counters, SHARED.number);
  const inHand = (what: string, stack: string): Finding => ({
    what,
    stack,
    input: new Uint8Array(shared, SHARED.headerBytes, Atomics.load(counters, SHARED.length)).slice(),
    at: number(),
    again: false,
  });
  return new Promise((resolve, reject) => {
    let last = -1;
    let sinceMs = performance.now();
    const end = (ending: Omit<Ending, 'inputs'>): void => {
      clearInterval(watch);
      void thread.terminate().then(() => {
        resolve({ ...ending, inputs: number() });
      });
    };
    const watch = setInterval(() => {
      const now = number();
      options.progress?.(Math.min(options.inputs, now) + before);
      if (now !== last) {
        last = now;
        sinceMs = performance.now();
      } else if (performance.now() - sinceMs > hangMs) {
        end({ finding: inHand(`hang: more than ${hangMs / 1_000} s for one input`, '') });
      }
    }, LOOK_MS);
    thread.on('message', (message: WorkerMessage) => {
      if (message.kind === 'done') {
        end({ figures: message.figures });
        return;
      }
      if (message.kind === 'broken') {
        clearInterval(watch);
        void thread.terminate();
        reject(new Error(`The target ${target} cannot be prepared: ${message.reason}`));
        return;
      }
      findings.push(message.finding);
      if (options.untilFound === true) end({});
    });
    thread.on('error', (error) => {
      const { code } = error as { code?: unknown };
      const what =
        code === 'ERR_WORKER_OUT_OF_MEMORY'
          ? `memory: one input took over ${HEAP_MB} MiB`
          : `the thread ended: ${error.message}`;
      end({ finding: inHand(what, error.stack ?? '') });
    });
  });
}
