/**
 * `countermark reset --demo`: deletes the data folder of a demonstration, and nothing else.
 *
 * Guarantees: only a folder that `up` marked as a demonstration, on which nothing runs and in which no certified device is, is
 * deleted; what it does not know in that folder stays, and the folder with it; it asks on a terminal and needs --yes elsewhere.
 */
import { existsSync, readdirSync, readFileSync, rmdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import type { Command } from 'commander';
import { carryOut, type SharedOptions, userPath, withShared } from './command.ts';
import { refuseCommand, refuseUsage } from './failure.ts';
import { askSupervisor } from './host-client.ts';
import { findSocketFolder, installationPaths, PARTIES } from './installation-paths.ts';
import { confirmed, print, printJson } from './terminal.ts';
import { certifiedDevices } from './evidence.ts';

/** Declares the command. */
export function declare(program: Command): void {
  const reset = program
    .command('reset')
    .summary('delete the data of a demonstration')
    .description(
      'Deletes the data folder of a demonstration: keys, registers, records, pages. Never one with a certified device.',
    )
    .requiredOption('--demo', 'required: only demonstrations can be deleted')
    .option('--yes', 'do not ask');
  withShared(reset, ['countermark reset --demo', 'countermark reset --demo --data /tmp/trial --yes']).action(
    async (options: SharedOptions & { readonly yes?: boolean }) => {
      await carryOut(options, async () => {
        const data = userPath(options.data);
        await refuseUnlessDemo(data);
        const sure =
          options.yes === true
            ? true
            : await confirmed(`Delete ${data} with its keys, registers, records and pages? This cannot be undone.`);
        if (sure === undefined) refuseUsage('Nobody can be asked here: give --yes to delete the data folder.');
        if (sure) remove(data);
        if (options.json === true) printJson({ data, deleted: sure });
        else print(sure ? `${data} was deleted.` : 'Nothing was deleted.');
        return undefined;
      });
    },
  );
}

async function refuseUnlessDemo(data: string): Promise<void> {
  if (!existsSync(data)) refuseUsage(`There is no data folder ${data}.`);
  let kind: unknown;
  try {
    kind = (JSON.parse(readFileSync(join(data, 'installation.json'), 'utf8')) as { kind?: unknown }).kind;
  } catch {
    kind = undefined;
  }
  if (kind !== 'demonstration') refuseUsage(`${data} is not the data folder of a demonstration.`);
  if ((await askSupervisor(data)) !== undefined) refuseCommand('store-in-use', { store: data });
  const certified = certifiedDevices(data);
  if (certified.length > 0) refuseUsage(`${data} belongs to the certified device ${certified.join(', ')}.`);
}

function remove(data: string): void {
  const sockets = findSocketFolder(data);
  const paths = installationPaths(data, sockets ?? join(data, 'run'));
  const ours = [
    ...PARTIES.map((party) => paths.parties[party]),
    paths.output,
    paths.logs,
    paths.run,
    paths.trustBundle,
    paths.credentials,
    paths.settings,
    paths.marker,
    ...(sockets === undefined ? [] : [sockets]),
  ];
  for (const path of ours) rmSync(path, { recursive: true, force: true });
  if (readdirSync(data).length === 0) rmdirSync(data);
}
