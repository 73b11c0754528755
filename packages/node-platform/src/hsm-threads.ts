/**
 * Threads with a session each on a PKCS#11 token (worker/hsm-worker.mjs), begun anew when the token was away.
 *
 * Guarantees: calls are divided among the sessions and answered in their own order; whatever fails, hangs or ends is the fault
 * `hsm-unavailable`, and a later call begins with new threads, which initialise the module again: who comes later is served without a
 * start of anything; a refused PIN is tried by one thread, once, and never again in this process, because tokens count the tries and lock.
 * With `immediate` a further session, which does nothing else, is waited for on the caller's own thread, as long as a silence may be: for what
 * has its place between a commit and what leaves the process after it.
 * Does not survive a module that brings the process down: the supervisor starts it again. While a thread hangs within the module there are only refusals.
 */
import { MessageChannel, receiveMessageOnPort, Worker } from 'node:worker_threads';
import { errorText, Fault } from '@countermark/node-platform/fault';

/** Where the token is, and what opens it. */
export type HsmAccess = {
  /** The PKCS#11 module, a shared library. */
  readonly module: string;
  /** The token's label. */
  readonly token: string;
  readonly pin: string;
};

/** A thread that owes answers and gives none for so long is given up: the module hangs. Calls that only wait for their turn do not count. */
const SILENCE_MS = 10_000;
const SILENT = `no answer within ${String(SILENCE_MS)} ms`;
/** A token that was away is looked for again after so long. */
const AGAIN_MS = 1_000;

type Answer = {
  readonly id: number;
  readonly value?: unknown;
  readonly failure?: { readonly kind: 'refused' | 'unavailable'; readonly reason: string };
};
type Call = {
  readonly thread: HsmThread;
  readonly resolve: (value: unknown) => void;
  readonly reject: (fault: Fault) => void;
};
type HsmThread = {
  readonly worker: Worker;
  readonly immediate: boolean;
  calls: number;
  silence: NodeJS.Timeout | undefined;
};

export class HsmThreads {
  readonly #access: HsmAccess;
  readonly #count: number;
  readonly #immediate: boolean;
  readonly #calls = new Map<number, Call>();
  #threads: HsmThread[] = [];
  #nextId = 0;
  /** Why nothing is tried any more, and until when nothing is tried. */
  #refused: Fault | undefined;
  #away: { readonly fault: Fault; readonly untilMs: number } | undefined;
  /** Threads that end: a module is initialised again only when nobody uses it. */
  #ending: Promise<unknown> = Promise.resolve();
  #opening: Promise<void> | undefined;
  #begunBefore = false;

  constructor(access: HsmAccess, count: number, { immediate = false }: { readonly immediate?: boolean } = {}) {
    this.#access = access;
    this.#count = count;
    this.#immediate = immediate;
  }

  get count(): number {
    return this.#count;
  }

  /** One operation of the worker on the least loaded session. Faults: `hsm-unavailable`, `hsm-refused`. */
  async call(operation: string, parameters: object): Promise<unknown> {
    await this.ready();
    const [first, ...others] = this.#threads.filter(({ immediate }) => !immediate);
    if (first === undefined) throw this.#away?.fault ?? unavailable('its threads have ended');
    const thread = others.reduce((least, other) => (other.calls < least.calls ? other : least), first);
    return this.#ask(thread, operation, parameters);
  }

  /** Resolves when the threads have their sessions. Faults: `hsm-unavailable`, `hsm-refused`. */
  async ready(): Promise<void> {
    if (this.#refused !== undefined) throw this.#refused;
    if (this.#threads.length > 0) return;
    if (this.#away !== undefined && performance.now() < this.#away.untilMs) throw this.#away.fault;
    await this.#opened();
  }

  /** One operation on the immediate session, done when this returns; the threads must be ready. Faults: those of `call`. */
  callNow(operation: string, parameters: object): unknown {
    if (this.#refused !== undefined) throw this.#refused;
    const thread = this.#threads.find(({ immediate }) => immediate);
    if (thread === undefined) throw this.#away?.fault ?? unavailable('its threads have not begun');
    const { port1, port2: port } = new MessageChannel();
    const done = new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT));
    thread.worker.postMessage({ operation, parameters, now: { port, done } }, [port]);
    Atomics.wait(done, 0, 0, SILENCE_MS);
    const answer = receiveMessageOnPort(port1)?.message as Omit<Answer, 'id'> | undefined;
    port1.close();
    if (answer?.failure === undefined && answer !== undefined) return answer.value;
    const { kind, reason } = answer?.failure ?? { kind: 'unavailable', reason: SILENT };
    if (kind === 'refused') throw this.#refuse(reason);
    const fault = unavailable(reason);
    this.#lost(thread, reason);
    throw fault;
  }

  async close(): Promise<void> {
    this.#refused ??= unavailable('it was closed');
    // What is in hand ends first, and the session is closed; a module that does not answer is left.
    await Promise.allSettled(this.#threads.map((thread) => this.#ask(thread, 'end', {})));
    this.#giveUp(this.#refused);
    await this.#ended().catch(() => undefined);
  }

  /** One opening at a time, whoever asks. */
  #opened(): Promise<void> {
    this.#opening ??= this.#open().finally(() => {
      this.#opening = undefined;
    });
    return this.#opening;
  }

  /** The threads before: one that hangs within the module cannot be ended, and nobody else may initialise it meanwhile. */
  async #ended(): Promise<void> {
    let late: NodeJS.Timeout | undefined;
    const hangs = new Promise<never>((_, reject) => {
      late = setTimeout(() => {
        reject(unavailable('a thread hangs within the module'));
      }, AGAIN_MS);
    });
    try {
      await Promise.race([this.#ending, hangs]);
    } finally {
      clearTimeout(late);
    }
  }

  /** The first thread logs in before there are others: a wrong PIN is tried once. */
  async #open(): Promise<void> {
    await this.#ended();
    const first = this.#begin(this.#begunBefore, this.#immediate);
    this.#begunBefore = true;
    this.#threads = [first];
    await this.#ask(first, 'find', {});
    this.#away = undefined;
    const further = this.#immediate ? this.#count : this.#count - 1;
    this.#threads = [first, ...Array.from({ length: further }, () => this.#begin(false))];
  }

  #begin(anew: boolean, immediate = false): HsmThread {
    const worker = new Worker(new URL('../worker/hsm-worker.mjs', import.meta.url), {
      workerData: { module: this.#access.module, label: this.#access.token, pin: this.#access.pin, anew },
      execArgv: [],
      name: 'hsm',
    });
    const thread: HsmThread = { worker, immediate, calls: 0, silence: undefined };
    worker.unref();
    worker.on('message', (answer: Answer) => {
      this.#answered(answer);
    });
    worker.on('error', (error) => {
      this.#lost(thread, errorText(error));
    });
    worker.on('exit', (code) => {
      this.#lost(thread, `a thread ended with code ${String(code)}`);
    });
    return thread;
  }

  async #ask(thread: HsmThread, operation: string, parameters: object): Promise<unknown> {
    const id = this.#nextId;
    this.#nextId += 1;
    // A thread keeps the process alive only while it owes an answer.
    if (thread.calls === 0) {
      thread.worker.ref();
      thread.silence = setTimeout(() => {
        this.#lost(thread, SILENT);
      }, SILENCE_MS);
    }
    thread.calls += 1;
    try {
      return await new Promise((resolve, reject) => {
        this.#calls.set(id, { thread, resolve, reject });
        thread.worker.postMessage({ id, operation, parameters });
      });
    } finally {
      this.#calls.delete(id);
      thread.calls -= 1;
      thread.silence?.refresh();
      if (thread.calls === 0) {
        clearTimeout(thread.silence);
        thread.worker.unref();
      }
    }
  }

  #answered({ id, value, failure }: Answer): void {
    const call = this.#calls.get(id);
    if (call === undefined) return;
    if (failure === undefined) call.resolve(value);
    else if (failure.kind === 'unavailable') this.#lost(call.thread, failure.reason);
    else this.#refuse(failure.reason);
  }

  #refuse(reason: string): Fault {
    this.#refused = new Fault('hsm-refused', refusedText(reason), { retry: 'never' });
    this.#giveUp(this.#refused);
    return this.#refused;
  }

  #lost(thread: HsmThread, reason: string): void {
    if (!this.#threads.includes(thread)) return;
    const fault = unavailable(reason);
    this.#away = { fault, untilMs: performance.now() + AGAIN_MS };
    this.#giveUp(fault);
  }

  /** Ends all threads: sessions of one module go together. */
  #giveUp(fault: Fault): void {
    const ending = this.#threads;
    this.#threads = [];
    for (const { reject } of this.#calls.values()) reject(fault);
    this.#ending = Promise.all([this.#ending, ...ending.map(({ worker }) => worker.terminate())]);
  }
}

function unavailable(reason: string): Fault {
  return new Fault(
    'hsm-unavailable',
    `the hardware security module does not work (${reason}); nothing was signed; it is tried again with the next request`,
    { retry: 'later' },
  );
}

function refusedText(reason: string): string {
  return `the hardware security module refuses (${reason}); nothing was signed, and it is not tried again: put right the PIN or the token, then start this process anew`;
}
