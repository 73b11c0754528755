/**
 * The judgement of chains: whatever an honest device does continues; any change to a record is seen.
 *
 * Records here are made by hand, without authenticators: what verification does before is tested by the vectors.
 */
import { cellKeyBytes } from '@countermark/protocol/cell';
import { type Digest, digestOf, NO_DIGEST } from '@countermark/protocol/digest';
import type { BatchId, DeviceId, JobId, LicenseeId } from '@countermark/protocol/id';
import type { BatchStatistics } from '@countermark/protocol/messages/batch-statistics';
import { mills } from '@countermark/protocol/money';
import { type Funds, NO_FUNDS, type Registers, ZERO_REGISTERS } from '@countermark/protocol/registers';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { CHAIN_START, type ChainHead, judge } from './chain.ts';
import type { VerifiedRecord } from './record.ts';
import { compareBytes, contradiction } from './statistics.ts';

const CURRENCY = { code: 'USD', exponent: 3 };
const LEVELS = ['5-digit', 'aadc', 'mixed-aadc'] as const;

/** What a device does between two records: funds before opening, pieces by level, funds while the batch is open. */
const aBatch = fc.record({
  fundsBefore: fc.bigInt({ min: 0n, max: 10_000_000n }),
  fundsDuring: fc.bigInt({ min: 0n, max: 10_000_000n }),
  counts: fc.tuple(fc.nat(40), fc.nat(40), fc.nat(40)),
  spoiled: fc.nat(3),
  incomplete: fc.boolean(),
});
type Batch = typeof aBatch extends fc.Arbitrary<infer T> ? T : never;

function digest(n: number): Digest {
  return digestOf(new Uint8Array(32).fill(n + 1));
}

/** An honest device: the records of its batches, in order. */
function honest(batches: readonly Batch[]): BatchStatistics[] {
  let registers: Registers = { ...ZERO_REGISTERS, descendingMills: mills(0n) };
  let funds: Funds = NO_FUNDS;
  return batches.map((batch, i) => {
    const receive = (amount: bigint): void => {
      registers = { ...registers, descendingMills: mills(registers.descendingMills + amount) };
      funds = { ...funds, receivedMills: mills(funds.receivedMills + amount), lastGrant: funds.lastGrant + 1 };
    };
    receive(batch.fundsBefore + 1_000_000n);
    const opened = registers;
    receive(batch.fundsDuring);
    const pieces = batch.counts.reduce((sum, count) => sum + count, 0);
    const spoiled = batch.incomplete ? 0 : Math.min(batch.spoiled, batch.counts[0]);
    registers = {
      ascendingMills: mills(registers.ascendingMills + BigInt(pieces) * 740n),
      descendingMills: mills(registers.descendingMills - BigInt(pieces) * 740n),
      pieces: registers.pieces + pieces,
    };
    const cells = batch.counts
      .map((count, level) => ({ count: level === 0 ? count - spoiled : count, level: LEVELS[level] as string }))
      .filter(({ count }) => count > 0)
      .map(({ count, level }) => ({
        key: { product: 'letter', shape: 'letter', affixed: 'single-piece', level, entry: 'none', weightStep: 10 },
        pieces: count,
        postageMills: mills(BigInt(count) * 740n),
      }))
      .sort((a, b) => compareBytes(cellKeyBytes(a.key), cellKeyBytes(b.key)));
    return {
      device: 'psd_0011223344556677' as DeviceId,
      licensee: 'lic_a' as LicenseeId,
      sequence: i + 1,
      previous: i === 0 ? NO_DIGEST : digest(i - 1),
      declaration: {
        batch: `bat_${'0'.repeat(32)}` as BatchId,
        job: 'job' as JobId,
        submitter: '',
        preparer: '',
        product: 'letter',
        entry: 'none',
        mailingDate: '2026-11-22',
        expectedPieces: Math.max(1, pieces),
        expectedCells: 3,
        tariff: digest(200),
        scheme: 1,
        currency: CURRENCY,
      },
      closing: { spoiled: Array.from({ length: spoiled }, (_, n) => opened.pieces + 1 + n), reprints: 0 },
      observed: {
        firstPieceNumber: opened.pieces + 1,
        pieces,
        root: digest(201),
        cells: batch.incomplete ? [] : cells,
        spoiledPieces: spoiled,
        spoiledPostageMills: mills(BigInt(spoiled) * 740n),
        opened,
        closed: registers,
        funds,
        incomplete: batch.incomplete,
        memory: 'host',
        layout: 1,
        policyVersion: 1,
        software: { version: '1', measurement: digest(202) },
        specimen: true,
        currency: CURRENCY,
        epoch: 1,
      },
    };
  });
}

function asRecord(message: BatchStatistics, of: Digest): VerifiedRecord {
  return {
    type: 'batch-statistics',
    verified: { message, envelope: { key: { holder: message.device, epoch: 1 } }, digest: of },
  } as unknown as VerifiedRecord;
}

function judged(records: readonly BatchStatistics[]): string[] {
  let head: ChainHead = CHAIN_START;
  return records.map((record, i) => {
    const verdict = judge(head, asRecord(record, digest(i)), (sequence) => digest(sequence - 1));
    if (verdict.outcome === 'continues') head = verdict.head;
    return verdict.outcome === 'rejected' ? verdict.rejection.code : verdict.outcome;
  });
}

const someBatches = fc.array(aBatch, { minLength: 1, maxLength: 6 });

describe('Chain', () => {
  it('continues over everything that an honest device does', () => {
    fc.assert(
      fc.property(someBatches, (batches) => {
        const records = honest(batches);
        expect(records.map(contradiction)).toEqual(records.map(() => null));
        expect(judged(records)).toEqual(records.map(() => 'continues'));
      }),
    );
  });

  it('sees any amount or count that was changed', () => {
    const change = fc.constantFrom<(record: BatchStatistics) => BatchStatistics>(
      (record) => withObserved(record, { pieces: record.observed.pieces + 1 }),
      (record) => withObserved(record, { firstPieceNumber: record.observed.firstPieceNumber + 1 }),
      (record) => withObserved(record, { spoiledPieces: record.observed.spoiledPieces + 1 }),
      (record) => withObserved(record, { spoiledPostageMills: mills(record.observed.spoiledPostageMills + 1n) }),
      (record) =>
        withObserved(record, {
          closed: { ...record.observed.closed, ascendingMills: mills(record.observed.closed.ascendingMills + 1n) },
        }),
      (record) =>
        withObserved(record, {
          closed: { ...record.observed.closed, descendingMills: mills(record.observed.closed.descendingMills + 1n) },
        }),
      (record) =>
        withObserved(record, { closed: { ...record.observed.closed, pieces: record.observed.closed.pieces + 1 } }),
      (record) =>
        withObserved(record, {
          opened: { ...record.observed.opened, ascendingMills: mills(record.observed.opened.ascendingMills + 1n) },
        }),
      (record) =>
        withObserved(record, { opened: { ...record.observed.opened, pieces: record.observed.opened.pieces + 1 } }),
      (record) =>
        withObserved(record, {
          opened: {
            ...record.observed.opened,
            descendingMills: mills(record.observed.opened.descendingMills + 100_000_000n),
          },
        }),
      (record) =>
        withObserved(record, {
          funds: { ...record.observed.funds, receivedMills: mills(record.observed.funds.receivedMills + 1n) },
        }),
      (record) =>
        withObserved(record, {
          funds: { ...record.observed.funds, returnedMills: mills(record.observed.funds.returnedMills + 1n) },
        }),
      (record) =>
        withObserved(record, {
          cells: [...record.observed.cells, ...record.observed.cells, record.observed.cells[0] ?? EMPTY],
        }),
      (record) => withObserved(record, { epoch: 2 }),
      (record) => ({ ...record, declaration: { ...record.declaration, expectedPieces: record.observed.pieces - 1 } }),
      (record) => ({ ...record, declaration: { ...record.declaration, currency: { code: 'EUR', exponent: 3 } } }),
      (record) => ({ ...record, closing: { ...record.closing, spoiled: [...record.closing.spoiled, 0xffff] } }),
    );
    fc.assert(
      fc.property(someBatches, fc.nat(), change, (batches, at, changed) => {
        const records = honest(batches);
        const index = at % records.length;
        const original = records[index] as BatchStatistics;
        const altered = changed(original);
        expect(judged([...records.slice(0, index), altered]).at(-1)).toBe('inconsistent');
      }),
      { numRuns: 1_000 },
    );
  });

  it('tells a repeat, a gap and a fork apart', () => {
    const records = honest([first(), first(), first()]);
    const [one, two, three] = records as [BatchStatistics, BatchStatistics, BatchStatistics];
    const start = judge(CHAIN_START, asRecord(one, digest(0)), () => null);
    const head = start.outcome === 'continues' ? start.head : CHAIN_START;
    const code = (record: BatchStatistics, of: Digest): string => {
      const verdict = judge(head, asRecord(record, of), (sequence) => (sequence === 1 ? digest(0) : null));
      return verdict.outcome === 'rejected' ? verdict.rejection.code : verdict.outcome;
    };
    expect(code(one, digest(0))).toBe('already-accepted');
    expect(code(one, digest(9))).toBe('fork');
    expect(code(two, digest(1))).toBe('continues');
    expect(code({ ...two, previous: digest(9) }, digest(1))).toBe('fork');
    expect(code(three, digest(2))).toBe('out-of-order');
  });
});

const EMPTY = {
  key: { product: 'letter', shape: 'letter', affixed: 'a', level: 'b', entry: 'none', weightStep: 1 },
  pieces: 0,
  postageMills: mills(0n),
};

function first(): Batch {
  return { fundsBefore: 0n, fundsDuring: 0n, counts: [3, 2, 1], spoiled: 1, incomplete: false };
}

function withObserved(record: BatchStatistics, changes: Partial<BatchStatistics['observed']>): BatchStatistics {
  return { ...record, observed: { ...record.observed, ...changes } };
}
