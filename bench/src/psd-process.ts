/**
 * A real PSD process for the benchmark: the built code, a store of its own, provisioned and filled.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import type { HsmConfig } from '@countermark/node-platform/hsm-access';
import { connectRpc, type RpcClient } from '@countermark/node-platform/rpc';
import type { Authentication } from '@countermark/protocol/cose';
import { digestOf } from '@countermark/protocol/digest';
import type { BatchId, JobId } from '@countermark/protocol/id';
import { CHUNK_ENTRY_BYTES, type FrankChunk, PSD } from '@countermark/protocol/interfaces/psd';
import type { Memory } from '@countermark/protocol/messages/batch-statistics';
import { mills } from '@countermark/protocol/money';
import { ask, BENCH_CURRENCY, Provisioning } from './provisioning.ts';

const MAIN = fileURLToPath(new URL('../../packages/psd/dist/program/main.js', import.meta.url));

/** A PSD that is ready to frank. */
export type PsdProcess = {
  readonly client: RpcClient;
  /** Milliseconds from spawning the process to its ready line. */
  readonly startMs: number;
  /** Ends the process and removes its store. */
  stop(): Promise<void>;
};

/** Starts and provisions a PSD with its store in a folder of its own in `folder`, and its keys there or on a token. */
export async function startPsd(
  folder: string,
  authentication: Authentication,
  memory: Memory,
  hsm?: HsmConfig,
): Promise<PsdProcess> {
  const data = mkdtempSync(join(folder, 'psd-'));
  const provisioning = new Provisioning();
  const trustBundle = join(data, 'trust-bundle.json');
  writeFileSync(trustBundle, provisioning.trustBundle);
  const config = {
    data,
    socket: join(data, 'psd.sock'),
    sessionSocket: join(data, 'session.sock'),
    trustBundle,
    authentication,
    memory,
    ...(hsm === undefined ? {} : { hsm }),
  };
  const configFile = join(data, 'psd.json');
  writeFileSync(configFile, JSON.stringify(config));
  const startedAt = performance.now();
  const child: ChildProcess = spawn(process.execPath, [MAIN, 'serve', '--config', configFile], {
    stdio: ['pipe', 'pipe', 'pipe'],
  });
  if (child.stdout === null || child.stderr === null) throw new Error('The process has no pipes.');
  let said = '';
  child.stderr.on('data', (text: Buffer) => {
    said += text.toString();
  });
  const ready = await Promise.race([once(createInterface(child.stdout), 'line'), once(child, 'exit')]);
  if (child.exitCode !== null) throw new Error(`The PSD did not start (${String(ready[0])}): ${said}`);
  const startMs = performance.now() - startedAt;
  const client = await connectRpc(config.socket);
  await provisioning.provision(client, mills(1_000_000_000_000n));
  return {
    client,
    startMs,
    stop: async () => {
      client.close();
      const ended = once(child, 'exit');
      child.stdin?.end();
      await ended;
      rmSync(data, { recursive: true });
    },
  };
}

/** Opens a batch of that many pieces. */
export async function openBenchBatch(client: RpcClient, expectedPieces: number): Promise<BatchId> {
  const batch = `bat_${randomBytes(16).toString('hex')}` as BatchId;
  await ask(client, PSD.openBatch, {
    declaration: {
      batch,
      job: 'bench' as JobId,
      submitter: 'bench',
      preparer: 'bench',
      product: 'first-class-letter',
      entry: 'origin',
      mailingDate: '2026-11-22',
      expectedPieces,
      expectedCells: 8,
      tariff: digestOf(new Uint8Array(32)),
      scheme: 1,
      currency: BENCH_CURRENCY,
    },
  });
  return batch;
}

/** A chunk of pieces in a few rate cells, as a host would ask for it. */
export function benchChunk(batch: BatchId, firstIndex: number, pieces: number): FrankChunk {
  const levels = ['five-digit', 'aadc', 'mixed-aadc'];
  const entries = randomBytes(pieces * CHUNK_ENTRY_BYTES);
  for (let i = 0; i < pieces; i++) {
    entries.writeUInt16BE(i % levels.length, i * CHUNK_ENTRY_BYTES);
    entries.writeUInt32BE(740, i * CHUNK_ENTRY_BYTES + 2);
  }
  return {
    batch,
    firstIndex,
    cells: levels.map((level) => ({
      product: 'first-class-letter',
      shape: 'letter',
      affixed: 'single-piece-metered',
      level,
      entry: 'origin',
      weightStep: 10,
    })),
    pieces: entries,
  };
}
