/**
 * Persistent threads that check ES256 signatures in batches, beside the thread that parses and stores.
 *
 * Guarantees: verdicts come in the order of the checks; a check of the wrong form is `false`; a thread that dies fails every
 * batch in hand with a fault, and none is taken any more: the process has to start again.
 * Does not bound what is queued: the caller's connections do.
 */
import { Worker } from 'node:worker_threads';
import { Fault } from '@countermark/node-platform/fault';
import { PUBLIC_KEY_BYTES, SIGNATURE_BYTES } from '@countermark/node-platform/signing';
import type { SignatureCheck } from './key-store.ts';

/** Checks in one share: small enough to divide a batch, large enough to be worth a posted share. */
const SHARE = 128;
const LENGTH_BYTES = 4;

type VerifyWorker = { readonly thread: Worker; load: number };
type PendingShare = {
  readonly worker: VerifyWorker;
  readonly count: number;
  readonly resolve: (verdicts: Uint8Array) => void;
  readonly reject: (fault: Fault) => void;
};
type ShareAnswer = { readonly id: number; readonly verdicts?: ArrayBuffer; readonly error?: string };

export class VerifyWorkers {
  readonly #workers: VerifyWorker[] = [];
  readonly #pending = new Map<number, PendingShare>();
  #nextId = 0;
  #broken: Fault | undefined;

  constructor(workers = 2) {
    for (let index = 0; index < workers; index += 1) {
      const thread = new Worker(new URL('../worker/verify-worker.mjs', import.meta.url), {
        execArgv: [],
        env: {},
        name: 'verify',
      });
      thread.unref();
      thread.on('message', (answer: ShareAnswer) => {
        this.#answered(answer);
      });
      const ended = (reason: string): void => {
        this.#break(new Fault('verify-worker-ended', `a verifying thread ended: ${reason}`, { retry: 'never' }));
      };
      thread.on('error', (error) => {
        ended(error.message);
      });
      thread.on('exit', (code) => {
        ended(`code ${code}`);
      });
      this.#workers.push({ thread, load: 0 });
    }
  }

  /** Whether each signature is authentic, in order. Fault: `verify-worker-ended`. */
  async verify(checks: readonly SignatureCheck[]): Promise<readonly boolean[]> {
    if (this.#broken !== undefined) throw this.#broken;
    const shares: Promise<Uint8Array>[] = [];
    for (let first = 0; first < checks.length; first += SHARE) {
      shares.push(this.#share(checks.slice(first, first + SHARE)));
    }
    const verdicts: boolean[] = [];
    for (const share of await Promise.all(shares)) for (const verdict of share) verdicts.push(verdict === 1);
    // The wrong form was sent as zero bytes, which verify under no key; said here so that nothing rests on that.
    return verdicts.map((verdict, index) => verdict && wellFormed(checks[index]));
  }

  async close(): Promise<void> {
    this.#break(new Fault('verify-worker-ended', 'the verifying threads were closed', { retry: 'never' }));
    await Promise.all(this.#workers.map((worker) => worker.thread.terminate()));
  }

  #share(checks: readonly SignatureCheck[]): Promise<Uint8Array> {
    const worker = this.#workers.reduce((least, other) => (other.load < least.load ? other : least));
    const fixed = checks.length * (PUBLIC_KEY_BYTES + SIGNATURE_BYTES);
    const inputs = checks.reduce((sum, check) => sum + check.input.length, 0);
    const batch = new Uint8Array(fixed + checks.length * LENGTH_BYTES + inputs);
    const lengths = new Uint32Array(checks.length);
    let offset = fixed + checks.length * LENGTH_BYTES;
    for (const [index, check] of checks.entries()) {
      if (wellFormed(check)) {
        const at = index * (PUBLIC_KEY_BYTES + SIGNATURE_BYTES);
        batch.set(check.publicKey, at);
        batch.set(check.signature, at + PUBLIC_KEY_BYTES);
      }
      lengths[index] = check.input.length;
      batch.set(check.input, offset);
      offset += check.input.length;
    }
    batch.set(new Uint8Array(lengths.buffer), fixed);
    const id = this.#nextId;
    this.#nextId += 1;
    return new Promise((resolve, reject) => {
      // A thread keeps the process alive only while it owes an answer.
      if (worker.load === 0) worker.thread.ref();
      worker.load += checks.length;
      this.#pending.set(id, { worker, count: checks.length, resolve, reject });
      worker.thread.postMessage({ id, count: checks.length, batch: batch.buffer }, [batch.buffer]);
    });
  }

  #answered(answer: ShareAnswer): void {
    const share = this.#pending.get(answer.id);
    if (share === undefined) return;
    this.#pending.delete(answer.id);
    share.worker.load -= share.count;
    if (share.worker.load === 0) share.worker.thread.unref();
    if (answer.verdicts === undefined) {
      share.reject(
        new Fault('verifying-failed', `verifying failed: ${answer.error ?? 'no reason given'}`, { retry: 'never' }),
      );
    } else {
      share.resolve(new Uint8Array(answer.verdicts));
    }
  }

  #break(fault: Fault): void {
    this.#broken ??= fault;
    for (const share of this.#pending.values()) share.reject(this.#broken);
    this.#pending.clear();
  }
}

function wellFormed(check: SignatureCheck | undefined): boolean {
  return check?.publicKey.length === PUBLIC_KEY_BYTES && check.signature.length === SIGNATURE_BYTES;
}
