/**
 * Every file system call of one PSD chunk, one close, one server append and one confirmation, failed in turn. The append is taken
 * with what follows it at the server: its confirmation is stored, the ledger books it, it is delivered, its grants are fetched.
 *
 * Each operation is done once in peace, traced, which gives the list of its calls; then once for each call and fault (EIO, ENOSPC,
 * SIGKILL at its entry), by real processes. After each the operation is asked again until it is done.
 * Guarantees: an operation that failed has either happened once or not at all, and asked again it happens exactly once; a process that
 * ended has said why (unless it was killed), its own `check` found nothing before it served again; at the end every store is
 * checked once more. What is not so is told in words.
 * Covers calls on the party's own store, in its main thread; no calls of its start, and none on sockets and logs.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { askServer } from '@countermark/cli/registration';
import { errorText, Fault } from '@countermark/node-platform/fault';
import { hex } from '@countermark/protocol/id';
import type { BatchId } from '@countermark/protocol/id';
import { answersSchema, submissionSchema } from '@countermark/protocol/interfaces/answer';

import { type Operation } from '@countermark/protocol/interfaces/operation';
import { type FrankedChunk, PSD } from '@countermark/protocol/interfaces/psd';
import type { Rejection } from '@countermark/protocol/rejection';
import { encodeWith, parseBytes } from '@countermark/protocol/schema';
import { batchNumbered, chunkOf, declarationOf, pieces } from '../../packages/psd/testing/mailing.ts';
import { ask, type Line, startInstallation, type TestInstallation, type TestProcess } from '../installation.ts';
import { checkAll, checkedAndKillable, takeChecks } from './checked-process.ts';
import { pause, persistently, within } from './patience.ts';
import { type CallFault, type Injection, traced, type TracedCall } from './traced-calls.ts';

export const OPERATIONS = ['PSD chunk', 'PSD close', 'server append', 'confirmation'] as const;
export type OperationName = (typeof OPERATIONS)[number];
export const FAULTS = ['EIO', 'ENOSPC', 'SIGKILL'] as const satisfies readonly CallFault[];

/**
 * How a failed call ended. `unnoticed`: the operation was done all the same. `refused`: the process lives, said no, and did it when asked
 * again. `ended`: the process ended and came back by its supervisor. `stopped`: it ended for good, and said why.
 */
export const ENDINGS = ['unnoticed', 'refused', 'ended', 'stopped'] as const;
export type Ending = (typeof ENDINGS)[number];

export type CallCase = {
  readonly operation: OperationName;
  readonly call: string;
  /** Of this call in this operation, from 1. */
  readonly index: number;
  readonly file: string;
  readonly fault: CallFault;
  readonly ending: Ending;
  /** What the process said of it. */
  readonly words: string;
};

export type CallReport = {
  /** Calls of each operation in peace, in their order: name and file. */
  readonly calls: Readonly<Record<OperationName, readonly TracedCall[]>>;
  readonly cases: readonly CallCase[];
  /** Of an operation that took fewer calls this time than in peace. */
  readonly notReached: number;
  readonly checks: number;
  readonly seconds: number;
  readonly violations: readonly string[];
};

export type CallOptions = {
  /** Which of the calls of an operation are failed; all of them where it is not given. */
  readonly sample?: (injections: readonly Injection[]) => readonly Injection[];
  readonly say: (words: string) => void;
};

const CHUNK = 8;
const POSTAGE_MILLS = 740;
const COMING_BACK_MS = 10_000;

/** Fails the calls. Throws only where the run itself cannot go on. */
export async function failCalls({ sample = (all) => all, say }: CallOptions): Promise<CallReport> {
  const started = performance.now();
  const bench = await CallBench.open();
  try {
    const calls = {} as Record<OperationName, readonly TracedCall[]>;
    for (const operation of OPERATIONS) {
      calls[operation] = await bench.inPeace(operation);
      const injections = sample(injectionsOf(calls[operation]));
      say(`${operation}: ${calls[operation].length} calls, ${injections.length} faults`);
      for (const injection of injections) await bench.fail(operation, injection);
      say(`${operation}: done, ${bench.violations.length} violations so far`);
    }
    await bench.finish();
    const { cases, notReached, checks, violations } = bench;
    const seconds = Math.round((performance.now() - started) / 100) / 10;
    return { calls, cases, notReached, checks, seconds, violations };
  } finally {
    await bench.close();
  }
}

/** Every call with every fault. */
function injectionsOf(calls: readonly TracedCall[]): Injection[] {
  const counts = new Map<string, number>();
  return calls.flatMap(({ call }) => {
    const index = (counts.get(call) ?? 0) + 1;
    counts.set(call, index);
    return FAULTS.map((fault) => ({ call, index, fault }));
  });
}

/** An operation to be done: what is done once under trace, and what is true after it has been done, asked again as often as it takes. */
type Deed = {
  readonly party: 'psd' | 'server';
  run(): Promise<string>;
  /** Does it to the end. Given what `run` answered, if it did. Throws with words where it was not done exactly once. */
  verify(answered: string | null): Promise<void>;
};

/** One PSD without its host, and the shared parties. */
class CallBench {
  readonly cases: CallCase[] = [];
  readonly violations: string[] = [];
  notReached = 0;
  checks = 0;
  readonly #installation: TestInstallation;
  readonly #line: Line;
  #batch = 0;
  /** Chunks in the open batch. */
  #chunks = 0;

  private constructor(installation: TestInstallation, line: Line) {
    this.#installation = installation;
    this.#line = line;
  }

  static async open(): Promise<CallBench> {
    const starting = { wrap: checkedAndKillable, restartMsMax: 20 };
    const installation = await startInstallation({ starting });
    const line = await installation.line(
      { licensee: 'lic_calls', customers: 'one', records: 'psd', pages: false },
      { refillMills: 40_000_000n },
    );
    // It has enrolled the device; from now on the test itself asks.
    await line.processes.host.stop();
    return new CallBench(installation, line);
  }

  /** The calls of an operation that nothing disturbs. */
  async inPeace(operation: OperationName): Promise<readonly TracedCall[]> {
    // Once for the pages that a process reads only the first time.
    await this.#inPeace(operation);
    return this.#inPeace(operation);
  }

  async #inPeace(operation: OperationName): Promise<readonly TracedCall[]> {
    const deed = await this.#deed(operation);
    const { outcome, calls } = await this.#traced(deed, null);
    if ('error' in outcome) throw outcome.error;
    await deed.verify(outcome.value);
    return calls;
  }

  async fail(operation: OperationName, injection: Injection): Promise<void> {
    const { call, index, fault } = injection;
    const where = `${operation}, ${call} ${index}, ${fault}`;
    try {
      const deed = await this.#deed(operation);
      const victim = this.#victim(deed);
      const pid = victim.pid();
      const came = { back: false };
      const back = victim.back().then(() => {
        came.back = true;
      });
      const logged = this.#log(deed.party).length;
      const { outcome, calls } = await this.#traced(deed, injection);
      const hit = calls.find(({ injected }) => injected);
      const failed = 'error' in outcome;
      // What is about to end is waited for: whoever answers after a failure lives.
      if (failed && (fault === 'SIGKILL' || !(await this.#lives(victim, pid)))) {
        if (!(await within(COMING_BACK_MS, back))) await this.#startAgain(victim, where);
      }
      await deed.verify(failed ? null : outcome.value);
      const ended = came.back || victim.pid() !== pid;
      const words = lastWords(this.#log(deed.party).slice(logged));
      if (ended && fault !== 'SIGKILL' && words === '') this.#violated(where, 'the process ended and did not say why');
      // This time the operation took fewer calls: another page was in memory.
      const isReached = fault === 'SIGKILL' ? ended : hit !== undefined;
      if (!isReached) {
        this.notReached += 1;
        return;
      }
      const ending: Ending = ended ? 'ended' : failed ? 'refused' : 'unnoticed';
      this.cases.push({ operation, call, index, file: hit?.file ?? '', fault, ending, words });
    } catch (error) {
      this.#violated(where, errorText(error));
    }
    this.#note(where, takeChecks(this.#folders()));
  }

  /** Ends everything and checks every store. */
  async finish(): Promise<void> {
    await this.#line.stop();
    for (const party of Object.values(this.#installation.processes)) await party.stop();
    this.#note('the end', await checkAll(this.#folders()));
  }

  async close(): Promise<void> {
    await this.#installation.stop();
  }

  #folders() {
    return [this.#installation.paths, this.#line.paths];
  }

  #note(where: string, { count, wrong }: ReturnType<typeof takeChecks>): void {
    this.checks += count;
    for (const words of wrong) this.#violated(where, words);
  }

  #violated(where: string, words: string): void {
    this.violations.push(`${where}: ${words}`);
  }

  #victim({ party }: Deed): TestProcess {
    return party === 'psd' ? this.#line.processes.psd : this.#installation.processes.server;
  }

  #log(party: 'psd' | 'server'): string {
    const { logs } = party === 'psd' ? this.#line.paths : this.#installation.paths;
    const file = join(logs, `${party}.log`);
    // Written with its first line.
    return existsSync(file) ? readFileSync(file, 'utf8') : '';
  }

  async #traced(deed: Deed, injection: Injection | null) {
    const pid = this.#victim(deed).pid();
    if (pid === undefined) throw new Error(`${deed.party} does not run`);
    const folder = (deed.party === 'psd' ? this.#line.paths : this.#installation.paths).parties[deed.party];
    const stores = readdirSync(folder).filter((name) => /\.(db|sqlite)$/.test(name));
    const files = stores.flatMap((name) => ['', '-wal', '-journal'].map((end) => join(folder, `${name}${end}`)));
    return traced(pid, files, injection, () => deed.run());
  }

  /** Whether the process that failed goes on: whoever ends after a failed write does so within a moment. */
  async #lives(victim: TestProcess, pid: number | undefined): Promise<boolean> {
    for (let i = 0; i < 20 && victim.pid() === pid; i++) await new Promise((resolve) => setTimeout(resolve, 25));
    return victim.pid() === pid;
  }

  /** A process that its supervisor does not start again. */
  async #startAgain(victim: TestProcess, where: string): Promise<void> {
    await victim.stop();
    try {
      await victim.start();
    } catch (error) {
      throw new Error(`it does not start again: ${errorText(error)}`, { cause: error });
    }
    this.#violated(where, 'its supervisor gave it up, and yet it starts');
  }

  async #deed(operation: OperationName): Promise<Deed> {
    switch (operation) {
      case 'PSD chunk':
        return this.#chunkDeed();
      case 'PSD close':
        return this.#closeDeed();
      case 'server append':
        return this.#appendDeed();
      case 'confirmation':
        return this.#confirmationDeed();
    }
  }

  async #chunkDeed(): Promise<Deed> {
    if (this.#chunks === 0) await this.#openBatch();
    const before = (await this.#device()).registers;
    const request = chunkOf(this.#id(), this.#chunks * CHUNK, pieces(CHUNK, POSTAGE_MILLS, this.#chunks));
    const frank = async (): Promise<string> => describeChunk(await this.#psd(PSD.frankChunk, request));
    return {
      party: 'psd',
      run: frank,
      verify: async (answered) => {
        const first = await persistently(frank);
        const again = await persistently(frank);
        if (again !== first || (answered !== null && answered !== first)) {
          throw new Error('the chunk asked again has other pieces');
        }
        if (!first.startsWith(`${before.pieces + 1} `)) throw new Error(`the chunk's first piece is ${first}`);
        const { registers } = await this.#device();
        const debitedMills = registers.ascendingMills - before.ascendingMills;
        if (registers.pieces !== before.pieces + CHUNK || debitedMills !== BigInt(CHUNK * POSTAGE_MILLS)) {
          throw new Error(
            `${registers.pieces - before.pieces} pieces and ${debitedMills} mills for a chunk of ${CHUNK}`,
          );
        }
        this.#chunks += 1;
      },
    };
  }

  async #closeDeed(): Promise<Deed> {
    await this.#frankBatch();
    const batch = this.#id();
    const before = await this.#device();
    const seal = async (): Promise<string> => {
      const { sequence, digest } = await this.#psd(PSD.seal, { batch, incomplete: false });
      return `${sequence} ${hex(digest)}`;
    };
    const close = async (): Promise<void> => {
      const refused = await refusalOf(this.#psd(PSD.closeBatch, { batch, reprints: 0 }));
      // It was sealed already.
      if (refused !== null && refused.code !== 'no-open-batch') throw new Error(refused.code);
    };
    return {
      party: 'psd',
      run: async () => {
        await close();
        return seal();
      },
      verify: async (answered) => {
        const sealed = await persistently(async () => {
          await close();
          return seal();
        });
        if (answered !== null && answered !== sealed) throw new Error('the batch sealed again has another record');
        const { sequence, unconfirmedRecords, registers, batch: open } = await this.#device();
        const isOnce = sequence === before.sequence + 1 && unconfirmedRecords === before.unconfirmedRecords + 1;
        if (!isOnce || !sealed.startsWith(`${sequence} `) || open !== undefined) {
          throw new Error(`one close made records up to ${sequence}, after ${before.sequence}`);
        }
        if (registers.ascendingMills !== before.registers.ascendingMills) throw new Error('closing moved the register');
        this.#chunks = 0;
        await this.#confirm(await this.#submit(await this.#record(sequence)));
      },
    };
  }

  async #appendDeed(): Promise<Deed> {
    const { sequence, record } = await this.#sealedRecord();
    await persistently(() => this.#followed(sequence - 1));
    return {
      party: 'server',
      run: async () => {
        const confirmation = await this.#submit(record);
        await this.#followed(sequence);
        return confirmation;
      },
      verify: async (answered) => {
        const confirmation = await persistently(() => this.#submit(record));
        const again = await persistently(() => this.#submit(record));
        if (confirmation !== again || (answered !== null && answered !== confirmation)) {
          throw new Error('the record sent again has another confirmation');
        }
        await this.#confirm(confirmation);
        const { unconfirmedRecords, alarms } = await this.#device();
        if (unconfirmedRecords !== 0 || alarms !== 0) throw new Error(`record ${sequence} is not confirmed`);
      },
    };
  }

  async #confirmationDeed(): Promise<Deed> {
    const { sequence, record } = await this.#sealedRecord();
    const confirmation = await persistently(() => this.#submit(record));
    return {
      party: 'psd',
      run: () => this.#confirm(confirmation),
      verify: async () => {
        await persistently(() => this.#confirm(confirmation));
        const { unconfirmedRecords, piecesInMemory, alarms } = await this.#device();
        if (unconfirmedRecords !== 0 || piecesInMemory !== 0 || alarms !== 0) {
          throw new Error(`after the confirmation of record ${sequence} the device holds ${unconfirmedRecords}`);
        }
        const refused = await refusalOf(this.#psd(PSD.record, { sequence }));
        if (refused?.code !== 'already-confirmed') throw new Error(`record ${sequence} is ${refused?.code ?? 'there'}`);
      },
    };
  }

  #id(): BatchId {
    return batchNumbered(this.#batch);
  }

  async #openBatch(): Promise<void> {
    this.#batch += 1;
    const { customer: _, ...declaration } = declarationOf(this.#id(), { expectedPieces: 10_000 });
    await persistently(() => this.#psd(PSD.openBatch, { declaration }));
    // The first writes of a process are others: two chunks before what is looked at.
    for (this.#chunks = 0; this.#chunks < 2; this.#chunks++) await this.#frank();
  }

  async #frank(): Promise<void> {
    const request = chunkOf(this.#id(), this.#chunks * CHUNK, pieces(CHUNK, POSTAGE_MILLS));
    await persistently(() => this.#psd(PSD.frankChunk, request));
  }

  /** An open batch of at least two chunks. */
  async #frankBatch(): Promise<void> {
    if (this.#chunks === 0) await this.#openBatch();
  }

  async #sealedRecord(): Promise<{ readonly sequence: number; readonly record: Uint8Array }> {
    await this.#frankBatch();
    const batch = this.#id();
    await persistently(() => this.#psd(PSD.closeBatch, { batch, reprints: 0 }));
    const { sequence, record } = await persistently(() => this.#psd(PSD.seal, { batch, incomplete: false }));
    this.#chunks = 0;
    return { sequence, record };
  }

  async #record(sequence: number): Promise<Uint8Array> {
    return (await persistently(() => this.#psd(PSD.record, { sequence }))).record;
  }

  /** Sends a record to the server; the confirmation in hex. */
  async #submit(record: Uint8Array): Promise<string> {
    const { url, credential } = this.#line.server;
    let response: Response;
    try {
      response = await fetch(new URL('/v1/records', url), {
        method: 'POST',
        headers: { authorization: `Bearer ${credential}`, 'content-type': 'application/cbor' },
        body: Buffer.from(encodeWith(submissionSchema, { records: [record] })),
      });
      if (response.status >= 500) throw new Error(`${response.status} ${await response.text()}`);
      const bytes = new Uint8Array(await response.arrayBuffer());
      const answers = parseBytes(answersSchema, bytes);
      const confirmation = answers.ok ? answers.value.answers[0]?.confirmation : undefined;
      if (confirmation === undefined) throw new TypeError(`no confirmation: ${Buffer.from(bytes).toString()}`);
      return hex(confirmation);
    } catch (cause) {
      if (cause instanceof TypeError && cause.message.startsWith('no confirmation')) throw cause;
      throw new Fault('server-unreachable', errorText(cause), { retry: 'later', cause });
    }
  }

  /** Resolves when ledger, delivery and grants have followed the log up to a record. */
  async #followed(sequence: number): Promise<void> {
    const { device } = await this.#device();
    for (;;) {
      const state = await askServer(this.#line.server, 'GET', `/v1/devices/${device}/settlement`);
      if ((state as { evaluated: number }).evaluated >= sequence) return;
      await pause();
    }
  }

  /** Gives the PSD a confirmation, once more or for the first time. */
  async #confirm(confirmation: string): Promise<string> {
    const given = this.#psd(PSD.confirm, { confirmation: Uint8Array.from(Buffer.from(confirmation, 'hex')) });
    const refused = await refusalOf(given);
    if (refused !== null && refused.code !== 'already-confirmed') throw new Error(refused.code);
    return 'confirmed';
  }

  #device() {
    return persistently(() => this.#line.device());
  }

  #psd<Request, Answer>(operation: Operation<Request, Answer>, request: Request): Promise<Answer> {
    return ask(this.#line.paths.sockets.psd, operation, request);
  }
}

function describeChunk({ firstPieceNumber, salts, registers }: FrankedChunk): string {
  return `${firstPieceNumber} ${hex(salts)} ${registers.ascendingMills}`;
}

/** The rejection of a call that was refused, null where it was answered; faults are thrown on. */
async function refusalOf(call: Promise<unknown>): Promise<Rejection | null> {
  try {
    await call;
    return null;
  } catch (error) {
    if (error instanceof Error && !(error instanceof Fault) && error.cause !== undefined)
      return error.cause as Rejection;
    throw error;
  }
}

/** The events of log lines that tell of an error, in words. */
function lastWords(log: string): string {
  const words = log.split('\n').flatMap((line) => {
    try {
      const { level, msg, error } = JSON.parse(line) as { level?: unknown; msg?: string; error?: { message?: string } };
      const isError = level === 'error' || level === 'fatal' || (typeof level === 'number' && level >= 50);
      return isError ? [[msg, error?.message].filter(Boolean).join(': ')] : [];
    } catch {
      return [];
    }
  });
  return words.at(-1) ?? '';
}
