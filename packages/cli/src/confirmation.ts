/**
 * `countermark confirmation import`: confirmations that came back on a stick reach the PSD, which then deletes its records.
 */
import type { Command } from 'commander';
import { HOST } from '@countermark/protocol/interfaces/host';
import { declareImport } from './statistics.ts';

/** Declares the command. */
export function declare(program: Command): void {
  const confirmation = program.command('confirmation').summary('confirmations from a stick: import');
  confirmation.description('Confirmations that came back without a session.');
  declareImport(confirmation, {
    does: 'Gives the confirmation files of a folder to the PSD, which checks them and deletes what they confirm.',
    directory: 'folder with confirmation files',
    operation: HOST.importConfirmations,
  });
}
