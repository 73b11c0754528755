/**
 * How the crash tests start a party: its store is checked before it serves again, and it can die at a named crash point.
 *
 * Guarantees: what `check` found before each start but the first is in DIR/run/PARTY.NUMBER.checked until it is taken; the program that
 * serves is the shipped code as it was compiled, a file for each module, because at-crash-point.mjs, loaded before it, wraps classes by their modules;
 * what checks is the shipped program (programs.mjs).
 */
import { execFile } from 'node:child_process';
import { readdirSync, readFileSync, rmSync } from 'node:fs';
import { basename, join } from 'node:path';
import type { InstallationPaths } from '@countermark/cli/installation-paths';
import type { PartySpec } from '@countermark/node-platform/supervision';
import { root } from '../installation.ts';

/** The process of a party that is checked and can be killed, from the one that would be started. */
export function checkedAndKillable(spec: PartySpec, paths: InstallationPaths): PartySpec {
  const [program = '', , , config = ''] = spec.args;
  const compiled = join(root, 'packages', spec.name, 'dist', 'main.js');
  const script = `
    if [ -e "$1.started" ]; then
      { "$2" "$4" check --config "$5" < /dev/null 2>&1; echo "exit $?"; } > "$1.$$.checked"
    fi
    : > "$1.started"
    exec "$2" --import "$3" "$6" serve --config "$5"`;
  const preload = new URL('at-crash-point.mjs', import.meta.url).href;
  return {
    name: spec.name,
    command: '/bin/sh',
    args: ['-c', script, 'sh', join(paths.run, spec.name), process.execPath, preload, program, config, compiled],
    env: { COUNTERMARK_CRASH_PARTY: spec.name, COUNTERMARK_CRASH_ORDER: orderFile(paths, spec.name) },
  };
}

/** Where a party finds the crash point that it shall die at. */
export function orderFile(paths: InstallationPaths, party: string): string {
  return join(paths.run, `${party}.order`);
}

/** Takes what the checks before starts said since the last time: how many there were, and what they found wrong. */
export function takeChecks(folders: readonly InstallationPaths[]): {
  readonly count: number;
  readonly wrong: string[];
} {
  const wrong: string[] = [];
  let count = 0;
  for (const { run } of folders) {
    for (const name of readdirSync(run).filter((file) => file.endsWith('.checked'))) {
      const words = readFileSync(join(run, name), 'utf8').trim();
      // One without its last line is being written.
      if (!/(^|\n)exit \d+$/.test(words)) continue;
      rmSync(join(run, name));
      count += 1;
      if (words !== 'exit 0') wrong.push(`check of ${name}: ${words}`);
    }
  }
  return { count, wrong };
}

/** Checks every store of processes that have all ended. */
export async function checkAll(folders: readonly InstallationPaths[]): Promise<{ count: number; wrong: string[] }> {
  const configs = folders.flatMap(({ run }) =>
    readdirSync(run)
      .filter((file) => /^[a-z-]+\.json$/.test(file))
      .map((file) => join(run, file)),
  );
  const wrong: string[] = [];
  for (const config of configs) {
    const { exit, words } = await checked(config);
    if (exit !== 0 || words !== '') wrong.push(`check of ${basename(config, '.json')}: exit ${String(exit)}: ${words}`);
  }
  return { count: configs.length, wrong };
}

async function checked(config: string): Promise<{ readonly exit: number | null; readonly words: string }> {
  const program = join(root, 'packages', basename(config, '.json'), 'dist', 'program', 'main.js');
  return new Promise((resolve) => {
    const child = execFile(process.execPath, [program, 'check', '--config', config], (_, stdout, stderr) => {
      resolve({ exit: child.exitCode, words: `${stdout}${stderr}`.trim() });
    });
  });
}
