/**
 * A disk that takes no more (a bound on the length of files, which any user can set, stands in for it): the process
 * whose store cannot be written ends or refuses, releases nothing that was not durable, and comes back; when there is room again
 * the same mailing is franked to its end, every piece once.
 */
import { readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Fault } from '@countermark/node-platform/fault';
import { HOST, type JobReport } from '@countermark/protocol/interfaces/host';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { expectAccounted, expectSampleResult } from '../accounting.ts';
import { type Line, readSample, startInstallation, type TestInstallation } from '../installation.ts';

const BLOCK_BYTES = 512;
/** A store's log begins anew at each start; this much of a mailing fits. */
const ROOM_BLOCKS = 64;

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

describe('A full disk', () => {
  it.each([
    ['psd', 'host'],
    ['psd', 'psd'],
    ['host', 'host'],
  ] as const)('under the %s (records in the %s) loses nothing', async (party, records) => {
    const licensee = `lic_full-${party}-${records}`;
    const line = await installation.line({ licensee, customers: 'many', records, pages: false }, { limited: [party] });
    const limit = join(line.paths.run, `${party}.limit`);
    await line.processes[party].stop();
    writeFileSync(limit, String(longestFileBlocks(line.paths.parties[party]) + ROOM_BLOCKS));
    await line.processes[party].start();

    const job = `full-${party}-${records}`;
    const stopped = await frank(line, job);
    expect(stopped.done).toBe(false);
    expect(stopped.words).toMatch(/a write to the disk failed/);

    // Room again. Nobody starts anything: the process ends by itself and comes back.
    rmSync(limit);
    let attempt = stopped;
    for (let attempts = 0; !attempt.done && attempts < 20; attempts++) {
      const back = line.processes[party].back();
      attempt = await frank(line, job);
      if (attempt.away) await back;
    }
    expect(attempt).toEqual({ done: true, words: '', away: false });
    const settled = await line.host.call(HOST.wait, { job, timeoutMs: 60_000 });
    expect(settled.outcome).toBe('settled');
    expectSampleResult(settled.report as JobReport);
    await expectAccounted(line, settled.report as JobReport);
    await line.stop();
  });

  it('under the server confirms nothing that it could not keep; with room all is settled', async () => {
    const full = await startInstallation({ limited: ['server'] });
    const line = await full.line({ licensee: 'lic_full-server', customers: 'many', pages: false });
    await line.host.call(HOST.enrol, { customers: ['alder-press', 'birch-mutual', 'cedar-clinic'] });
    const limit = join(full.paths.run, 'server.limit');
    await full.processes.server.stop();
    writeFileSync(limit, '1');
    await full.processes.server.start();

    const { job, remaining } = await line.host.call(HOST.frank, { file, mailingDate: '2026-11-22' });
    expect(remaining).toBe(0);
    const sent = await line.host.call(HOST.send, {});
    expect(sent).toMatchObject({ confirmed: 0, waiting: [{}, {}, {}, {}] });
    expect(await line.device()).toMatchObject({ unconfirmedRecords: 4, alarms: 0 });

    // A server that could not write has ended, and comes back with what it had.
    const back = full.processes.server.back();
    rmSync(limit);
    await back;
    await line.host.call(HOST.send, {});
    const settled = await line.host.call(HOST.wait, { job, timeoutMs: 60_000 });
    expect(settled.outcome).toBe('settled');
    expectSampleResult(settled.report as JobReport);
    await expectAccounted(line, settled.report as JobReport);
    await full.stop();
  });
});

/** `away`: nobody listened at the host's socket. */
type Attempt = { readonly done: boolean; readonly words: string; readonly away: boolean };

/** One attempt, and what it ended with where it did not come to its end. */
async function frank(line: Line, job: string): Promise<Attempt> {
  try {
    const answer = await line.host.call(HOST.frank, { file, job, mailingDate: '2026-11-22' });
    return { done: answer.state === 'done', words: answer.rejection?.message ?? '', away: false };
  } catch (error) {
    if (!(error instanceof Fault)) throw error;
    return { done: false, words: error.message, away: error.code === 'peer-not-running' };
  }
}

function longestFileBlocks(folder: string): number {
  const sizes = readdirSync(folder).map((name) => statSync(join(folder, name)).size);
  return Math.ceil(Math.max(...sizes) / BLOCK_BYTES);
}
