/**
 * Supervision of the parties' processes: start, wait for the ready line, log, notice a death, restart, stop.
 *
 * Guarantees: a party counts as started only after its line `{"ready":true,...}`; one that does not come up is told with the rejection
 * that it gave instead, or else with its last words; stderr goes to DIR/NAME.log, bounded; a party that dies is started again after a
 * growing wait, unless its exit code says that this cannot help (usage, input, store in use or damaged); stopping goes in the reverse order of starting: close the
 * child's stdin, then SIGTERM, then SIGKILL. Children ignore SIGINT and end when this process dies, because their stdin closes then.
 * Does not watch whether a living party still answers.
 */
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { join } from 'node:path';
import { describeRejection, EXIT, isRejectionCode, type Rejection } from '@countermark/protocol/rejection';
import { Backoff } from './backoff.ts';
import { Fault } from './fault.ts';
import { RotatingFile } from './rotating-file.ts';

/** One process to run. */
export interface PartySpec {
  /** Also the log's name. */
  readonly name: string;
  /** For instance ['packages/psd/dist/main.js', 'serve', '--config', FILE]. */
  readonly args: readonly string[];
  /** Default: this very Node. */
  readonly command?: string;
  /** Added to this process' environment. */
  readonly env?: Readonly<Record<string, string>>;
}

/** How a party ended. */
export interface PartyExit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  /** The last lines of its stderr, at most 20. */
  readonly lastWords: readonly string[];
  /** Why it did not start, where it said so itself. */
  readonly rejection?: Rejection;
}

/** The ready line without `ready`. */
export type PartyAddresses = Readonly<Record<string, unknown>>;

/** How parties are supervised. */
export interface SupervisorOptions {
  /** DIR/logs. */
  readonly logDirectory: string;
  /** Told at each death that nobody asked for, with the wait before the next start, or undefined where there is none. */
  onExit?(name: string, exit: PartyExit, restartInMs: number | undefined): void;
  /** Told at each ready line, also after a restart: ports may have changed. */
  onReady?(name: string, addresses: PartyAddresses, pid: number): void;
  /** Told each whole line that a party writes on stderr, for instance the warning that its keys are unsafe. */
  onLine?(name: string, line: string): void;
  /** Longest wait for a ready line. Default 20,000. */
  readonly readyTimeoutMs?: number;
  /** Ceilings of the wait before a restart. Default 500 to 30,000. */
  readonly restartMs?: { readonly first: number; readonly most: number };
}

/** After so long a life a death starts a new series of waits. */
const HEALTHY_MS = 60_000;
const LAST_WORDS_MAX = 20;
/** Of a line without end only so much is kept in memory. */
const LINE_CHARACTERS_MAX = 16_384;
const NOT_RESTARTED: ReadonlySet<number | null> = new Set([EXIT.usage, EXIT.input, EXIT.locked]);

/** The processes of one installation. */
export class Supervisor {
  readonly #options: SupervisorOptions;
  readonly #parties: SupervisedParty[] = [];

  constructor(options: SupervisorOptions) {
    this.#options = options;
  }

  /**
   * Starts a party and waits until it is ready. Faults: `party-not-ready` (it ended, took too long or printed something else; with
   * its last words), after which it is not running.
   */
  async start(spec: PartySpec): Promise<PartyAddresses> {
    const party = new SupervisedParty(spec, this.#options);
    this.#parties.push(party);
    return party.start();
  }

  /** The process id of a party that runs now. */
  pid(name: string): number | undefined {
    return this.#parties.find((party) => party.name === name)?.pid;
  }

  /** Stops all, the last started first: each may take `graceMs` after its stdin closed, and as long after SIGTERM. */
  async stopAll(graceMs = 8_000): Promise<void> {
    for (const party of this.#parties.splice(0).reverse()) await party.stop(graceMs);
  }
}

class SupervisedParty {
  readonly name: string;
  readonly #spec: PartySpec;
  readonly #options: SupervisorOptions;
  readonly #log: RotatingFile;
  readonly #backoff: Backoff;
  #child: ChildProcessWithoutNullStreams | undefined;
  #exited: Promise<PartyExit> | undefined;
  #restart: NodeJS.Timeout | undefined;
  #stopping = false;

  constructor(spec: PartySpec, options: SupervisorOptions) {
    this.name = spec.name;
    this.#spec = spec;
    this.#options = options;
    this.#log = new RotatingFile(join(options.logDirectory, `${spec.name}.log`));
    this.#backoff = new Backoff({
      firstMs: options.restartMs?.first ?? 500,
      mostMs: options.restartMs?.most ?? 30_000,
      random: Math.random,
    });
  }

  get pid(): number | undefined {
    return this.#child?.pid;
  }

  async start(): Promise<PartyAddresses> {
    const { command = process.execPath, args, env } = this.#spec;
    const child = spawn(command, [...args], { stdio: ['pipe', 'pipe', 'pipe'], env: { ...process.env, ...env } });
    this.#child = child;
    const startedMs = performance.now();
    const lastWords: string[] = [];
    child.stdin.on('error', () => undefined);
    let unended = '';
    child.stderr.on('data', (bytes: Buffer) => {
      this.#log.append(bytes);
      const lines = (unended + bytes.toString()).split('\n');
      unended = (lines.pop() ?? '').slice(-LINE_CHARACTERS_MAX);
      const whole = lines.filter(Boolean);
      for (const line of whole) this.#options.onLine?.(this.name, line);
      lastWords.push(...whole);
      lastWords.splice(0, lastWords.length - LAST_WORDS_MAX);
    });
    const exited = new Promise<PartyExit>((resolve) => {
      child.once('error', (error) => {
        lastWords.push(error.message);
        if (child.pid === undefined) resolve({ code: null, signal: null, lastWords });
      });
      // `close`, not `exit`: stderr has been read to its end then.
      child.once('close', (code, signal) => {
        if (unended !== '') lastWords.push(unended);
        resolve({ code, signal, lastWords });
      });
    });
    this.#exited = exited;
    let addresses: PartyAddresses;
    try {
      addresses = await this.#readyLine(child, exited);
    } catch (error) {
      child.kill('SIGKILL');
      await exited;
      this.#child = undefined;
      this.#log.close();
      throw error;
    }
    void exited.then((exit) => {
      this.#died(exit, performance.now() - startedMs);
    });
    this.#options.onReady?.(this.name, addresses, child.pid ?? 0);
    return addresses;
  }

  async stop(graceMs: number): Promise<void> {
    this.#stopping = true;
    clearTimeout(this.#restart);
    const child = this.#child;
    const exited = this.#exited;
    if (child === undefined || exited === undefined) return;
    child.stdin.end();
    for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
      if (await within(graceMs, exited)) return;
      child.kill(signal);
    }
    await exited;
  }

  async #readyLine(child: ChildProcessWithoutNullStreams, exited: Promise<PartyExit>): Promise<PartyAddresses> {
    const timeoutMs = this.#options.readyTimeoutMs ?? 20_000;
    let printed = '';
    const line = new Promise<string>((resolve) => {
      child.stdout.on('data', (bytes: Buffer) => {
        if (printed.includes('\n')) return;
        printed += bytes.toString();
        const end = printed.indexOf('\n');
        if (end >= 0) resolve(printed.slice(0, end));
      });
    });
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<Fault>((resolve) => {
      timer = setTimeout(() => {
        resolve(this.#notReady(`was not ready within ${String(timeoutMs)} ms`));
      }, timeoutMs);
    });
    try {
      return await this.#started(line, exited, late);
    } finally {
      clearTimeout(timer);
    }
  }

  async #started(line: Promise<string>, exited: Promise<PartyExit>, late: Promise<Fault>): Promise<PartyAddresses> {
    const first = await Promise.race([line, exited, late]);
    if (first instanceof Fault) throw first;
    if (typeof first !== 'string') throw this.#notReady(`ended while starting (${describeExit(first)})`, first);
    const refused = parseRefusal(first);
    if (refused !== undefined) {
      // It ends by itself, with the exit code that says whether another start can help.
      const exit = await Promise.race([exited, late]);
      throw exit instanceof Fault ? exit : this.#notReady('', { ...exit, rejection: refused });
    }
    const addresses = parseReady(first);
    if (addresses === undefined)
      throw this.#notReady(`printed something else than its ready line: ${first.slice(0, 200)}`);
    return addresses;
  }

  #notReady(what: string, exit?: PartyExit): Fault {
    const log = `its log: ${join(this.#options.logDirectory, `${this.name}.log`)}`;
    const words =
      exit === undefined || exit.lastWords.length === 0 ? '' : `\n${exit.lastWords.map(readable).join('\n')}`;
    return new Fault(
      'party-not-ready',
      exit?.rejection === undefined
        ? `${this.name} ${what}; ${log}${words}`
        : `${describeRejection(exit.rejection)} (${this.name} did not start; ${log})`,
      {
        retry: exit !== undefined && NOT_RESTARTED.has(exit.code) ? 'never' : 'later',
        cause: exit,
      },
    );
  }

  #died(exit: PartyExit, livedMs: number): void {
    this.#child = undefined;
    this.#log.close();
    if (this.#stopping) return;
    if (livedMs >= HEALTHY_MS) this.#backoff.reset();
    this.#comeBack(exit);
  }

  #comeBack(exit: PartyExit): void {
    const restartInMs = NOT_RESTARTED.has(exit.code) ? undefined : this.#backoff.nextMs();
    if (restartInMs !== undefined) {
      this.#restart = setTimeout(() => {
        this.start().catch((error: unknown) => {
          if (this.#stopping) return;
          const cause = error instanceof Fault ? (error.cause as PartyExit | undefined) : undefined;
          this.#comeBack(cause ?? { code: null, signal: null, lastWords: [String(error)] });
        });
      }, restartInMs);
    }
    this.#options.onExit?.(this.name, exit, restartInMs);
  }
}

/** How a party ended, in words. */
export function describeExit(exit: PartyExit): string {
  if (exit.signal !== null) return `signal ${exit.signal}`;
  return exit.code === null ? 'it could not be started' : `exit code ${String(exit.code)}`;
}

function parseReady(line: string): PartyAddresses | undefined {
  try {
    const value: unknown = JSON.parse(line);
    if (typeof value !== 'object' || value === null || !('ready' in value) || value.ready !== true) return undefined;
    const { ready: _, ...addresses } = value;
    return addresses;
  } catch {
    return undefined;
  }
}

/** The rejection of a party that does not start. It is one of ours, but may be of another version. */
function parseRefusal(line: string): Rejection | undefined {
  try {
    const { ready, rejection: refused } = JSON.parse(line) as { ready?: unknown; rejection?: Partial<Rejection> };
    if (ready !== false || refused === undefined) return undefined;
    const { code, detail } = refused;
    if (code === undefined || !isRejectionCode(code) || typeof detail !== 'object') return undefined;
    return { code, detail };
  } catch {
    return undefined;
  }
}

/** The event of a log line; other lines as they are. */
function readable(line: string): string {
  try {
    const { msg, error } = JSON.parse(line) as { msg?: string; error?: { message?: string } };
    return msg === undefined ? line : [msg, error?.message].filter(Boolean).join(': ');
  } catch {
    return line;
  }
}

async function within(ms: number, event: Promise<unknown>): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<false>((resolve) => {
    timer = setTimeout(() => {
      resolve(false);
    }, ms);
  });
  const happened = await Promise.race([event.then(() => true), late]);
  clearTimeout(timer);
  return happened;
}
