/** How far a run is, on stderr: a bar where that is a terminal, and lines of what happened. */
export class Progress {
  readonly #total: number;
  readonly #done = new Map<string, number>();
  #toldMs = 0;

  constructor(total: number) {
    this.#total = total;
  }

  at(target: string, inputs: number): void {
    this.#done.set(target, inputs);
    if (!process.stderr.isTTY || performance.now() - this.#toldMs < 200) return;
    this.#toldMs = performance.now();
    const done = [...this.#done.values()].reduce((sum, part) => sum + part, 0);
    const filled = Math.min(30, Math.round((done / this.#total) * 30));
    const bar = `${'#'.repeat(filled)}${'.'.repeat(30 - filled)}`;
    process.stderr.write(
      `\r[${bar}] ${done.toLocaleString('en')} of ${this.#total.toLocaleString('en')} ${target}\x1b[K`,
    );
  }

  /** A line of its own. */
  say(line: string): void {
    this.#clear();
    process.stderr.write(`${line}\n`);
  }

  end(): void {
    this.#clear();
  }

  #clear(): void {
    if (process.stderr.isTTY) process.stderr.write('\r\x1b[K');
  }
}
