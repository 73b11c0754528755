/**
 * What this process attested a moment ago: it lets a confirmation skip two verifications that were made already.
 *
 * Safe because it compares the SHA-256 of the full bytes of record and attestation with those that this process itself
 * verified and made; it trusts nothing that the server says. Bounded: the oldest is forgotten first, and what is
 * forgotten is verified again. Nothing of it survives the process.
 */
import { sha256 } from '@countermark/node-platform/verification';
import { sameBytes } from '@countermark/protocol/digest';
import type { Attestation } from '@countermark/protocol/messages/attestation';

type Remembered = { readonly attestationHash: Uint8Array; readonly said: Attestation };

export class AttestedMemory {
  readonly #capacity: number;
  readonly #byRecord = new Map<string, Remembered>();

  constructor(capacity = 16_384) {
    this.#capacity = capacity;
  }

  remember(record: Uint8Array, attestation: Uint8Array, said: Attestation): void {
    if (this.#byRecord.size >= this.#capacity) this.#byRecord.delete(this.#byRecord.keys().next().value ?? '');
    this.#byRecord.set(nameOf(record), { attestationHash: sha256(attestation), said });
  }

  /** What was attested of exactly this record by exactly this attestation, or null. */
  recall(record: Uint8Array, attestation: Uint8Array): Attestation | null {
    const found = this.#byRecord.get(nameOf(record));
    return found !== undefined && sameBytes(found.attestationHash, sha256(attestation)) ? found.said : null;
  }
}

function nameOf(record: Uint8Array): string {
  return Buffer.from(sha256(record)).toString('latin1');
}
