// Sets up what is missing, builds what changed, and starts: `npm start`, `npm test`, `npm run bench` and the like all come here.
//
//   node start.mjs [options of `countermark up`]     start Countermark
//   node start.mjs test [options of vitest]          run every test
//   node start.mjs bench [options of the benchmark]  measure
//   node start.mjs crash kills|syscalls [options]    kill real processes, fail their system calls (docs/reliability.md)
//   node start.mjs simulate [options]                run the parties in seeded worlds (docs/simulation.md)
//   node start.mjs build                             set up and build what is due, start nothing
//   node start.mjs fuzz [options]                    drive every parser with changed inputs (docs/reliability.md)
//
// Guarantees: nothing of its own on stdout (what it says goes to stderr), so that `--json` gives one JSON object; one
// set-up at a time in a checkout, others wait; a set-up that broke off is done again; when nothing changed it only reads
// the sizes and times of the sources, so that the start stays short. What was asked for then runs in this same process:
// signals and the exit code are its own.
//
// Needs no dependency, and only syntax that Node 12 can parse: an older Node gets a sentence, not a syntax error.
import { spawn } from 'child_process';
import { createHash } from 'crypto';
import {
  existsSync,
  linkSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  renameSync,
  statSync,
  unlinkSync,
  utimesSync,
  writeFileSync,
} from 'fs';
import { basename, delimiter, dirname, join } from 'path';
import { fileURLToPath, pathToFileURL } from 'url';

const LEAST_NODE = [20, 19];

const root = dirname(fileURLToPath(import.meta.url));
const installedFile = join(root, 'node_modules', '.countermark-setup');
const stateFolder = join(root, '.setup');
const builtFile = join(stateFolder, 'built');
const lockFile = join(stateFolder, 'lock');

/** Programs of ours that need what is built, by the word that starts them. */
const PROGRAMS = {
  bench: 'bench/dist/main.js',
  crash: 'tests/crash/run.mjs',
  fuzz: 'fuzz/run.mjs',
  simulate: 'simulation/run.mjs',
};

/** The last of the programs: with it, all are there. */
const COMMAND = 'packages/cli/dist/program/main.js';

/** What makes the built code, in order. No program is there while the compiled modules change (programs.mjs). */
const BUILD = [['programs.mjs', 'remove'], ['node_modules/typescript/bin/tsc', '-b'], ['programs.mjs']];

/** A lock whose holder lives touches it every 2 s; after this long untouched its process id belongs to another program. */
const LOCK_ABANDONED_MS = 60000;

class SetupError extends Error {}

class UsageError extends Error {}

function say(text) {
  process.stderr.write(text + '\n');
}

function readIfThere(file) {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    if (error.code === 'ENOENT') return undefined;
    throw error;
  }
}

/** What node_modules must have been installed for: this lockfile, and this Node's interface for compiled addons. */
function wantedInstallation() {
  const hash = createHash('sha256').update(readFileSync(join(root, 'package-lock.json')));
  return [hash.digest('hex'), process.platform, process.arch, 'abi' + process.versions.modules].join(' ') + '\n';
}

function projectFolders() {
  const packages = readdirSync(join(root, 'packages')).map((name) => join('packages', name));
  return packages.concat('bench').filter((folder) => existsSync(join(root, folder, 'tsconfig.json')));
}

/** Digest of names, sizes and times of everything that a build reads; no content is read. */
function sourcesNow(projects) {
  const hash = createHash('sha256');
  const add = (path) => {
    const { mtimeMs, size } = statSync(join(root, path));
    hash.update(path + ' ' + mtimeMs + ' ' + size + '\n');
  };
  const walk = (folder) => {
    for (const entry of readdirSync(join(root, folder), { withFileTypes: true })) {
      const path = join(folder, entry.name);
      if (entry.isDirectory()) walk(path);
      else if (!entry.name.endsWith('.test.ts')) add(path);
    }
  };
  // The libraries are built into the programs.
  for (const file of ['package-lock.json', 'programs.mjs', 'tsconfig.json', 'tsconfig.base.json']) add(file);
  for (const project of projects) {
    add(join(project, 'tsconfig.json'));
    add(join(project, 'package.json'));
    if (existsSync(join(root, project, 'src'))) walk(join(project, 'src'));
  }
  return hash.digest('hex') + '\n';
}

function isInstalled() {
  return readIfThere(installedFile) === wantedInstallation();
}

/** The digest of the sources where a build is due, undefined where what is built is of these sources. */
function buildDue() {
  const projects = projectFolders();
  const sources = sourcesNow(projects);
  const hasSources = (project) => existsSync(join(root, project, 'src'));
  const isBuilt = (project) => !hasSources(project) || existsSync(join(root, project, 'dist', '.tsbuildinfo'));
  const done = readIfThere(builtFile) === sources && projects.every(isBuilt) && existsSync(join(root, COMMAND));
  return done ? undefined : sources;
}

/**
 * Runs a program with its whole output on stderr. Resolves to its exit code, 1 where a signal ended it. A signal to this
 * process ends that program first, so that the lock is never given up while an installation still writes.
 */
function run(command, args, options) {
  return new Promise((resolve, reject) => {
    // This Node before any other: npm found on the PATH, and the addons that it compiles, must be for the Node that runs here.
    const env = Object.assign({}, process.env, {
      PATH: dirname(process.execPath) + delimiter + (process.env.PATH || ''),
    });
    const child = spawn(command, args, Object.assign({ cwd: root, env, stdio: ['ignore', 2, 2] }, options));
    const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'];
    const forward = (signal) => child.kill(signal);
    for (const signal of signals) process.on(signal, forward);
    const settle = (how) => (value) => {
      for (const signal of signals) process.removeListener(signal, forward);
      how(value);
    };
    child.once('error', settle(reject));
    child.once(
      'exit',
      settle((code) => resolve(code === null ? 1 : code)),
    );
  });
}

async function install() {
  say(
    'Setting up: installing the dependencies. The SQLite addon may be compiled here: that takes a minute or two, once.',
  );
  // --loglevel: a failure must say why, though the .npmrc silences npm; --include: the compiler is a development dependency.
  const args = ['ci', '--loglevel=error', '--include=dev', '--no-audit', '--no-fund'];
  const npm = process.env.npm_execpath;
  const code =
    npm && /npm-cli\.[cm]?js$/.test(npm)
      ? await run(process.execPath, [npm].concat(args))
      : await run('npm', args, { shell: process.platform === 'win32' });
  if (code !== 0) {
    throw new SetupError(
      `\`npm ci\` failed (exit ${code}): its own words are above. The SQLite addon needs a C++ compiler, make and python3 ` +
        'where no prebuilt one can be had. Nothing was started; run the same command again when the cause is gone.',
    );
  }
  remember();
}

function remember() {
  // A dry run of npm calls this too, with nothing installed.
  if (existsSync(dirname(installedFile))) writeFileSync(installedFile, wantedInstallation());
}

async function build(sources) {
  say('Building.');
  for (const [program, ...args] of BUILD) {
    const code = await run(process.execPath, [join(root, program)].concat(args));
    if (code !== 0)
      throw new SetupError(`The build failed: ${basename(program)} says above where. Nothing was started.`);
  }
  writeFileSync(builtFile, sources);
}

function isAlive(pid) {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error.code === 'EPERM';
  }
}

/** Takes the lock if it is free or its holder is gone. Returns the holder's process id where it is held. */
function tryLock() {
  try {
    writeFileSync(lockFile, String(process.pid), { flag: 'wx' });
    return undefined;
  } catch (error) {
    if (error.code !== 'EEXIST') throw error;
  }
  const holder = readIfThere(lockFile);
  if (holder === undefined) return tryLock();
  const untouchedMs = Date.now() - statSync(lockFile).mtimeMs;
  // An empty file is a lock being written at this moment.
  const gone =
    holder === '' ? untouchedMs > LOCK_ABANDONED_MS : !isAlive(Number(holder)) || untouchedMs > LOCK_ABANDONED_MS;
  if (!gone) return holder;
  // Moved aside rather than removed: if another process was quicker and this is its fresh lock, it is put back.
  const aside = lockFile + '.' + process.pid;
  try {
    renameSync(lockFile, aside);
    if (readIfThere(aside) !== holder) linkSync(aside, lockFile);
    unlinkSync(aside);
  } catch (error) {
    if (error.code !== 'ENOENT' && error.code !== 'EEXIST') throw error;
  }
  return tryLock();
}

/** Runs `work` while no other process sets up this checkout. */
async function alone(work) {
  mkdirSync(stateFolder, { recursive: true });
  let told = false;
  for (let holder = tryLock(); holder !== undefined; holder = tryLock()) {
    if (!told) say(`Another set-up of this checkout is running (process ${holder}); waiting for it.`);
    told = true;
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  const touching = setInterval(() => utimesSync(lockFile, new Date(), new Date()), 2000);
  const release = () => {
    if (readIfThere(lockFile) === String(process.pid)) unlinkSync(lockFile);
  };
  process.once('exit', release);
  try {
    await work();
  } finally {
    clearInterval(touching);
    process.removeListener('exit', release);
    release();
  }
}

/** Installs and builds what is missing or out of date; only looks where nothing is. */
async function prepare() {
  if (isInstalled() && buildDue() === undefined) return;
  await alone(async () => {
    if (!isInstalled()) await install();
    const sources = buildDue();
    if (sources !== undefined) await build(sources);
  });
}

/** Hands this process over to a program of ours, which finds its own arguments where Node puts them. */
async function become(program, args) {
  const file = join(root, program);
  if (!existsSync(file)) throw new SetupError(`${program} is missing: this checkout is not complete.`);
  process.argv = [process.execPath, file].concat(args);
  await import(pathToFileURL(file).href);
}

async function main() {
  const version = process.versions.node.split('.').map(Number);
  if (version[0] < LEAST_NODE[0] || (version[0] === LEAST_NODE[0] && version[1] < LEAST_NODE[1])) {
    throw new SetupError(
      `Countermark needs Node ${LEAST_NODE.join('.')} or newer; this is Node ${process.versions.node}.`,
    );
  }
  const args = process.argv.slice(2);
  const verb = args[0];
  // npm calls this after every install (package.json, `prepare`), so that one done by hand counts as well.
  if (verb === 'remember') return remember();
  const program = Object.prototype.hasOwnProperty.call(PROGRAMS, verb) ? PROGRAMS[verb] : undefined;
  if (verb !== undefined && !verb.startsWith('-') && !['build', 'test'].includes(verb) && program === undefined) {
    throw new UsageError(
      `start.mjs does not know "${verb}". It takes build, test, ${Object.keys(PROGRAMS).join(', ')}, or the options of ` +
        '`countermark up`; the other commands are those of `npx countermark`.',
    );
  }
  await prepare();
  if (verb === 'build') return;
  if (verb === 'test') return become('node_modules/vitest/vitest.mjs', ['run'].concat(args.slice(1)));
  if (program !== undefined) return become(program, args.slice(1));
  return become('packages/cli/bin/countermark.mjs', ['up'].concat(args));
}

main().catch((error) => {
  const isOurs = error instanceof SetupError || error instanceof UsageError;
  say(isOurs ? error.message : error.stack);
  process.exitCode = error instanceof UsageError ? 2 : 1;
});
