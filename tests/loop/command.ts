/**
 * Runs the built command, or start.mjs, as a user would: a process with arguments, its two outputs, its exit code.
 *
 * Guarantees that no process outlives its test: `stopAll` kills what is left. Waits for events only: a line on stderr, the end.
 */
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const checkout = join(import.meta.dirname, '..', '..');
const BIN = join(checkout, 'packages', 'cli', 'bin', 'countermark.mjs');
const SAMPLE = join(checkout, 'samples', 'bureau-mailing.csv');

export type Ended = { readonly code: number | null; readonly stdout: string; readonly stderr: string };

/** A process on its way. */
export class Running {
  readonly child: ChildProcessWithoutNullStreams;
  readonly ended: Promise<Ended>;
  stdout = '';
  stderr = '';
  readonly #waiting: { readonly pattern: RegExp; readonly resolve: (line: string) => void }[] = [];

  constructor(args: readonly string[], env: Readonly<Record<string, string>> = {}, keepInput = false) {
    this.child = spawn(process.execPath, [...args], { cwd: checkout, env: { ...process.env, NO_COLOR: '1', ...env } });
    if (!keepInput) this.child.stdin.end();
    this.child.stdout.on('data', (bytes: Buffer) => {
      this.stdout += bytes.toString();
    });
    this.child.stderr.on('data', (bytes: Buffer) => {
      this.stderr += bytes.toString();
      for (const { pattern, resolve } of this.#waiting) if (pattern.test(this.stderr)) resolve(this.stderr);
    });
    this.ended = new Promise((resolve) => {
      this.child.once('close', (code) => resolve({ code, stdout: this.stdout, stderr: this.stderr }));
    });
  }

  /** Resolves when stderr has it; rejects when the process ended before. */
  async says(pattern: RegExp): Promise<void> {
    if (pattern.test(this.stderr)) return;
    await Promise.race([
      new Promise<string>((resolve) => this.#waiting.push({ pattern, resolve })),
      this.ended.then(({ code, stderr }) => {
        if (pattern.test(stderr)) return;
        throw new Error(`it ended with ${code} before it said ${pattern}:\n${stderr}`);
      }),
    ]);
  }
}

/** A folder for one test file, with the processes that work in it. */
export class Workshop {
  readonly folder = mkdtempSync(join(tmpdir(), 'cm-cli-'));
  readonly #running: Running[] = [];

  path(name: string): string {
    return join(this.folder, name);
  }

  /** Starts the command. */
  start(...args: string[]): Running {
    return this.#keep(new Running([BIN, ...args]));
  }

  /** Runs the command to its end. */
  run(...args: string[]): Promise<Ended> {
    return this.start(...args).ended;
  }

  /** Runs a party's program to its end; its input stays open, as a supervisor's pipe does. */
  party(name: string, ...args: string[]): Promise<Ended> {
    return this.#keep(new Running([join(checkout, 'packages', name, 'dist', 'program', 'main.js'), ...args], {}, true))
      .ended;
  }

  /** Runs start.mjs, as npm start does. */
  npmStart(...args: string[]): Promise<Ended> {
    return this.#keep(new Running([join(checkout, 'start.mjs'), ...args])).ended;
  }

  /** Writes a CSV and returns its path. */
  mailing(name: string, rows: readonly string[], header: string = sample()[0] ?? ''): string {
    const file = this.path(name);
    writeFileSync(file, `${[header, ...rows].join('\n')}\n`);
    return file;
  }

  stopAll(): void {
    for (const { child } of this.#running) child.kill('SIGKILL');
    if (process.env.COUNTERMARK_KEEP === undefined) rmSync(this.folder, { recursive: true, force: true });
  }

  #keep(running: Running): Running {
    this.#running.push(running);
    return running;
  }
}

/** The lines of the sample mailing; the first is its header. No field of it has a line break. */
export function sample(): string[] {
  return readFileSync(SAMPLE, 'utf8').trimEnd().split('\n');
}

/** Rows of one customer of the sample. */
export function sampleOf(customer: string): string[] {
  return sample().filter((line) => line.split(',')[1] === customer);
}

/** One JSON object and nothing else, of the shape that the caller asked the command for. */
// eslint-disable-next-line @typescript-eslint/no-unnecessary-type-parameters -- like `JSON.parse() as T`, at one place
export function json<T = Record<string, unknown>>({ stdout, stderr }: Ended): T {
  try {
    return JSON.parse(stdout) as T;
  } catch {
    throw new Error(`stdout is not one JSON object: ${stdout.slice(0, 500)}\nstderr: ${stderr}`);
  }
}
