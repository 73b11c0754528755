/**
 * `npm run bench`: measures what Countermark does against what this machine could do at best. docs/performance.md explains the figures.
 *
 * Guarantees: the limits are measured in the same run, before the figures (and the signature rate again after them: if something
 * else was busy meanwhile, that is said); a missed goal is printed and is no failure; what cannot be measured, or breaks, is told and
 * ends with exit code 1, after the others; with `--json` one JSON object on stdout and nothing else there.
 */
import { parseArgs } from 'node:util';
import type { Benchmark, Figure, Size } from './figure.ts';
import { figureJson, figureTable } from './figure-table.ts';
import { measureLimits, measureSignatures } from './limits.ts';
import { ScratchFolder } from './scratch-folder.ts';

/** Loaded when asked for: what one imports costs the others no time. */
const BENCHMARKS: Readonly<Record<string, () => Promise<{ readonly benchmark: Benchmark }>>> = {
  'frank-chunks': () => import('./frank-chunks.ts'),
  'frank-single': () => import('./frank-single.ts'),
  mailing: () => import('./mailing.ts'),
  memory: () => import('./memory.ts'),
  accept: () => import('./accept.ts'),
  'accept-hsm': () => import('./accept-hsm.ts'),
  'frank-hsm': () => import('./frank-hsm.ts'),
  pages: () => import('./pages.ts'),
  start: () => import('./start.ts'),
};

const USAGE = `Usage: npm run bench -- [NAME...] [--smoke | --full] [--json] [--folder DIR]

Names: ${Object.keys(BENCHMARKS).join(', ')}; all of them where none is given.

  --smoke        tiny sizes: shows that each runs, measures nothing
  --full         the longest sizes; a name given alone has them for \`memory\`
  --json         one JSON object on stdout, everything else on stderr
  --folder DIR   where stores are written (default: the system's folder for temporary files, if it is on a disk)
`;

const SLICE_MS = { smoke: 5, standard: 150, full: 150 } as const;
/** From this change of the signature rate on, the machine was not ours alone. */
const DRIFT = 0.1;

type Wanted = { names: string[]; size: Size; byName: boolean; json: boolean; folder: string | undefined };

function parseCommand(): Wanted | undefined {
  const options = {
    smoke: { type: 'boolean', default: false },
    full: { type: 'boolean', default: false },
    json: { type: 'boolean', default: false },
    folder: { type: 'string' },
  } as const;
  try {
    const { values, positionals } = parseArgs({ options, allowPositionals: true, strict: true });
    const unknown = positionals.find((name) => !Object.hasOwn(BENCHMARKS, name));
    if (unknown !== undefined) throw new Error(`There is no benchmark ${unknown}.`);
    if (values.smoke && values.full) throw new Error('--smoke and --full exclude each other.');
    return {
      names: positionals.length === 0 ? Object.keys(BENCHMARKS) : [...new Set(positionals)],
      size: values.smoke ? 'smoke' : values.full ? 'full' : 'standard',
      byName: positionals.length > 0,
      json: values.json,
      folder: values.folder,
    };
  } catch (error) {
    note(`${error instanceof Error ? error.message : String(error)}\n\n${USAGE}`);
    return undefined;
  }
}

function note(line: string): void {
  process.stderr.write(`${line}\n`);
}

async function main(wanted: Wanted): Promise<number> {
  const scratch = new ScratchFolder(wanted.folder);
  // Ctrl-C: children end by themselves, because their stdin closes.
  process.once('exit', () => scratch.remove());
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(130));

  const limits = measureLimits(scratch.part('limits'), SLICE_MS[wanted.size]);
  const figures: Figure[] = [];
  let broken = 0;
  for (const name of wanted.names) {
    note(`${name} ...`);
    const full = wanted.byName && name === 'memory' && wanted.size === 'standard';
    try {
      const { benchmark } = await (BENCHMARKS[name] as (typeof BENCHMARKS)[string])();
      const run = { size: full ? 'full' : wanted.size, limits, folder: scratch.part(name), note } as const;
      figures.push(...(await benchmark(run)));
    } catch (error) {
      broken += 1;
      note(`${name} could not be measured: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`);
      figures.push({ name, value: null, unit: '', ratio: null, goal: null, met: null });
    }
  }
  if (wanted.size !== 'smoke') tellDrift(limits.signsPerSecond);
  process.stdout.write(`${wanted.json ? figureJson(limits, figures) : figureTable(limits, figures)}\n`);
  if (wanted.size === 'smoke') note('A smoke run: these figures measure nothing.');
  return broken === 0 ? 0 : 1;
}

function tellDrift(before: number): void {
  const { signsPerSecond: after } = measureSignatures(SLICE_MS.standard);
  if (Math.abs(after / before - 1) < DRIFT) return;
  const percent = Math.round(Math.abs(after / before - 1) * 100);
  note(
    `One core made ${percent} % ${after < before ? 'fewer' : 'more'} signatures/s after the run than before it: something else was busy.`,
  );
}

const wanted = parseCommand();
// Not by exitCode alone: a process of ours that hangs must not keep this one.
process.exit(wanted === undefined ? 2 : await main(wanted));
