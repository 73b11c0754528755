/**
 * One seeded world: the five parties, one or more lines, what goes wrong, and what must hold all the same.
 *
 * A run has two phases. In the first the workload goes on and everything goes wrong that the seed has chosen, and after every event all
 * checkers look. Then faults end, what was down is started, and within bounded virtual time the world must converge: every
 * closed batch confirmed once or quarantined with its reason, totals equal, money conserved. A world that does not has failed.
 */
import type { Clock } from '@countermark/node-platform/clock';
import { errorText, Fault } from '@countermark/node-platform/fault';
import type { Log } from '@countermark/node-platform/logs';
import { CRYPTOGRAPHIC_DEVICE } from '@countermark/protocol/interfaces/cryptographic-device';
import { parseValue } from '@countermark/protocol/schema';
import { formatTrustBundle } from '@countermark/verify/trust-bundle';
import { Disks, type OnCommitted, type Templates } from './disks.ts';
import { Files } from './files.ts';
import { runOn } from './machine/machine.ts';
import { lazyRpc } from './machine/rpc.ts';
import { systemClock } from './machine/clock.ts';
import { Network } from './network.ts';
import {
  AUTHORITY_URL,
  CD_SOCKET,
  makeTemplates,
  OPERATOR,
  SERVER_URL,
  type Setting,
  startTheAuthority,
  startTheCryptographicDevice,
  startTheServer,
  TRUST_BUNDLE,
} from './parties.ts';
import { CallBroken } from './network.ts';
import { ProcessEnded, SimulatedProcess } from './process.ts';
import { RandomStream } from './random-stream.ts';
import { type Owner, Scheduler } from './scheduler.ts';
import { Trace } from './trace.ts';
import { PROGRAMMES } from './workload.ts';

/** 2026-03-02 06:00 UTC: within the time of the shipped tariff. */
const START_MS = Date.UTC(2026, 2, 2, 6);

const LONGEST_REST_MS = 2 * 3_600_000;
/** Waits below this are somebody giving way to others; longer ones are looks whether something has happened. */
const SHORT_REST_MS = 50;
/** A world that is well takes a few thousand events. */
const EVENTS_MOST = 60_000;

/** A contradiction of what must hold. */
export type Violation = { readonly checker: string; readonly what: string; readonly atMs: number };

export class ViolationFound extends Error {
  readonly violation: Violation;
  constructor(violation: Violation) {
    super(`${violation.checker}: ${violation.what}`);
    this.violation = violation;
  }
}

/** The databases that worlds of this thread start from. */
const templates: Templates = new Map();

export type WorldOptions = { readonly seed: string; readonly wholeTrace?: boolean };

export class World {
  readonly seed: string;
  readonly trace: Trace;
  readonly scheduler: Scheduler;
  readonly disks: Disks;
  readonly files = new Files();
  readonly network: Network;
  /** Somebody outside of all processes: operators, the supervisor, the world itself. */
  readonly people: Owner = { name: 'people', alive: true };
  readonly processes = new Map<string, SimulatedProcess>();
  /** How often each thing happened: faults, kills at each boundary, codes of rejections. */
  readonly counts = new Map<string, number>();
  /** Milliseconds by which a party's clock differs from virtual time. */
  readonly skewMs = new Map<string, number>();
  /** What was paid in, on paper: where the server forgets, people remember. */
  readonly deposits: { readonly licensee: string; readonly amountMills: bigint; readonly key: string }[] = [];
  /** Longer waits take so many times as long: days would else be full of looks that see nothing. */
  patience = 1;
  /** Starts that failed for good, with their words. */
  readonly stopped = new Map<string, string>();
  readonly #streams = new Map<string, RandomStream>();
  readonly #starts = new Map<string, (setting: Setting) => Promise<void>>();
  readonly #onCommitted = new Set<OnCommitted>();
  readonly #onStarted = new Set<(name: string) => void>();
  #restarting = true;
  #violation: Violation | undefined;

  constructor({ seed, wholeTrace = false }: WorldOptions) {
    this.seed = seed;
    this.trace = new Trace(wholeTrace);
    this.scheduler = new Scheduler(START_MS, (what, owner, atMs) => {
      this.trace.add(atMs - START_MS, `${owner.name}: ${what}`);
    });
    this.network = new Network(this.scheduler, this.stream('network'), (what) => {
      this.count(what);
    });
    this.disks = new Disks(templates, (path, process, written) => {
      for (const told of this.#onCommitted) told(path, process, written);
    });
    runOn({
      scheduler: this.scheduler,
      disks: this.disks,
      files: this.files,
      network: this.network,
      entropy: this.stream('entropy'),
      jitter: this.stream('jitter'),
      onThrown: (process, operation, error) => {
        // A party that would contradict itself stops there: nobody may ever bring it so far.
        if (!(error instanceof Error) || !isAssertion(error)) return;
        this.violated('assertion', `${process}: ${operation}: ${error.stack ?? error.message}`);
      },
      waitMs: (ms) =>
        ms < SHORT_REST_MS || this.patience === 1 ? ms : Math.max(ms, Math.min(ms * this.patience, LONGEST_REST_MS)),
    });
    for (const [name, text] of Object.entries(PROGRAMMES)) this.files.write(`/programmes/${name}`, text);
  }

  /** The stream of one concern. */
  stream(concern: string): RandomStream {
    let stream = this.#streams.get(concern);
    if (stream === undefined) {
      stream = new RandomStream(`${this.seed} ${concern}`);
      this.#streams.set(concern, stream);
    }
    return stream;
  }

  count(what: string, times = 1): void {
    this.counts.set(what, (this.counts.get(what) ?? 0) + times);
  }

  /** Tells of every commit of every party. */
  onCommitted(told: OnCommitted): void {
    this.#onCommitted.add(told);
  }

  onStarted(told: (name: string) => void): void {
    this.#onStarted.add(told);
  }

  /** Something that must not be: the run ends with it. The first one counts. */
  violated(checker: string, what: string): void {
    this.#violation ??= { checker, what, atMs: this.scheduler.nowMs - START_MS };
  }

  get violation(): Violation | undefined {
    return this.#violation;
  }

  /** Does events until the time, or until `done`. @throws ViolationFound. */
  async run(untilMs: number, done: () => boolean = () => false): Promise<boolean> {
    for (;;) {
      if (this.#violation !== undefined) throw new ViolationFound(this.#violation);
      if (done()) return true;
      if (this.scheduler.happened > EVENTS_MOST)
        throw new Error(`more than ${EVENTS_MOST} events: the world runs in a circle`);
      if (await this.scheduler.next(untilMs)) continue;
      this.scheduler.passTo(untilMs);
      return done();
    }
  }

  /** Has people do something at once, and resolves with what came of it. */
  async ask<T>(what: string, work: () => Promise<T>, withinMs = 3_600_000): Promise<T> {
    let outcome: { readonly value: T } | { readonly error: unknown } | undefined;
    this.scheduler.after(0, this.people, what, () => {
      work().then(
        (value) => {
          outcome = { value };
        },
        (error: unknown) => {
          outcome = { error };
        },
      );
    });
    const settled = (): boolean => outcome !== undefined;
    if (!(await this.run(this.scheduler.nowMs + withinMs, settled)) || outcome === undefined) {
      throw new Error(`${what}: no answer within ${withinMs} ms`);
    }
    if ('error' in outcome) throw outcome.error;
    return outcome.value;
  }

  /** A party's clock: virtual time, and what is wrong with it. */
  clockOf(party: string): Clock {
    return {
      nowMs: () => Math.floor(this.scheduler.nowMs + (this.skewMs.get(party) ?? 0)),
      sleep: (ms, signal) => systemClock.sleep(ms, signal),
    };
  }

  /** Says how a party is started, and starts it. */
  define(name: string, start: (setting: Setting) => Promise<void>): void {
    this.#starts.set(name, start);
    this.start(name);
  }

  isDefined(name: string): boolean {
    return this.#starts.has(name);
  }

  /** Starts a party that is not running. */
  start(name: string): void {
    const start = this.#starts.get(name);
    if (start === undefined || this.processes.get(name)?.alive === true) return;
    const process = new SimulatedProcess(
      name,
      (_, label) => {
        this.trace.add(this.scheduler.nowMs - START_MS, `${name} at ${label}`);
      },
      (ended, why) => {
        this.#ended(ended, why);
      },
    );
    this.processes.set(name, process);
    const setting: Setting = {
      process,
      clock: this.clockOf(name),
      log: this.#logOf(name),
      onBroken: (fault) => {
        this.count(`store broken: ${fault instanceof Fault ? fault.code : 'unknown'}`);
        process.end(`its store is broken: ${errorText(fault)}`);
      },
    };
    this.scheduler.after(0, process, 'starts', () => {
      start(setting).then(
        () => {
          this.stopped.delete(name);
          for (const told of this.#onStarted) told(name);
        },
        (error: unknown) => {
          if (!process.alive) return;
          this.stopped.set(name, errorText(error));
          process.end(`it does not start: ${errorText(error)}`);
        },
      );
    });
  }

  /** Ends a party, as SIGKILL does. `powerCut`: what was not synchronised is gone, too. */
  kill(name: string, why: string, powerCut = false): void {
    const process = this.processes.get(name);
    if (process?.alive !== true) return;
    this.#powerCut = powerCut;
    process.end(why);
    this.#powerCut = false;
  }
  #powerCut = false;

  /** Whether ended processes come back by themselves. */
  set restarting(on: boolean) {
    this.#restarting = on;
  }

  /** Ends a party and keeps it down for a time. */
  stopFor(name: string, ms: number): void {
    this.#down.add(name);
    this.kill(name, 'it is stopped');
    this.scheduler.after(ms, this.people, `${name} may start again`, () => {
      this.#down.delete(name);
      this.start(name);
    });
  }
  readonly #down = new Set<string>();

  /** Ends a party for good: it does not start again. */
  remove(name: string, why: string): void {
    this.#starts.delete(name);
    this.kill(name, why);
  }

  /** A rejection that nobody handles ends the process in which it happened, as it does on a machine. */
  unhandled(error: unknown): void {
    if (error instanceof ProcessEnded) return;
    const { running } = this.scheduler;
    if (!(running instanceof SimulatedProcess)) {
      this.violated('simulation', error instanceof Error ? (error.stack ?? error.message) : String(error));
      return;
    }
    if (!running.alive) return;
    this.count(
      `unhandled in ${running.name.replace(/-\d+$/, '')}: ${error instanceof Fault ? error.code : errorText(error)}`,
    );
    if (error instanceof Error && isAssertion(error)) {
      this.violated('assertion', `${running.name}: ${error.stack ?? error.message}`);
    }
    running.end(`an unhandled rejection: ${errorText(error)}`);
  }

  /** Starts whatever is not running. */
  startAll(): void {
    this.#down.clear();
    for (const name of this.#starts.keys()) this.start(name);
  }

  #ended(process: SimulatedProcess, why: string): void {
    this.trace.add(this.scheduler.nowMs - START_MS, `${process.name} ended: ${why}`);
    this.count(why.startsWith('killed at') ? why : 'process ended');
    this.disks.ended(process, this.#powerCut);
    this.network.ended(process);
    if (!this.#restarting) return;
    const delayMs = this.stream('supervision').whole(20, 3_000);
    this.scheduler.after(delayMs, this.people, `restart of ${process.name}`, () => {
      if (this.#restarting && !this.#down.has(process.name)) this.start(process.name);
    });
  }

  #logOf(name: string): Log {
    const said =
      (level: string) =>
      (event: string, ...rest: unknown[]) => {
        const code = rest.find((one) => typeof one === 'object' && one !== null && 'code' in one) as
          | { readonly code: unknown }
          | undefined;
        this.count(`log: ${event}`);
        const error = rest[0] instanceof Error ? ` ${rest[0].message}` : '';
        this.trace.add(
          this.scheduler.nowMs - START_MS,
          `${name} ${level}: ${event}${code === undefined ? '' : ` ${String(code.code)}`}${error}`,
        );
        // A party's own surprise: a broken invariant is an assertion, and none may ever fail.
        if (level === 'error' && rest[0] instanceof Error && isAssertion(rest[0])) {
          this.violated('assertion', `${name}: ${event}: ${rest[0].stack ?? rest[0].message}`);
        }
      };
    return { debug: said('debug'), info: said('info'), warn: said('warn'), error: said('error') };
  }

  close(): void {
    this.disks.close();
  }
}

/** An error that no party should ever meet, whatever goes wrong around it. */
function isAssertion(error: Error): boolean {
  // What a database would not take twice, or without what it belongs to, its party should not have tried.
  if ('code' in error) return String(error.code).startsWith('SQLITE_CONSTRAINT');
  return !(error instanceof Fault || error instanceof ProcessEnded || error instanceof CallBroken);
}

/** Makes the templates that worlds start from, once in a thread. */
export async function prepareTemplates(): Promise<void> {
  if (templates.size > 0) return;
  const world = new World({ seed: 'templates' });
  world.restarting = false;
  const process = new SimulatedProcess(
    'templates',
    () => undefined,
    () => undefined,
  );
  let making: Promise<void> | undefined;
  world.scheduler.after(0, process, 'makes templates', () => {
    making = makeTemplates(process);
    // Whoever awaits it below hears of a failure.
    making.catch(() => undefined);
  });
  while (await world.scheduler.next()) {
    // Until there is nothing more to do.
  }
  await making;
  world.close();
}

/** The parties of an installation, started: everything but lines. */
export async function startInstallation(world: World, policy: Readonly<Record<string, unknown>>): Promise<void> {
  world.define('cryptographic-device', async (setting) => startTheCryptographicDevice(setting));
  const rpc = lazyRpc(CD_SOCKET);
  const { publicKeys } = CRYPTOGRAPHIC_DEVICE;
  await world.run(world.scheduler.nowMs + 60_000, () => world.network.service(CD_SOCKET) !== undefined);
  const said = await world.ask('asks for the public keys', () =>
    rpc.call(publicKeys.name, publicKeys.request.toCbor({})),
  );
  const keys = said.ok ? parseValue(publicKeys.answer, said.value) : said;
  if (!keys.ok) throw new Error(keys.rejection.code);
  world.files.write(TRUST_BUNDLE, formatTrustBundle(keys.value));
  let grantingKey: Uint8Array | undefined;
  world.define('authority', async (setting) => {
    grantingKey = await startTheAuthority(setting);
  });
  await world.run(world.scheduler.nowMs + 60_000, () => grantingKey !== undefined);
  if (grantingKey === undefined)
    throw new Error(`the authority does not start: ${world.stopped.get('authority') ?? ''}`);
  world.files.write(
    TRUST_BUNDLE,
    formatTrustBundle({
      ...keys.value,
      keys: [...keys.value.keys, { role: 'granting', epoch: 1, publicKey: grantingKey }],
    }),
  );
  world.define('server', async (setting) => startTheServer(setting, policy));
  await world.run(world.scheduler.nowMs + 60_000, () => world.network.service(SERVER_URL) !== undefined);
  await world.run(world.scheduler.nowMs + 60_000, () => world.network.service(AUTHORITY_URL) !== undefined);
}

/** Asks the server as its operator. */
export async function operate<T>(world: World, operation: string, parameters: object): Promise<T> {
  const answer = (await world.ask(operation, () =>
    world.network.remote(SERVER_URL, operation, { credential: OPERATOR, ...parameters }),
  )) as
    | { readonly ok: true; readonly value: T }
    | { readonly ok: false; readonly rejection: { readonly code: string } };
  if (!answer.ok) throw new Error(`${operation}: ${answer.rejection.code}`);
  return answer.value;
}
