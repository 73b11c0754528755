/**
 * `countermark status`: the processes, what waits and why, by when, and what belongs into a backup.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { Command } from 'commander';
import { errorText } from '@countermark/node-platform/fault';
import { HOST, type HostStatusAnswer } from '@countermark/protocol/interfaces/host';
import { backupList, NEVER_BACK_UP } from './backup-list.ts';
import { carryOut, type SharedOptions, userPath, withShared } from './command.ts';
import { completeSettings, readSettings } from './configuration.ts';
import { refuseCommand, valueOf } from './failure.ts';
import { askSupervisor, type SupervisorReport, withHost } from './host-client.ts';
import { installationPaths } from './installation-paths.ts';
import { amountText, countText, pendingLines, section, timeText } from './summary.ts';
import { formatPairs, formatTable } from './table.ts';
import { print, printJson, style } from './terminal.ts';

/** Declares the command. */
export function declare(program: Command): void {
  const status = program
    .command('status')
    .summary('processes, what waits and why, deadlines, what to back up')
    .description(
      'Says which processes run, what waits and why, which deadlines there are, and what belongs into a backup.',
    );
  withShared(status, ['countermark status', 'countermark status --data /srv/franking --json']).action(
    async (options: SharedOptions) => {
      await carryOut(options, async () => {
        const data = userPath(options.data);
        const supervisor = await askSupervisor(data);
        if (supervisor === undefined) refuseCommand('not-running', { data });
        const [host, hostProblem] = await withHost(data, async (client) => client.call(HOST.status, {})).then(
          (answer) => [answer, undefined] as const,
          (error: unknown) => [undefined, errorText(error)] as const,
        );
        const paths = installationPaths(data, '');
        const given = existsSync(paths.settings) ? valueOf(await readSettings(paths.settings)) : {};
        const backup = backupList(paths, valueOf(completeSettings(given, paths.settings)));
        if (options.json === true) {
          printJson({
            data,
            supervisor,
            ...(host ?? { unreachable: hostProblem }),
            backup,
            neverBackUp: NEVER_BACK_UP,
          });
        } else {
          const toKeep = formatPairs(backup.map(({ path, why }) => [path, why] as const));
          const never = `Never the PSD (${join(data, 'psd')}): ${NEVER_BACK_UP}`;
          const text = statusText(data, supervisor, host, hostProblem);
          print([text, section('Back up', toKeep), never].join('\n\n'));
        }
        return undefined;
      });
    },
  );
}

/** What the device has, and whether the host refills it by itself. */
function fundsText({ host }: HostStatusAnswer, availableMills: string): string {
  const amount = (mills: string): string => amountText(mills, { code: host.currency, exponent: host.exponent });
  const has = `${host.currency} ${amount(availableMills)} available`;
  const { automaticRefill } = host;
  if (automaticRefill === null) return has;
  const { belowMills, toMills, refused } = automaticRefill;
  const asks = `${has}; below ${amount(belowMills)} refilled to ${amount(toMills)} by itself`;
  return refused === null ? asks : `${asks}, which was refused ${timeText(refused.atMs)}: ${refused.reason}`;
}

function statusText(
  data: string,
  supervisor: SupervisorReport,
  host: HostStatusAnswer | undefined,
  hostProblem: string | undefined,
): string {
  const processes = formatTable(
    [
      { heading: 'Process' },
      { heading: 'State' },
      { heading: 'Id', right: true },
      { heading: 'Restarts', right: true },
      { heading: 'Since' },
      { heading: 'Address' },
    ],
    supervisor.processes.map(({ name, state, pid, restarts, sinceMs, addresses }) => [
      name,
      state,
      pid === null ? '' : String(pid),
      String(restarts),
      timeText(sinceMs),
      [addresses.url, addresses.socket].find((address) => typeof address === 'string') ?? '',
    ]),
    { emphasis: style.bold },
  );
  const parts = [`Countermark runs on ${data} (process ${supervisor.pid}).`, processes];
  if (host === undefined) return [...parts, `The host does not answer: ${hostProblem ?? ''}`].join('\n\n');
  const { device } = host;
  parts.push(
    section(
      'Host and device',
      formatPairs([
        ['Licensee', host.host.licensee],
        [
          'Records',
          `${host.host.transport}, ${host.host.forwarding}${host.host.forwarding === 'hold' ? ` for ${host.host.holdForMs / 3_600_000} h` : ''}`,
        ],
        [
          'Server',
          `${host.server.url}${host.server.reachable ? '' : ` (not reachable: ${host.server.reason ?? '?'})`}`,
        ],
        ...(device === null
          ? [['Device', `does not answer: ${host.unreachable ?? ''}`] as const]
          : ([
              [
                'Device',
                `${device.device}, ${device.state}, ${device.authentication}, records in the ${device.memory}`,
              ],
              ['Funds', fundsText(host, device.registers.descendingMills)],
              ['Unconfirmed', `${device.unconfirmedRecords} of at most ${device.recordCapacity} records`],
              ...(device.lock === null ? [] : [['Locked', device.lock] as const]),
              ...(device.lockLifts === null ? [] : [['Unlocks', device.lockLifts] as const]),
              ...(device.warning === null ? [] : [['Warning', device.warning] as const]),
              ...(device.alarms === 0
                ? []
                : [['Alarms', `${device.alarms} confirmations were for another digest`] as const]),
            ] as const)),
      ]),
    ),
  );
  if (host.host.jobs.length > 0) {
    const jobs = formatTable(
      [
        { heading: 'Job' },
        { heading: 'State' },
        { heading: 'Pieces', right: true },
        { heading: 'Remaining', right: true },
      ],
      host.host.jobs.map(({ job, state, pieces, remaining }) => [job, state, countText(pieces), countText(remaining)]),
      { emphasis: style.bold },
    );
    parts.push(section('Jobs', jobs));
  }
  parts.push(section('Waiting', host.pending.length === 0 ? 'Nothing.' : pendingLines(host.pending)));
  if (host.deadlines.length > 0) {
    const lines = host.deadlines.map(
      ({ what, atMs }) => [what === 'warns' ? 'The device warns' : 'The device locks', timeText(atMs)] as const,
    );
    parts.push(section('Deadlines (of the oldest unconfirmed record)', formatPairs(lines)));
  }
  return parts.join('\n\n');
}
