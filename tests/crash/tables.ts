/**
 * The reports of kills and failed system calls as Markdown tables, for docs/reliability.md.
 */
import { PARTIES } from '@countermark/cli/installation-paths';
import { CRASH_POINTS, END_POINTS, REFILL_POINTS } from './crash-points.ts';
import type { InterruptionReport } from './interruptions.ts';
import { WAYS } from './kill-plan.ts';
import type { KillReport } from './kills.ts';
import { type CallReport, ENDINGS, FAULTS, OPERATIONS } from './syscalls.ts';

/** Deaths by process and combination, and by point. */
export function killTables(report: KillReport): string {
  const ways = WAYS.map(({ records, transport }) => `${records}, ${transport}`);
  const { deaths } = report;
  const count = (matches: (death: KillReport['deaths'][number]) => boolean): string =>
    String(deaths.filter(matches).length);
  const byParty = PARTIES.map((party) => [
    party,
    ...ways.map((way) => count((death) => death.party === party && death.way === way)),
    count((death) => death.party === party && death.at === 'random'),
    count((death) => death.party === party),
  ]);
  const byPoint = [...CRASH_POINTS.map(({ name }) => name), 'random'].map((at) => [
    at,
    ...ways.map((way) => count((death) => death.at === at && death.way === way)),
    count((death) => death.at === at),
  ]);
  return [
    `Seed ${report.seed}: ${deaths.length} kills in ${report.mailings} mailings (${report.pieces} pieces, ${report.records} records), ${report.checks} checks, ${report.seconds} s. Violations: ${report.violations.length}.`,
    ...report.violations.map((words) => `- ${words}`),
    table(['process', ...ways, 'of these at random', 'all'], byParty),
    table(['point', ...ways, 'all'], byPoint),
  ].join('\n\n');
}

/** Deaths by point and combination. */
export function interruptionTables({ deaths, checks, seconds, violations }: InterruptionReport): string {
  const ways = WAYS.map(({ records, transport }) => `${records}, ${transport}`);
  const rows = [...REFILL_POINTS, ...END_POINTS].map(({ name }) => [
    name,
    ...ways.map((way) => String(deaths.filter((death) => death.at === name && death.way === way).length)),
  ]);
  return [
    `${deaths.length} kills of ${ways.length} devices, ${checks} checks, ${seconds} s. Violations: ${violations.length}.`,
    ...violations.map((words) => `- ${words}`),
    table(['point', ...ways], rows),
  ].join('\n\n');
}

/** Cases by operation, call and fault, and what the processes said. */
export function callTables(report: CallReport): string {
  const { cases } = report;
  const summary = OPERATIONS.flatMap((operation) =>
    FAULTS.map((fault) => {
      const own = cases.filter((one) => one.operation === operation && one.fault === fault);
      return [
        operation,
        fault,
        String(own.length),
        ...ENDINGS.map((ending) => String(own.filter((one) => one.ending === ending).length)),
      ];
    }),
  );
  const calls = OPERATIONS.map((operation) => {
    const counts = new Map<string, number>();
    for (const { call, file } of report.calls[operation]) {
      counts.set(`${call} on ${file}`, (counts.get(`${call} on ${file}`) ?? 0) + 1);
    }
    const words = [...counts].map(([call, times]) => `${call}: ${times}`).join('; ');
    return [operation, String(report.calls[operation].length), words];
  });
  const said = new Map<string, number>();
  for (const { words } of cases) {
    if (words === '') continue;
    // Without the folder of this run.
    const general = words.replaceAll(/(\/[\w.-]+)+\//g, '');
    said.set(general, (said.get(general) ?? 0) + 1);
  }
  return [
    `${cases.length} failed calls, ${report.checks} checks, ${report.seconds} s; not reached ${report.notReached}. Violations: ${report.violations.length}.`,
    ...report.violations.map((words) => `- ${words}`),
    table(['operation', 'calls', 'of these'], calls),
    table(['operation', 'fault', 'cases', ...ENDINGS], summary),
    table(
      ['last words', 'cases'],
      [...said].map(([words, times]) => [words, String(times)]),
    ),
  ].join('\n\n');
}

/** A Markdown table. */
function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  return [head, head.map(() => '---'), ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n');
}
