// Does a world notice? Each planted bug (simulation/mutants/) in a bundle of its own, over the same seeds, until a checker fails.
//
// Guarantees: a bug whose text is not in its file exactly once is an error; a bug counts as caught only by a seed that was run to its
// end or its violation. The canary, a checker that always fails, must be caught at the first seed: else nothing is. A placebo, which
// changes only the order of events, must not be caught: a failure that it meets is one of the sound code, and a planted bug that meets the
// same one is not caught by it. Does not prove that a checker failed because of the bug: `convergence` and `simulation` see effects only.
import { readdirSync, readFileSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { bundle } from './build.mjs';
import { Child } from './child.mjs';

const here = dirname(fileURLToPath(import.meta.url));
const folder = join(here, 'mutants');
/** The seeds in which every bug must be caught. */
const SEEDS_MOST = 300;
const AT_ONCE = 2;
const CANARY = 'canary';

function plantedBugs(only) {
  const bugs = readdirSync(folder)
    .filter((name) => name.endsWith('.json'))
    .sort()
    .map((name) => JSON.parse(readFileSync(join(folder, name), 'utf8')));
  const chosen = only.length === 0 ? bugs : bugs.filter(({ name }) => only.includes(name));
  const unknown = only.find((name) => !bugs.some((bug) => bug.name === name));
  if (unknown !== undefined) throw new Error(`There is no planted bug ${unknown}.`);
  return chosen;
}

async function hunt({ name, says, edits, harmless = false }, seedsMost) {
  const file = join(here, 'dist', `mutant-${name}.mjs`);
  await bundle('main.ts', file, { mutants: edits.map((edit) => ({ name, ...edit })) });
  const child = new Child(file);
  const most = name === CANARY ? 1 : seedsMost;
  let found;
  let seeds = 0;
  while (seeds < most && found === undefined) {
    seeds += 1;
    const { violation } = await child.run({ seed: String(seeds) });
    found = violation ?? undefined;
  }
  child.end();
  rmSync(file, { force: true });
  const { checker = '', what = '' } = found ?? {};
  return { name, says, harmless, caught: found !== undefined, seeds, checker, what };
}

/** Prints each bug as it is decided. Returns the exit code: 1 where one survived, or a placebo did not. */
export async function huntMutants({ only, seeds = SEEDS_MOST, json }) {
  const waiting = plantedBugs(only);
  const results = [];
  const work = async () => {
    for (let bug = waiting.shift(); bug !== undefined; bug = waiting.shift()) {
      const result = await hunt(bug, seeds);
      results.push(result);
      const how = result.caught
        ? `${result.harmless ? 'A FALSE ALARM, or a failure of the sound code: ' : ''}${String(result.seeds).padStart(4)}  ${result.checker}: ${result.what.split('\n')[0].slice(0, 110)}`
        : `${result.harmless ? 'not caught, as it should be, in' : 'SURVIVED'} ${result.seeds} seeds: ${result.says}`;
      process.stderr.write(`${result.name.padEnd(44)} ${how}\n`);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  results.sort((one, other) => (one.name < other.name ? -1 : 1));
  const survived = results.filter(({ caught, harmless }) => !caught && !harmless);
  const alarms = results.filter(({ caught, harmless }) => caught && harmless);
  const bugs = results.filter(({ harmless }) => !harmless).length;
  process.stderr.write(`\n${bugs} planted bugs, ${survived.length} survived, ${alarms.length} false alarms\n`);
  if (json) {
    const mutants = results.map(({ name, caught, seeds: took, checker, harmless }) => ({
      name,
      caught,
      seeds: took,
      checker,
      harmless,
    }));
    process.stdout.write(`${JSON.stringify({ mutants })}\n`);
  }
  return survived.length + alarms.length === 0 ? 0 : 1;
}
