/**
 * `countermark confirmation import`: confirmations that came back on a stick reach the PSD, which then deletes its records.
 */
import type { Command } from 'commander';
import { HOST } from '@countermark/protocol/interfaces/host';
import { carryOut, type SharedOptions, userPath, withShared } from './command.ts';
import { withHost } from './host-client.ts';
import { tellImport } from './statistics.ts';

/** Declares the command. */
export function declare(program: Command): void {
  const confirmation = program.command('confirmation').summary('confirmations from a stick: import');
  confirmation.description('Confirmations that came back without a session.');
  withShared(
    confirmation
      .command('import')
      .description(
        'Gives the confirmation files of a folder to the PSD, which checks them and deletes what they confirm.',
      )
      .argument('<dir>', 'folder with confirmation files'),
    ['countermark confirmation import /media/stick'],
  ).action(async (directory: string, options: SharedOptions) => {
    await carryOut(options, async () => {
      const answer = await withHost(userPath(options.data), (host) =>
        host.call(HOST.importConfirmations, { directory: userPath(directory) }),
      );
      return tellImport(answer, options);
    });
  });
}
