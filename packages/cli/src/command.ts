/**
 * What every command shares: `--data`, `--json`, examples in the help, and how it ends.
 *
 * Guarantees: with `--json` exactly one JSON object goes to stdout, also when the command fails (`error` with `code` and
 * `message`); the exit code is that of the failure; nothing is thrown at the user.
 */
import { resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Command } from 'commander';
import { EXIT } from '@countermark/protocol/rejection';
import { type Failure, failureOf } from './failure.ts';
import { note, noteStyle, printJson } from './terminal.ts';

/** Options of every command. */
export type SharedOptions = { readonly data: string; readonly json?: boolean };

/** The sample mailing of the checkout. */
export const SAMPLE_MAILING = fileURLToPath(new URL('../../../samples/bureau-mailing.csv', import.meta.url));

/** The folder from which the user called: npm runs scripts in the checkout's root. */
function userFolder(): string {
  const { npm_lifecycle_event: event, INIT_CWD: initial } = process.env;
  return event === 'start' && initial !== undefined ? initial : process.cwd();
}

/** A path as the user meant it, absolute. */
export function userPath(path: string): string {
  return resolve(userFolder(), path);
}

/** Adds `--data` and `--json` and the examples. */
export function withShared(command: Command, examples: readonly string[]): Command {
  return command
    .option('--data <dir>', 'data folder of the installation', './countermark-data')
    .option('--json', 'print one JSON object on stdout')
    .addHelpText('after', `\nExamples:\n${examples.map((example) => `  $ ${example}`).join('\n')}`);
}

/** Runs a command's work; a number that it resolves to is the exit code. Failures are told and end with their exit code. */
export async function carryOut(
  options: { readonly json?: boolean },
  work: () => Promise<number | undefined>,
): Promise<void> {
  try {
    process.exitCode = (await work()) ?? EXIT.done;
  } catch (thrown) {
    const failure = failureOf(thrown);
    tell(failure);
    if (options.json === true) printJson({ error: errorObject(failure) });
    process.exitCode = failure.exit;
  }
}

/** A failure as it stands in JSON. */
export function errorObject(failure: Failure): { code: string; message: string; detail?: object } {
  const { code, message, detail } = failure;
  return { code, message, ...(Object.keys(detail).length === 0 ? {} : { detail }) };
}

/** A failure on stderr. */
export function tell(failure: Failure): void {
  note(`${noteStyle.red('Error')} (${failure.code}): ${failure.message}`);
  if (failure.stack !== undefined) note(noteStyle.dim(failure.stack));
}
