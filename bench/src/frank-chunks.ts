/**
 * The figure `frank-chunks`: pieces a second in chunks of 256, signed, durable, with Merkle tree, over the real PSD's socket,
 * against one core's synchronous P-256 signatures a second measured in the same run.
 */
import { randomBytes, sign } from 'node:crypto';
import { generateSigningKey } from '@countermark/node-platform/signing';
import type { Authentication } from '@countermark/protocol/cose';
import { PSD } from '@countermark/protocol/interfaces/psd';
import type { Memory } from '@countermark/protocol/messages/batch-statistics';
import { ask } from './provisioning.ts';
import { benchChunk, openBenchBatch, startPsd } from './psd-process.ts';

const CHUNK = 256;

/** Synchronous P-256 signatures a second on one core: the limit that franking is compared with. */
export function signaturesPerSecond(milliseconds = 1_000): number {
  const { privateKey } = generateSigningKey();
  const input = randomBytes(49);
  const signing = { key: privateKey, dsaEncoding: 'ieee-p1363' } as const;
  for (let i = 0; i < 500; i++) sign('sha256', input, signing);
  const startedAt = performance.now();
  let count = 0;
  while (performance.now() - startedAt < milliseconds) {
    for (let i = 0; i < 100; i++) sign('sha256', input, signing);
    count += 100;
  }
  return (count * 1_000) / (performance.now() - startedAt);
}

/** Pieces franked a second by a real PSD. A chunk is asked for when the answer to the one before has come, as a host must. */
export async function frankedPerSecond(
  authentication: Authentication,
  memory: Memory,
  pieces = 100_000,
): Promise<number> {
  const psd = await startPsd(authentication, memory);
  try {
    const warmUp = 20;
    const chunks = Math.ceil(pieces / CHUNK);
    const batch = await openBenchBatch(psd.client, (chunks + warmUp) * CHUNK);
    let startedAt = 0;
    for (let i = 0; i < chunks + warmUp; i++) {
      if (i === warmUp) startedAt = performance.now();
      await ask(psd.client, PSD.frankChunk, benchChunk(batch, i * CHUNK, CHUNK));
    }
    return (chunks * CHUNK * 1_000) / (performance.now() - startedAt);
  } finally {
    await psd.stop();
  }
}
