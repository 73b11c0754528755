/** What a run has to say: a table for people, an object for programs. */
import type { TargetRun } from './run.ts';

const MEBIBYTE = 2 ** 20;

/** One line for each target. RSS is the whole process's, with every thread in it. */
export function table(runs: readonly TargetRun[]): string {
  const rows = runs.map(({ target, figures, findings }) => [
    target,
    figures.inputs.toLocaleString('en'),
    String(figures.corpus),
    String(figures.branches),
    String(figures.outcomes['accepted'] ?? 0),
    String(findings.length),
    Math.round(figures.inputs / Math.max(0.001, figures.elapsedMs / 1_000)).toLocaleString('en'),
    `${mebibytes(figures.rssStartBytes)} > ${mebibytes(figures.rssEndBytes)}`,
    `${mebibytes(figures.heapStartBytes)} > ${mebibytes(figures.heapEndBytes)}`,
    refusals(figures.outcomes),
  ]);
  const head = [
    'target',
    'inputs',
    'corpus',
    'branches',
    'accepted',
    'failed',
    'inputs/s',
    'RSS MiB',
    'live MiB',
    'refused',
  ];
  const widths = head.map((title, i) => Math.max(title.length, ...rows.map((row) => row[i]?.length ?? 0)));
  const line = (cells: readonly string[]): string =>
    cells
      .map((cell, i) =>
        i === 0 || i === cells.length - 1 ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0),
      )
      .join('  ')
      .trimEnd();
  return [line(head), ...rows.map(line)].join('\n');
}

function mebibytes(bytes: number): string {
  return String(Math.round(bytes / MEBIBYTE));
}

/** Refusals by their code, the most frequent first. */
function refusals(outcomes: Readonly<Record<string, number>>): string {
  const refused = Object.entries(outcomes).filter(([code]) => code !== 'accepted');
  const sorted = refused.sort(([, one], [, other]) => other - one).map(([code, count]) => `${code} ${count}`);
  return sorted.length > 6 ? `${sorted.slice(0, 6).join(', ')}, ${sorted.length - 6} more` : sorted.join(', ');
}

/** The one object of `--json`. */
export function summary(seed: string, runs: readonly TargetRun[], elapsedMs: number): object {
  return {
    seed,
    inputs: runs.reduce((sum, { figures }) => sum + figures.inputs, 0),
    elapsedSeconds: Math.round(elapsedMs / 1_000),
    targets: runs.map(({ target, figures }) => ({ target, ...figures })),
    violations: runs.flatMap(({ target, findings }) =>
      findings.map(({ what, at, again, input }) => ({
        target,
        what,
        at,
        again,
        input: Buffer.from(input).toString('base64'),
      })),
    ),
  };
}
