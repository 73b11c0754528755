/**
 * A log file of bounded size: when it is full it is renamed to NAME.1, that to NAME.2, and the oldest goes.
 *
 * Guarantees: what was appended is with the system when the call returns; files have mode 0600; a failed write (a full disk) is
 * dropped and never ends the process that supervises. Not for anything that must not be lost.
 */
import { closeSync, fstatSync, mkdirSync, openSync, renameSync, rmSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';

/** One log file and its predecessors. */
export class RotatingFile {
  readonly #path: string;
  readonly #bytesMax: number;
  readonly #kept: number;
  #handle: number | undefined;
  #bytes = 0;

  /** Appends to `path`; keeps `kept` older files of at most `bytesMax` bytes each. */
  constructor(path: string, bytesMax = 8 * 1024 * 1024, kept = 3) {
    this.#path = path;
    this.#bytesMax = bytesMax;
    this.#kept = kept;
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  }

  /** Appends the bytes; returns whether they were written. */
  append(bytes: Uint8Array): boolean {
    try {
      if (this.#handle !== undefined && this.#bytes > 0 && this.#bytes + bytes.length > this.#bytesMax) this.#rotate();
      this.#handle ??= this.#open();
      writeSync(this.#handle, bytes);
      this.#bytes += bytes.length;
      return true;
    } catch {
      return false;
    }
  }

  /** Closes the file; a later `append` opens it again. */
  close(): void {
    if (this.#handle === undefined) return;
    closeSync(this.#handle);
    this.#handle = undefined;
  }

  #open(): number {
    const handle = openSync(this.#path, 'a', 0o600);
    this.#bytes = fstatSync(handle).size;
    return handle;
  }

  #rotate(): void {
    this.close();
    rmSync(`${this.#path}.${String(this.#kept)}`, { force: true });
    for (let age = this.#kept - 1; age >= 0; age -= 1) {
      const from = age === 0 ? this.#path : `${this.#path}.${String(age)}`;
      try {
        renameSync(from, `${this.#path}.${String(age + 1)}`);
      } catch {
        // There were fewer.
      }
    }
  }
}
