/**
 * Stands in for the signing threads: the same signatures, made here. Threads that die are node-platform's own tests.
 */
import type { KeyObject } from 'node:crypto';
import { SIGNATURE_BYTES, signP1363 } from '@countermark/node-platform/signing';

export class SignWorkers {
  readonly #keys: ReadonlyMap<string, KeyObject>;

  constructor(keys: ReadonlyMap<string, KeyObject>) {
    this.#keys = keys;
  }

  async sign(name: string, toBeSigned: readonly Uint8Array[]): Promise<Uint8Array[]> {
    const key = this.#keys.get(name);
    if (key === undefined) throw new TypeError(`no key ${name}`);
    return toBeSigned.map((bytes) => signP1363(key, bytes));
  }

  async signPacked(name: string, inputs: Uint8Array, each: number): Promise<Uint8Array> {
    const count = inputs.length / each;
    const signatures = new Uint8Array(count * SIGNATURE_BYTES);
    const parts = Array.from({ length: count }, (_, at) => inputs.subarray(at * each, (at + 1) * each));
    for (const [at, one] of (await this.sign(name, parts)).entries()) signatures.set(one, at * SIGNATURE_BYTES);
    return signatures;
  }

  async close(): Promise<void> {
    // No thread to end.
  }
}
