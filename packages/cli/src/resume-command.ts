/**
 * The command that goes on with a mailing where `countermark up` was stopped, as a shell takes it.
 *
 * Guarantees: every option that was given is given again (a setting that holds for one start only is one of them), paths
 * absolute, but for the refill, which would be got a second time.
 */
import type { Command } from 'commander';
import { userPath } from './command.ts';

const PATHS = new Set(['data', 'mailing']);

/** @param up the command, with its arguments parsed */
export function resumeCommand(up: Command, environment: NodeJS.ProcessEnv = process.env): string {
  const words = environment.npm_lifecycle_event === 'start' ? ['npm', 'start'] : ['npx', 'countermark', 'up'];
  const options = up.options.flatMap((option) => {
    const name = option.attributeName();
    const value: unknown = up.getOptionValue(name);
    const given = up.getOptionValueSource(name) === 'cli' && name !== 'refill';
    if (!given || option.negate !== (value === false)) return [];
    if (typeof value === 'boolean') return [option.long ?? ''];
    return [option.long ?? '', PATHS.has(name) ? userPath(String(value)) : String(value)];
  });
  if (words[0] === 'npm' && options.length > 0) words.push('--');
  return [...words, ...options].map(quoted).join(' ');
}

/** The word as a shell takes it. */
export function quoted(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}
