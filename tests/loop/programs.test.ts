/**
 * The built programs (programs.mjs): what is inside, what is not, and that they need nothing else of ours.
 *
 * That they do their work is shown by every other test of real processes.
 */
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { builtinModules } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PARTIES } from '@countermark/cli/installation-paths';
import { describe, expect, it } from 'vitest';
import { root } from '../installation.ts';
import { Running, sample } from './command.ts';

const OUTSIDE = ['better-sqlite3', '@node-rs/argon2', 'pdfkit', 'pino'];
/** Of those that only server and authority may load. */
const NETWORK_LIBRARIES = /^\/\/ node_modules\/(fastify|kysely|typebox|@peculiar\/x509)\//m;

function filesOf(party: string): { readonly name: string; readonly text: string }[] {
  const folder = join(root, 'packages', party, 'dist', 'program');
  return readdirSync(folder).map((name) => ({ name, text: readFileSync(join(folder, name), 'utf8') }));
}

describe.each([...PARTIES, 'cli'])('the program %s', (party) => {
  it('imports its own files, built-in modules, addons and what reads files of its own', () => {
    const imported = filesOf(party).flatMap(({ name, text }) =>
      name.endsWith('.js')
        ? [...text.matchAll(/^import (?:.* from )?"([^"]+)";$/gm)].map(([, path]) => path ?? '')
        : [],
    );
    const others = imported.filter(
      (path) => !path.startsWith('./') && !builtinModules.includes(path.replace('node:', '')),
    );
    expect(imported).not.toEqual([]);
    expect(others.filter((path) => !OUTSIDE.includes(path))).toEqual([]);
  });

  it('names no place of this machine, so that a checkout can be moved', () => {
    expect(filesOf(party).filter(({ text }) => text.includes(root))).toEqual([]);
  });
});

it('run in a checkout that was moved, without any module of ours beside them', async () => {
  const moved = mkdtempSync(join(tmpdir(), 'cm-moved-'));
  const copy = (path: string): void => {
    if (existsSync(join(root, path))) cpSync(join(root, path), join(moved, path), { recursive: true });
  };
  for (const name of readdirSync(join(root, 'packages'))) {
    for (const part of ['package.json', 'bin', 'worker', 'programmes', 'dist/program'])
      copy(`packages/${name}/${part}`);
  }
  copy('samples');
  mkdirSync(join(moved, 'node_modules'));
  for (const name of readdirSync(join(root, 'node_modules')).filter((found) => found !== '@countermark')) {
    symlinkSync(join(root, 'node_modules', name), join(moved, 'node_modules', name));
  }
  const command = new Running([
    join(moved, 'packages/cli/bin/countermark.mjs'),
    ...['up', '--once', '--json', '--data', join(moved, 'data')],
  ]);
  const { code, stdout, stderr } = await command.ended;
  rmSync(moved, { recursive: true });
  expect(code, stderr).toBe(0);
  const { pieces, batches } = JSON.parse(stdout) as { pieces: number; batches: { deletedFromPsd: boolean }[] };
  expect(pieces).toBe(sample().length - 1);
  expect(batches.every(({ deletedFromPsd }) => deletedFromPsd)).toBe(true);
});

it.each(['psd', 'host'])('%s has no HTTP framework, query builder or library of certificates inside', (party) => {
  expect(filesOf('server').some(({ text }) => NETWORK_LIBRARIES.test(text))).toBe(true);
  expect(filesOf(party).filter(({ text }) => NETWORK_LIBRARIES.test(text))).toEqual([]);
});
