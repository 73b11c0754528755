/**
 * A real PSD whose store, and its host's, were put back to a copy: it franks again what it had franked, and reports. The server keeps
 * both records, nothing is granted to the device any more, and once an operator withdrew it, it franks no more either.
 */
import { cpSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { askServer } from '@countermark/cli/registration';
import { type FrankAnswer, HOST } from '@countermark/protocol/interfaces/host';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { eventually } from '../../contract/server-parties.ts';
import { type Line, startInstallation, type TestInstallation } from '../../installation.ts';

const HEADER = 'piece_ref,product,level,weight_oz,zip';
const MAILING_DATE = '2026-11-22';

let installation: TestInstallation;
let line: Line;

beforeAll(async () => {
  installation = await startInstallation();
  line = await installation.line({ licensee: 'lic_copied', customers: 'one', pages: false });
});
afterAll(async () => {
  await installation.stop();
});

function frank(job: string, pieces: number): Promise<FrankAnswer> {
  const file = join(installation.folder, `${job}.csv`);
  const rows = Array.from({ length: pieces }, (_, at) => `${job}-${at},usps-fcm-letter,5-digit,0.95,02108`);
  writeFileSync(file, [HEADER, ...rows].join('\n'));
  return line.host.call(HOST.frank, { file, job, mailingDate: MAILING_DATE });
}

async function whileStopped(work: (folder: string) => void): Promise<void> {
  await line.processes.host.stop();
  await line.processes.psd.stop();
  for (const party of ['psd', 'host'] as const) work(line.paths.parties[party]);
  await line.processes.psd.start();
  await line.processes.host.start();
}

test('A store put back to a copy is found by its first report, and ends in withdrawal', async () => {
  await whileStopped((folder) => cpSync(folder, `${folder}-copy`, { recursive: true }));
  const first = await frank('honest', 3);
  expect((await line.host.call(HOST.wait, { job: first.job, timeoutMs: 30_000 })).outcome).toBe('settled');
  const { device, registers } = await line.device();
  expect(registers.pieces).toBe(3);

  await whileStopped((folder) => {
    rmSync(folder, { recursive: true });
    cpSync(`${folder}-copy`, folder, { recursive: true });
  });
  // The device knows nothing of what it franked: software cannot.
  expect((await line.device()).registers.pieces).toBe(0);
  expect((await frank('again', 5)).report.pieces).toBe(5);
  const { records } = await eventually(
    () => line.host.call(HOST.statistics, {}),
    (seen) => seen.records.some(({ reason }) => reason !== null),
  );
  expect(records).toMatchObject([{ sequence: 1, reason: expect.stringContaining('fork') as string }]);

  const ask = <T>(path: string, body?: object): Promise<T> =>
    askServer(
      installation.operator,
      body === undefined ? 'GET' : 'POST',
      `/v1/devices/${device}${path}`,
      body,
    ) as Promise<T>;
  expect(await ask('')).toMatchObject({ standing: 'suspended', sequence: 1, evidence: 1 });
  expect(await ask('/evidence')).toMatchObject({
    cases: [{ code: 'fork', refused: { sequence: 1 }, accepted: { sequence: 1 } }],
  });
  const refused = await line.host.call(HOST.refill, { amountMills: '1000' });
  expect(refused).toMatchObject({ grantedMills: '0', refusal: expect.stringMatching(/^device-suspended: /) as string });

  await ask('/withdrawal', { reason: 'its store was put back to a copy' });
  // With its next policy, which its host takes to it by itself.
  await line.host.call(HOST.send, {});
  await eventually(
    () => line.device(),
    ({ state }) => state === 'withdrawn',
  );
  await expect(frank('once-more', 1)).resolves.toMatchObject({ rejection: { code: 'device-locked' } });
  expect(await line.device()).toMatchObject({ state: 'withdrawn', unconfirmedRecords: 1 });
});
