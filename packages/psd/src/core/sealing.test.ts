import { digestText, type Digest } from '@countermark/protocol/digest';
import { mills } from '@countermark/protocol/money';
import type { BatchStatistics } from '@countermark/protocol/messages/batch-statistics';
import { CONFIRMATION } from '@countermark/protocol/messages/confirmation';
import { CHAIN_START, type ChainHead, judge } from '@countermark/verify/chain';
import type { VerifiedRecord } from '@countermark/verify/record';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type CoreDevice, readyDevice, SOFTWARE } from '../../testing/core-device.ts';
import { START_MS } from '../../testing/authority.ts';
import { batchNumbered, declarationOf, pieces } from '../../testing/mailing.ts';
import { stateProblems } from './state.ts';

const BATCH = batchNumbered(1);
const code = (result: { ok: boolean; rejection?: { code: string } }) => (result.ok ? 'ok' : result.rejection?.code);

function statisticsOf(record: VerifiedRecord): BatchStatistics {
  if (record.type !== 'batch-statistics') throw new Error(record.type);
  return record.verified.message;
}

describe('a sealed batch', () => {
  it.each(['host', 'psd'] as const)('says what was declared and what was franked, with memory in the %s', (memory) => {
    const device = readyDevice({ memory, certified: true });
    device.enrol({ version: 2 }, true);
    device.open(BATCH);
    device.frank(BATCH, 0, [...pieces(3, 740, 2), ...pieces(2, 690, 0)]);
    device.frank(BATCH, 5, pieces(2, 690, 0));
    device.do({ kind: 'spoil', batch: BATCH, pieceNumbers: [1, 7] });
    device.time(START_MS + 5);
    const statistics = statisticsOf(device.finish(BATCH, 4));
    expect(statistics).toMatchObject({
      device: device.device,
      sequence: 1,
      declaration: declarationOf(BATCH),
      closing: { spoiled: [1, 7], reprints: 4 },
      observed: {
        firstPieceNumber: 1,
        pieces: 7,
        spoiledPieces: 2,
        spoiledPostageMills: 1_430n,
        opened: { pieces: 0 },
        closed: { pieces: 7, ascendingMills: 3n * 740n + 4n * 690n },
        incomplete: false,
        memory,
        specimen: false,
        policyVersion: 2,
        software: SOFTWARE,
        openedAfterMs: START_MS,
        closedAfterMs: START_MS + 5,
      },
    });
    expect(statistics.observed.cells.map(({ key, pieces: n, postageMills }) => [key.level, n, postageMills])).toEqual(
      expect.arrayContaining([
        ['five-digit', 3, 2_070n],
        ['mixed-aadc', 2, 1_480n],
      ]),
    );
    expect(statistics.observed.cells).toHaveLength(2);
  });

  it('with nothing in it is a record of the chain all the same', () => {
    const device = readyDevice();
    device.open(BATCH);
    expect(statisticsOf(device.finish(BATCH)).observed).toMatchObject({ pieces: 0, cells: [] });
  });

  it('closed incomplete has the registers’ totals, no cells and nothing spoiled', () => {
    const device = readyDevice();
    device.open(BATCH);
    device.frank(BATCH, 0, pieces(4));
    device.do({ kind: 'spoil', batch: BATCH, pieceNumbers: [2] });
    device.do({ kind: 'close', batch: BATCH, reprints: 0 });
    const sealed = device.seal(BATCH, true);
    if (!sealed.ok) throw new Error(sealed.rejection.code);
    expect(statisticsOf(sealed.value)).toMatchObject({
      closing: { spoiled: [] },
      observed: { incomplete: true, pieces: 4, cells: [], spoiledPieces: 0, spoiledPostageMills: 0n },
    });
    expect(judge(CHAIN_START, sealed.value, () => null)).toMatchObject({ outcome: 'continues' });
  });

  it('must be closed, and be this one', () => {
    const device = readyDevice();
    expect(code(device.seal(BATCH))).toBe('no-open-batch');
    device.open(BATCH);
    expect(code(device.seal(BATCH))).toBe('batch-open');
    expect(code(device.seal(batchNumbered(2)))).toBe('no-open-batch');
  });
});

describe('the chain', () => {
  /** What a host, an operator and a server may do between two records. */
  const happening = fc.oneof(
    fc.record({ what: fc.constant('frank' as const), count: fc.integer({ min: 1, max: 6 }), level: fc.nat(7) }),
    fc.record({ what: fc.constant('spoil' as const), at: fc.nat(5) }),
    fc.record({ what: fc.constant('refill' as const), amount: fc.bigInt({ min: 0n, max: 50_000n }) }),
    fc.record({ what: fc.constant('time' as const), by: fc.nat(1_000) }),
    fc.record({ what: fc.constant('finish' as const), incomplete: fc.boolean() }),
    fc.record({ what: fc.constant('confirm' as const) }),
  );

  it('of every record is accepted by the judgement of server and authority, whatever happens in between', () => {
    fc.assert(
      fc.property(
        fc.constantFrom('host' as const, 'psd' as const),
        fc.constantFrom('signature' as const, 'mac' as const),
        fc.array(happening, { maxLength: 30 }),
        (memory, authentication, happenings) => {
          const device = readyDevice({ memory, authentication });
          let head: ChainHead = CHAIN_START;
          const digests = new Map<number, Digest>();
          let batches = 0;
          let now = START_MS;
          const accept = (record: VerifiedRecord) => {
            const verdict = judge(head, record, (sequence) => digests.get(sequence) ?? null);
            expect(verdict).toMatchObject({ outcome: 'continues' });
            if (verdict.outcome === 'continues') head = verdict.head;
            digests.set(head.sequence, head.digest);
          };
          for (const event of happenings) {
            if (device.state.batch === null) device.open(batchNumbered(++batches));
            const batch = batchNumbered(batches);
            const next = device.journal.get(batch)?.reduce((sum, { chunk }) => sum + chunk.salts.length / 16, 0) ?? 0;
            switch (event.what) {
              case 'frank':
                device.frank(batch, next, pieces(event.count, 700 + event.level, event.level));
                break;
              case 'spoil':
                if (next > 0) {
                  const first = device.state.batch!.opened.pieces + 1;
                  device.do({ kind: 'spoil', batch, pieceNumbers: [first + (event.at % next)] });
                }
                break;
              case 'refill':
                device.refill(event.amount);
                break;
              case 'time':
                now += event.by;
                expect(code(device.time(now))).toBe('ok');
                break;
              case 'finish':
                if (event.incomplete) {
                  device.do({ kind: 'close', batch, reprints: 0 });
                  const sealed = device.seal(batch, true);
                  if (!sealed.ok) throw new Error(sealed.rejection.code);
                  accept(sealed.value);
                } else accept(device.finish(batch));
                break;
              case 'confirm': {
                const [oldest] = device.state.unconfirmed;
                if (oldest !== undefined) expect(code(device.confirm(oldest.sequence, oldest.digest))).toBe('ok');
                break;
              }
            }
            expect(stateProblems(device.state)).toEqual([]);
          }
          if (device.state.batch !== null) accept(device.finish(batchNumbered(batches)));
          expect(head.sequence).toBe(device.state.sequence);
          expect(head.registers.ascendingMills).toBe(device.state.registers.ascendingMills);
        },
      ),
      { numRuns: 60 },
    );
  });
});

describe('a confirmation', () => {
  const sealedTwice = (): CoreDevice => {
    const device = readyDevice();
    for (const n of [1, 2]) {
      device.open(batchNumbered(n));
      device.frank(batchNumbered(n), 0, pieces(n));
      device.finish(batchNumbered(n));
    }
    return device;
  };

  it('of exactly the digest deletes the record; again it is without effect; sequence and head stay', () => {
    const device = sealedTwice();
    const [first, second] = device.state.unconfirmed;
    const confirmed = device.confirm(1, first!.digest);
    expect(confirmed).toMatchObject({ ok: true, value: [{ kind: 'delete-record', sequence: 1, batch: first!.batch }] });
    expect(device.state.unconfirmed).toEqual([second]);
    expect(digestText(device.state.head)).toBe(digestText(second!.digest));
    const { state } = device;
    expect(device.confirm(1, first!.digest, first!.digest)).toEqual({ ok: true, value: [] });
    expect(device.state).toBe(state);
  });

  it('of another digest deletes nothing and is a counted alarm, also for a record deleted before', () => {
    const device = sealedTwice();
    const [first, second] = device.state.unconfirmed;
    const { unconfirmed } = device.state;
    expect(device.confirm(1, second!.digest)).toMatchObject({
      ok: true,
      value: [{ kind: 'alarm', rejection: { code: 'confirmation-mismatch' } }],
    });
    expect(device.state.unconfirmed).toBe(unconfirmed);
    expect(device.state.alarms).toBe(1);
    device.confirm(1, first!.digest);
    device.confirm(1, second!.digest, first!.digest);
    expect(device.state.alarms).toBe(2);
    expect(device.state.unconfirmed).toEqual([second]);
  });

  it('of a record that there is not, or of another device or licensee, is refused', () => {
    const device = sealedTwice();
    const [first] = device.state.unconfirmed;
    expect(code(device.confirm(3, first!.digest))).toBe('unknown-record');
    const other = readyDevice();
    other.open(BATCH);
    other.finish(BATCH);
    const strange = other.authority.verified(
      CONFIRMATION,
      other.authority.confirmationOf(other.device, 1, other.state.head),
    );
    expect(code(device.try({ kind: 'confirm', confirmation: strange, confirmedDigest: null }))).toBe('wrong-device');
    expect(device.state.unconfirmed).toHaveLength(2);
  });

  it('lifts the locks that unconfirmed batches and postage made', () => {
    const device = readyDevice({ policy: { maxUnconfirmedBatches: 1, maxUnconfirmedPostageMills: mills(740n) } });
    device.open(batchNumbered(1));
    device.frank(batchNumbered(1), 0, pieces(1));
    device.finish(batchNumbered(1));
    expect(code(device.open(batchNumbered(2)))).toBe('device-locked');
    device.confirm(1, device.state.head);
    expect(code(device.open(batchNumbered(2)))).toBe('ok');
  });
});
