/**
 * Backup and restore, party by party, as docs/backup.md says, with real processes: a copy is taken after a mailing, another mailing
 * follows, one party gets its copy back (or nothing), the installation goes on, and in the end `check` finds nothing wrong and every
 * piece, mill and grant is where it would be had nothing happened.
 */
import { cpSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { parseEnvelope } from '@countermark/protocol/cose';
import type { JobReport } from '@countermark/protocol/interfaces/host';
import Database from 'better-sqlite3';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { examined } from '../examined.ts';
import { type Ended, json, sampleOf, Workshop } from './command.ts';

const workshop = new Workshop();
/** After the first mailing: what the backups hold. */
const backup = workshop.path('backup');
/** After the second one: what was there when a disk was lost. */
const later = workshop.path('later');
let second: JobReport;
afterAll(() => workshop.stopAll());

const rowsOf = (name: string): string[] => [
  ...sampleOf('alder-press')
    .slice(0, 510)
    .map((row) => row.replace('alder-', `${name}-`)),
  ...sampleOf('cedar-clinic')
    .slice(0, 40)
    .map((row) => row.replace('cedar-', `${name}-`)),
];

const up = (data: string, name: string, ...more: string[]): Promise<Ended> =>
  workshop.run(
    ...['up', '--once', '--json', '--no-pages', '--timeout', '30', '--refill', '700.00', '--data', data],
    ...['--mailing', workshop.mailing(`${name}.csv`, rowsOf(name)), '--job', name, ...more],
  );

/** The mailing is franked, all of it confirmed, its grants have arrived. */
async function franked(data: string, name: string): Promise<JobReport> {
  const ended = await up(data, name);
  expect(ended.code, ended.stderr).toBe(0);
  const report = json<JobReport>(ended);
  expect(report).toMatchObject({ pieces: 550, pending: [] });
  return report;
}

beforeAll(async () => {
  const data = workshop.path('data');
  await franked(data, 'first');
  cpSync(data, backup, { recursive: true });
  second = await franked(data, 'second');
  cpSync(data, later, { recursive: true });
});

let copies = 0;

/** The installation after the second mailing, with one party's folder as the backup has it, or without it. */
function restored(party: string, from: string | null): string {
  const data = workshop.path(`restored-${copies++}`);
  cpSync(later, data, { recursive: true });
  rmSync(join(data, party), { recursive: true });
  if (from !== null) cpSync(join(from, party), join(data, party), { recursive: true });
  return data;
}

it('A snapshot of everything at one moment, in the middle of a mailing, is whole, and nobody notices that it was taken', async () => {
  const data = workshop.path('snapshot');
  cpSync(later, data, { recursive: true });
  const running = workshop.start(
    ...['up', '--once', '--json', '--no-pages', '--timeout', '30', '--refill', '700.00', '--data', data],
    ...['--mailing', workshop.mailing('third.csv', rowsOf('third')), '--job', 'third'],
  );
  await running.says(/Franking/);
  const processes = JSON.parse(readFileSync(join(data, 'run', 'processes.json'), 'utf8')) as { readonly pid: number }[];
  for (const { pid } of processes) process.kill(pid, 'SIGSTOP');
  const snapshot = workshop.path('of-one-moment');
  cpSync(data, snapshot, { recursive: true, filter: (from) => !from.endsWith('.sock') });
  for (const { pid } of processes) process.kill(pid, 'SIGCONT');
  const ended = await running.ended;
  expect(ended.code, ended.stderr).toBe(0);
  expect(await examined(data)).toEqual([]);
  expect(await examined(snapshot)).toEqual([]);
});

describe('A server that is restored from an older backup', () => {
  it('is fed again from the archive of the host and from the authority, though nothing new is mailed', async () => {
    const data = restored('server', backup);
    expect((await examined(data)).join('\n')).toMatch(/log does not have it/);
    const ended = await workshop.run(
      ...['up', '--once', '--json', '--no-pages', '--timeout', '30', '--data', data],
      ...['--mailing', workshop.path('second.csv'), '--job', 'second'],
    );
    expect(ended.code, ended.stderr).toBe(0);
    const report = json<JobReport>(ended);
    expect({ ...report, files: null }).toEqual({ ...second, resumed: true, files: null });
    expect(await examined(data)).toEqual([]);
  });

  it('takes the next mailing, too, and grants funds when its ledger knows of the old ones again', async () => {
    const data = restored('server', backup);
    const report = await franked(data, 'third');
    expect(report.registers.pieces).toBe(1_650);
    expect(await examined(data)).toEqual([]);
  });
});

describe('An authority that is restored from an older backup', () => {
  it('is fed again by the server, and what it grants anew arrives', async () => {
    const data = restored('authority', backup);
    expect((await examined(data)).join('\n')).toMatch(/its store is an older copy/);
    const untouched = workshop.path(`untouched-${copies}`);
    cpSync(later, untouched, { recursive: true });
    // The one that is not restored has another granting key meanwhile, which changes nothing for anybody.
    const rotated = await workshop.run('grant', 'rotate-key', '--data', untouched, '--json');
    expect([rotated.code, json<{ epoch: number }>(rotated).epoch]).toEqual([0, 2]);
    const [anew, never] = [await franked(data, 'third'), await franked(untouched, 'third')];
    expect([grantingEpochsOf(data), grantingEpochsOf(untouched)]).toEqual([[1], [1, 2]]);
    expect(await examined(untouched)).toEqual([]);
    expect(totalsOf(data)).toEqual(totalsOf(untouched));
    expect(anew.registers).toMatchObject({ pieces: never.registers.pieces });
    expect(await examined(data)).toEqual([]);
  });
});

/** Of the keys that signed what the server has booked. */
function grantingEpochsOf(data: string): number[] {
  const database = new Database(join(data, 'server', 'server.sqlite'), { readonly: true });
  const rows = database.prepare('SELECT grant_bytes FROM booked_grant').all() as { readonly grant_bytes: Buffer }[];
  database.close();
  const epochs = rows.map(({ grant_bytes }) => {
    const envelope = parseEnvelope(Uint8Array.from(grant_bytes));
    return envelope.ok ? envelope.value.key.epoch : 0;
  });
  return [...new Set(epochs)].sort();
}

/** What every customer has franked and got, by the ledger. */
function totalsOf(data: string): unknown {
  const database = new Database(join(data, 'server', 'server.sqlite'), { readonly: true });
  const rows = database
    .prepare(
      "SELECT account, balance_mills FROM balance WHERE account LIKE 'discount:%' OR account LIKE 'postage:%' ORDER BY 1",
    )
    .all();
  database.close();
  return rows;
}

describe('A host that is lost', () => {
  it('takes up from its device and its server: archive, grants, and the next mailing', async () => {
    const data = restored('host', null);
    const report = await franked(data, 'third');
    expect(report.registers.pieces).toBe(1_650);
    expect(await examined(data)).toEqual([]);
  });
});

describe('A cryptographic device whose register is restored from an older backup', () => {
  it('goes on with its keys', async () => {
    const data = restored('cryptographic-device', backup);
    expect((await examined(data)).join('\n')).toMatch(/its register is an older copy/);
    await franked(data, 'third');
    expect(await examined(data)).toEqual([]);
  });
});

describe('A device whose store is put back', () => {
  it('is found before it franks: nothing is printed twice', async () => {
    const data = restored('psd', backup);
    expect((await examined(data)).join('\n')).toMatch(/device's store is an older copy/);
    const ended = await up(data, 'third');
    expect(ended.code).toBe(6);
    expect(json<{ error: { code: string } }>(ended).error.code).toBe('device-older');
  });

  it('is replaced by a new device and a new host in a folder of their own place', async () => {
    const data = restored('psd', null);
    rmSync(join(data, 'host'), { recursive: true });
    const report = await franked(data, 'third');
    expect(report.registers.pieces).toBe(550);
    expect(await examined(data)).toEqual([]);
  });
});
