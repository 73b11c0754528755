/**
 * The built command on a line's data folder, as a user calls it, with --json: one object on stdout, whatever happens.
 */
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import type { JobReport } from '@countermark/protocol/interfaces/host';
import { type Line, root } from './installation.ts';

/** How the command ended. */
export type Ended = {
  readonly exit: number;
  readonly stderr: string;
  readonly json: Partial<JobReport> & { readonly error?: { readonly code: string; readonly message: string } };
};

/** Runs `countermark ARGS --json --data DIR`. */
export async function countermark(line: Line, ...args: readonly string[]): Promise<Ended> {
  const program = join(root, 'packages', 'cli', 'bin', 'countermark.mjs');
  return new Promise((resolve) => {
    const child = execFile(
      process.execPath,
      [program, ...args, '--json', '--data', line.paths.data],
      { env: { ...process.env, NO_COLOR: '1' } },
      (_, stdout, stderr) => {
        resolve({ exit: child.exitCode ?? -1, stderr, json: JSON.parse(stdout) as Ended['json'] });
      },
    );
  });
}
