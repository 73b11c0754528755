/**
 * The figure `frank-single`: milliseconds from request to indicium for one piece at a time, over the real PSD's socket.
 */
import type { Authentication } from '@countermark/protocol/cose';
import { PSD } from '@countermark/protocol/interfaces/psd';
import type { Memory } from '@countermark/protocol/messages/batch-statistics';
import { ask } from './provisioning.ts';
import { benchChunk, openBenchBatch, startPsd } from './psd-process.ts';

export type Latency = { readonly p50Ms: number; readonly p99Ms: number; readonly perSecond: number };

/** Latency of single pieces. */
export async function singlePieceLatency(
  authentication: Authentication,
  memory: Memory,
  pieces = 2_000,
): Promise<Latency> {
  const psd = await startPsd(authentication, memory);
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
    const total = taken.reduce((sum, ms) => sum + ms, 0);
    const sorted = taken.sort((a, b) => a - b);
    const at = (share: number): number => sorted[Math.floor(sorted.length * share)] ?? 0;
    return { p50Ms: at(0.5), p99Ms: at(0.99), perSecond: (pieces * 1_000) / total };
  } finally {
    await psd.stop();
  }
}
