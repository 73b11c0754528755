/**
 * The child's side of supervision: what the main of every party does besides its own work.
 *
 *     node main.js serve --config FILE.json
 *     node main.js check --config FILE.json [--json] [--testimony FILE] [--against FILE ...]
 *     node main.js ACT --config FILE.json
 *
 * `serve` prints one line on stdout: `{"ready":true,...}` when it serves, or `{"ready":false,"rejection":...}` where it does not start,
 * whose words stand on stderr, too; and ends cleanly when stdin (the supervisor's pipe) closes
 * or on SIGTERM; SIGINT is ignored, because a terminal sends it to every process and the supervisor decides. `check` reads the
 * party's store from the first record and prints in words what is wrong, one a line; with --json lines of progress and one of
 * problems. An act is something that a party's program does to its store while nobody serves from it; it prints one line: `{"done":{...}}`, or
 * `{"rejection":...}`. `--testimony` appends what others can compare, `--against` compares with it (see examination.ts).
 * Exit codes: 0 done; those of the rejection catalogue (6: store in use or damaged, not worth a restart); 70 a fault.
 */
import { readFile } from 'node:fs/promises';
import { parseArgs } from 'node:util';
import { CATALOGUE } from '@countermark/protocol/rejection-catalogue';
import { describeRejection, EXIT, type Rejection, rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { Examination } from './examination.ts';
import { errorCode, errorText } from './fault.ts';
import { type Log, openLog } from './logs.ts';

/** What a party may use while it serves. */
export interface PartyContext {
  readonly log: Log;
  /** Has the hook run when the process ends; hooks run one after the other, the last added first. */
  onClose(hook: () => Promise<void> | void): void;
  /** Ends the process: hooks, then the exit code (default 0). After a failed write give 70. */
  end(exitCode?: number): void;
}

/** What `serve` publishes in its ready line, for instance ports. */
export type PublishedAddresses = Readonly<Record<string, string | number>>;

/** A party's program. */
export interface PartyProgram<Config> {
  readonly name: string;
  /** Checks the JSON of the config file, strictly. */
  parseConfig(json: unknown): Result<Config>;
  /** Starts serving. A rejection ends the process with the catalogue's exit code. */
  serve(config: Config, party: PartyContext): Promise<Result<PublishedAddresses>>;
  /** Returns what is wrong with the party's store, in words; nothing when all is well. */
  check(config: Config, examination: Examination): Promise<Result<readonly string[]>>;
  /** What else it can be started for, by name. */
  readonly acts?: Readonly<Record<string, (config: Config) => Promise<Result<PublishedAddresses>>>>;
}

/** Longest time that the close hooks may take together. */
const CLOSE_MS_MAX = 10_000;

/** Runs the program as its process' main. Never rejects. */
export async function runParty<Config>(program: PartyProgram<Config>): Promise<void> {
  const log = openLog(program.name);
  const die = (event: string) => (thrown: unknown) => {
    log.error(event, thrown);
    process.exit(EXIT.fault);
  };
  process.on('uncaughtException', die('An exception was not caught: the process ends'));
  process.on('unhandledRejection', die('A rejected promise was not handled: the process ends'));
  process.on('SIGINT', () => undefined);
  // The supervisor may be gone before the last line is written.
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => undefined);

  try {
    const acts = program.acts ?? {};
    const command = await parseCommand(process.argv.slice(2), ['serve', 'check', ...Object.keys(acts)]);
    if (!command.ok) {
      refuseToRun(command.rejection);
      return;
    }
    const config = program.parseConfig(command.value.json);
    if (!config.ok) {
      if (command.value.verb === 'serve') refuseToServe(config.rejection);
      else describe(config.rejection);
      process.exitCode = CATALOGUE[config.rejection.code].exit;
    } else if (command.value.verb === 'serve') await serve(program, config.value, log);
    else if (command.value.verb === 'check') await check(program, config.value, command.value.options);
    else await carryOut(acts[command.value.verb], config.value);
  } catch (error) {
    die('Starting failed')(error);
  }
}

type CheckOptions = { readonly json?: boolean; readonly testimony?: string; readonly against?: readonly string[] };
type PartyCommand = { readonly verb: string; readonly json: unknown; readonly options: CheckOptions };

async function parseCommand(args: string[], verbs: readonly string[]): Promise<Result<PartyCommand>> {
  const usage = (reason: string): Result<never> => refuse(rejection('usage', { reason }));
  let verb: string | undefined;
  let file: string | undefined;
  let options: CheckOptions;
  try {
    const text = { type: 'string' } as const;
    const parsed = parseArgs({
      args,
      options: { config: text, json: { type: 'boolean' }, testimony: text, against: { ...text, multiple: true } },
      allowPositionals: true,
      strict: true,
    });
    verb = parsed.positionals.length === 1 ? parsed.positionals[0] : undefined;
    ({ config: file, ...options } = parsed.values);
  } catch (error) {
    return usage(errorText(error));
  }
  if (verb === undefined || !verbs.includes(verb) || file === undefined)
    return usage(`Usage: ${verbs.join('|')} --config FILE.json`);
  try {
    return accept({ verb, json: JSON.parse(await readFile(file, 'utf8')) as unknown, options });
  } catch (error) {
    return refuse(rejection('config-invalid', { file, reason: errorText(error) }));
  }
}

async function carryOut<Config>(
  act: ((config: Config) => Promise<Result<PublishedAddresses>>) | undefined,
  config: Config,
): Promise<void> {
  const done = await act?.(config);
  if (done === undefined) throw new TypeError('an act that the program has not');
  if (!done.ok) refuseToRun(done.rejection);
  process.stdout.write(`${JSON.stringify(done.ok ? { done: done.value } : { rejection: done.rejection })}\n`);
}

async function check<Config>(
  program: PartyProgram<Config>,
  config: Config,
  { json = false, testimony, against }: CheckOptions,
): Promise<void> {
  const line = (value: object): void => {
    process.stdout.write(`${JSON.stringify(value)}\n`);
  };
  const examination = new Examination({
    ...(testimony === undefined ? {} : { testimony }),
    ...(against === undefined ? {} : { against }),
    ...(json ? { onProgress: (what, done, total) => line({ progress: { what, done, total } }) } : {}),
  });
  let problems: readonly string[];
  try {
    const checked = await program.check(config, examination);
    if (!checked.ok) {
      if (json) line({ rejection: checked.rejection });
      refuseToRun(checked.rejection);
      return;
    }
    problems = checked.value;
  } catch (error) {
    // What cannot be read further is a finding, and what was found before it is not lost.
    if (!isUnreadable(error)) throw error;
    examination.problem(`The store cannot be read any further: ${errorText(error).replace(/\.$/, '')}.`);
    problems = examination.problems;
  }
  examination.flush();
  if (json) line({ problems });
  else for (const problem of problems) process.stdout.write(`${problem}\n`);
  process.exitCode = problems.length === 0 ? EXIT.done : CATALOGUE['store-damaged'].exit;
}

const UNREADABLE: ReadonlySet<string> = new Set(['store-broken', 'database-damaged', 'database-write-failed']);

/** Whether a store that was opened turned out to be damaged where it was read: its pages, or rows that are not what was written. */
function isUnreadable(error: unknown): boolean {
  const code = errorCode(error) ?? '';
  const altered = error instanceof TypeError || error instanceof RangeError || error instanceof SyntaxError;
  return UNREADABLE.has(code) || code.startsWith('SQLITE_CORRUPT') || (code === '' && altered);
}

async function serve<Config>(program: PartyProgram<Config>, config: Config, log: Log): Promise<void> {
  const hooks: (() => Promise<void> | void)[] = [];
  let ending = false;
  let markStarted: () => void = () => undefined;
  const started = new Promise<void>((resolve) => {
    markStarted = resolve;
  });
  const end = (exitCode: number = EXIT.done): void => {
    if (ending) return;
    ending = true;
    setTimeout(() => {
      log.error('Ending took too long: the process is cut off', undefined);
      process.exit(EXIT.fault);
    }, CLOSE_MS_MAX).unref();
    void started.then(async () => {
      let code = exitCode;
      for (const hook of hooks.reverse()) {
        try {
          await hook();
        } catch (error) {
          log.error('Closing failed', error);
          code = EXIT.fault;
        }
      }
      process.exit(code);
    });
  };
  process.on('SIGTERM', () => {
    end();
  });
  process.stdin.on('error', () => {
    end();
  });
  process.stdin.on('close', () => {
    end();
  });
  process.stdin.on('end', () => {
    end();
  });
  process.stdin.resume();

  const context: PartyContext = {
    log,
    onClose: (hook) => {
      hooks.push(hook);
    },
    end,
  };
  try {
    const addresses = await program.serve(config, context);
    if (!addresses.ok) {
      refuseToServe(addresses.rejection);
      end(CATALOGUE[addresses.rejection.code].exit);
    } else {
      process.stdout.write(`${JSON.stringify({ ready: true, ...addresses.value })}\n`);
    }
  } catch (error) {
    log.error('Starting failed', error);
    end(EXIT.fault);
  } finally {
    markStarted();
  }
}

function refuseToServe(refused: Rejection): void {
  describe(refused);
  process.stdout.write(`${JSON.stringify({ ready: false, rejection: refused })}\n`);
}

function refuseToRun(refused: Rejection): void {
  describe(refused);
  process.exitCode = CATALOGUE[refused.code].exit;
}

function describe(refused: Rejection): void {
  process.stderr.write(`${describeRejection(refused)}\n`);
}
