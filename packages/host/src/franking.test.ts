import { hash } from 'node:crypto';
import { copyFileSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { systemClock } from '@countermark/node-platform/clock';
import type { EmbeddedStore } from '@countermark/node-platform/embedded-store';
import { cellKeyBytes } from '@countermark/protocol/cell';
import { NO_DIGEST, sameBytes } from '@countermark/protocol/digest';
import type { BatchId, DeviceId, JobId } from '@countermark/protocol/id';
import { hex } from '@countermark/protocol/id';
import type { Operation } from '@countermark/protocol/interfaces/operation';
import {
  type BatchState,
  CHUNK_ENTRY_BYTES,
  type DeviceStatus,
  type FrankChunk,
  type FrankedChunk,
  PSD,
} from '@countermark/protocol/interfaces/psd';
import type { Memory } from '@countermark/protocol/messages/batch-statistics';
import type { BatchDeclaration } from '@countermark/protocol/messages/batch-declaration';
import { pieceRecordBytes, pieceRecordHead } from '@countermark/protocol/messages/piece-record';
import { mills } from '@countermark/protocol/money';
import { NO_FUNDS } from '@countermark/protocol/registers';
import { type Rejection, type RejectionCode, rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { parseValue } from '@countermark/protocol/schema';
import { SHIPPED_TARIFFS, type ShippedTariff } from '@countermark/tariff/shipped';
import { closeBatch } from './batch-closing.ts';
import { Franking, type RunOutcome } from './franking.ts';
import { Journal } from './journal.ts';
import type { RunRow } from './journal-rows.ts';
import { openHostStore } from './journal-schema.ts';
import { takeMailing } from './mailing-desk.ts';
import { pieceByKey, pieceByNumber, pieceByRow, pieceRecords } from './piece-archive.ts';
import type { PsdClient } from './psd-client.ts';
import { keyOf, readIndex, readPostage, readReference } from './staging.ts';

const DEVICE = 'psd_00112233445566aa' as DeviceId;
const TARIFF = SHIPPED_TARIFFS[0] as ShippedTariff;
const LETTER_MILLS = 740n;

/** Thrown where the test kills the host. */
class Killed extends Error {}

type DeviceBatch = {
  declaration: BatchDeclaration;
  closed: boolean;
  first: number;
  chunks: { request: FrankChunk; answer: FrankedChunk }[];
  recounted: number;
};

/** A device of the interface alone: no key, every rule that a host must keep, and every piece that was ever debited. */
class FakePsd implements PsdClient {
  readonly memory: Memory;
  ascendingMills = 0n;
  descendingMills: bigint;
  pieces = 0;
  batch: DeviceBatch | null = null;
  readonly records: { sequence: number; batch: BatchId; record: Uint8Array; incomplete: boolean }[] = [];
  readonly references: string[] = [];
  /** Called before and after each operation; may throw to kill the host, may look at its journal. */
  onCall: (name: string, when: 'before' | 'after', request: unknown) => void = () => undefined;

  constructor(memory: Memory, fundsMills = 1_000_000_000n) {
    this.memory = memory;
    this.descendingMills = fundsMills;
  }

  close(): void {
    // Nothing is held.
  }

  call<Request, Answer>(of: Operation<Request, Answer>, request: Request): Promise<Result<Answer>> {
    return Promise.resolve().then(() => {
      const parsed = parseValue(of.request, of.request.toCbor(request));
      if (!parsed.ok) throw new Error(`The host asked ${of.name} in a wrong form: ${JSON.stringify(parsed.rejection)}`);
      this.onCall(of.name, 'before', parsed.value);
      const answer = this.#answer(of.name, parsed.value as never) as Result<Answer>;
      this.onCall(of.name, 'after', parsed.value);
      return answer;
    });
  }

  status(): DeviceStatus {
    const state = this.batch === null ? null : this.#state(this.batch);
    return {
      device: DEVICE,
      state: 'operational',
      epoch: 1,
      authentication: 'signature',
      memory: this.memory,
      certified: false,
      registers: {
        ascendingMills: mills(this.ascendingMills),
        descendingMills: mills(this.descendingMills),
        pieces: this.pieces,
      },
      funds: NO_FUNDS,
      sequence: this.records.length,
      head: NO_DIGEST,
      ...(state === null ? {} : { batch: state }),
      unconfirmedRecords: this.records.length,
      unconfirmedPostageMills: mills(0n),
      recordCapacity: 1_000,
      customers: [],
      software: { version: '0', measurement: NO_DIGEST },
      piecesInMemory: 0,
      alarms: 0,
    };
  }

  #answer(name: string, request: never): Result<unknown> {
    if (name === PSD.status.name) return accept(this.status());
    if (name === PSD.openBatch.name) return this.#open(request);
    if (name === PSD.frankChunk.name) return this.#frank(request);
    if (name === PSD.closeBatch.name) return this.#close(request);
    if (name === PSD.recount.name) return this.#recount(request);
    if (name === PSD.seal.name) return this.#seal(request);
    if (name === PSD.records.name) {
      return accept({
        records: this.records.map(({ sequence, batch, record }) => ({
          sequence,
          batch,
          digest: NO_DIGEST,
          bytes: record.length,
        })),
      });
    }
    if (name === PSD.record.name) {
      const { sequence } = request as { sequence: number };
      return accept({ record: this.records[sequence - 1]?.record });
    }
    throw new Error(`The fake device has no ${name}.`);
  }

  #state(batch: DeviceBatch): BatchState {
    return {
      batch: batch.declaration.batch,
      ...(batch.declaration.customer === undefined ? {} : { customer: batch.declaration.customer }),
      state: batch.closed ? 'closed' : 'open',
      firstPieceNumber: batch.first,
      pieces: this.pieces - batch.first + 1,
      postageMills: mills(0n),
      spoiled: 0,
      recounted: batch.recounted,
    };
  }

  #open({ declaration }: { declaration: BatchDeclaration }): Result<unknown> {
    if (this.batch !== null) {
      if (JSON.stringify(this.batch.declaration, bigints) === JSON.stringify(declaration, bigints)) {
        return accept(this.#state(this.batch));
      }
      return refuse(rejection('batch-open', { batch: this.batch.declaration.batch }));
    }
    if (this.records.some(({ batch }) => batch === declaration.batch)) {
      return refuse(rejection('batch-exists', { batch: declaration.batch }));
    }
    this.batch = { declaration, closed: false, first: this.pieces + 1, chunks: [], recounted: 0 };
    return accept(this.#state(this.batch));
  }

  #frank(request: FrankChunk): Result<unknown> {
    const { batch } = this;
    if (batch?.declaration.batch !== request.batch || batch.closed) {
      return refuse(rejection('no-open-batch', { batch: request.batch }));
    }
    const last = batch.chunks.at(-1);
    if (last?.request.firstIndex === request.firstIndex) {
      const same = sameBytes(PSDBytes(last.request), PSDBytes(request));
      return same ? accept(last.answer) : refuse(rejection('chunk-conflict', { index: request.firstIndex }));
    }
    const expected = this.pieces - batch.first + 1;
    if (request.firstIndex !== expected) {
      return refuse(rejection('chunk-out-of-order', { index: request.firstIndex, expected }));
    }
    const pieces = request.pieces.length / CHUNK_ENTRY_BYTES;
    let neededMills = 0n;
    for (let i = 0; i < pieces; i++) neededMills += BigInt(readPostage(request.pieces, i));
    if (neededMills > this.descendingMills) {
      return refuse(
        rejection('insufficient-funds', {
          neededMills: String(neededMills),
          availableMills: String(this.descendingMills),
        }),
      );
    }
    if (expected + pieces > batch.declaration.expectedPieces) {
      return refuse(
        rejection('too-many-pieces', { pieces: expected + pieces, expected: batch.declaration.expectedPieces }),
      );
    }
    const first = this.pieces + 1;
    const codes: Uint8Array[] = [];
    const indicia: Uint8Array[] = [];
    for (let i = 0; i < pieces; i++) {
      this.references.push(hex(readReference(request.pieces, i)));
      const salt = saltOf(first + i);
      if (this.memory === 'host') codes.push(codeOf(salt, this.#record(request, i, first + i)));
      indicia.push(new Uint8Array(92).fill((first + i) % 251));
    }
    this.ascendingMills += neededMills;
    this.descendingMills -= neededMills;
    this.pieces += pieces;
    const answer: FrankedChunk = {
      firstPieceNumber: first,
      indicia: Buffer.concat(indicia),
      salts: Buffer.concat(Array.from({ length: pieces }, (_, i) => saltOf(first + i))),
      codes: Buffer.concat(codes),
      registers: this.status().registers,
    };
    batch.chunks.push({ request, answer });
    return accept(answer);
  }

  #record(request: FrankChunk, i: number, number: number): Uint8Array {
    const cell = request.cells[readIndex(request.pieces, i)];
    if (cell === undefined) throw new Error('An entry names no cell of its chunk.');
    return pieceRecordBytes(
      pieceRecordHead(DEVICE, request.batch),
      request.firstIndex + i,
      number,
      BigInt(readPostage(request.pieces, i)),
      cellKeyBytes(cell),
      readReference(request.pieces, i),
    );
  }

  #close({ batch: id }: { batch: BatchId }): Result<unknown> {
    const { batch } = this;
    if (batch?.declaration.batch !== id) return refuse(rejection('no-open-batch', { batch: id }));
    batch.closed = true;
    return accept(this.#state(batch));
  }

  #recount(given: {
    batch: BatchId;
    firstIndex: number;
    records: readonly Uint8Array[];
    salts: Uint8Array;
    codes: Uint8Array;
  }): Result<unknown> {
    const { batch } = this;
    if (batch?.declaration.batch !== given.batch || !batch.closed) throw new Error('Recounted while open.');
    if (given.firstIndex === 0) batch.recounted = 0;
    if (given.firstIndex !== batch.recounted) {
      return refuse(rejection('recount-out-of-order', { index: given.firstIndex, expected: batch.recounted }));
    }
    for (const [i, record] of given.records.entries()) {
      const pieceNumber = batch.first + given.firstIndex + i;
      const code = codeOf(given.salts.subarray(i * 16, i * 16 + 16), record);
      if (!sameBytes(code, given.codes.subarray(i * 16, i * 16 + 16))) {
        return refuse(rejection('recount-altered', { pieceNumber }));
      }
    }
    batch.recounted += given.records.length;
    return accept(this.#state(batch));
  }

  #seal({ batch: id, incomplete }: { batch: BatchId; incomplete: boolean }): Result<unknown> {
    const { batch } = this;
    const before = this.records.find((one) => one.batch === id);
    if (before !== undefined) return accept({ sequence: before.sequence, digest: NO_DIGEST, record: before.record });
    if (batch?.declaration.batch !== id) return refuse(rejection('no-open-batch', { batch: id }));
    const franked = this.pieces - batch.first + 1;
    if (!batch.closed) throw new Error('Sealed while open.');
    if (this.memory === 'host' && !incomplete && batch.recounted !== franked) {
      const pieceNumber = batch.first + batch.recounted;
      return refuse(rejection('recount-missing', { counted: batch.recounted, franked, pieceNumber }));
    }
    const sequence = this.records.length + 1;
    this.records.push({ sequence, batch: id, record: Buffer.from(`record ${sequence}`), incomplete });
    this.batch = null;
    return accept({ sequence, digest: NO_DIGEST, record: this.records.at(-1)?.record });
  }
}

const bigints = (_name: string, value: unknown): unknown => (typeof value === 'bigint' ? String(value) : value);
const PSDBytes = (chunk: FrankChunk): Uint8Array =>
  Buffer.concat([...chunk.cells.map((cell) => cellKeyBytes(cell)), chunk.pieces]);
const saltOf = (number: number): Uint8Array => hash('sha256', `salt ${number}`, 'buffer').subarray(0, 16);
const codeOf = (salt: Uint8Array, record: Uint8Array): Uint8Array =>
  hash('sha256', Buffer.concat([Buffer.from('key'), salt, record]), 'buffer').subarray(0, 16);

let folder: string;
let store: EmbeddedStore;
let journal: Journal;

function openJournal(): void {
  const opened = openHostStore(join(folder, 'host.sqlite'));
  if (!opened.ok) throw new Error(opened.rejection.code);
  store = opened.value;
  journal = new Journal(store);
}

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'franking-'));
  openJournal();
});
afterEach(() => {
  store.close();
  rmSync(folder, { recursive: true, force: true });
});

/** Another host, which has seen no device yet. */
function another(): void {
  store.close();
  rmSync(folder, { recursive: true });
  folder = mkdtempSync(join(tmpdir(), 'franking-'));
  openJournal();
}

/** The host's process ends and another begins on its store. */
function restart(): void {
  store.close();
  openJournal();
}

type Line = { ref: string; customer?: string; product?: string; level?: string; weight?: string; zip?: string };

function csv(lines: readonly Line[], withRefs = true): string {
  const rows = lines.map(
    ({ ref, customer = '', product = 'usps-fcm-letter', level = 'aadc', weight = '0.9', zip = '02108' }) =>
      [...(withRefs ? [ref] : []), customer, product, level, `"${weight}"`, zip].join(','),
  );
  return `${withRefs ? 'piece_ref,' : ''}customer,product,level,weight_oz,zip\n${rows.join('\n')}\n`;
}

const letters = (count: number, customer = 'alder', from = 1): Line[] =>
  Array.from({ length: count }, (_, i) => ({ ref: `${customer}-${from + i}`, customer }));

async function take(content: string, options: { job?: string; acceptGood?: boolean } = {}) {
  const file = join(folder, 'list.csv');
  writeFileSync(file, content);
  const digest = hash('sha256', content, 'buffer');
  const { job = 'job-1', acceptGood = false } = options;
  const taken = await takeMailing(
    { journal, clock: systemClock, customers: 'many', output: folder },
    { file, job, acceptGood, mailingDate: '2026-11-30' },
    digest,
    TARIFF.tariff,
    null,
    'host',
    () => undefined,
  );
  return { taken, file };
}

describe('prices whose time is over', () => {
  const about = async (content: string): Promise<readonly string[]> => {
    const { taken } = await take(content);
    return taken.ok ? taken.value.warnings.filter((warning) => warning.includes('2026-07-11')) : ['refused'];
  };
  test('are told, and franked all the same', async () => {
    expect(await about(csv(letters(1)))).toEqual([
      'The prices of usps-2025-07-13 are those of 2025-07-13 to 2026-07-11, and this mailing is of 2026-11-30. It is franked at them: ask for the present tariff.',
    ]);
  });
  test('are not told of a mailing of their time', async () => {
    expect(
      await about('customer,product,level,weight_oz,zip,mailing_date\nalder,usps-fcm-letter,aadc,1,10001,2026-07-11\n'),
    ).toEqual([]);
  });
});

/** Takes a file in and makes it its job's run. */
async function staged(content: string, options: { job?: string; acceptGood?: boolean } = {}): Promise<RunRow> {
  const { taken } = await take(content, options);
  if (!taken.ok) throw new Error(JSON.stringify(taken.rejection));
  journal.runs.activate(taken.value.run, {
    job: (options.job ?? 'job-1') as JobId,
    tariff: TARIFF.tariff.id,
    nowMs: 0,
    rejectedRows: taken.value.staged.badRows,
    errorsFile: null,
    keepOpen: false,
  });
  return journal.runs.get(taken.value.run) as RunRow;
}

function franking(
  psd: PsdClient,
  run: RunRow,
  stopped: () => boolean = () => false,
  debited: (postageMills: bigint) => Promise<void> = async () => undefined,
): Franking {
  return new Franking(
    {
      journal,
      psd,
      clock: systemClock,
      holdForMs: null,
      submitter: 'bureau',
      preparer: 'bureau',
      currency: TARIFF.tariff.currency,
      tariffDigest: NO_DIGEST,
      refill: null,
      debited,
      makeRoom: () => Promise.resolve(false),
      onFranked: () => undefined,
      onSealed: () => undefined,
      progress: () => undefined,
      stopped,
    },
    run,
  );
}

const frank = (psd: PsdClient, run: RunRow): Promise<RunOutcome> => franking(psd, run).frank();

const referencesOf = (lines: readonly Line[]): string[] => lines.map(({ ref }) => hex(keyOf(ref).subarray(0, 16)));

/** All is franked, nothing closed. */
function killedAtClosing(psd: FakePsd): FakePsd {
  psd.onCall = (name, when) => {
    if (name === PSD.closeBatch.name && when === 'before') throw new Killed();
  };
  return psd;
}

function refusedWith(outcome: RunOutcome): Rejection {
  if (outcome.state !== 'waiting') throw new Error(`It was ${outcome.state}.`);
  return outcome.rejection;
}

describe('a mailing is franked', () => {
  test('a batch for each customer and product, in list order', async () => {
    const lines = [...letters(300, 'alder'), ...letters(2, 'birch')].sort((a, b) =>
      a.ref.length < b.ref.length ? 1 : -1,
    );
    const psd = new FakePsd('psd');
    expect(await frank(psd, await staged(csv(lines)))).toEqual({ state: 'done' });
    const expected = ['alder', 'birch']
      .sort(
        (a, b) => lines.findIndex(({ customer }) => customer === a) - lines.findIndex(({ customer }) => customer === b),
      )
      .flatMap((customer) => referencesOf(lines.filter((line) => line.customer === customer)));
    expect(psd.references).toEqual(expected);
    expect(psd.records).toHaveLength(2);
    expect(psd.ascendingMills).toBe(302n * LETTER_MILLS);
    expect(journal.batches.all().map(({ state, franked, customer }) => [state, franked, customer])).toEqual(
      expect.arrayContaining([
        ['sealed', 300, 'alder'],
        ['sealed', 2, 'birch'],
      ]),
    );
  });

  test('in chunks, and the next is asked only when the answer before is durable', async () => {
    const psd = new FakePsd('psd');
    let asked = 0;
    psd.onCall = (name, when, request) => {
      if (name !== PSD.frankChunk.name || when !== 'before') return;
      const { batch, firstIndex } = request as FrankChunk;
      const row = journal.batches.get(batch);
      expect(row?.franked).toBe(firstIndex);
      // The request stands in the journal before it is asked.
      expect(journal.chunks.get(row?.batch ?? 0, firstIndex)?.entries).toEqual(
        Buffer.from((request as FrankChunk).pieces),
      );
      asked += 1;
    };
    await frank(psd, await staged(csv(letters(600))));
    expect(asked).toBe(3);
  });

  test('and told of before each batch and after each chunk, before the next is asked: the funds may be refilled then', async () => {
    const psd = new FakePsd('psd');
    const told: bigint[] = [];
    const run = await staged(csv([...letters(300, 'alder'), ...letters(2, 'birch')]));
    await franking(psd, run, undefined, async (postageMills) => {
      await Promise.resolve();
      told.push(psd.ascendingMills, postageMills);
    }).frank();
    const [first, second, third] = [256n * LETTER_MILLS, 300n * LETTER_MILLS, 302n * LETTER_MILLS];
    expect(told).toEqual([0n, 0n, first, first, second, second - first, second, 0n, third, third - second]);
  });

  test('not with a device that stands behind what was seen of it', async () => {
    const psd = new FakePsd('host');
    expect(await frank(psd, await staged(csv(letters(3)), { job: 'first' }))).toEqual({ state: 'done' });
    const older = new FakePsd('host');
    expect(await frank(older, await staged(csv(letters(4)), { job: 'second' }))).toMatchObject({
      state: 'waiting',
      rejection: { code: 'device-older' },
    });
    expect(older.references).toEqual([]);
  });

  test('exactly once, wherever the host is killed and however often', async () => {
    const size = fc.integer({ min: 1, max: 700 });
    const kills = fc.array(fc.nat(18), { maxLength: 5 });
    let jobs = 0;
    await fc.assert(
      fc.asyncProperty(
        size,
        size,
        kills,
        fc.constantFrom<Memory>('psd', 'host'),
        async (one, other, points, memory) => {
          const job = `job-${++jobs}`;
          another();
          const lines = [...letters(one, 'alder', 1), ...letters(other, 'birch', 1)].map((line) => ({
            ...line,
            ref: `${job}/${line.ref}`,
          }));
          const run = await staged(csv(lines), { job });
          const psd = new FakePsd(memory);
          let calls = 0;
          const left = [...points];
          psd.onCall = () => {
            calls += 1;
            if (left.length > 0 && calls > (left[0] as number)) {
              left.shift();
              calls = 0;
              throw new Killed();
            }
          };
          for (;;) {
            try {
              expect(await frank(psd, run)).toEqual({ state: 'done' });
              break;
            } catch (error) {
              if (!(error instanceof Killed)) throw error;
              restart();
            }
          }
          expect(psd.references.toSorted()).toEqual(referencesOf(lines).toSorted());
          expect(
            journal.batches
              .ofJob(job)
              .every(({ state, expected, franked }) => state === 'sealed' && expected === franked),
          ).toBe(true);
          expect(journal.batches.ofJob(job).reduce((sum, { postageMills }) => sum + postageMills, 0n)).toBe(
            psd.ascendingMills,
          );
          expect(psd.records).toHaveLength(journal.batches.ofJob(job).length);
        },
      ),
      { numRuns: 25 },
    );
  });

  test('and stops on request after the chunk in hand, to go on later', async () => {
    const psd = new FakePsd('host');
    const run = await staged(csv(letters(600)));
    let chunks = 0;
    psd.onCall = (name, when) => {
      if (name === PSD.frankChunk.name && when === 'after') chunks += 1;
    };
    expect(await franking(psd, run, () => chunks >= 1).frank()).toEqual({ state: 'stopped' });
    expect(journal.batches.all()[0]?.franked).toBe(256);
    expect(await frank(psd, run)).toEqual({ state: 'done' });
    expect(psd.references).toEqual(referencesOf(letters(600)));
  });

  test('as far as the funds go, and the rest after a refill', async () => {
    const psd = new FakePsd('psd', 300n * LETTER_MILLS + 5n);
    const run = await staged(csv(letters(600)));
    expect(refusedWith(await frank(psd, run)).code).toBe('insufficient-funds');
    expect(psd.pieces).toBe(300);
    expect(journal.batches.all()[0]).toMatchObject({ franked: 300, state: 'open', postageMills: 300n * LETTER_MILLS });
    restart();
    psd.descendingMills += 1_000_000n;
    expect(await frank(psd, run)).toEqual({ state: 'done' });
    expect(psd.references).toEqual(referencesOf(letters(600)));
    expect(psd.records).toHaveLength(1);
  });
});

describe('a batch that the operator closes before all of it is franked', () => {
  test.each([
    ['sealed', false],
    ['cut off before it is sealed', true],
  ])('leaves the rest to a batch of its own (%s)', async (_, cut) => {
    const psd = new FakePsd('host', 300n * LETTER_MILLS);
    const lines = [...letters(600), ...letters(2, 'birch')];
    const run = await staged(csv(lines));
    expect(refusedWith(await frank(psd, run)).code).toBe('insufficient-funds');
    const [open] = journal.batches.all();
    if (open === undefined) throw new Error('There is no batch.');
    psd.onCall = (name) => {
      if (cut && name === PSD.seal.name) throw new Killed();
    };
    const closing = closeBatch({ journal, psd, clock: systemClock, holdForMs: null }, open, psd.status(), false);
    if (cut) await expect(closing).rejects.toThrow(Killed);
    else expect(await closing).toMatchObject({ ok: true });
    psd.onCall = () => undefined;
    restart();
    psd.descendingMills += 1_000_000n;

    const again = franking(psd, run);
    expect(await again.carryOver()).toMatchObject({ ok: true });
    expect(await again.carryOver()).toMatchObject({ ok: true });
    expect(await again.frank()).toEqual({ state: 'done' });
    expect(psd.references.toSorted()).toEqual(referencesOf(lines).toSorted());
    expect(
      journal.batches
        .ofRun(run.run)
        .map(({ customer, franked, expected, state }) => [customer, franked, expected, state]),
    ).toEqual([
      ['alder', 300, 300, 'sealed'],
      ['birch', 2, 2, 'sealed'],
      ['alder', 300, 300, 'sealed'],
    ]);
  });
});

describe('a corrected file under the same job', () => {
  test('franks only what was not franked', async () => {
    const psd = new FakePsd('psd');
    const first = [...letters(10), { ref: 'bad', customer: 'alder', weight: 'heavy' }];
    expect((await take(csv(first))).taken).toMatchObject({ ok: false, rejection: { code: 'file-rows' } });
    expect(psd.pieces).toBe(0);
    await frank(psd, await staged(csv(first), { acceptGood: true }));
    expect(psd.pieces).toBe(10);
    const corrected = [...first.slice(0, 10), { ref: 'bad', customer: 'alder' }, ...letters(3, 'birch')];
    await frank(psd, await staged(csv(corrected)));
    expect(psd.references.toSorted()).toEqual(referencesOf(corrected).toSorted());
    const { taken } = await take(csv(corrected));
    expect(taken.ok && [taken.value.staged.pieces, taken.value.staged.frankedBefore]).toEqual([0, 14]);
  });

  test('takes over what the device franked before the host was killed', async () => {
    const psd = new FakePsd('psd');
    const run = await staged(csv(letters(600)));
    let chunks = 0;
    psd.onCall = (name, when) => {
      if (name === PSD.frankChunk.name && when === 'after' && ++chunks === 2) throw new Killed();
    };
    await expect(frank(psd, run)).rejects.toThrow(Killed);
    restart();
    psd.onCall = () => undefined;
    expect(await franking(psd, run).finishOpen()).toMatchObject({ ok: true });
    expect(psd.records).toHaveLength(1);
    await frank(psd, await staged(csv([...letters(600), ...letters(1, 'birch')])));
    expect(psd.references.toSorted()).toEqual(referencesOf([...letters(600), ...letters(1, 'birch')]).toSorted());
  });
});

describe('a host that was put back to an older copy', () => {
  test('goes on with a mailing whose batches were franked and confirmed since', async () => {
    const psd = new FakePsd('host');
    const run = await staged(csv([...letters(10), ...letters(5, 'birch')]));
    const path = join(folder, 'host.sqlite');
    store.close();
    copyFileSync(path, `${path}.backup`);
    openJournal();
    await frank(psd, run);
    store.close();
    copyFileSync(`${path}.backup`, path);
    openJournal();
    expect(await franking(psd, run).frank()).toMatchObject({ rejection: { code: 'batch-exists' } });
    for (const { sequence, batch, record } of psd.records) {
      const nothing = new Uint8Array();
      journal.records.addConfirmed({
        sequence,
        digest: NO_DIGEST,
        id: batch,
        bytes: record,
        confirmation: nothing,
        attestation: nothing,
        atMs: 0,
      });
    }
    expect(await franking(psd, run).frank()).toEqual({ state: 'done' });
    expect(psd.pieces).toBe(15);
    expect(journal.batches.unsealed()).toEqual([]);
  });
});

describe('rows without a key of their own', () => {
  test('are told apart by their occurrence, also over files', async () => {
    const psd = new FakePsd('psd');
    const same: Line[] = Array.from({ length: 300 }, () => ({ ref: '', customer: 'alder' }));
    await frank(psd, await staged(csv(same, false)));
    expect(new Set(psd.references).size).toBe(300);
    await frank(psd, await staged(csv([...same, ...same.slice(0, 5)], false)));
    expect(new Set(psd.references).size).toBe(305);
    expect(psd.pieces).toBe(305);
  });
});

describe('bad rows', () => {
  const bad = async (lines: readonly Line[]) => {
    const { taken, file } = await take(csv(lines));
    if (taken.ok) throw new Error('It was taken.');
    return { refused: taken.rejection, errors: readFileSync(`${file}.errors.csv`, 'utf8').trim().split('\r\n') };
  };

  test('are all listed with row, field, value and cure, and nothing is staged', async () => {
    const { refused, errors } = await bad([
      ...letters(2),
      { ref: 'w', weight: '0,9' },
      { ref: 'z', zip: '2108' },
      { ref: 'u', zip: '00099' },
      { ref: 'p', product: 'usps-parcel' },
      { ref: 'l', level: 'carrier-route' },
      { ref: 'h', weight: '99' },
      { ref: 'alder-1' },
      { ref: 'c', customer: '=cmd()' },
    ]);
    expect(refused).toMatchObject({ code: 'file-rows', detail: { bad: 8, rows: 10, row: 3, field: 'weight_oz' } });
    expect(errors[0]).toBe('row,field,value,cure');
    expect(errors.slice(1).map((line) => line.split(',').slice(0, 2).join(','))).toEqual([
      '3,weight_oz',
      '4,zip',
      '5,zip',
      '6,product',
      '7,level',
      '8,weight_oz',
      '9,piece_ref',
      '10,customer',
    ]);
    expect(errors[1]).toContain('write 0.9');
    expect(errors[2]).toContain('02108: a spreadsheet dropped the leading zero');
    expect(errors[8]).toContain(",'=cmd(),");
    expect(journal.runs.ofJob('job-1')).toEqual([]);
    expect(store.database.prepare('SELECT count(*) FROM chunk').pluck().get()).toBe(0n);
  });

  test('of another number of fields are bad, not the file', async () => {
    const { errors } = await bad([...letters(1), { ref: 'a', zip: '02108,extra' }]);
    expect(errors[1]).toContain('2,(row),7 fields,');
  });

  test('leave the good ones to be franked where that is asked, and are gone from the next list', async () => {
    const psd = new FakePsd('psd');
    const lines = [...letters(300), { ref: 'bad', customer: 'alder', zip: 'x' }, ...letters(2, 'birch')];
    await frank(psd, await staged(csv(lines), { acceptGood: true }));
    expect(psd.references.toSorted()).toEqual(referencesOf(lines.filter(({ zip }) => zip !== 'x')).toSorted());
    const { file } = await take(csv(letters(3)));
    expect(existsSync(`${file}.errors.csv`)).toBe(false);
  });

  test('of a key that stands twice are the later ones, also in another group', async () => {
    const { errors } = await bad([
      { ref: 'x', customer: 'birch' },
      { ref: 'a', customer: 'alder' },
      { ref: 'x', customer: 'alder' },
      { ref: 'x', customer: 'birch' },
    ]);
    expect(errors.slice(1).map((line) => line.split(',')[0])).toEqual(['3', '4']);
  });
});

describe('with memory in the host', () => {
  const closed = async (spoil: (batch: number) => void): Promise<{ code: RejectionCode; pieceNumber: unknown }> => {
    const psd = new FakePsd('host');
    // Pieces of an earlier batch, so that numbers are not indices.
    await frank(psd, await staged(csv(letters(7, 'earlier')), { job: 'earlier' }));
    const run = await staged(csv(letters(600)));
    await expect(frank(killedAtClosing(psd), run)).rejects.toThrow(Killed);
    psd.onCall = () => undefined;
    const open = journal.batches.ofRun(run.run)[0];
    expect(open?.franked).toBe(600);
    store.transaction(() => {
      spoil(open?.batch ?? 0);
    });
    const { code, detail } = refusedWith(await frank(psd, run));
    // The operator's way out: a record of the registers alone.
    const options = { journal, psd, clock: systemClock, holdForMs: null };
    const row = journal.batches.ofRun(run.run)[0];
    if (row === undefined) throw new Error('The batch is gone.');
    expect(await closeBatch(options, row, psd.status(), true)).toMatchObject({ ok: true });
    expect(psd.records.at(-1)?.incomplete).toBe(true);
    return { code, pieceNumber: detail.pieceNumber };
  };
  const sql = (text: string, ...values: unknown[]): void => {
    expect(store.database.prepare(text).run(...values).changes).toBeGreaterThan(0);
  };

  test('the records go back at closing and the batch is sealed', async () => {
    const psd = new FakePsd('host');
    await frank(psd, await staged(csv(letters(1_500))));
    expect(psd.records).toHaveLength(1);
    expect(journal.batches.all()[0]?.state).toBe('sealed');
  });

  test.each(['between two parts of the recount', 'between recount and seal'])(
    'a device that starts anew %s is given the records again from 0',
    async (moment) => {
      const psd = new FakePsd('host');
      let restarts = 0;
      psd.onCall = (name, when) => {
        const parts = psd.batch?.recounted ?? 0;
        const isMoment = moment.includes('seal') ? name === 'seal' : name === 'recount' && parts > 0 && parts < 1_500;
        if (when !== 'before' || !isMoment || restarts === 3 || psd.batch === null) return;
        restarts += 1;
        // A recount is in the device's working memory alone.
        psd.batch.recounted = 0;
      };
      expect(await frank(psd, await staged(csv(letters(1_500))))).toEqual({ state: 'done' });
      expect(restarts).toBe(3);
      expect(psd.records).toMatchObject([{ sequence: 1, incomplete: false }]);
    },
  );

  test('a device that never remembers a recount is refused in the end', async () => {
    const psd = new FakePsd('host');
    psd.onCall = (name) => {
      if (name === 'seal' && psd.batch !== null) psd.batch.recounted = 0;
    };
    const refused = refusedWith(await frank(psd, await staged(csv(letters(300)))));
    expect(refused.code).toBe('recount-missing');
    expect(psd.records).toEqual([]);
  });

  test('a journal that was altered by a byte is named by its piece', async () => {
    const altered = await closed((batch) => {
      const salts = Buffer.from(journal.chunks.franked(batch, 256)?.salts as Uint8Array);
      salts[16 * 4] = (salts[16 * 4] as number) ^ 1;
      sql('UPDATE franked SET salts = ? WHERE batch = ? AND first_index = 256', salts, batch);
    });
    expect(altered).toEqual({ code: 'recount-altered', pieceNumber: 7 + 256 + 4 + 1 });
  });

  test('a postage that was altered is named by its piece', async () => {
    const altered = await closed((batch) => {
      const entries = Buffer.from(journal.chunks.get(batch, 0)?.entries as Uint8Array);
      entries.writeUInt32BE(1, 3 * CHUNK_ENTRY_BYTES + 2);
      journal.chunks.setEntries(batch, 0, entries);
    });
    expect(altered).toEqual({ code: 'recount-altered', pieceNumber: 7 + 3 + 1 });
  });

  test('a journal that was shortened is named by its first missing piece', async () => {
    const gone = await closed((batch) => {
      sql('DELETE FROM franked WHERE batch = ? AND first_index = 512', batch);
    });
    expect(gone).toEqual({ code: 'journal-damaged', pieceNumber: 7 + 512 + 1 });
  });

  test('a journal that is gone is named by the first piece', async () => {
    const gone = await closed((batch) => {
      sql('DELETE FROM franked WHERE batch = ?', batch);
      sql('DELETE FROM chunk WHERE batch = ?', batch);
    });
    expect(gone).toEqual({ code: 'journal-damaged', pieceNumber: 7 + 1 });
  });

  test('a batch of which the host knows nothing is closed incomplete', async () => {
    const psd = new FakePsd('host');
    await expect(frank(killedAtClosing(psd), await staged(csv(letters(300))))).rejects.toThrow(Killed);
    psd.onCall = () => undefined;
    store.close();
    rmSync(join(folder, 'host.sqlite'));
    openJournal();
    const open = psd.status().batch;
    if (open === undefined) throw new Error('Nothing is open.');
    const adopted = journal.batches.adopt(open.batch, null, open.pieces, open.postageMills, open.firstPieceNumber);
    const options = { journal, psd, clock: systemClock, holdForMs: null };
    expect(await closeBatch(options, adopted, psd.status(), false)).toMatchObject({
      ok: false,
      rejection: { code: 'journal-damaged', detail: { pieceNumber: 1 } },
    });
    expect(await closeBatch(options, adopted, psd.status(), true)).toMatchObject({ ok: true });
  });
});

describe('a single piece', () => {
  test('is found by number, key and row, with the record that its device hashed', async () => {
    const psd = new FakePsd('host');
    const lines = [...letters(300, 'alder'), ...letters(300, 'birch')];
    const run = await staged(csv(lines));
    await frank(psd, run);
    const byKey = pieceByKey(journal, 'job-1', 'birch-290');
    const number = (byKey?.franked.firstNumber ?? 0) + (byKey?.at ?? 0);
    expect(number).toBe(590);
    expect(pieceByRow(journal, 'job-1', 590)).toEqual(byKey);
    expect(pieceByNumber(journal, 590)).toEqual(byKey);
    expect(pieceByNumber(journal, 601)).toBeNull();
    expect(pieceByKey(journal, 'job-1', 'none')).toBeNull();
    if (byKey === null) throw new Error('It was not found.');
    const record = pieceRecords(DEVICE, byKey.batch.id, run.cells, byKey)[byKey.at] as Uint8Array;
    const at = byKey.at * 16;
    expect(codeOf(byKey.franked.salts.subarray(at, at + 16), record)).toEqual(
      Buffer.from(byKey.franked.codes.subarray(at, at + 16)),
    );
  });
});
