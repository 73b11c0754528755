/**
 * SIGKILL of each of the five processes in the middle of a mailing, at several points of it: where the n-th piece was franked,
 * while a batch is being closed, and when the last was franked. Its supervisor starts it again, the mailing is asked for again
 * as the command line does, and in the end every piece and every mill is where it belongs, and the grants are those
 * that samples/expected.json was reckoned to have.
 *
 * The points are progress events, never times.
 */
import { execFile } from 'node:child_process';
import { readdirSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { Refused } from '@countermark/cli/failure';
import { Fault } from '@countermark/node-platform/fault';
import { type FrankAnswer, type FrankProgress, HOST, type JobReport } from '@countermark/protocol/interfaces/host';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { chainGaps, expectAccounted, expectSampleResult, sealedRecords } from '../accounting.ts';
import { type Line, readSample, root, startInstallation, type TestInstallation } from '../installation.ts';

/** Reached with the first event of this phase that has at least so many pieces done. */
type KillPoint = { readonly phase: FrankProgress['phase']; readonly done: number };

/** The sample's batches have 749 pieces, 560 (to 1,309), 750 (to 2,059) and 640. */
const FRANKING: readonly KillPoint[] = [
  { phase: 'checking', done: 1 },
  { phase: 'franking', done: 1 },
  { phase: 'closing', done: 0 },
  { phase: 'franking', done: 1_309 },
  { phase: 'franking', done: 2_571 },
];
const SENDING: readonly KillPoint[] = [{ phase: 'franking', done: 1_565 }];

const SIGNED = { authentication: 'signature', transport: 'sessionless', records: 'host' } as const;
const CODED = { authentication: 'mac', transport: 'session', records: 'psd' } as const;
const RUNS = [
  { killed: 'psd', way: SIGNED, points: FRANKING },
  // Without a recount from the host no closing is told of.
  { killed: 'psd', way: CODED, points: FRANKING.filter(({ phase }) => phase === 'franking') },
  { killed: 'host', way: SIGNED, points: FRANKING },
  { killed: 'server', way: { ...SIGNED, transport: 'session' }, points: SENDING },
  { killed: 'cryptographic-device', way: CODED, points: SENDING },
  { killed: 'authority', way: SIGNED, points: SENDING },
  // As when the power goes.
  { killed: 'all five', way: SIGNED, points: FRANKING.slice(1, 2) },
  { killed: 'all five', way: { ...CODED, authentication: 'signature' }, points: SENDING },
] as const;

let installation: TestInstallation;
let file: string;

beforeAll(async () => {
  installation = await startInstallation();
  file = join(installation.folder, 'mailing.csv');
  writeFileSync(file, readSample());
});
afterAll(async () => {
  await installation.stop();
});

describe('A process that is killed in the middle of a mailing', () => {
  it.each(RUNS.map((run, i) => [run.killed, Object.values(run.way).join(', '), run, i] as const))(
    'loses nothing: %s (%s)',
    async (killed, _, { way, points }, i) => {
      const line = await installation.line({ ...way, pages: false, customers: 'many', licensee: `lic_killed-${i}` });
      const processes = { ...installation.processes, ...line.processes };
      const victims = killed === 'all five' ? Object.values(processes) : [processes[killed]];
      const kill = async (): Promise<void> => {
        await Promise.all(victims.map((victim) => victim.kill()));
      };
      const { job, missed } = await frankThrough(line, kill, points);
      // A host that is back goes on by itself, and may pass a later point before anyone listens again.
      expect(missed).toBeLessThan(victims.includes(line.processes.host) ? points.length : 1);
      // Once more, after the last piece: records, confirmations and grants are on their way.
      await kill();
      const report = await settled(line, job);
      expectSampleResult(report);
      await expectAccounted(line, report);
      expect(chainGaps(sealedRecords(report))).toEqual([]);
      await line.stop();
    },
  );

  it('leaves stores in which nobody finds anything wrong, from the first record on', async () => {
    const folders = readdirSync(installation.folder).filter((name) => /^l\d+$/.test(name));
    const configs = [installation.folder, ...folders.map((name) => join(installation.folder, name))].flatMap((folder) =>
      readdirSync(join(folder, 'run'))
        .filter((name) => name.endsWith('.json'))
        .map((name) => join(folder, 'run', name)),
    );
    expect(configs.length).toBe(3 + 2 * RUNS.length);
    // The server's check asks nobody; each store is free once its process has ended.
    for (const party of Object.values(installation.processes)) await party.stop();
    for (const config of configs) expect([config, await checked(config)]).toEqual([config, { exit: 0, words: '' }]);
  });
});

/** What a party's own `check` says of its store. */
async function checked(config: string): Promise<{ readonly exit: number | null; readonly words: string }> {
  const program = join(root, 'packages', basename(config, '.json'), 'dist', 'program', 'main.js');
  return new Promise((resolve) => {
    const child = execFile(process.execPath, [program, 'check', '--config', config], (_, stdout) => {
      resolve({ exit: child.exitCode, words: stdout });
    });
  });
}

/** Asks for the mailing until it is franked, and kills at each point; says how many it did not come by. */
async function frankThrough(
  line: Line,
  kill: () => Promise<void>,
  points: readonly KillPoint[],
): Promise<{ readonly job: string; readonly missed: number }> {
  const ahead = [...points];
  let killed = Promise.resolve();
  for (let attempt = 0; attempt < 30; attempt++) {
    const answer = await franked(line, ({ phase, done }) => {
      const point = ahead[0];
      if (point?.phase !== phase || done < point.done) return;
      ahead.shift();
      killed = killed.then(kill);
    });
    await killed;
    if (answer?.remaining === 0 && answer.rejection === undefined) {
      return { job: answer.job, missed: ahead.length };
    }
  }
  throw new Error('The mailing was not franked in 30 attempts.');
}

/** One attempt; undefined where a process that was away ended it. */
async function franked(line: Line, onProgress: (event: FrankProgress) => void): Promise<FrankAnswer | undefined> {
  try {
    const answer = await line.host.call(HOST.frank, { file, mailingDate: '2026-11-22' }, onProgress);
    const code = answer.rejection?.code;
    if (code !== undefined && !PASSING.includes(code)) throw new Error(answer.rejection?.message);
    return answer;
  } catch (error) {
    if (error instanceof Fault && error.retry !== 'never') return undefined;
    if (error instanceof Refused && PASSING.includes(error.rejection.code)) return undefined;
    throw error;
  }
}

/** What the command line asks again after. */
const PASSING = ['try-again', 'internal-fault', 'job-conflict'];

async function settled(line: Line, job: string): Promise<JobReport> {
  const { outcome, pending, report } = await line.host.call(HOST.wait, { job, timeoutMs: 60_000 });
  expect({ outcome, pending }).toEqual({ outcome: 'settled', pending: [] });
  return report as JobReport;
}
