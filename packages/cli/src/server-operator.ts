/**
 * Commands that an operator of the server gives: where the server is, and by whose credential it is asked.
 *
 * In the demonstration both operators' credentials lie in the data folder; elsewhere each person has a file of their own.
 */
import { existsSync, readFileSync } from 'node:fs';
import type { Command } from 'commander';
import { type SharedOptions, userPath, withShared } from './command.ts';
import { refuseCommand, refuseUsage } from './failure.ts';
import { askSupervisor, runningPaths } from './host-client.ts';
import { type Credentials, OPERATORS } from './party-configs.ts';
import type { ServerAccess } from './registration.ts';

/** Options of an operator's command. */
export type OperatorOptions = SharedOptions & {
  readonly operator: string;
  readonly server?: string;
  readonly credential?: string;
};

/** Adds the options that say who asks whom. */
export function withOperator(command: Command, examples: readonly string[]): Command {
  return withShared(
    command
      .option('--operator <name>', `who asks: ${Object.keys(OPERATORS).join(' or ')} of the data folder`, 'operator')
      .option('--server <url>', 'another server than that of the data folder; with --credential')
      .option('--credential <file>', 'file with the credential of whoever asks'),
    examples,
  );
}

/** The server with the operator's credential. @throws Refused `not-running`, `usage`, `file-unreadable` */
export async function operatorAccess(options: OperatorOptions): Promise<ServerAccess> {
  const url = options.server ?? (await partyUrl(userPath(options.data), 'server'));
  if (options.credential !== undefined) {
    const file = userPath(options.credential);
    const credential = existsSync(file) ? readFileSync(file, 'utf8').trim() : '';
    if (/^([a-z0-9][a-z0-9-]{0,31}\.)?[0-9a-f]{64}$/.test(credential)) return { url, credential };
    refuseCommand('file-unreadable', { file, reason: 'it is not there, or has no credential in it' });
  }
  if (options.server !== undefined) refuseUsage('A server that is named needs --credential as well.');
  const { credentials: file } = runningPaths(userPath(options.data));
  const credentials = existsSync(file) ? (JSON.parse(readFileSync(file, 'utf8')) as Partial<Credentials>) : {};
  const name = Object.hasOwn(OPERATORS, options.operator) ? OPERATORS[options.operator] : undefined;
  const credential = name === undefined ? undefined : credentials[name];
  if (credential === undefined) refuseUsage(`The data folder has no credential of an operator ${options.operator}.`);
  return { url, credential };
}

/** Where a party of the data folder listens. @throws Refused `not-running` */
export async function partyUrl(data: string, party: 'server' | 'authority'): Promise<string> {
  const supervisor = await askSupervisor(data);
  const url = supervisor?.processes.find(({ name }) => name === party)?.addresses.url;
  if (typeof url !== 'string') refuseCommand('not-running', { data });
  return url;
}
