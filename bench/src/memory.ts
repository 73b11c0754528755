/**
 * `memory`: the most memory that each process ever had (VmHWM) for a mailing of 100,000 and one of 1,000,000 rows, with piece
 * records in the host's memory and inside the PSD.
 *
 * The figure is that of the largest process; its ratio is the largest growth of any one process. Each mailing is franked by an
 * installation of its own, just started. Where the benchmark was not asked for by name (nor `--full` given), only 100,000 rows are
 * franked, and the growth is not measured. Linux alone tells the figure.
 */
import { join } from 'node:path';
import { type BenchmarkRun, type Figure, figure, type Size, unmeasured } from './figure.ts';
import { writeMailing } from './mailing-file.ts';
import { startWholeInstallation } from './whole-installation.ts';

const ROWS: Readonly<Record<Size, readonly [number] | readonly [number, number]>> = {
  smoke: [500],
  standard: [100_000],
  full: [100_000, 1_000_000],
};
const MOST_MB = 250;
const GROWTH = { atMost: 1.15 };

type Memory = 'host' | 'psd';
type Peaks = ReadonlyMap<string, number>;

/** Measures. */
export async function benchmark(run: BenchmarkRun): Promise<readonly Figure[]> {
  const [few, many] = ROWS[run.size];
  const memories: readonly Memory[] = run.size === 'smoke' ? ['psd'] : ['host', 'psd'];
  const parts: Figure[] = [];
  for (const memory of memories) {
    const before = await measure(run, memory, few);
    const after = many === undefined ? before : await measure(run, memory, many);
    if (before === undefined || after === undefined) return [unmeasured('memory', 'MB', GROWTH)];
    for (const [party, peakMb] of after) {
      const name = `memory:${memory}:${party}`;
      const ratio = many === undefined ? null : peakMb / (before.get(party) ?? 0);
      const goal = ratio === null ? { atMost: MOST_MB } : GROWTH;
      parts.push({ ...figure(name, peakMb, 'MB', goal), ratio, met: isMet(peakMb, ratio) });
    }
  }
  const mostMb = Math.max(...parts.map(({ value }) => value ?? 0));
  const growth = many === undefined ? null : Math.max(...parts.map(({ ratio }) => ratio ?? 0));
  if (growth === null) {
    run.note(`memory: the growth from 100,000 to 1,000,000 rows was not measured: ask for it by name or with --full.`);
  }
  const unit = many === undefined ? `MB at ${few} rows` : 'MB';
  const met = growth === null ? null : isMet(mostMb, growth);
  return [{ name: 'memory', value: mostMb, unit, ratio: growth, goal: GROWTH, met }, ...parts];
}

function isMet(mb: number, growth: number | null): boolean {
  return mb <= MOST_MB && (growth === null || growth <= GROWTH.atMost);
}

async function measure(run: BenchmarkRun, memory: Memory, rows: number): Promise<Peaks | undefined> {
  const minutes = rows >= 1_000_000 ? ', which takes a minute or more' : '';
  run.note(`memory: ${rows} rows, piece records in the memory of the ${memory}${minutes} ...`);
  const file = join(run.folder, `mailing-${rows}.csv`);
  await writeMailing(file, rows);
  const installation = await startWholeInstallation(join(run.folder, `${memory}-${rows}`), { records: memory });
  try {
    await installation.frank(file, rows);
    return installation.peaksMb();
  } finally {
    await installation.stop();
  }
}
