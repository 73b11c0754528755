/**
 * `npm run crash -- kills [--kills N] [--seed S] [--json]`, `npm run crash -- interruptions [--json]` and `npm run crash -- syscalls [--json]`:
 * the long runs.
 *
 * Guarantees: progress on stderr; on stdout the tables for docs/reliability.md, or with --json one object. Exit code 1 where
 * anything was lost, doubled or contradicted, 2 for a wrong call, 0 where tracing is not allowed here (said on stderr).
 */
import { parseArgs } from 'node:util';
import { runInterruptions } from './interruptions.ts';
import { WAYS } from './kill-plan.ts';
import { runKills } from './kills.ts';
import { failCalls } from './syscalls.ts';
import { callTables, interruptionTables, killTables } from './tables.ts';
import { tracingProblem } from './traced-calls.ts';

const USAGE = 'npm run crash -- kills [--kills N] [--seed S] [--json] | interruptions [--json] | syscalls [--json]';

const say = (words: string): void => void process.stderr.write(`${words}\n`);

function command() {
  try {
    return parseArgs({
      allowPositionals: true,
      options: {
        kills: { type: 'string', default: '300' },
        seed: { type: 'string', default: String(Date.now() % 1_000_000) },
        json: { type: 'boolean', default: false },
      },
    });
  } catch (error) {
    say(error instanceof Error ? error.message : String(error));
    return null;
  }
}

async function main(): Promise<number> {
  const { positionals, values } = command() ?? { positionals: [], values: { kills: '', seed: '', json: false } };
  const kills = Number(values.kills);
  const seed = Number(values.seed);
  if (positionals[0] === 'kills' && Number.isSafeInteger(kills) && kills > 0 && Number.isSafeInteger(seed)) {
    say(`Seed ${seed}. Again: npm run crash -- kills --kills ${kills} --seed ${seed}`);
    const report = await runKills({ kills, seed, say });
    console.log(values.json ? JSON.stringify(report) : killTables(report));
    return report.violations.length === 0 ? 0 : 1;
  }
  if (positionals[0] === 'interruptions') {
    const report = await runInterruptions({ ways: WAYS, say });
    console.log(values.json ? JSON.stringify(report) : interruptionTables(report));
    return report.violations.length === 0 ? 0 : 1;
  }
  if (positionals[0] === 'syscalls') {
    const problem = await tracingProblem();
    if (problem !== null) {
      say(`Skipped: system calls cannot be traced here (${problem}).`);
      if (values.json) console.log(JSON.stringify({ skipped: problem }));
      return 0;
    }
    const report = await failCalls({ say });
    console.log(values.json ? JSON.stringify(report) : callTables(report));
    return report.violations.length === 0 ? 0 : 1;
  }
  say(`Usage: ${USAGE}`);
  return 2;
}

process.exitCode = await main();
