/**
 * `start`: seconds from the command in a built checkout to the first piece franked, with an empty data folder (device, keys,
 * licensee and funds are made and enrolled on the way) and with an existing one.
 *
 * The command is `node start.mjs --once --json`, the main job. A piece is franked when the PSD has counted it: the PSD is asked
 * for its status every few milliseconds over its local socket from outside, so the figure is late by one such step at most, and
 * rests on nothing that is printed. Each time is the median of three.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { findSocketFolder, installationPaths } from '@countermark/cli/installation-paths';
import { lazyRpc } from '@countermark/node-platform/rpc';
import { PSD } from '@countermark/protocol/interfaces/psd';
import { type BenchmarkRun, type Figure, figure } from './figure.ts';
import { writeMailing } from './mailing-file.ts';
import { ask } from './provisioning.ts';
import { median } from './quantile.ts';
import { ROOT } from './scratch-folder.ts';

const ROWS = 100;
const STEP_MS = 10;
const SLOWEST_MS = 60_000;
const WORDS_MAX = 4_000;

/** Measures. */
export async function benchmark(run: BenchmarkRun): Promise<readonly Figure[]> {
  const times = run.size === 'smoke' ? 1 : 3;
  const first = join(run.folder, 'first.csv');
  const second = join(run.folder, 'second.csv');
  await writeMailing(first, ROWS, 'first');
  await writeMailing(second, ROWS, 'second');
  const empty: number[] = [];
  const existing: number[] = [];
  for (let index = 0; index < times; index += 1) {
    const data = join(run.folder, `data-${index}`);
    empty.push(await secondsToFirstPiece(data, first, 0));
    existing.push(await secondsToFirstPiece(data, second, ROWS));
  }
  const parts = [median(empty), median(existing)] as const;
  return [
    figure('start', Math.max(...parts), 's', { atMost: 3 }),
    figure('start:empty', parts[0], 's', { atMost: 3 }),
    figure('start:existing', parts[1], 's', { atMost: 3 }),
  ];
}

/** Runs the command to its end. `before`: pieces that the device has franked so far. */
async function secondsToFirstPiece(data: string, mailing: string, before: number): Promise<number> {
  const begunMs = performance.now();
  const args = [join(ROOT, 'start.mjs'), '--once', '--json', '--no-pages', '--data', data, '--mailing', mailing];
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'ignore', 'pipe'] });
  let words = '';
  child.stderr.on('data', (bytes: Buffer) => {
    words = (words + bytes.toString()).slice(-WORDS_MAX);
  });
  const ended = once(child, 'close');
  let frankedMs: number | undefined;
  while (frankedMs === undefined && child.exitCode === null && performance.now() - begunMs < SLOWEST_MS) {
    await sleep(STEP_MS);
    if ((await piecesOf(data)) > before) frankedMs = performance.now();
  }
  if (frankedMs === undefined) child.kill('SIGTERM');
  const [code] = (await ended) as [number | null];
  if (frankedMs === undefined || code !== 0) {
    throw new Error(`\`npm start -- --once\` ended with ${code ?? 'a signal'} and said:\n${words}`);
  }
  return (frankedMs - begunMs) / 1_000;
}

/** Pieces that the device of the data folder has counted; 0 while it cannot be asked. */
async function piecesOf(data: string): Promise<number> {
  const sockets = findSocketFolder(data);
  if (sockets === undefined) return 0;
  const { psd } = installationPaths(data, sockets).sockets;
  if (!existsSync(psd)) return 0;
  const rpc = lazyRpc(psd, { timeoutMs: 5_000 });
  try {
    return (await ask(rpc, PSD.status, {})).registers.pieces;
  } catch {
    // Not listening yet, or a socket of the start before.
    return 0;
  } finally {
    rpc.close();
  }
}
