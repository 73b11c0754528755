/**
 * The command `countermark`: NOUN VERB.
 *
 * Guarantees: results on stdout, everything else on stderr; `--json` prints one JSON object; exit codes 0 done, 2 usage, 3 input,
 * 4 funds, 5 unconfirmed, 6 device locked, 70 a fault; nothing is asked where there is no terminal. Only the code of the noun
 * that is asked for is loaded: starting takes no longer than it must.
 */
import { Command, CommanderError } from 'commander';
import { EXIT } from '@countermark/protocol/rejection';
import { note, printJson } from './terminal.ts';

type Noun = { readonly declare: (program: Command) => void };

const NOUNS: Readonly<Record<string, () => Promise<Noun>>> = {
  up: () => import('./up.ts'),
  status: () => import('./status.ts'),
  batch: () => import('./batch.ts'),
  statistics: () => import('./statistics.ts'),
  confirmation: () => import('./confirmation.ts'),
  funds: () => import('./funds.ts'),
  grant: () => import('./grant.ts'),
  device: () => import('./device.ts'),
  keys: () => import('./keys.ts'),
  person: () => import('./person.ts'),
  audit: () => import('./audit.ts'),
  evidence: () => import('./evidence-submit.ts'),
  verify: () => import('./verify.ts'),
  check: () => import('./check.ts'),
  reset: () => import('./reset.ts'),
};

/** The whole program, or only the noun that the arguments ask for. */
export async function program(args: readonly string[]): Promise<Command> {
  const root = new Command('countermark')
    .description('Franks mail in batches, and gets it the discounts that authenticated batch statistics earn.')
    .version('0.1.0', '--version', 'print the version')
    .helpOption('-h, --help', 'show help')
    .helpCommand('help [noun] [verb]', 'show help')
    .showHelpAfterError('(countermark help shows what there is)')
    .configureOutput({ writeErr: (text) => process.stderr.write(text) })
    .exitOverride()
    .addHelpText(
      'after',
      `
Exit codes: 0 done, 2 usage, 3 input, 4 funds, 5 unconfirmed, 6 device locked, 70 a fault.
Results go to stdout, progress to stderr; --json prints one JSON object. NO_COLOR switches colours off.

Examples:
  $ countermark up                                    five processes and the sample mailing, in ./countermark-data
  $ countermark batch frank mailing.csv --dry-run     what a mailing would cost, and which discount to expect
  $ countermark verify countermark-data/output/*/records/*`,
    );
  const asked = args.find((arg) => Object.hasOwn(NOUNS, arg));
  const first = args[0];
  const load = asked !== undefined && first === asked ? [NOUNS[asked]] : Object.values(NOUNS);
  for (const noun of load) if (noun !== undefined) (await noun()).declare(root);
  for (const command of everyCommand(root)) command.exitOverride();
  return root;
}

function everyCommand(command: Command): Command[] {
  return [command, ...command.commands.flatMap((child) => everyCommand(child))];
}

/**
 * Runs the program with these arguments; sets the exit code. Never rejects.
 * @public bin/countermark.mjs calls it, as it was built
 */
export async function run(args: readonly string[]): Promise<void> {
  try {
    // `help NOUN VERB` is `NOUN VERB --help`.
    const asked = args[0] === 'help' && args.length > 1 ? [...args.slice(1), '--help'] : args;
    await (await program(asked)).parseAsync([...asked], { from: 'user' });
  } catch (error) {
    if (!(error instanceof CommanderError)) {
      note(error instanceof Error ? (error.stack ?? error.message) : String(error));
      process.exitCode = EXIT.fault;
      return;
    }
    // Help that was asked for is no error; help because nothing was asked is one.
    const helped = error.exitCode === 0;
    process.exitCode = helped ? EXIT.done : EXIT.usage;
    if (!helped && args.includes('--json')) printJson({ error: { code: 'usage', message: error.message } });
  }
}
