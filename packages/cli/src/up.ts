/**
 * `countermark up`, which is `npm start`: five processes on one data folder, one mailing franked, and what came of it.
 *
 * Guarantees: one JSON object on stdout with `--once --json`, whatever happens; Ctrl-C finishes the chunk in hand, says how to go
 * on, and ends every process (a second one kills them; nothing that was answered is lost); started again it franks nothing twice;
 * a process that dies in between comes back, and the job goes on.
 */
import { existsSync, mkdirSync, openSync, readdirSync, readSync, closeSync, writeFileSync } from 'node:fs';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { errorCode, Fault } from '@countermark/node-platform/fault';
import { type FrankAnswer, HOST, type JobReport, type WaitAnswer } from '@countermark/protocol/interfaces/host';
import { formatMills } from '@countermark/protocol/money';
import { CATALOGUE } from '@countermark/protocol/rejection-catalogue';
import { EXIT } from '@countermark/protocol/rejection';
import { carryOut, errorObject, SAMPLE_MAILING, type SharedOptions, tell, userPath, withShared } from './command.ts';
import {
  changedLasting,
  checkSettings,
  completeSettings,
  type GivenSettings,
  optionName,
  readSettings,
  SETTINGS,
  type Settings,
  settingsFile,
} from './configuration.ts';
import { type Failure, failureOf, Refused, refuseUsage, valueOf } from './failure.ts';
import { type Installation, lockInstallation } from './installation.ts';
import { Progress } from './progress.ts';
import { issueEnrolmentCode } from './registration.ts';
import { quoted, resumeCommand } from './resume-command.ts';
import { countText, jobSummary } from './summary.ts';
import { note, noteStyle, print, printJson } from './terminal.ts';

type UpOptions = SharedOptions & {
  readonly once?: boolean;
  readonly timeout: number;
  /** False with --no-mailing. */
  readonly mailing?: string | false;
  readonly job?: string;
  readonly acceptGood?: boolean;
  readonly encoding?: string;
  readonly mailingDate?: string;
  readonly refill?: string;
};

/** Longest wait for confirmations and grants before the summary of an installation that stays up. */
const SUMMARY_WAIT_MS = 60_000;
/** Between two attempts to reach a process that is being started again. */
const RETRY_MS = 250;
const LONG_CALL_MS = 5_000;
/** Settings that are no options: the refill has a meaning of its own there. */
const NO_OPTION = new Set(['refill', 'pages']);

/** Declares the command. */
export function declare(program: Command): void {
  const up = program
    .command('up')
    .summary('start everything and frank a mailing')
    .description(
      'Starts the five processes on the data folder, makes and enrols what is missing, franks the mailing, and says what came of it. Stays up until Ctrl-C; with --once it ends when all is confirmed and the grants have arrived.',
    )
    .option('--mailing <file>', 'CSV to frank (default: the sample mailing)')
    .option('--no-mailing', 'frank nothing')
    .option('--job <id>', "the job's id (default: the file's digest)")
    .option('--accept-good', 'frank the good rows where others are wrong')
    .option('--encoding <name>', 'encoding of the file, for instance windows-1252 (default: UTF-8)')
    .option('--mailing-date <day>', 'day of mailing, for instance 2026-11-23 (default: the column, or today)')
    .option('--no-pages', 'make no pages of indicia')
    .option('--refill <amount>', 'get funds before franking, for instance 250.00')
    .option('--once', 'end when all is confirmed and the grants have arrived')
    .option('--timeout <seconds>', 'with --once: the longest wait after franking', seconds, 300);
  for (const { name, values, meaning, lasting } of SETTINGS) {
    if (NO_OPTION.has(name)) continue;
    const option = new Option(
      `--${optionName(name)} <${typeof values === 'string' ? values : 'value'}>`,
      `${meaning}${lasting === true ? ' [first start]' : ''}`,
    );
    up.addOption(typeof values === 'string' ? option : option.choices(values));
  }
  withShared(up, [
    'countermark up',
    'countermark up --mailing letters.csv --job november',
    'countermark up --once --json --data /tmp/trial > report.json',
    'countermark up --data /tmp/held --authentication mac --transport session --records psd --forwarding hold --hold-for 1d',
  ]).action(async (options: UpOptions, command: Command) => {
    await runUp(options, givenAsOptions(command), resumeCommand(command));
  });
}

function seconds(value: string): number {
  const parsed = Number(value);
  if (!/^\d{1,7}$/.test(value) || parsed === 0) throw new InvalidArgumentError('a number of seconds is expected.');
  return parsed;
}

/** The settings among the options, as they would stand in the file. */
function givenAsOptions(command: Command): Record<string, string | number | boolean> {
  const given: Record<string, string | number | boolean> = {};
  const options = command.opts<Record<string, string | boolean | undefined>>();
  for (const { name, values } of SETTINGS) {
    if (name === 'refill' || command.getOptionValueSource(name) !== 'cli') continue;
    const value = options[name];
    if (value !== undefined) given[name] = values === 'number' && /^\d+$/.test(String(value)) ? Number(value) : value;
  }
  return given;
}

/** What the operator did while it ran. */
class Interruption {
  readonly #abort = new AbortController();
  #forced: (() => void) | undefined;
  readonly #listener = (): void => {
    if (this.#abort.signal.aborted) this.#forced?.();
    else this.#abort.abort();
  };

  constructor() {
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, this.#listener);
  }

  asked(): boolean {
    return this.#abort.signal.aborted;
  }

  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  /** What a second Ctrl-C does. */
  onForced(kill: () => void): void {
    this.#forced = kill;
  }

  /** Resolves when the operator asks to stop. */
  async awaited(): Promise<void> {
    if (this.asked()) return;
    await new Promise<void>((resolve) => {
      this.signal.addEventListener('abort', () => resolve(), { once: true });
    });
  }
}

/** What is known of the job when the command ends. */
type Outcome = { report?: JobReport | undefined; failure?: Failure | undefined; exit: number; printed?: boolean };

async function runUp(
  options: UpOptions,
  given: Readonly<Record<string, string | number | boolean>>,
  resume: string,
): Promise<void> {
  const interruption = new Interruption();
  const data = userPath(options.data);
  const outcome: Outcome = { exit: EXIT.done };
  await carryOut({}, async () => {
    try {
      await operate(options, data, given, resume, interruption, outcome);
    } catch (thrown) {
      outcome.failure ??= failureOf(thrown);
      outcome.exit = outcome.failure.exit;
      tell(outcome.failure);
    }
    if (options.json === true && outcome.printed !== true) printOutcome(outcome);
    return outcome.exit;
  });
  // Signals are still listened to, and timers of a given-up call may be pending: what had to end has ended.
  await new Promise((resolve) => process.stdout.write('', resolve));
  process.exit();
}

async function operate(
  options: UpOptions,
  data: string,
  given: Readonly<Record<string, string | number | boolean>>,
  resume: string,
  interruption: Interruption,
  outcome: Outcome,
): Promise<void> {
  const mailing = options.mailing === false ? undefined : userPath(options.mailing ?? SAMPLE_MAILING);
  refuseForeignFolder(data);
  let lose: (fault: Fault) => void = () => undefined;
  const lost = new Promise<never>((_, reject) => {
    lose = reject;
  });
  lost.catch(() => undefined);
  const unsafe = new Set<string>();
  const installation = await lockInstallation(data, {
    onNote: (line) => note(noteStyle.yellow(line)),
    onUnsafe: (line) => {
      if (!unsafe.has(line)) note(noteStyle.yellow(line));
      unsafe.add(line);
    },
    onLost: (fault) => lose(fault),
  });
  interruption.onForced(() => {
    const message = 'Every process was killed. What was answered is on disk: the same command resumes.';
    note(message);
    installation.kill();
    outcome.failure ??= { code: 'interrupted', message, exit: EXIT.unconfirmed, detail: {} };
    if (options.json === true && outcome.printed !== true) printOutcome(outcome);
    process.exit(EXIT.unconfirmed);
  });
  try {
    const settings = await settle(installation, given, mailing);
    note(`Starting on ${data} ...`);
    await installation.start(settings);
    await Promise.race([enrolled(installation, settings, options.refill), lost]);
    if (interruption.asked()) {
      outcome.exit = mailing === undefined ? EXIT.done : EXIT.unconfirmed;
      return;
    }
    if (mailing === undefined) {
      await stayUp(installation, options, interruption, lost);
      return;
    }
    const run = { installation, options, mailing, interruption, resume };
    await Promise.race([frankAndWait(run, outcome), lost]);
    if (options.once === true || interruption.asked() || outcome.exit === EXIT.input) return;
    if (options.json === true) printOutcome(outcome);
    outcome.printed = true;
    await stayUp(installation, options, interruption, lost);
  } finally {
    if (!interruption.asked() || options.once === true) note('Stopping ...');
    await installation.stop();
    note('Every process has ended.');
  }
}

/** The one JSON object: the report as far as it is known, and the error, if there was one. */
function printOutcome({ report, failure }: Outcome): void {
  printJson({ ...(report ?? { schema: 1 }), ...(failure === undefined ? {} : { error: errorObject(failure) }) });
}

/** A folder with other things in it is not made ours. */
function refuseForeignFolder(data: string): void {
  if (!existsSync(data)) return;
  let found: string[];
  try {
    found = readdirSync(data);
  } catch {
    refuseUsage(`${data} is not a folder that can be read.`);
  }
  const ours = found.includes('installation.json') || found.includes('countermark.toml') || found.includes('run');
  if (found.length > 0 && !ours) {
    refuseUsage(`${data} has other things in it and is no data folder of Countermark: name an empty one with --data.`);
  }
}

/** The settings of this start; at the first one the file is written. */
async function settle(
  installation: Installation,
  options: Readonly<Record<string, string | number | boolean>>,
  mailing: string | undefined,
): Promise<Settings> {
  const { settings: file, marker } = installation.paths;
  const given = valueOf(checkSettings(options, 'of the options'));
  if (existsSync(file)) {
    const written = valueOf(await readSettings(file));
    const before = valueOf(completeSettings(written, file));
    const changed = changedLasting(before, given);
    if (changed !== undefined) {
      refuseUsage(
        `${changed} was fixed at the first start (it is ${JSON.stringify(before[changed])}); take another data folder for another.`,
      );
    }
    return valueOf(completeSettings({ ...written, ...given }, file));
  }
  const customers = given.customers ?? (mailing === undefined || namesCustomers(mailing) ? 'many' : 'one');
  const first: GivenSettings = { ...given, customers };
  const settings = valueOf(completeSettings(first, 'of the options'));
  // What cannot change later is written out: another standard value of a later version must not change it.
  const { authentication, records } = settings;
  const text = settingsFile({ authentication, records, customers, ...options });
  mkdirSync(installation.paths.data, { recursive: true, mode: 0o700 });
  writeFileSync(marker, `${JSON.stringify({ schema: 1, kind: 'demonstration' })}\n`, { mode: 0o600 });
  writeFileSync(file, text, { mode: 0o600 });
  return settings;
}

/** Whether the first line of a CSV has the column `customer`. What cannot be read is refused later, with its reason. */
function namesCustomers(file: string): boolean {
  try {
    const handle = openSync(file, 'r');
    try {
      const bytes = Buffer.alloc(65_536);
      const text = bytes.toString('utf8', 0, readSync(handle, bytes));
      const header = text.replace(/^\uFEFF/, '').split(/\r?\n/, 1)[0] ?? '';
      return header.split(/[,;\t]/).some((name) => name.trim().replaceAll('"', '').toLowerCase() === 'customer');
    } finally {
      closeSync(handle);
    }
  } catch {
    return true;
  }
}

/** Enrols the device when it is new and gives it its first funds; later refills are asked for. */
async function enrolled(installation: Installation, settings: Settings, refill: string | undefined): Promise<void> {
  const { host } = installation;
  const device = await host.call(HOST.device, {});
  if (device.state === 'uninitialised' || device.state === 'keyed' || device.state === 'authorised') {
    await host.call(HOST.enrol, { code: await issueEnrolmentCode(installation.operator, settings.licensee) });
    note('The device is enrolled.');
  }
  const before = await host.call(HOST.funds, {});
  const first = before.lastGrant === 0;
  if (refill === undefined && !first) return;
  const parameters = refill === undefined ? { amountMills: settings.refill.toString() } : { amount: refill };
  const { grantedMills, refusal, funds } = await host.call(HOST.refill, parameters);
  const currency = { code: funds.currency, exponent: funds.exponent };
  note(
    refusal === null
      ? `The device got ${formatMills(BigInt(grantedMills), currency)} and holds ${formatMills(BigInt(funds.descendingMills), currency)}.`
      : `The refill was refused: ${refusal}`,
  );
}

type Run = {
  readonly installation: Installation;
  readonly options: UpOptions;
  readonly mailing: string;
  readonly interruption: Interruption;
  /** The command that goes on with this job. */
  readonly resume: string;
};

/** Franks the mailing and waits for what follows; fills the outcome in as it becomes known. */
async function frankAndWait(run: Run, outcome: Outcome): Promise<void> {
  const { installation, options, interruption } = run;
  const stopAsked = (): void => {
    note('Stopping after the chunk in hand; once more kills.');
    installation.host.call(HOST.stop, {}).catch(() => undefined);
  };
  interruption.signal.addEventListener('abort', stopAsked, { once: true });
  const answer = await frank(run);
  interruption.signal.removeEventListener('abort', stopAsked);
  outcome.report = answer.report;
  if (answer.rejection !== undefined) {
    outcome.failure = answer.rejection;
    outcome.exit = answer.rejection.exit;
    tell(outcome.failure);
    if (answer.rejection.exit === EXIT.funds && options.once === true) {
      note('With --once nothing stays up to be refilled: run the same command again with --refill AMOUNT.');
    }
  }
  if (answer.remaining > 0 && answer.rejection === undefined) {
    note(
      `${countText(answer.franked)} pieces franked now, ${countText(answer.remaining)} remain. To go on:\n  ${run.resume}`,
    );
    outcome.exit = EXIT.unconfirmed;
    showReport(outcome, options);
    return;
  }
  if (interruption.asked()) {
    if (answer.report.pending.length > 0 && outcome.exit === EXIT.done) outcome.exit = EXIT.unconfirmed;
    showReport(outcome, options);
    return;
  }
  note('Waiting for confirmations and grants ...');
  const limitMs = options.once === true ? options.timeout * 1_000 : SUMMARY_WAIT_MS;
  const waited = await Promise.race([settled(run, answer, limitMs), interruption.awaited()]);
  if (waited !== undefined) {
    outcome.report = waited.report ?? outcome.report;
    if (waited.outcome !== 'settled' && outcome.exit === EXIT.done) outcome.exit = exitOfPending(waited);
    note(WAIT_WORDS[waited.outcome]);
  } else outcome.exit = EXIT.unconfirmed;
  showReport(outcome, options);
}

const WAIT_WORDS = {
  settled: 'All is confirmed, and the grants have arrived.',
  hold: 'Records are held; the rest waits for them.',
  timeout: 'Not all is confirmed yet.',
  blocked: 'Something waits that time alone does not cure; see what is pending.',
} as const;

/** The exit code of what waits: the first code of the catalogue among the reasons, else unconfirmed. */
function exitOfPending(waited: WaitAnswer): number {
  for (const { reason } of waited.pending) {
    const entry = Object.hasOwn(CATALOGUE, reason) ? CATALOGUE[reason as keyof typeof CATALOGUE] : undefined;
    if (entry?.exit === EXIT.funds || entry?.exit === EXIT.locked) return entry.exit;
  }
  return EXIT.unconfirmed;
}

function showReport({ report }: Outcome, options: UpOptions): void {
  if (report !== undefined && options.json !== true) print(jobSummary(report));
}

async function frank(run: Run): Promise<FrankAnswer> {
  const { options, mailing } = run;
  const progress = new Progress();
  try {
    const franked = await untilAnswered(run, async () => {
      const answer = await run.installation.host.call(
        HOST.frank,
        {
          file: mailing,
          ...(options.job === undefined ? {} : { job: options.job }),
          ...(options.acceptGood === undefined ? {} : { acceptGood: options.acceptGood }),
          ...(options.encoding === undefined ? {} : { encoding: options.encoding }),
          ...(options.mailingDate === undefined ? {} : { mailingDate: options.mailingDate }),
        },
        (event) => progress.show(event),
      );
      // The host stopped because another process was away for a moment: it goes on from where it stands.
      const code = answer.rejection?.code;
      if (code === 'try-again' || code === 'internal-fault') {
        throw new Fault('peer-away', answer.rejection?.message ?? code, { retry: 'later' });
      }
      return answer;
    });
    progress.end();
    progress.warn(franked.warnings);
    return franked;
  } finally {
    progress.end();
  }
}

function settled(run: Run, answer: FrankAnswer, limitMs: number): Promise<WaitAnswer> {
  const untilMs = performance.now() + limitMs;
  return untilAnswered(run, () =>
    run.installation.host.call(HOST.wait, {
      job: answer.job,
      timeoutMs: Math.max(1, Math.ceil(untilMs - performance.now())),
    }),
  );
}

/**
 * Calls again while a process is away: every operation of the host can be asked again. With --once it gives up where a process
 * stays away for as long as the timeout.
 */
async function untilAnswered<T>({ options, interruption }: Run, call: () => Promise<T>): Promise<T> {
  const patienceMs = options.once === true ? options.timeout * 1_000 : Infinity;
  let begunMs = performance.now();
  for (;;) {
    const calledMs = performance.now();
    try {
      return await call();
    } catch (error) {
      const passing = error instanceof Fault && (error.retry !== 'never' || errorCode(error) === 'connection-broken');
      const again = error instanceof Refused && error.rejection.code === 'job-conflict';
      // A call that was in hand for a while was answered in part: the series of attempts begins anew.
      if (again || performance.now() - calledMs > LONG_CALL_MS) begunMs = performance.now();
      if (!(passing || again) || interruption.asked() || performance.now() - begunMs >= patienceMs) throw error;
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }
}

async function stayUp(
  installation: Installation,
  options: UpOptions,
  interruption: Interruption,
  lost: Promise<never>,
): Promise<void> {
  if (options.once === true) return;
  const data = options.data === './countermark-data' ? '' : ` --data ${quoted(userPath(options.data))}`;
  note(`${noteStyle.bold('Countermark is up')} on ${installation.paths.data}; Ctrl-C stops it. In another terminal:`);
  for (const command of ['status', 'batch list', 'funds show', 'grant list']) {
    note(`  npx countermark ${command}${data}`);
  }
  await Promise.race([interruption.awaited(), lost]);
  note('Stopping ...');
}
