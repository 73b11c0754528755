/**
 * start.mjs, in a checkout of its own whose npm, compiler and programs are stand-ins that write down each of their runs.
 *
 * Guarantees what start.mjs promises: what is missing is set up, once, by one process; what has not changed is not done
 * again; stdout is the program's alone; the exit code is the program's. Does not run the real npm or compiler: a fresh
 * clone does.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { text } from 'node:stream/consumers';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { root } from './source-tree.ts';

let checkout: string;

function write(path: string, content: string): void {
  mkdirSync(dirname(join(checkout, path)), { recursive: true });
  writeFileSync(join(checkout, path), content);
}

/** Each stand-in appends its name and arguments here. */
function runs(): string[] {
  const file = join(checkout, 'runs.log');
  return existsSync(file) ? readFileSync(file, 'utf8').trim().split('\n') : [];
}

const note = (name: string, folder: string): string =>
  `import { appendFileSync, existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
   process.chdir(new URL(${JSON.stringify(folder)}, import.meta.url).pathname);
   appendFileSync('runs.log', ['${name}', ...process.argv.slice(2)].join(' ') + '\\n');\n`;

const COMPILER = `${note('tsc', '../../..')}
  process.stdout.write('words of the compiler');
  if (existsSync('broken-source')) process.exit(2);
  mkdirSync('packages/cli/dist', { recursive: true });
  writeFileSync('packages/cli/dist/.tsbuildinfo', '');`;

const BUILDER = `${note('programs', '.')}
  rmSync('packages/cli/dist/program', { recursive: true, force: true });
  if (process.argv[2] === 'remove') process.exit();
  if (existsSync('broken-library')) process.exit(1);
  mkdirSync('packages/cli/dist/program', { recursive: true });
  writeFileSync('packages/cli/dist/program/main.js', '');`;

const NPM = `${note('npm', '.')}
  process.stdout.write('words of npm');
  if (existsSync('no-registry')) process.exit(1);
  rmSync('node_modules', { recursive: true, force: true });
  mkdirSync('node_modules/typescript/bin', { recursive: true });
  mkdirSync('node_modules/vitest', { recursive: true });
  writeFileSync('node_modules/typescript/bin/tsc', ${JSON.stringify(COMPILER)});
  writeFileSync('node_modules/vitest/vitest.mjs', ${JSON.stringify(`${note('vitest', '../..')} process.exitCode = 9;`)});`;

beforeEach(() => {
  checkout = mkdtempSync(join(tmpdir(), 'countermark-start-'));
  cpSync(join(root, 'start.mjs'), join(checkout, 'start.mjs'));
  write('package.json', '{ "type": "module" }');
  write('package-lock.json', '{ "one": 1 }');
  write('programs.mjs', BUILDER);
  write('tsconfig.json', '{}');
  write('tsconfig.base.json', '{}');
  write('npm-cli.js', NPM);
  write('packages/cli/tsconfig.json', '{}');
  write('packages/cli/package.json', '{ "type": "module" }');
  write('packages/cli/src/up.ts', 'export {};');
  write(
    'packages/cli/bin/countermark.mjs',
    `${note('countermark', '../../..')} process.stdout.write('{"schema":1}'); process.exitCode = 5;`,
  );
  write('bench/tsconfig.json', '{}');
  write('bench/package.json', '{ "type": "module" }');
  write('bench/dist/main.js', note('bench', '../..'));
});

afterEach(() => {
  rmSync(checkout, { recursive: true, force: true });
});

function start(...parameters: string[]): ChildProcess {
  return spawn(process.execPath, [join(checkout, 'start.mjs'), ...parameters], {
    cwd: tmpdir(),
    env: { ...process.env, npm_execpath: join(checkout, 'npm-cli.js') },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
}

async function ended(child: ChildProcess): Promise<{ code: number | null; out: string; said: string }> {
  const [out, said] = await Promise.all([text(child.stdout!), text(child.stderr!)]);
  if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
  return { code: child.exitCode, out, said };
}

const BUILD = ['programs remove', 'tsc -b', 'programs'];
const INSTALL = 'npm ci --loglevel=error --include=dev --no-audit --no-fund';

test('sets up, builds and starts; only the program writes on stdout, and its exit code is passed on', async () => {
  const { code, out, said } = await ended(start('--once', '--json'));
  expect(said).toContain('a minute or two');
  expect({ code, out }).toEqual({ code: 5, out: '{"schema":1}' });
  expect(runs()).toEqual([INSTALL, ...BUILD, 'countermark up --once --json']);
});

test('does not set up or build again what has not changed', async () => {
  await ended(start());
  const { said } = await ended(start());
  expect(said).toBe('');
  expect(runs()).toEqual([INSTALL, ...BUILD, 'countermark up', 'countermark up']);
});

test('builds again when a source has changed or the built code is gone, and not when a test has changed', async () => {
  await ended(start());
  write('packages/cli/src/up.test.ts', 'export {};');
  await ended(start());
  expect(runs().filter((run) => run === 'tsc -b')).toHaveLength(1);
  write('packages/cli/src/up.ts', 'export const changed = true;');
  await ended(start());
  expect(runs().filter((run) => run === 'tsc -b')).toHaveLength(2);
  rmSync(join(checkout, 'packages/cli/dist'), { recursive: true });
  await ended(start());
  expect(runs().filter((run) => run === 'tsc -b')).toHaveLength(3);
});

test('sets up again when the lockfile has changed, unless npm has told that it installed by hand', async () => {
  await ended(start());
  write('package-lock.json', '{ "two": 2 }');
  await ended(start());
  expect(runs().filter((run) => run === INSTALL)).toHaveLength(2);
  write('package-lock.json', '{ "three": 3 }');
  await ended(start('remember'));
  await ended(start());
  expect(runs().filter((run) => run === INSTALL)).toHaveLength(2);
});

test('a failed set-up or build starts nothing, says so on stderr, and is tried again', async () => {
  write('no-registry', '');
  const unset = await ended(start());
  expect(unset).toMatchObject({ code: 1, out: '' });
  expect(unset.said).toContain('`npm ci` failed (exit 1)');
  rmSync(join(checkout, 'no-registry'));
  write('broken-source', '');
  const unbuilt = await ended(start());
  expect(unbuilt).toMatchObject({ code: 1, out: '' });
  expect(unbuilt.said).toContain('words of the compiler');
  rmSync(join(checkout, 'broken-source'));
  expect(await ended(start())).toMatchObject({ code: 5, out: '{"schema":1}' });
  expect(runs()).toEqual([INSTALL, INSTALL, ...BUILD.slice(0, 2), ...BUILD, 'countermark up']);
});

test('builds again when the programs alone are gone, or were not made', async () => {
  await ended(start('build'));
  rmSync(join(checkout, 'packages/cli/dist/program'), { recursive: true });
  write('broken-library', '');
  const unmade = await ended(start('build'));
  expect(unmade).toMatchObject({ code: 1, out: '' });
  expect(unmade.said).toContain('programs.mjs says above where');
  rmSync(join(checkout, 'broken-library'));
  expect(await ended(start('build'))).toMatchObject({ code: 0 });
  expect(runs()).toEqual([INSTALL, ...BUILD, ...BUILD, ...BUILD]);
});

test('a build that began leaves no program of the one before it', async () => {
  await ended(start('build'));
  write('packages/cli/src/up.ts', 'export const changed = true;');
  write('broken-source', '');
  expect(await ended(start())).toMatchObject({ code: 1 });
  expect(existsSync(join(checkout, 'packages/cli/dist/program'))).toBe(false);
});

test('two starts at once set up once', async () => {
  const both = await Promise.all([ended(start()), ended(start())]);
  expect(both.map(({ code }) => code)).toEqual([5, 5]);
  expect(runs().sort()).toEqual(['countermark up', 'countermark up', INSTALL, ...BUILD].sort());
});

test('takes over the lock of a set-up that was killed', async () => {
  const gone = spawn(process.execPath, ['--version'], { stdio: 'ignore' });
  await once(gone, 'exit');
  write('.setup/lock', String(gone.pid));
  expect(await ended(start())).toMatchObject({ code: 5 });
  expect(existsSync(join(checkout, '.setup/lock'))).toBe(false);
});

test('a word it does not know sets nothing up', async () => {
  const { code, out, said } = await ended(start('tset'));
  expect({ code, out }).toEqual({ code: 2, out: '' });
  expect(said).toContain('"tset"');
  expect(runs()).toEqual([]);
});

test('a signal ends the set-up with its program, starts nothing and gives the lock back', async () => {
  write('npm-cli.js', `${note('npm', '.')} process.stderr.write('npm is at work'); setInterval(() => {}, 1000);`);
  const child = start();
  child.stderr!.on('data', (chunk: Buffer) => {
    if (chunk.toString().includes('npm is at work')) child.kill('SIGTERM');
  });
  const { code, out } = await ended(child);
  expect({ code, out }).toEqual({ code: 1, out: '' });
  expect(runs()).toEqual([INSTALL]);
  expect(existsSync(join(checkout, '.setup/lock'))).toBe(false);
});

test('test and bench set up and build, then run with their own parameters', async () => {
  expect(await ended(start('test', '--project', 'unit'))).toMatchObject({ code: 9, out: '' });
  expect(await ended(start('bench', '--smoke'))).toMatchObject({ code: 0, out: '' });
  expect(runs()).toEqual([INSTALL, ...BUILD, 'vitest run --project unit', 'bench --smoke']);
});
