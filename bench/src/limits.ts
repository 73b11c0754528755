/**
 * What this machine can do at best: the limits that figures are held against, measured in the same run.
 *
 * Guarantees: signatures are those of node:crypto on one core, one after the other (P-256, SHA-256, r || s), of as many bytes as
 * an indicium's input; the disk is the one that the benchmark's stores lie on. A rate is the median of several short slices, so that
 * one disturbance does not move it; a machine that is busy throughout has lower limits, and lower figures with them.
 */
import { generateKeyPairSync, randomBytes, sign, verify } from 'node:crypto';
import { closeSync, fsyncSync, openSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { openEmbeddedStore } from '@countermark/node-platform/embedded-store';
import { median } from './quantile.ts';

/** Rates of one second. */
export type Limits = {
  /** Synchronous P-256 signatures on one core. */
  readonly signsPerSecond: number;
  /** Synchronous P-256 verifications on one core. */
  readonly verifiesPerSecond: number;
  /** 4 KiB appended to a file and fsync. */
  readonly fsyncsPerSecond: number;
  /** One row inserted and committed, SQLite WAL with synchronous=FULL. */
  readonly commitsPerSecond: number;
};

const SLICES = 7;
const INPUT_BYTES = 49;
const BLOCK_BYTES = 4_096;
const ROW_BYTES = 200;

/** Measures all limits; takes `sliceMs` for each of seven slices of each. */
export function measureLimits(folder: string, sliceMs: number): Limits {
  return { ...measureSignatures(sliceMs), ...measureDisk(folder, sliceMs) };
}

/** Signatures alone: measured again at the end of a run, they say how far the machine was busy with something else. */
export function measureSignatures(sliceMs: number): Pick<Limits, 'signsPerSecond' | 'verifiesPerSecond'> {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const signing = { key: privateKey, dsaEncoding: 'ieee-p1363' } as const;
  const verifying = { key: publicKey, dsaEncoding: 'ieee-p1363' } as const;
  const input = randomBytes(INPUT_BYTES);
  const signature = sign('sha256', input, signing);
  return {
    signsPerSecond: rate(sliceMs, 32, () => sign('sha256', input, signing)),
    verifiesPerSecond: rate(sliceMs, 32, () => verify('sha256', input, verifying, signature)),
  };
}

function measureDisk(folder: string, sliceMs: number): Pick<Limits, 'fsyncsPerSecond' | 'commitsPerSecond'> {
  const file = openSync(join(folder, 'fsync'), 'w');
  const block = randomBytes(BLOCK_BYTES);
  const fsyncsPerSecond = rate(sliceMs, 1, () => {
    writeSync(file, block);
    fsyncSync(file);
  });
  closeSync(file);

  const opened = openEmbeddedStore({
    path: join(folder, 'commits.db'),
    applicationId: 0x636d_6265,
    migrations: ['CREATE TABLE entry (number INTEGER PRIMARY KEY, content BLOB NOT NULL) STRICT'],
  });
  if (!opened.ok) throw new Error(`The store of the benchmark cannot be opened: ${opened.rejection.code}`);
  const store = opened.value;
  const insert = store.database.prepare<[Buffer]>('INSERT INTO entry (content) VALUES (?)');
  const row = randomBytes(ROW_BYTES);
  const commitsPerSecond = rate(sliceMs, 1, () => store.transaction(() => insert.run(row)));
  store.close();
  return { fsyncsPerSecond, commitsPerSecond };
}

/** How often `work` can be done in a second: the median of the slices, after one to warm up. */
function rate(sliceMs: number, together: number, work: () => unknown): number {
  const rates: number[] = [];
  for (let slice = 0; slice <= SLICES; slice += 1) {
    const begunMs = performance.now();
    let done = 0;
    let tookMs = 0;
    while (tookMs < sliceMs) {
      for (let index = 0; index < together; index += 1) work();
      done += together;
      tookMs = performance.now() - begunMs;
    }
    if (slice > 0) rates.push((done / tookMs) * 1_000);
  }
  return median(rates);
}
