import { hash } from 'node:crypto';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { systemClock } from '@countermark/node-platform/clock';
import type { EmbeddedStore } from '@countermark/node-platform/embedded-store';
import type { DeviceId, JobId } from '@countermark/protocol/id';
import {
  indiciumBytes,
  indiciumFrame,
  indiciumInputBytes,
  LAYOUTS,
  writeIndiciumInput,
} from '@countermark/protocol/layout';
import { SHIPPED_TARIFFS, type ShippedTariff } from '@countermark/tariff/shipped';
import { Archive } from './archive.ts';
import { Journal } from './journal.ts';
import type { RunRow } from './journal-rows.ts';
import { openHostStore } from './journal-schema.ts';
import { takeMailing } from './mailing-desk.ts';
import { filePrinter, type PrintPiece, type PrintPort, type PrintRequest } from './print-port.ts';
import { batchesOfNumbers, type PrintingOptions, reprint, RunPrinting, runFiles } from './printing.ts';

const TARIFF = SHIPPED_TARIFFS[0] as ShippedTariff;
const DEVICE = 'psd_00112233445566aa' as DeviceId;

let folder: string;
let store: EmbeddedStore;
let journal: Journal;
let archive: Archive;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'printing-'));
  const opened = openHostStore(join(folder, 'host.sqlite'));
  if (!opened.ok) throw new Error(opened.rejection.code);
  store = opened.value;
  journal = new Journal(store);
  archive = new Archive(journal, join(folder, 'output'), join(folder, 'trust-bundle.json'));
});
afterEach(() => {
  store.close();
  rmSync(folder, { recursive: true, force: true });
});

async function staged(pieces: number): Promise<RunRow> {
  const file = join(folder, 'list.csv');
  const rows = Array.from({ length: pieces }, (_, i) => `r${i + 1},usps-fcm-letter,aadc,0.9,Name ${i + 1},02108`);
  writeFileSync(file, `piece_ref,product,level,weight_oz,name,zip\n${rows.join('\n')}\n`);
  const taken = await takeMailing(
    { journal, clock: systemClock, customers: 'one', output: folder },
    { file, job: 'job-1', mailingDate: '2026-11-30' },
    hash('sha256', readFileSync(file), 'buffer'),
    TARIFF.tariff,
    null,
    null,
    () => undefined,
  );
  if (!taken.ok) throw new Error(taken.rejection.code);
  journal.runs.activate(taken.value.run, {
    job: 'job-1' as JobId,
    tariff: TARIFF.tariff.id,
    nowMs: 0,
    rejectedRows: 0,
    errorsFile: null,
    keepOpen: false,
  });
  return journal.runs.get(taken.value.run) as RunRow;
}

function payload(number: number): Uint8Array {
  const layout = LAYOUTS.signature;
  const input = new Uint8Array(indiciumInputBytes(layout));
  writeIndiciumInput(
    input,
    0,
    indiciumFrame(layout, true, DEVICE, 1, '2026-11-30'),
    number,
    740n,
    BigInt(number) * 740n,
  );
  return indiciumBytes(input, new Uint8Array(layout.authenticatorBytes).fill(7));
}

/** Franks the next chunk in the journal as a device would; false when all is. */
function frankNext(run: RunRow): boolean {
  const [batch] = journal.batches.ofRun(run.run);
  if (batch === undefined || batch.franked === batch.expected) return false;
  const chunk = journal.chunks.get(batch.batch, batch.franked);
  if (chunk === undefined) throw new Error('The chunk is missing.');
  const firstNumber = batch.franked + 1;
  journal.chunks.addFranked(
    batch.batch,
    {
      firstIndex: chunk.firstIndex,
      pieces: chunk.pieces,
      firstNumber,
      indicia: Buffer.concat(Array.from({ length: chunk.pieces }, (_, i) => payload(firstNumber + i))),
      salts: new Uint8Array(16 * chunk.pieces),
      codes: new Uint8Array(0),
    },
    740n * BigInt(chunk.pieces),
  );
  return true;
}

/** A printer that remembers each print. */
function rememberingPrinter() {
  const prints: { request: PrintRequest; pieces: PrintPiece[]; batches: string[]; state: string }[] = [];
  const port: PrintPort = {
    open: (request) => {
      const print = { request, pieces: [] as PrintPiece[], batches: [] as string[], state: 'begun' };
      prints.push(print);
      return Promise.resolve({
        openBatch: ({ batch }) => {
          print.batches.push(batch);
          return Promise.resolve();
        },
        pieces: (pieces) => {
          print.pieces.push(...pieces);
          return Promise.resolve();
        },
        end: () => {
          print.state = 'ended';
          return Promise.resolve();
        },
        abandon: () => {
          print.state = 'abandoned';
          return Promise.resolve();
        },
      });
    },
  };
  return { prints, port };
}

function options(port: PrintPort, pages = true): PrintingOptions {
  const { currency } = TARIFF.tariff;
  return { journal, archive, port, clock: systemClock, currency, sheet: 'letter', pages, licensee: 'lic_test' };
}

describe('a run is printed', () => {
  test('piece by piece in list order, each once, while it is franked', async () => {
    const run = await staged(600);
    const { prints, port } = rememberingPrinter();
    frankNext(run);
    const printing = new RunPrinting(options(port), run);
    while (frankNext(run)) printing.notify();
    await printing.finish();
    expect(prints).toHaveLength(1);
    expect(prints[0]?.pieces.map(({ row }) => row)).toEqual(Array.from({ length: 600 }, (_, i) => i + 1));
    expect(prints[0]).toMatchObject({ state: 'ended', batches: [journal.batches.all()[0]?.id] });
    expect(prints[0]?.pieces[41]).toMatchObject({
      level: 'aadc',
      addressee: 'Name 42',
      payload: Buffer.from(payload(42)),
    });
    expect(journal.runs.get(run.run)?.printed).toBe(true);
  });

  test('again from the first piece after an interruption, of which nothing is left', async () => {
    const run = await staged(300);
    const { prints, port } = rememberingPrinter();
    frankNext(run);
    await new RunPrinting(options(port), run).abandon();
    expect(prints[0]?.state).toBe('abandoned');
    expect(journal.runs.get(run.run)?.printed).toBe(false);
    const again = new RunPrinting(options(port), run);
    while (frankNext(run)) again.notify();
    await again.finish();
    expect(prints[1]?.pieces).toHaveLength(300);
  });

  test('as PDF and merge file that appear whole or not at all', async () => {
    const run = await staged(40);
    const files = runFiles(archive, run, true);
    const printing = new RunPrinting(options(filePrinter), run);
    expect(existsSync(files.merge)).toBe(false);
    while (frankNext(run)) printing.notify();
    await printing.finish();
    expect(readFileSync(files.indicia ?? '', 'latin1')).toMatch(/^%PDF-1\.7[\s\S]*%%EOF\s*$/);
    const rows = readFileSync(files.merge, 'utf8').trimEnd().split('\r\n');
    expect(rows[0]).toBe('piece_ref,product,level,weight_oz,name,zip,piece_number,postage,currency,mark,payload');
    expect(rows).toHaveLength(41);
    expect(rows[40]).toContain('Name 40,02108,40,0.740,USD,SPECIMEN');
    expect(readdirSync(archive.jobFolder('job-1')).sort()).toEqual(['indicia.pdf', 'merge.csv']);
  });

  test('without pages where they are switched off, and leaves no file when abandoned', async () => {
    const run = await staged(3);
    frankNext(run);
    await new RunPrinting(options(filePrinter, false), run).finish();
    expect(readdirSync(archive.jobFolder('job-1'))).toEqual(['merge.csv']);
    rmSync(archive.jobFolder('job-1'), { recursive: true });
    const abandoned = new RunPrinting(options(filePrinter), run);
    await abandoned.abandon();
    expect(readdirSync(archive.jobFolder('job-1'))).toEqual([]);
  });

  test('and a printer that fails is told to whoever waits for the end', async () => {
    const run = await staged(3);
    frankNext(run);
    const port: PrintPort = { open: () => Promise.reject(new Error('no paper')) };
    await expect(new RunPrinting(options(port), run).finish()).rejects.toThrow('no paper');
  });
});

describe('a reprint', () => {
  test('prints the pieces that are asked, marked, and debits nothing', async () => {
    const run = await staged(300);
    while (frankNext(run));
    const { prints, port } = rememberingPrinter();
    const batches = batchesOfNumbers(journal, [299, 2, 3]);
    if (!batches.ok) throw new Error(batches.rejection.code);
    const printed = await reprint(options(port), batches.value);
    expect(printed).toMatchObject({ ok: true, value: { pieces: 3 } });
    expect(prints[0]?.request.reprint).toBe(true);
    expect(prints[0]?.pieces.map(({ row }) => row)).toEqual([2, 3, 299]);
  });

  test('of a number that was never franked is refused', async () => {
    const run = await staged(3);
    frankNext(run);
    expect(batchesOfNumbers(journal, [4])).toMatchObject({ ok: false, rejection: { code: 'unknown-piece' } });
  });

  test('has no spoiled piece on it: printed again it could be mailed, and is to be refunded', async () => {
    const run = await staged(3);
    frankNext(run);
    const batch = journal.batches.all()[0]?.batch ?? 0;
    journal.batches.setSpoiled(batch, [2]);
    expect(batchesOfNumbers(journal, [1, 2])).toMatchObject({ ok: false, rejection: { code: 'unknown-piece' } });
    const { prints, port } = rememberingPrinter();
    const [row] = journal.batches.all();
    if (row === undefined) throw new Error('There is no batch.');
    const printed = await reprint(options(port), [{ batch: row, numbers: null }]);
    expect(printed).toMatchObject({ ok: true, value: { pieces: 2 } });
    expect(prints[0]?.pieces.map((piece) => piece.row)).toEqual([1, 3]);
  });
});
