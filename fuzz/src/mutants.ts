/**
 * Does it find anything? Each planted bug in a bundle of its own, fuzzed until something fails.
 */
import { bundle } from './bundle.ts';
import { PLANTED_BUGS } from './planted-bugs.ts';
import { runTarget } from './run.ts';

type Caught = { readonly name: string; readonly caught: boolean; readonly inputs: number; readonly what: string };

/** Enough where nothing else is measured: a bundle that loads slowly under load is no hang. */
const HANG_MS = 10_000;

/** Prints each bug with the number of inputs that it took. @returns the exit code: 1 where one survived. */
export async function huntMutants(options: { seed: string; inputs: number; isJson: boolean }): Promise<number> {
  const caught: Caught[] = [];
  for (const bug of PLANTED_BUGS) {
    const result = await hunt(bug, options);
    caught.push(result);
    if (!options.isJson) {
      const how = result.caught ? `caught after ${result.inputs} inputs: ${result.what}` : 'SURVIVED';
      process.stdout.write(`${result.name.padEnd(44)} ${how}\n`);
    }
  }
  if (options.isJson) process.stdout.write(`${JSON.stringify({ mutants: caught })}\n`);
  return caught.every((one) => one.caught) ? 0 : 1;
}

async function hunt(bug: (typeof PLANTED_BUGS)[number], options: { seed: string; inputs: number }): Promise<Caught> {
  const { name, targets, file, find, replace } = bug;
  const program = await bundle(`mutant-${name}`, { file, find, replace });
  let inputs = 0;
  for (const target of targets) {
    const run = await runTarget({
      bundle: program,
      target,
      seed: options.seed,
      inputs: options.inputs,
      saved: [],
      untilFound: true,
      hangMs: HANG_MS,
    });
    const [finding] = run.findings;
    if (finding !== undefined) return { name, caught: true, inputs: inputs + finding.at, what: finding.what };
    inputs += run.figures.inputs;
  }
  return { name, caught: false, inputs, what: '' };
}
