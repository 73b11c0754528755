/**
 * The system calls of a running process on some files, seen and made to fail by strace, attached for the length of one operation.
 *
 * Guarantees: what `work` does in the process falls within the trace; the process goes on untraced afterwards, if it lives. Only the
 * process's main thread is traced: that is where the stores are written.
 * Needs strace and the right to attach (ptrace_scope 0, or CAP_SYS_PTRACE): `tracingProblem` says what is missing.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';

/** How a call is made to fail: with an error, or by SIGKILL before it is carried out. */
export type CallFault = 'EIO' | 'ENOSPC' | 'SIGKILL';

/** The `index`-th (from 1) call of this name on the files. */
export type Injection = { readonly call: string; readonly index: number; readonly fault: CallFault };

/** A call as it was traced. */
export type TracedCall = {
  readonly call: string;
  /** Name of the file. */
  readonly file: string;
  readonly injected: boolean;
};

export type Traced<T> = {
  readonly outcome: { readonly value: T } | { readonly error: unknown };
  readonly calls: readonly TracedCall[];
};

/** Traces the process while `work` goes on. */
export async function traced<T>(
  pid: number,
  files: readonly string[],
  injection: Injection | null,
  work: () => Promise<T>,
): Promise<Traced<T>> {
  const folder = mkdtempSync(join(tmpdir(), 'calls-'));
  const out = join(folder, 'trace');
  try {
    const strace = spawn('strace', argumentsOf(pid, files, injection, out), { stdio: ['ignore', 'ignore', 'pipe'] });
    const ended = once(strace, 'close');
    await attached(strace.stderr, ended);
    let outcome: Traced<T>['outcome'];
    try {
      outcome = { value: await work() };
    } catch (error) {
      outcome = { error };
    }
    strace.kill('SIGINT');
    await ended;
    return { outcome, calls: parseTrace(readFileSync(out, 'utf8')) };
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** Why processes cannot be traced here; null where they can. */
export async function tracingProblem(): Promise<string | null> {
  const sleeper = spawn('sleep', ['30']);
  try {
    await once(sleeper, 'spawn');
    await traced(sleeper.pid ?? 0, ['/dev/null'], null, () => Promise.resolve());
    return null;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  } finally {
    sleeper.kill('SIGKILL');
  }
}

function argumentsOf(pid: number, files: readonly string[], injection: Injection | null, out: string): string[] {
  const inject =
    injection === null
      ? []
      : [
          '-e',
          `inject=${injection.call}:${injection.fault === 'SIGKILL' ? 'signal=KILL' : `error=${injection.fault}`}:when=${injection.index}`,
        ];
  return [
    '-p',
    String(pid),
    '-y',
    '-o',
    out,
    ...files.flatMap((file) => ['-P', file]),
    '-e',
    'trace=%file,%desc',
    ...inject,
  ];
}

/** Resolves when strace says that it has the process; rejects with its words where it ends before. */
async function attached(stderr: NodeJS.ReadableStream, ended: Promise<unknown>): Promise<void> {
  let said = '';
  const ready = new Promise<void>((resolve) => {
    stderr.on('data', (bytes: Buffer) => {
      said += bytes.toString();
      if (/Process \d+ attached/.test(said)) resolve();
    });
  });
  const tooEarly = ended.then(() => {
    throw new Error(said.trim());
  });
  tooEarly.catch(() => undefined);
  await Promise.race([ready, tooEarly]);
}

/** Lines such as `pwrite64(23</d/psd.db-wal>, "..."..., 4096, 32) = -1 EIO (Input/output error) (INJECTED)`. */
function parseTrace(text: string): TracedCall[] {
  return text.split('\n').flatMap((line) => {
    const [, call] = /^(\w+)\(/.exec(line) ?? [];
    if (call === undefined) return [];
    const [, path = ''] = /[<"](\/[^>"]+)[>"]/.exec(line) ?? [];
    return [{ call, file: basename(path), injected: line.includes('(INJECTED)') || /= \?$/.test(line.trimEnd()) }];
  });
}
