/**
 * `npm run fuzz`: fuzzes every target, or one; replays a saved input; or plants bugs to see that they are found.
 *
 *   npm run fuzz -- [--inputs N] [--target NAME] [--seed S] [--workers N] [--json]
 *   npm run fuzz -- --replay FILE
 *   npm run fuzz -- --mutants [--inputs N] [--seed S] [--json]
 *
 * Exits with 1 where something failed, or a planted bug survived; with 2 for a wrong option.
 */
import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { bundle } from './bundle.ts';
import { huntMutants } from './mutants.ts';
import { Progress } from './progress.ts';
import { save, savedInputs } from './regressions.ts';
import { summary, table } from './report.ts';
import { runTarget, type TargetRun } from './run.ts';
import { SHARES } from './shares.ts';

const INPUTS = 100_000;
const OPTIONS = {
  inputs: { type: 'string' },
  target: { type: 'string', multiple: true },
  seed: { type: 'string' },
  workers: { type: 'string' },
  replay: { type: 'string' },
  mutants: { type: 'boolean' },
  json: { type: 'boolean' },
} as const;

class UsageError extends Error {}

function whole(text: string | undefined, standard: number, most: number): number {
  if (text === undefined) return standard;
  if (!/^\d{1,12}$/.test(text) || Number(text) < 1 || Number(text) > most) {
    throw new UsageError(`${text} is no whole number from 1 to ${most}.`);
  }
  return Number(text);
}

function options() {
  try {
    return parseArgs({ options: OPTIONS, strict: true }).values;
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error));
  }
}

async function main(): Promise<number> {
  const given = options();
  const isJson = given.json === true;
  const seed = given.seed ?? String(Date.now() % 1_000_000);
  if (given.replay !== undefined) return replay(given.replay);
  if (given.mutants === true) return huntMutants({ seed, inputs: whole(given.inputs, 200_000, 1e9), isJson });
  const inputs = whole(given.inputs, INPUTS, 1e9);
  const workers = whole(given.workers, 1, 16);
  const unknown = given.target?.find((name) => SHARES[name] === undefined);
  if (unknown !== undefined) {
    throw new UsageError(`There is no target ${unknown}. There are: ${Object.keys(SHARES).join(', ')}.`);
  }
  const names = given.target ?? Object.keys(SHARES);
  const all = names.reduce((sum, name) => sum + (SHARES[name] ?? 0), 0);
  const begun = performance.now();
  const progress = new Progress(inputs);
  progress.say(
    `seed ${seed}: npm run fuzz -- --seed ${seed} --inputs ${inputs}${names.length === 1 ? ` --target ${names[0] ?? ''}` : ''}`,
  );
  const program = await bundle('fuzz');
  const waiting = names.map((target) => ({ target, inputs: Math.ceil((inputs * (SHARES[target] ?? 0)) / all) }));
  const runs: TargetRun[] = [];
  const work = async (): Promise<void> => {
    for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
      const { target, inputs: part } = next;
      const run = await runTarget({
        bundle: program,
        target,
        seed,
        inputs: part,
        saved: savedInputs(target),
        progress: (done) => {
          progress.at(target, done);
        },
      });
      progress.at(target, run.figures.inputs);
      runs.push(run);
      progress.say(`${target}: ${run.figures.inputs} inputs in ${Math.round(run.figures.elapsedMs / 1_000)} s`);
      for (const finding of run.findings) {
        const file = save(target, seed, finding);
        progress.say(`${target}: ${finding.what}\n  replay: npm run fuzz -- --replay ${file}`);
      }
    }
  };
  await Promise.all(Array.from({ length: workers }, work));
  progress.end();
  runs.sort((one, other) => names.indexOf(one.target) - names.indexOf(other.target));
  const elapsedMs = performance.now() - begun;
  process.stdout.write(`${isJson ? JSON.stringify(summary(seed, runs, elapsedMs)) : table(runs)}\n`);
  const failed = runs.reduce((sum, { findings }) => sum + findings.length, 0);
  progress.say(failed === 0 ? 'Nothing failed.' : `${failed} findings.`);
  return failed === 0 ? 0 : 1;
}

async function replay(file: string): Promise<number> {
  const saved = JSON.parse(readFileSync(file, 'utf8')) as { target: string; input: string };
  const { findings } = await runTarget({
    bundle: await bundle('replay'),
    target: saved.target,
    seed: 'replay',
    inputs: 1,
    saved: [Uint8Array.from(Buffer.from(saved.input, 'base64'))],
  });
  for (const { what, stack } of findings) process.stdout.write(`${what}\n${stack}\n`);
  if (findings.length === 0) process.stdout.write('It does not fail.\n');
  return findings.length === 0 ? 0 : 1;
}

try {
  process.exitCode = await main();
} catch (error) {
  const isUsage = error instanceof UsageError;
  process.stderr.write(`${isUsage ? error.message : String(error instanceof Error ? error.stack : error)}\n`);
  process.exitCode = isUsage ? 2 : 1;
}
