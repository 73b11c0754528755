/**
 * `frank-single`: milliseconds from request to indicium for one piece at a time, over the real PSD's socket; 99th percentile.
 *
 * Each piece is a chunk of its own: signed, in the Merkle tree, and committed with fsync before its indicium comes out.
 */
import type { Authentication } from '@countermark/protocol/cose';
import { PSD } from '@countermark/protocol/interfaces/psd';
import type { Memory } from '@countermark/protocol/messages/batch-statistics';
import { type BenchmarkRun, type Figure, figure, figureOfLimit } from './figure.ts';
import { ask } from './provisioning.ts';
import { benchChunk, openBenchBatch, startPsd } from './psd-process.ts';
import { median, quantile } from './quantile.ts';

const PIECES = { smoke: 200, standard: 5_000, full: 20_000 } as const;

/** Measures. */
export async function benchmark(run: BenchmarkRun): Promise<readonly Figure[]> {
  const { size, folder, limits } = run;
  const main = await singlePieceMs(folder, 'signature', 'host', PIECES[size]);
  const figures = [
    figure('frank-single', quantile(main, 0.99), 'ms (p99)', { atMost: 5 }),
    figure('frank-single:p50', median(main), 'ms'),
    figureOfLimit('frank-single:rate', 1_000 / mean(main), 'pieces/s', limits.commitsPerSecond),
  ];
  if (size === 'smoke') return figures;
  const mac = await singlePieceMs(folder, 'mac', 'psd', PIECES[size]);
  return [...figures, figure('frank-single:mac:psd', quantile(mac, 0.99), 'ms (p99)')];
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** Milliseconds of each piece. */
async function singlePieceMs(
  folder: string,
  authentication: Authentication,
  memory: Memory,
  pieces: number,
): Promise<number[]> {
  const psd = await startPsd(folder, authentication, memory);
  try {
    const warmUp = 100;
    const batch = await openBenchBatch(psd.client, pieces + warmUp);
    const taken: number[] = [];
    for (let i = 0; i < pieces + warmUp; i++) {
      const chunk = benchChunk(batch, i, 1);
      const askedAt = performance.now();
      await ask(psd.client, PSD.frankChunk, chunk);
      if (i >= warmUp) taken.push(performance.now() - askedAt);
    }
    return taken;
  } finally {
    await psd.stop();
  }
}
