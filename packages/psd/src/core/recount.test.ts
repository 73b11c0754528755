import { readPieceRecord, pieceRecordHead } from '@countermark/protocol/messages/piece-record';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type CoreDevice, readyDevice } from '../../testing/core-device.ts';
import { batchNumbered, pieces } from '../../testing/mailing.ts';
import type { HostRecords } from './recount.ts';

const BATCH = batchNumbered(1);
const code = (result: { ok: boolean; rejection?: { code: string } }) => (result.ok ? 'ok' : result.rejection?.code);

function closedBatch(count: number): { device: CoreDevice; records: HostRecords } {
  const device = readyDevice();
  device.open(BATCH);
  device.frank(BATCH, 0, pieces(Math.ceil(count / 2)));
  if (count > 1) device.frank(BATCH, Math.ceil(count / 2), pieces(Math.floor(count / 2), 690, 1));
  device.do({ kind: 'close', batch: BATCH, reprints: 0 });
  return { device, records: device.hostRecords(BATCH) };
}

function part(records: HostRecords, from: number, to: number): HostRecords {
  return {
    batch: records.batch,
    firstIndex: from,
    records: records.records.slice(from, to),
    salts: records.salts.slice(from * 16, to * 16),
    codes: records.codes.slice(from * 16, to * 16),
  };
}

describe('a recount from host memory', () => {
  it('names the piece whose record, salt or code was altered in any bit', () => {
    const { device, records } = closedBatch(9);
    const { state } = device;
    fc.assert(
      fc.property(
        fc.nat(8),
        fc.constantFrom('record', 'salt', 'code'),
        fc.nat(10_000),
        fc.nat(7),
        (piece, what, at, bit) => {
          const altered = {
            ...records,
            records: records.records.map((record) => record.slice()),
            salts: records.salts.slice(),
            codes: records.codes.slice(),
          };
          const bytes =
            what === 'record'
              ? altered.records[piece]!
              : (what === 'salt' ? altered.salts : altered.codes).subarray(piece * 16, (piece + 1) * 16);
          bytes[at % bytes.length]! ^= 1 << bit;
          // Slices of a Buffer are views: put the altered bytes in a copy of their own.
          const result = device.try({
            kind: 'recount',
            records: { ...altered, salts: Uint8Array.from(altered.salts), codes: Uint8Array.from(altered.codes) },
          });
          bytes[at % bytes.length]! ^= 1 << bit;
          expect(result).toEqual({
            ok: false,
            rejection: { code: 'recount-altered', detail: { pieceNumber: piece + 1 } },
          });
          expect(device.state).toBe(state);
        },
      ),
      { numRuns: 150 },
    );
    expect(code(device.try({ kind: 'recount', records }))).toBe('ok');
    expect(code(device.seal(BATCH))).toBe('ok');
  });

  it('sees pieces exchanged, left out, repeated, and of another batch', () => {
    const { device, records } = closedBatch(6);
    const arranged = (order: readonly number[]): HostRecords => ({
      batch: BATCH,
      firstIndex: 0,
      records: order.map((i) => records.records[i]!),
      salts: Buffer.concat(order.map((i) => records.salts.subarray(i * 16, (i + 1) * 16))),
      codes: Buffer.concat(order.map((i) => records.codes.subarray(i * 16, (i + 1) * 16))),
    });
    const first = (order: readonly number[]) => {
      const result = device.try({ kind: 'recount', records: arranged(order) });
      return result.ok ? null : result.rejection.detail.pieceNumber;
    };
    expect(first([0, 2, 1, 3, 4, 5])).toBe(2);
    expect(first([0, 1, 3, 4, 5])).toBe(3);
    expect(first([0, 0, 1, 2, 3, 4])).toBe(2);
    expect(first([0, 1, 2, 3, 4, 5, 5])).toBe(7);
    const other = closedBatch(6);
    expect(code(device.try({ kind: 'recount', records: other.records }))).toBe('recount-altered');
  });

  it('sees a record that a copy of the device made under the same number: every code fits, the root does not', () => {
    const device = readyDevice();
    device.open(BATCH);
    const before = device.state;
    device.frank(BATCH, 0, pieces(3, 700));
    const copied = device.hostRecords(BATCH);
    device.state = before;
    device.journal.clear();
    device.frank(BATCH, 0, pieces(3, 740));
    device.do({ kind: 'close', batch: BATCH, reprints: 0 });
    const result = device.try({ kind: 'recount', records: copied });
    expect(result).toMatchObject({ ok: false, rejection: { code: 'recount-altered' } });
    expect(code(device.recount(BATCH))).toBe('ok');
  });

  it('may come in parts, begins again at 0, and says where it stands', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 12 }), fc.integer({ min: 1, max: 5 }), fc.nat(12), (count, size, again) => {
        const { device, records } = closedBatch(count);
        const stream = (to: number) => {
          for (let at = 0; at < to; at += size) {
            const end = Math.min(at + size, count);
            expect(code(device.try({ kind: 'recount', records: part(records, at, end) }))).toBe('ok');
          }
        };
        stream(Math.min(again, count));
        const stand = device.state.batch!.recount.frontier.leaves;
        if (stand + 1 < count) {
          expect(device.try({ kind: 'recount', records: part(records, stand + 1, count) })).toMatchObject({
            rejection: { code: 'recount-out-of-order', detail: { expected: stand } },
          });
        }
        stream(count);
        const sealed = device.seal(BATCH);
        if (!sealed.ok || sealed.value.type !== 'batch-statistics') throw new Error('not sealed');
        const { cells } = sealed.value.verified.message.observed;
        expect(cells.reduce((sum, cell) => sum + cell.pieces, 0)).toBe(count);
      }),
      { numRuns: 25 },
    );
  });

  it('asked again for what it has counted checks it and counts nothing twice', () => {
    const { device, records } = closedBatch(6);
    device.do({ kind: 'recount', records: part(records, 0, 2) });
    device.do({ kind: 'recount', records: part(records, 2, 5) });
    const { state } = device;
    device.do({ kind: 'recount', records: part(records, 2, 5) });
    device.do({ kind: 'recount', records: part(records, 3, 4) });
    expect(device.state).toBe(state);
    const altered = { ...part(records, 2, 4), codes: new Uint8Array(32) };
    expect(code(device.try({ kind: 'recount', records: altered }))).toBe('recount-altered');
    expect(code(device.try({ kind: 'recount', records: part(records, 4, 6) }))).toBe('recount-out-of-order');
    device.do({ kind: 'recount', records: part(records, 5, 6) });
    const sealed = device.seal(BATCH);
    if (!sealed.ok || sealed.value.type !== 'batch-statistics') throw new Error('not sealed');
    const { cells } = sealed.value.verified.message.observed;
    expect(cells.reduce((sum, cell) => sum + cell.pieces, 0)).toBe(6);
  });

  it('that is not whole is named by the first piece that is missing', () => {
    const { device, records } = closedBatch(6);
    expect(device.seal(BATCH)).toMatchObject({ rejection: { code: 'recount-missing', detail: { pieceNumber: 1 } } });
    device.do({ kind: 'recount', records: part(records, 0, 4) });
    expect(device.seal(BATCH)).toMatchObject({
      rejection: { code: 'recount-missing', detail: { counted: 4, franked: 6, pieceNumber: 5 } },
    });
    expect(code(device.seal(BATCH, true))).toBe('ok');
  });

  it('is for closed batches and for memory in the host only', () => {
    const device = readyDevice();
    device.open(BATCH);
    device.frank(BATCH, 0, pieces(2));
    expect(code(device.recount(BATCH))).toBe('batch-open');
    const own = readyDevice({ memory: 'psd' });
    own.open(BATCH);
    own.frank(BATCH, 0, pieces(2));
    expect(code(own.try({ kind: 'recount', records: own.hostRecords(BATCH) }))).toBe('not-available');
  });
});

describe('a recount of the device’s own memory', () => {
  it('sees what was altered in its store', () => {
    const device = readyDevice({ memory: 'psd' });
    device.open(BATCH);
    const { chunk } = device.frank(BATCH, 0, pieces(3));
    device.do({ kind: 'close', batch: BATCH, reprints: 0 });
    const request = { ...chunk.request, pieces: chunk.request.pieces.slice() };
    request.pieces[5]! ^= 1;
    for (const altered of [
      { ...chunk, request },
      { ...chunk, firstPieceNumber: 2 },
      { ...chunk, salts: chunk.salts.slice(16) },
      { ...chunk, request: { ...chunk.request, cells: [] } },
    ]) {
      expect(code(device.try({ kind: 'recount-own', batch: BATCH, chunk: altered }))).toBe('recount-altered');
    }
    expect(code(device.recount(BATCH))).toBe('ok');
  });
});

describe('a piece record', () => {
  it('is taken apart as it was written', () => {
    const { device, records } = closedBatch(4);
    const head = pieceRecordHead(device.device, BATCH);
    expect(readPieceRecord(head, records.records[3]!)).toMatchObject({ index: 3, pieceNumber: 4, postageMills: 690n });
    expect(readPieceRecord(pieceRecordHead(device.device, batchNumbered(2)), records.records[3]!)).toBeNull();
    for (let length = 0; length < records.records[3]!.length; length++) {
      const read = readPieceRecord(head, records.records[3]!.subarray(0, length));
      expect(read === null || read.cell.length < 200).toBe(true);
    }
  });
});
