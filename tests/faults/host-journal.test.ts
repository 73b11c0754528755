/**
 * The host's journal altered by a byte, older than it should be, or gone, with memory in the host (claims 10 and 22): the error
 * names the piece, the batch stays closed in its device, and the operator closes it incomplete. That record has the device's
 * totals, continues the chain, is confirmed like any other, and earns nothing; the next mailing goes on.
 */
import { cpSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Refused } from '@countermark/cli/failure';
import { askServer } from '@countermark/cli/registration';
import type { Rejection } from '@countermark/protocol/rejection';
import { type BatchReport, HOST, type JobReport } from '@countermark/protocol/interfaces/host';
import Database from 'better-sqlite3';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { expectAccounted } from '../accounting.ts';
import { type Line, readSample, startInstallation, type TestInstallation } from '../installation.ts';

const ALDER_MILLS = '584420';
const MAILING_DATE = '2026-11-22';

let installation: TestInstallation;
let lines = 0;
/** 749 letters of one customer, and 1,200 letters and flats of another. */
const files = { alder: '', birch: '' };

beforeAll(async () => {
  installation = await startInstallation();
  const [header = '', ...rows] = readSample().trimEnd().split('\n');
  for (const [name, customer] of [
    ['alder', 'alder-press'],
    ['birch', 'birch-mutual'],
  ] as const) {
    files[name] = join(installation.folder, `${name}.csv`);
    writeFileSync(files[name], [header, ...rows.filter((row) => row.split(',')[1] === customer)].join('\n'));
  }
});
afterAll(async () => {
  await installation.stop();
});

describe('A journal that is altered by a byte', () => {
  it('is told with the number of the piece; with the byte restored the batch closes whole', async () => {
    const line = await lineWithOpenBatch();
    await withJournal(line, (journal) => alterSaltOfPiece(journal, 300));
    const refused = await refusalOf(line.host.call(HOST.close, {}));
    expect(refused).toMatchObject({ code: 'recount-altered', detail: { pieceNumber: 300 } });
    expect(await line.device()).toMatchObject({ batch: { state: 'closed', pieces: 749 }, sequence: 0 });

    await withJournal(line, (journal) => alterSaltOfPiece(journal, 300));
    const closed = await line.host.call(HOST.close, {});
    expect(closed).toMatchObject({ pieces: 749, incomplete: false });
    const settled = await line.host.call(HOST.wait, { job: 'alder', timeoutMs: 60_000 });
    expect(settled.outcome).toBe('settled');
    await expectAccounted(line, settled.report as JobReport);
    await line.stop();
  });

  it('can be closed incomplete instead, and earns nothing', async () => {
    const line = await lineWithOpenBatch();
    await withJournal(line, (journal) => alterSaltOfPiece(journal, 749));
    expect(await refusalOf(line.host.call(HOST.close, {}))).toMatchObject({
      code: 'recount-altered',
      detail: { pieceNumber: 749 },
    });
    await expectIncompleteAndOn(line);
  });

  it('is refused at the start where the store itself is damaged, and nothing is written to it', async () => {
    const line = await lineWithOpenBatch();
    await line.processes.host.stop();
    const before = readFileSync(journalFile(line));
    truncateSync(journalFile(line), Math.floor(before.length / 2));
    const broken = readFileSync(journalFile(line));
    await expect(line.processes.host.start()).rejects.toMatchObject({
      message: expect.stringMatching(/is damaged/) as string,
      cause: { code: 6 },
    });
    expect(readFileSync(journalFile(line)).equals(broken)).toBe(true);

    writeFileSync(journalFile(line), before);
    await line.processes.host.start();
    expect(await line.host.call(HOST.close, {})).toMatchObject({ pieces: 749, incomplete: false });
    await line.stop();
  });
});

describe('Host memory in which a held record is altered by a byte', () => {
  it.each(['session', 'sessionless'] as const)(
    '(%s) is noticed, and the device’s own record is sent',
    async (transport) => {
      const held = { forwarding: 'hold', holdFor: 86_400_000, transport } as const;
      const line = await installation.line({ ...settings(), ...held }, { clock: true });
      const { job } = await line.host.call(HOST.frank, { file: files.birch, mailingDate: MAILING_DATE });
      await withJournal(line, (journal) => {
        const { bytes } = journal.prepare('SELECT bytes FROM record WHERE sequence = 1').get() as { bytes: Buffer };
        bytes[bytes.length >> 1] = (bytes[bytes.length >> 1] ?? 0) ^ 1;
        journal.prepare('UPDATE record SET bytes = ? WHERE sequence = 1').run(bytes);
      });
      line.moveClock(2 * 86_400_000);
      const settled = await line.host.call(HOST.wait, { job, timeoutMs: 60_000 });
      expect(settled).toMatchObject({ outcome: 'settled', pending: [] });
      await expectAccounted(line, settled.report as JobReport);
      await line.stop();
    },
  );
});

describe('A journal that is shorter than what the device franked', () => {
  it('is told with the first piece that it lacks; the batch is closed incomplete', async () => {
    // Funds that end in the middle of the batch: the journal is copied there.
    const line = await installation.line(settings(), { refillMills: 300_000n });
    const mailing = { file: files.alder, job: 'alder', mailingDate: MAILING_DATE, keepOpen: true };
    const { franked: older, rejection } = await line.host.call(HOST.frank, mailing);
    expect(rejection?.code).toBe('insufficient-funds');
    expect(older).toBeGreaterThan(256);
    expect(older).toBeLessThan(749);
    await line.processes.host.stop();
    cpSync(line.paths.parties.host, `${line.paths.parties.host}-older`, { recursive: true });
    await line.processes.host.start();
    await line.host.call(HOST.refill, { amountMills: '9700000' });
    expect((await line.host.call(HOST.frank, mailing)).remaining).toBe(0);
    await line.processes.host.stop();
    rmSync(line.paths.parties.host, { recursive: true });
    cpSync(`${line.paths.parties.host}-older`, line.paths.parties.host, { recursive: true });
    await line.processes.host.start();

    const refused = await refusalOf(line.host.call(HOST.close, {}));
    expect(refused).toMatchObject({ code: 'journal-damaged', detail: { pieceNumber: older + 1 } });
    await expectIncompleteAndOn(line);
  });
});

describe('A journal that is gone', () => {
  it('is told with the first piece; the device’s batch is found, closed incomplete, and the chain goes on', async () => {
    const line = await lineWithOpenBatch();
    await line.processes.host.stop();
    rmSync(line.paths.parties.host, { recursive: true });
    await line.processes.host.start();
    const refused = await refusalOf(line.host.call(HOST.close, {}));
    expect(refused).toMatchObject({ code: 'journal-damaged', detail: { pieceNumber: 1 } });
    await expectIncompleteAndOn(line);
  });

  it('with records that were not sent yet, loses none of them: the device has kept them', async () => {
    const line = await installation.line(settings());
    await line.host.call(HOST.frank, { file: files.alder, job: 'alder', mailingDate: MAILING_DATE });
    await line.host.call(HOST.wait, { job: 'alder', timeoutMs: 60_000 });
    await line.host.call(HOST.enrol, { customers: ['birch-mutual'] });
    await installation.processes.server.stop();
    await line.host.call(HOST.frank, { file: files.birch, job: 'birch', mailingDate: MAILING_DATE });
    const { registers } = await line.device();
    await line.processes.host.stop();
    rmSync(line.paths.parties.host, { recursive: true });
    await installation.processes.server.start();
    await line.processes.host.start();

    const settled = await line.host.call(HOST.wait, { timeoutMs: 60_000 });
    expect(settled).toMatchObject({ outcome: 'settled', pending: [] });
    const device = await line.device();
    expect(device).toMatchObject({ unconfirmedRecords: 0, alarms: 0, sequence: 3, registers });
    const access = await askServer(line.server, 'GET', `/v1/devices/${device.device}/settlement`);
    expect(access).toMatchObject({ logged: 3, delivered: 3, evaluated: 3, suspended: false });
    const { grants } = await line.host.call(HOST.grants, {});
    expect(grants.map(({ customer }) => customer)).toContain('birch-mutual');
    await line.stop();
  });
});

/** Closes the open batch incomplete, and franks the next mailing: whole, confirmed, and with the grants that are its own. */
async function expectIncompleteAndOn(line: Line): Promise<void> {
  const closed: BatchReport = await line.host.call(HOST.close, { incomplete: true });
  expect(closed).toMatchObject({
    pieces: 749,
    postageMills: ALDER_MILLS,
    firstPieceNumber: 1,
    sequence: 1,
    incomplete: true,
    cells: [],
  });
  const next = await line.host.call(HOST.frank, { file: files.birch, job: 'birch', mailingDate: MAILING_DATE });
  expect(next.rejection).toBeUndefined();
  const settled = await line.host.call(HOST.wait, { job: 'birch', timeoutMs: 60_000 });
  expect(settled).toMatchObject({ outcome: 'settled', pending: [] });
  const report = settled.report as JobReport;
  // samples/expected.json; and nothing for the customer of the incomplete record, whose 749 pieces would have earned both.
  expect(report.discounts.map(({ customer }) => customer)).toContain('birch-mutual');
  const { grants } = await line.host.call(HOST.grants, {});
  expect(grants.filter(({ customer }) => customer === 'alder-press')).toEqual([]);
  const discounts = grants.reduce((sum, { amountMills }) => sum + BigInt(amountMills), 0n);
  expect(discounts).toBe(32_466n);
  await expectAccounted(line, report);
  await line.stop();
}

function settings() {
  return {
    licensee: `lic_journal-${lines++}`,
    customers: 'many',
    records: 'host',
    transport: 'sessionless',
    pages: false,
  } as const;
}

/** A line whose device has franked the first mailing into a batch that is still open. */
async function lineWithOpenBatch(): Promise<Line> {
  const line = await installation.line(settings());
  await line.host.call(HOST.frank, { file: files.alder, job: 'alder', mailingDate: MAILING_DATE, keepOpen: true });
  expect((await line.device()).batch).toMatchObject({ state: 'open', pieces: 749 });
  return line;
}

function journalFile(line: Line): string {
  return join(line.paths.parties.host, 'host.sqlite');
}

async function withJournal(line: Line, work: (journal: Database.Database) => void): Promise<void> {
  await line.processes.host.stop();
  const journal = new Database(journalFile(line));
  work(journal);
  journal.close();
  await line.processes.host.start();
}

/** Flips a bit of what the journal keeps of a piece: its salt. Twice is never. */
function alterSaltOfPiece(journal: Database.Database, pieceNumber: number): void {
  const row = journal
    .prepare('SELECT rowid, first_number, salts FROM franked WHERE first_number <= ? ORDER BY first_number DESC')
    .get(pieceNumber) as { rowid: number; first_number: number; salts: Buffer };
  const at = (pieceNumber - row.first_number) * 16 + 7;
  row.salts[at] = (row.salts[at] ?? 0) ^ 1;
  journal.prepare('UPDATE franked SET salts = ? WHERE rowid = ?').run(row.salts, row.rowid);
}

async function refusalOf(call: Promise<unknown>): Promise<Rejection> {
  try {
    await call;
  } catch (error) {
    if (error instanceof Refused) return error.rejection;
    throw error;
  }
  throw new Error('It was not refused.');
}
