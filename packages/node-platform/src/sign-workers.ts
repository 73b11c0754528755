/**
 * Persistent worker threads that sign batches of to-be-signed bytes with P-256, so that signing runs while the caller commits.
 *
 * Guarantees: signatures come back in the order of the bytes; keys cross to the workers once, at creation, and never in a message;
 * a worker that dies fails every batch in hand with a fault and is replaced only by the process starting again.
 * It does not bound what is queued: the caller has a bounded number of chunks in hand. Workers do not keep the process alive
 * while idle.
 */
import type { KeyObject } from 'node:crypto';
import { Worker } from 'node:worker_threads';
import { Fault } from './fault.ts';
import { privateKeyBytes, SIGNATURE_BYTES } from './signing.ts';

/** From here up a batch is divided among the workers; below, the cost of a second message is more than it saves. */
const DIVIDED_FROM = 16;

interface PendingShare {
  readonly worker: SignWorker;
  readonly count: number;
  resolve(signatures: Uint8Array): void;
  reject(fault: Fault): void;
}

interface SignWorker {
  readonly thread: Worker;
  /** Signatures asked of this worker and not yet given. */
  load: number;
}

interface ShareAnswer {
  readonly id: number;
  readonly signatures?: ArrayBuffer;
  readonly error?: string;
}

/** A pool of signing threads. */
export class SignWorkers {
  readonly #workers: SignWorker[] = [];
  readonly #pending = new Map<number, PendingShare>();
  #nextId = 0;
  #broken: Fault | undefined;

  /**
   * Starts `workers` threads that hold `keys` (name to P-256 private key). They are ready at once; the first batch waits some 30 ms for them.
   */
  constructor(keys: ReadonlyMap<string, KeyObject>, workers = 2) {
    for (let index = 0; index < workers; index += 1) {
      const pkcs8 = [...keys].map(([name, key]) => [name, privateKeyBytes(key)] as const);
      const thread = new Worker(new URL('../worker/sign-worker.mjs', import.meta.url), {
        workerData: { keys: pkcs8 },
        execArgv: [],
        env: {},
        name: 'sign',
        // Nothing lives longer than a batch: a small young generation keeps the process small and costs nothing.
        resourceLimits: { maxYoungGenerationSizeMb: 4, maxOldGenerationSizeMb: 64 },
      });
      for (const [, bytes] of pkcs8) bytes.fill(0);
      thread.unref();
      const worker: SignWorker = { thread, load: 0 };
      thread.on('message', (answer: ShareAnswer) => {
        this.#answered(answer);
      });
      thread.on('error', (error) => {
        this.#break(
          new Fault('sign-worker-ended', `a signing thread failed: ${error.message}`, { retry: 'never', cause: error }),
        );
      });
      thread.on('exit', (code) => {
        this.#break(
          new Fault('sign-worker-ended', `a signing thread ended with code ${String(code)}`, { retry: 'never' }),
        );
      });
      this.#workers.push(worker);
    }
  }

  /**
   * Signs each of the byte strings with the key of that name. Resolves to one Uint8Array of 64 bytes (r || s) each, in order.
   * Rejects with a Fault where a thread failed.
   */
  async sign(key: string, toBeSigned: readonly Uint8Array[]): Promise<Uint8Array[]> {
    if (this.#broken !== undefined) throw this.#broken;
    const shares = toBeSigned.length >= DIVIDED_FROM ? this.#workers.length : 1;
    const perShare = Math.ceil(toBeSigned.length / shares);
    const parts: Promise<Uint8Array>[] = [];
    for (let first = 0; first < toBeSigned.length; first += perShare) {
      parts.push(this.#share(key, toBeSigned.slice(first, first + perShare)));
    }
    const signatures: Uint8Array[] = [];
    for (const part of await Promise.all(parts)) {
      for (let offset = 0; offset < part.length; offset += SIGNATURE_BYTES) {
        signatures.push(part.subarray(offset, offset + SIGNATURE_BYTES));
      }
    }
    return signatures;
  }

  /**
   * The same for inputs of equal length that lie one after the other, `each` bytes long: one copy a share, and the signatures come
   * back as one byte string of 64 bytes each, in order.
   */
  async signPacked(key: string, inputs: Uint8Array, each: number): Promise<Uint8Array> {
    if (this.#broken !== undefined) throw this.#broken;
    const count = inputs.length / each;
    const shares = count >= DIVIDED_FROM ? this.#workers.length : 1;
    const perShare = Math.ceil(count / shares);
    const parts: Promise<Uint8Array>[] = [];
    for (let first = 0; first < count; first += perShare) {
      const share = Math.min(perShare, count - first);
      const lengthBytes = share * Uint32Array.BYTES_PER_ELEMENT;
      const batch = new Uint8Array(lengthBytes + share * each);
      new Uint32Array(batch.buffer, 0, share).fill(each);
      batch.set(inputs.subarray(first * each, (first + share) * each), lengthBytes);
      parts.push(this.#dispatch(key, share, batch));
    }
    const done = await Promise.all(parts);
    const [only] = done;
    if (only !== undefined && done.length === 1) return only;
    const signatures = new Uint8Array(count * SIGNATURE_BYTES);
    done.forEach((part, share) => {
      signatures.set(part, share * perShare * SIGNATURE_BYTES);
    });
    return signatures;
  }

  /** Ends the threads. Batches in hand are rejected. */
  async close(): Promise<void> {
    this.#break(new Fault('sign-worker-ended', 'the signing threads were closed', { retry: 'never' }));
    await Promise.all(this.#workers.map((worker) => worker.thread.terminate()));
  }

  #share(key: string, toBeSigned: readonly Uint8Array[]): Promise<Uint8Array> {
    const lengthBytes = toBeSigned.length * Uint32Array.BYTES_PER_ELEMENT;
    const batch = new Uint8Array(toBeSigned.reduce((sum, bytes) => sum + bytes.length, lengthBytes));
    const lengths = new Uint32Array(batch.buffer, 0, toBeSigned.length);
    let offset = lengthBytes;
    for (const [index, bytes] of toBeSigned.entries()) {
      lengths[index] = bytes.length;
      batch.set(bytes, offset);
      offset += bytes.length;
    }
    return this.#dispatch(key, toBeSigned.length, batch);
  }

  /** Hands `count` inputs to the thread with the least in hand; takes `batch` over. */
  #dispatch(key: string, count: number, batch: Uint8Array<ArrayBuffer>): Promise<Uint8Array> {
    const worker = this.#leastLoaded();
    const id = this.#nextId;
    this.#nextId += 1;
    return new Promise((resolve, reject) => {
      // A thread keeps the process alive only while it owes an answer.
      if (worker.load === 0) worker.thread.ref();
      worker.load += count;
      this.#pending.set(id, { worker, count, resolve, reject });
      worker.thread.postMessage({ id, key, count, batch: batch.buffer }, [batch.buffer]);
    });
  }

  #leastLoaded(): SignWorker {
    const [first, ...others] = this.#workers;
    if (first === undefined) throw new TypeError('a pool of no workers');
    return others.reduce((least, worker) => (worker.load < least.load ? worker : least), first);
  }

  #answered(answer: ShareAnswer): void {
    const share = this.#pending.get(answer.id);
    if (share === undefined) return;
    this.#pending.delete(answer.id);
    share.worker.load -= share.count;
    if (share.worker.load === 0) share.worker.thread.unref();
    if (answer.signatures === undefined) {
      share.reject(
        new Fault('signing-failed', `signing failed: ${answer.error ?? 'no reason given'}`, { retry: 'never' }),
      );
    } else {
      share.resolve(new Uint8Array(answer.signatures));
    }
  }

  #break(fault: Fault): void {
    this.#broken ??= fault;
    for (const share of this.#pending.values()) share.reject(this.#broken);
    this.#pending.clear();
  }
}
