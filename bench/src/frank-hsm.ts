/**
 * `frank-hsm`: the same as `frank-chunks` by a PSD with its keys on a token (SoftHSM2): each piece signed there, its mark raised with each chunk;
 * against the token's own rate, by as many sessions in a direct loop. Variants: with MACs, where only the mark is the token's work; and the mark
 * alone, one after the other.
 */
import { NONCE_BYTES, type DeviceMark } from '@countermark/psd/shell/device-mark';
import { openTokenKeys } from '@countermark/psd/shell/token-keys';
import type { DeviceId } from '@countermark/protocol/id';
import { mills } from '@countermark/protocol/money';
import { type BenchmarkRun, type Figure, figure, figureOfLimit } from './figure.ts';
import { frankedPerSecond } from './frank-chunks.ts';
import { type SoftHsm, softHsm } from './soft-hsm.ts';
import { signaturesPerSecond } from './token-rate.ts';

const DEVICE = 'psd_0123456789abcdef' as DeviceId;
const PIECES = { smoke: 2_560, standard: 30_000, full: 100_000 } as const;
const CALLS = { smoke: 2, standard: 40, full: 100 } as const;
const MARKS = { smoke: 10, standard: 500, full: 2_000 } as const;

/** Measures. @throws Error without a token */
export async function benchmark({ size, folder }: BenchmarkRun): Promise<readonly Figure[]> {
  const hsm = softHsm('direct', 'signature', 'mac', 'mark');
  if (typeof hsm === 'string') throw new Error(hsm);
  try {
    const limit = await signaturesPerSecond(hsm, 'direct', CALLS[size]);
    const signed = await frankedPerSecond(folder, 'signature', 'host', PIECES[size], hsm.of('signature'));
    const figures = [figureOfLimit('frank-hsm', signed, 'pieces/s', limit)];
    if (size === 'smoke') return figures;
    const coded = await frankedPerSecond(folder, 'mac', 'host', PIECES[size], hsm.of('mac'));
    figures.push(figureOfLimit('frank-hsm:mac', coded, 'pieces/s', limit));
    figures.push(figure('frank-hsm:mark', await marksPerSecond(hsm, MARKS[size]), 'marks/s'));
    return figures;
  } finally {
    hsm.stop();
  }
}

async function marksPerSecond(hsm: SoftHsm, count: number): Promise<number> {
  const holder = await openTokenKeys(hsm.of('mark'));
  if (!holder.ok) throw new Error(holder.rejection.code);
  const { marks } = holder.value;
  if (marks === null) throw new Error('a token keeps marks');
  const nonce = new Uint8Array(NONCE_BYTES);
  let last: DeviceMark | null = null;
  const startedMs = performance.now();
  for (let commits = 1; commits <= count; commits += 1) {
    const next: DeviceMark = { commits, nonce, sequence: 0, pieces: 0, ascendingMills: mills(0n) };
    marks.raise(DEVICE, last, next);
    last = next;
  }
  const seconds = (performance.now() - startedMs) / 1_000;
  await holder.value.close();
  return count / seconds;
}
