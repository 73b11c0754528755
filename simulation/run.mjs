// `npm run simulate -- [options]`: bundles the world, runs seeds in child processes, and says what was violated.
//
//   --seeds N       so many seeds (default 100)          --seed S      the first one (default 1)
//   --minutes M     until the time is over               --workers W   children at once (default: one for each core)
//   --replay JSON   one run, as a failure prints it      --trace       with everything that happened
//   --shrink        with --replay: the smallest run that fails in the same checker, kept under simulation/regressions; without,
//                   the first failure of each checker is made small and kept by itself, unless --no-shrink says not to
//   --mutants       does it notice? every planted bug (simulation/mutants), or the named ones (--mutant NAME)
//   --json          one JSON object on stdout
//
// Guarantees: the same seed is the same run, whichever child does it; every 50th seed is run twice and must have the same trace; a
// child that gives no answer for ten minutes is killed, and its seed is a violation. Exit code 1 where anything was violated.
import { mkdirSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { performance } from 'node:perf_hooks';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { bundle } from './build.mjs';
import { Child } from './child.mjs';
import { huntMutants } from './mutants.mjs';
import { shrink } from './shrinking.mjs';

const WORDS = 600;
const here = dirname(fileURLToPath(import.meta.url));

function say(text) {
  process.stderr.write(`${text}\n`);
}

function replayLine(replay) {
  return `npm run simulate -- --replay '${JSON.stringify(replay)}' --trace`;
}

/** Keeps a failure with the end of its trace. */
function keep(replay, { violation, trace }) {
  const folder = join(here, 'regressions');
  const name = join(folder, `${violation.checker.replaceAll(' ', '-')}-${replay.seed}`);
  mkdirSync(folder, { recursive: true });
  writeFileSync(`${name}.json`, `${JSON.stringify(replay)}\n`);
  writeFileSync(`${name}.txt`, `${violation.checker}: ${violation.what}\n\n${trace.join('\n')}\n`);
  say(`Kept as ${name}.json`);
}

/** Codes and kinds of faults that no seed of the run met: what was never tried is not known to hold. */
function neverSeen({ codes = [], faultKinds = [] } = {}, counts) {
  const missing = [
    ...faultKinds.filter(
      (kind) => !counts.has(`fault: ${kind}`) && !kind.startsWith('messages') && kind !== 'local sockets break',
    ),
    ...codes.filter((code) => !counts.has(`rejection: ${code}`)),
  ];
  if (missing.length > 0) say(`\nNever seen\n  ${missing.join('\n  ')}`);
}

/** The counters that a person looks for, most frequent first. */
function table(title, counts, prefix) {
  const rows = [...counts].filter(([name]) => name.startsWith(prefix)).sort(([, one], [, other]) => other - one);
  if (rows.length === 0) return;
  say(`\n${title}`);
  for (const [name, count] of rows) say(`${String(count).padStart(9)}  ${name.slice(prefix.length)}`);
}

const { values: options } = parseArgs({
  options: {
    seeds: { type: 'string' },
    seed: { type: 'string', default: '1' },
    minutes: { type: 'string' },
    workers: { type: 'string' },
    replay: { type: 'string' },
    trace: { type: 'boolean', default: false },
    shrink: { type: 'boolean', default: false },
    'no-shrink': { type: 'boolean', default: false },
    mutants: { type: 'boolean', default: false },
    mutant: { type: 'string', multiple: true, default: [] },
    json: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
});
if (options.help) {
  process.stdout.write(
    'npm run simulate -- [--seeds N] [--seed S] [--minutes M] [--workers W] [--no-shrink] [--json] | --replay JSON [--trace] [--shrink] | --mutants [--mutant NAME] [--seeds N] [--json]\n',
  );
  process.exit(0);
}

if (options.mutants || options.mutant.length > 0) {
  const seeds = options.seeds === undefined ? {} : { seeds: Number(options.seeds) };
  process.exit(await huntMutants({ only: options.mutant, json: options.json, ...seeds }));
}

const file = join(here, 'dist', 'world.mjs');
await bundle('main.ts', file);

/** The smallest run that fails as this one does; kept, and the line said that replays it. */
async function shrunkAndKept(whole) {
  let child = new Child(file);
  const play = async (one) => {
    if (child.gone) child = new Child(file);
    return child.run(one);
  };
  const replay = await shrink(whole, play, say);
  const outcome = await play(replay);
  child.end();
  if (outcome.violation !== null) keep(replay, outcome);
  say(replayLine(replay));
  return replay;
}

if (options.replay !== undefined) {
  let replay = JSON.parse(options.replay);
  if (options.shrink) replay = await shrunkAndKept(replay);
  const child = new Child(file);
  const outcome = await child.run(replay, options.trace);
  child.end();
  if (options.trace) for (const line of outcome.trace) process.stdout.write(`${line}\n`);
  say(outcome.violation === null ? 'No violation.' : `${outcome.violation.checker}: ${outcome.violation.what}`);
  process.exit(outcome.violation === null ? 0 : 1);
}

const first = Number(options.seed);
const endsMs = options.minutes === undefined ? Infinity : performance.now() + Number(options.minutes) * 60_000;
const seeds = options.seeds !== undefined ? Number(options.seeds) : options.minutes === undefined ? 100 : Infinity;
const workers = Number(options.workers ?? availableParallelism());
if (![first, seeds, workers].every((number) => number >= 1)) {
  say('Numbers are wanted: --seeds N, --seed S, --workers W, from 1.');
  process.exit(2);
}
say(`Seeds from ${first}, ${workers} at once.`);
const counts = new Map();
const violations = [];
let next = first;
let done = 0;
let events = 0;
let batches = 0;
const begunMs = performance.now();
let saidMs = begunMs;

let told;

async function work() {
  let child = new Child(file);
  told ??= await child.ready;
  while (next < first + seeds && performance.now() < endsMs) {
    const seed = next;
    next += 1;
    if (child.gone) child = new Child(file);
    const outcome = await child.run({ seed: String(seed) });
    done += 1;
    events += outcome.events;
    batches += outcome.batches;
    for (const [name, count] of outcome.counts) counts.set(name, (counts.get(name) ?? 0) + count);
    if (outcome.violation === null && seed % 50 === 0) {
      const again = await child.run({ seed: String(seed) });
      if (again.hash !== outcome.hash) {
        outcome.violation = { checker: 'determinism', what: `${outcome.hash} and ${again.hash}`, atMs: 0 };
      }
    }
    if (outcome.violation !== null) {
      const { checker, what } = outcome.violation;
      const replay = { seed: String(seed) };
      violations.push({ seed, checker, what: what.slice(0, WORDS), replay });
      say(`seed ${seed}: ${checker}: ${what.slice(0, WORDS)}\n  ${replayLine(replay)}`);
    }
    if (performance.now() - saidMs > 10_000) {
      saidMs = performance.now();
      const perMinute = Math.round((done / (saidMs - begunMs)) * 60_000);
      say(`${done} seeds, ${violations.length} with violations, ${perMinute} a minute`);
    }
  }
  child.end();
}
await Promise.all(Array.from({ length: workers }, work));

const seedsPerMinute = Math.round((done / (performance.now() - begunMs)) * 60_000);
table('Faults', counts, 'fault: ');
table('Processes killed', counts, 'killed at ');
table('Refusals', counts, 'rejection: ');
table('Credits', counts, 'credit: ');
neverSeen(told, counts);
say(
  `\n${done} seeds, ${batches} batches, ${events} events, ${seedsPerMinute} seeds a minute, ${violations.length} with violations`,
);
if (!options['no-shrink']) {
  const firstOfEach = new Map(violations.map((one) => [one.checker, one.replay]).reverse());
  for (const [checker, replay] of firstOfEach) {
    if (checker === 'determinism') continue;
    say(`\nThe first failure of "${checker}" is made small.`);
    const smallest = await shrunkAndKept(replay);
    for (const one of violations) if (one.replay === replay) one.shrunk = smallest;
  }
}
if (options.json) {
  process.stdout.write(`${JSON.stringify({ seeds: done, violations, seedsPerMinute, batches, events })}\n`);
}
process.exit(violations.length === 0 ? 0 : 1);
