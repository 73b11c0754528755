/**
 * What this process attested a moment ago: it lets a confirmation skip two verifications that were made already.
 *
 * Safe because it compares the full bytes of record and attestation with those that this process itself verified and made;
 * it trusts nothing that the server says. Bounded in number and bytes: the oldest is forgotten first, and what is forgotten
 * is verified again. Nothing of it survives the process.
 */
import type { Attestation } from '@countermark/protocol/messages/attestation';

type Remembered = { readonly record: Uint8Array; readonly attestation: Uint8Array; readonly said: Attestation };

/** The end of an attestation is its signature, which no other attestation has. */
const NAME_BYTES = 32;

export class AttestedMemory {
  readonly #most: number;
  readonly #mostBytes: number;
  readonly #remembered = new Map<string, Remembered>();
  #bytes = 0;

  constructor(most = 16_384, mostBytes = 32 * 1024 * 1024) {
    this.#most = most;
    this.#mostBytes = mostBytes;
  }

  remember(record: Uint8Array, attestation: Uint8Array, said: Attestation): void {
    // Own copies: what is passed in are views of whole frames, which would stay in memory with them.
    this.#remembered.set(nameOf(attestation), { record: record.slice(), attestation: attestation.slice(), said });
    this.#bytes += record.length + attestation.length;
    while (this.#remembered.size > this.#most || this.#bytes > this.#mostBytes) {
      const oldest = this.#remembered.entries().next().value;
      if (oldest === undefined) return;
      this.#forget(...oldest);
    }
  }

  /** What was attested of exactly this record by exactly this attestation, or null. It is forgotten: a confirmation is asked once. */
  recall(record: Uint8Array, attestation: Uint8Array): Attestation | null {
    const name = nameOf(attestation);
    const found = this.#remembered.get(name);
    if (found === undefined) return null;
    if (Buffer.compare(found.record, record) !== 0 || Buffer.compare(found.attestation, attestation) !== 0) return null;
    this.#forget(name, found);
    return found.said;
  }

  #forget(name: string, { record, attestation }: Remembered): void {
    this.#remembered.delete(name);
    this.#bytes -= record.length + attestation.length;
  }
}

function nameOf(attestation: Uint8Array): string {
  const start = Math.max(0, attestation.length - NAME_BYTES);
  return Buffer.from(attestation.buffer, attestation.byteOffset + start, attestation.length - start).toString('latin1');
}
