/**
 * The thread that fuzzes one target: the entry of the instrumented bundle.
 *
 * Before each input it leaves number and bytes in shared memory, so that whoever watches knows what hung or ran out of
 * memory.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parentPort, workerData } from 'node:worker_threads';
import { described, loop } from './loop.ts';
import { TARGETS } from './targets/all.ts';
import { SHARED, type WorkerMessage, type WorkerOrder } from './worker-order.ts';

const order = workerData as WorkerOrder;
const counters = new Int32Array(order.shared, 0, 2);
const current = new Uint8Array(order.shared, SHARED.headerBytes);
const tell = (message: WorkerMessage): void => parentPort?.postMessage(message);

/** Faults that nobody awaited belong to the input in hand. */
for (const event of ['unhandledRejection', 'uncaughtException'] as const) {
  process.on(event, (error: unknown) => {
    const { what, stack } = described(error);
    const input = current.slice(0, Atomics.load(counters, SHARED.length));
    tell({
      kind: 'finding',
      finding: { what: `${event}: ${what}`, stack, input, at: Atomics.load(counters, SHARED.number), again: false },
    });
  });
}

const target = TARGETS.find(({ name }) => name === order.target);
if (target === undefined) throw new Error(`There is no target ${order.target}.`);
const folder = mkdtempSync(join(tmpdir(), 'fuzz-'));
try {
  const opened = await target.open(folder);
  const figures = await loop(target, opened, {
    seed: order.seed,
    inputs: order.inputs,
    saved: order.saved,
    begin: (input, number) => {
      current.set(input.subarray(0, SHARED.bytesMax));
      Atomics.store(counters, SHARED.length, Math.min(input.length, SHARED.bytesMax));
      Atomics.store(counters, SHARED.number, number);
    },
    found: (finding) => {
      tell({ kind: 'finding', finding });
    },
  });
  await opened.close?.();
  tell({ kind: 'done', figures });
} catch (error) {
  tell({ kind: 'broken', reason: described(error).stack });
} finally {
  rmSync(folder, { recursive: true, force: true });
}
