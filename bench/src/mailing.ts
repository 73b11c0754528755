/**
 * `mailing`: rows a second from a CSV to confirmed statistics, through the five real processes, without pages.
 *
 * The time runs from the request to frank the file until every record has been authenticated, logged, confirmed and deleted from
 * the PSD, and the grants have come. Starting, enrolling and the first funds are not in it. Against one core's signatures a second.
 */
import { join } from 'node:path';
import type { GivenSettings } from '@countermark/cli/configuration';
import { type BenchmarkRun, type Figure, figure, figureOfLimit } from './figure.ts';
import { writeMailing } from './mailing-file.ts';
import { type MailingTimes, startWholeInstallation } from './whole-installation.ts';

const ROWS = { smoke: 500, standard: 100_000, full: 100_000 } as const;

/** Other settings than the standard ones, which are signature, memory in the host, no session. */
const VARIANTS: readonly (readonly [string, GivenSettings])[] = [
  ['signature:psd', { records: 'psd' }],
  ['mac:psd:session', { authentication: 'mac', records: 'psd', transport: 'session' }],
];

/** Measures. */
export async function benchmark(run: BenchmarkRun): Promise<readonly Figure[]> {
  const { limits, size } = run;
  const rows = ROWS[size];
  const file = join(run.folder, 'mailing.csv');
  await writeMailing(file, rows);
  const main = await measure(run, file, rows, 'standard', {});
  const rate = rowsPerSecond(rows, main.settledMs);
  const figures = [
    figureOfLimit('mailing', rate, 'rows/s', limits.signsPerSecond, { atLeast: 0.5 }),
    figureOfLimit('mailing:franked', rowsPerSecond(rows, main.frankedMs), 'rows/s', limits.signsPerSecond),
    ...Object.entries(main.phasesMs).map(([phase, ms]) => figure(`mailing:phase:${phase}`, ms / 1_000, 's')),
  ];
  if (size === 'smoke') return figures;
  for (const [name, settings] of VARIANTS) {
    const { settledMs } = await measure(run, file, rows, name, settings);
    figures.push(figureOfLimit(`mailing:${name}`, rowsPerSecond(rows, settledMs), 'rows/s', limits.signsPerSecond));
  }
  return figures;
}

async function measure(
  run: BenchmarkRun,
  file: string,
  rows: number,
  name: string,
  settings: GivenSettings,
): Promise<MailingTimes> {
  run.note(`mailing: ${rows} rows (${name}) ...`);
  const installation = await startWholeInstallation(join(run.folder, name.replaceAll(':', '-')), settings);
  try {
    return await installation.frank(file, rows);
  } finally {
    await installation.stop();
  }
}

function rowsPerSecond(rows: number, ms: number): number {
  return (rows / ms) * 1_000;
}
