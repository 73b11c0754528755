/**
 * What happened in a world: a hash of everything, by which two runs of a seed are compared, and the last happenings in words.
 *
 * Guarantees that nothing random by nature goes in (signature bytes, keys): only times, names and what was decided.
 */

/** What is kept in words of a run that nobody asked to see whole. */
const KEPT = 400;

export class Trace {
  readonly #whole: boolean;
  readonly #lines: string[] = [];
  #low = 0x811c_9dc5;
  #high = 0x9747_b28c;

  /** `whole`: keep every line. */
  constructor(whole: boolean) {
    this.#whole = whole;
  }

  /** Two FNV-1a hashes of 32 bits over all lines. */
  get hash(): string {
    return (this.#high >>> 0).toString(16).padStart(8, '0') + (this.#low >>> 0).toString(16).padStart(8, '0');
  }

  get lines(): readonly string[] {
    return this.#lines;
  }

  add(atMs: number, line: string): void {
    const text = `${atMs.toFixed(2)} ${line}`;
    for (let i = 0; i < text.length; i += 1) {
      const code = text.charCodeAt(i);
      this.#low = Math.imul(this.#low ^ code, 0x0100_0193);
      this.#high = Math.imul(this.#high ^ (code + 0x5b), 0x0100_0193);
    }
    this.#lines.push(text);
    if (!this.#whole && this.#lines.length > 2 * KEPT) this.#lines.splice(0, KEPT);
  }
}
