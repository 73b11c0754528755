/**
 * `frank-chunks`: pieces a second in chunks of 256, signed, durable, with Merkle tree, over the real PSD's socket, against one
 * core's synchronous P-256 signatures a second.
 *
 * The first figure is with signatures and memory in the host, which is what `npm start` does; the others follow as variants.
 */
import type { HsmConfig } from '@countermark/node-platform/hsm-access';
import type { Authentication } from '@countermark/protocol/cose';
import { HELD_CHUNKS, PSD } from '@countermark/protocol/interfaces/psd';
import type { Memory } from '@countermark/protocol/messages/batch-statistics';
import { type BenchmarkRun, type Figure, figureOfLimit } from './figure.ts';
import { ask } from './provisioning.ts';
import { benchChunk, openBenchBatch, startPsd } from './psd-process.ts';

const CHUNK = 256;
const PIECES = { smoke: 2_560, standard: 100_000, full: 500_000 } as const;
const VARIANTS: readonly (readonly [Authentication, Memory])[] = [
  ['signature', 'psd'],
  ['mac', 'host'],
  ['mac', 'psd'],
];

/** Measures. */
export async function benchmark(run: BenchmarkRun): Promise<readonly Figure[]> {
  const { size, folder, limits } = run;
  const pieces = PIECES[size];
  const main = await frankedPerSecond(folder, 'signature', 'host', pieces);
  const figures = [figureOfLimit('frank-chunks', main, 'pieces/s', limits.signsPerSecond, { atLeast: 1.2 })];
  if (size === 'smoke') return figures;
  for (const [authentication, memory] of VARIANTS) {
    const name = `frank-chunks:${authentication}:${memory}`;
    const rate = await frankedPerSecond(folder, authentication, memory, pieces);
    figures.push(figureOfLimit(name, rate, 'pieces/s', limits.signsPerSecond));
  }
  return figures;
}

/**
 * Pieces franked a second by a real PSD. As a host may, it asks for the next chunk while the answer to the one before is on its way.
 */
export async function frankedPerSecond(
  folder: string,
  authentication: Authentication,
  memory: Memory,
  pieces: number,
  hsm?: HsmConfig,
): Promise<number> {
  const psd = await startPsd(folder, authentication, memory, hsm);
  try {
    const warmUp = 20;
    const chunks = Math.ceil(pieces / CHUNK);
    const batch = await openBenchBatch(psd.client, (chunks + warmUp) * CHUNK);
    // Made before the clock starts: the device is measured, not who asks it.
    const requests = Array.from({ length: chunks + warmUp }, (_, i) => benchChunk(batch, i * CHUNK, CHUNK));
    let startedAt = 0;
    const asked: Promise<unknown>[] = [];
    for (const [i, request] of requests.entries()) {
      if (i === warmUp) startedAt = performance.now();
      if (asked.length === HELD_CHUNKS) await asked.shift();
      asked.push(ask(psd.client, PSD.frankChunk, request));
    }
    await Promise.all(asked);
    return (chunks * CHUNK * 1_000) / (performance.now() - startedAt);
  } finally {
    await psd.stop();
  }
}
