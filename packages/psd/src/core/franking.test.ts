import { parseIndicium, indiciumBytes, indiciumInputBytes, LAYOUTS } from '@countermark/protocol/layout';
import type { CustomerId } from '@countermark/protocol/id';
import { mills } from '@countermark/protocol/money';
import { balanced } from '@countermark/protocol/registers';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { CoreDevice, readyDevice } from '../../testing/core-device.ts';
import { batchNumbered, chunkOf, declarationOf, pieces } from '../../testing/mailing.ts';

const BATCH = batchNumbered(1);
const code = (result: { ok: boolean; rejection?: { code: string } }) => (result.ok ? 'ok' : result.rejection?.code);

const pieceList = (max: number) =>
  fc.array(fc.record({ level: fc.integer({ min: 0, max: 7 }), postageMills: fc.integer({ min: 100, max: 10_000 }) }), {
    minLength: 1,
    maxLength: max,
  });

describe('a chunk', () => {
  it('moves the registers by its postage and pieces, and numbers its pieces on', () => {
    fc.assert(
      fc.property(fc.array(pieceList(20), { minLength: 1, maxLength: 6 }), (chunks) => {
        const device = readyDevice();
        device.open(BATCH);
        const before = device.state.registers;
        let index = 0;
        for (const list of chunks) {
          const { chunk } = device.frank(BATCH, index, list);
          expect(chunk.firstPieceNumber).toBe(before.pieces + 1 + index);
          index += list.length;
        }
        const postage = BigInt(chunks.flat().reduce((sum, piece) => sum + piece.postageMills, 0));
        const { registers, funds, batch } = device.state;
        expect(registers.pieces).toBe(before.pieces + index);
        expect(registers.ascendingMills).toBe(before.ascendingMills + postage);
        expect(balanced(registers, funds)).toBe(true);
        expect(batch?.frontier.leaves).toBe(index);
      }),
      { numRuns: 25 },
    );
  });

  it('carries in each indicium number, postage and the ascending register with the piece', () => {
    const device = readyDevice();
    device.open(BATCH);
    const list = [
      { level: 0, postageMills: 740 },
      { level: 1, postageMills: 690 },
    ];
    const { inputs } = device.frank(BATCH, 0, list);
    const each = indiciumInputBytes(LAYOUTS.signature);
    list.forEach(({ postageMills }, i) => {
      const bytes = indiciumBytes(inputs.subarray(i * each, (i + 1) * each), new Uint8Array(64));
      const parsed = parseIndicium(bytes);
      expect(parsed).toMatchObject({
        ok: true,
        value: {
          indicium: {
            device: device.device,
            pieceNumber: i + 1,
            postageMills: BigInt(postageMills),
            ascendingMills: i === 0 ? 740n : 1430n,
            mailingDate: '2026-11-22',
            specimen: true,
          },
        },
      });
    });
  });

  it('asked again gives the same numbers, salts, codes and inputs, the last two of them, also when closed', () => {
    fc.assert(
      fc.property(fc.array(pieceList(8), { minLength: 3, maxLength: 5 }), fc.boolean(), (chunks, close) => {
        const device = readyDevice();
        device.open(BATCH);
        const asked = chunks.map((list, i) => {
          const request = chunkOf(BATCH, chunks.slice(0, i).flat().length, list);
          const franked = device.ask(request);
          if (!franked.ok) throw new Error(franked.rejection.code);
          return { request, franked: franked.value };
        });
        if (close) device.do({ kind: 'close', batch: BATCH, reprints: 0 });
        const { state } = device;
        for (const { request, franked } of asked.slice(-2)) {
          const again = device.ask(request);
          expect(again).toMatchObject({ ok: true });
          if (!again.ok) return;
          expect(again.value.chunk).toEqual(franked.chunk);
          expect(again.value.codes).toEqual(franked.codes);
          expect(again.value.inputs).toEqual(franked.inputs);
        }
        for (const { request } of asked.slice(0, -2)) expect(code(device.ask(request))).toBe('chunk-no-longer-held');
        expect(device.state).toBe(state);
      }),
      { numRuns: 25 },
    );
  });

  it('with other content under the same index, or overlapping it, is a conflict', () => {
    const device = readyDevice();
    device.open(BATCH);
    device.frank(BATCH, 0, pieces(4));
    const { state } = device;
    expect(code(device.ask(chunkOf(BATCH, 0, pieces(4, 741))))).toBe('chunk-conflict');
    expect(code(device.ask(chunkOf(BATCH, 0, pieces(3))))).toBe('chunk-conflict');
    expect(code(device.ask(chunkOf(BATCH, 2, pieces(4))))).toBe('chunk-conflict');
    expect(code(device.ask(chunkOf(BATCH, 5, pieces(4))))).toBe('chunk-out-of-order');
    expect(device.state).toBe(state);
  });

  it.each([
    ['insufficient-funds', () => chunkOf(BATCH, 2, pieces(9, 10_000))],
    ['postage-out-of-range', () => chunkOf(BATCH, 2, [...pieces(1), ...pieces(1, 99)])],
    ['postage-out-of-range', () => chunkOf(BATCH, 2, [...pieces(1), ...pieces(1, 10_001)])],
    ['too-many-pieces', () => chunkOf(BATCH, 2, pieces(19))],
    ['too-many-cells', () => chunkOf(BATCH, 2, [...pieces(1, 740, 1), ...pieces(1, 740, 2)])],
    ['malformed', () => ({ ...chunkOf(BATCH, 2, pieces(2)), cells: [] })],
    ['malformed', () => ({ ...chunkOf(BATCH, 2, pieces(2)), pieces: new Uint8Array(23) })],
    [
      'malformed',
      () => {
        const chunk = chunkOf(BATCH, 2, pieces(2));
        return { ...chunk, cells: chunk.cells.map((cell) => ({ ...cell, entry: 'elsewhere' })) };
      },
    ],
    ['no-open-batch', () => chunkOf(batchNumbered(2), 2, pieces(2))],
  ])('refused with %s leaves no trace and may be asked smaller', (expected, request) => {
    const device = new CoreDevice().enrol().refill(50_000n);
    device.open(BATCH, { expectedPieces: 20, expectedCells: 2 });
    device.frank(BATCH, 0, pieces(2));
    const { state } = device;
    expect(code(device.ask(request()))).toBe(expected);
    expect(device.state).toBe(state);
    expect(code(device.ask(chunkOf(BATCH, 2, pieces(2))))).toBe('ok');
  });

  it('counts only the cells that it uses against the bound', () => {
    const device = readyDevice();
    device.open(BATCH, { expectedCells: 1 });
    const chunk = chunkOf(BATCH, 0, pieces(2));
    const unused = { ...chunk.cells[0]!, level: 'never-used' };
    expect(code(device.ask({ ...chunk, cells: [...chunk.cells, unused] }))).toBe('ok');
  });

  it('is refused beyond the limit on unconfirmed postage, and by a lock; closing goes on', () => {
    const device = readyDevice({ policy: { maxUnconfirmedPostageMills: mills(2_000n) } });
    device.open(BATCH);
    expect(code(device.ask(chunkOf(BATCH, 0, pieces(3))))).toBe('device-locked');
    device.frank(BATCH, 0, pieces(2));
    expect(code(device.ask(chunkOf(BATCH, 2, pieces(1))))).toBe('device-locked');
    expect(device.finish(BATCH).type).toBe('batch-statistics');
  });

  it('is refused once the batch is closed, before it is open, and before the device is enrolled', () => {
    const device = new CoreDevice();
    expect(code(device.ask(chunkOf(BATCH, 0, pieces(1))))).toBe('wrong-state');
    expect(code(device.open(BATCH))).toBe('wrong-state');
    device.enrol().refill(10_000n);
    expect(code(device.ask(chunkOf(BATCH, 0, pieces(1))))).toBe('no-open-batch');
    device.open(BATCH);
    device.do({ kind: 'close', batch: BATCH, reprints: 0 });
    expect(code(device.ask(chunkOf(BATCH, 0, pieces(1))))).toBe('no-open-batch');
  });

  it('is not franked in another state than the one that admitted it', () => {
    const device = readyDevice();
    device.open(BATCH);
    const admitted = { ...device.state } as never;
    expect(() =>
      device.do({ kind: 'frank', admitted: { basis: admitted } as never, salts: new Uint8Array(16) }),
    ).toThrow(/state that admitted/);
  });
});

describe('opening', () => {
  it('fixes declaration and registers; again it is without effect, with another declaration refused', () => {
    const device = readyDevice();
    expect(code(device.open(BATCH))).toBe('ok');
    device.frank(BATCH, 0, pieces(2));
    const { state } = device;
    expect(code(device.open(BATCH))).toBe('ok');
    expect(code(device.open(BATCH, { submitter: 'Someone else' }))).toBe('batch-exists');
    expect(code(device.open(batchNumbered(2)))).toBe('batch-open');
    expect(code(device.open(batchNumbered(3), {}, true))).toBe('batch-exists');
    expect(device.state).toBe(state);
    expect(state.batch?.declaration).toEqual(declarationOf(BATCH));
    expect(state.batch?.opened.pieces).toBe(0);
  });

  it.each([
    ['unknown-customer', { customer: 'nobody' as CustomerId }],
    ['limit-exceeded', { expectedPieces: 1_000_001 }],
    ['limit-exceeded', { expectedCells: 65 }],
    ['unsupported-version', { scheme: 2 }],
    ['malformed', { currency: { code: 'EUR', exponent: 3 } }],
    ['malformed', { mailingDate: '2026-02-30' }],
    ['malformed', { mailingDate: '2019-12-31' }],
  ])('is refused with %s', (expected, over) => {
    const device = readyDevice();
    const { state } = device;
    expect(code(device.open(BATCH, over))).toBe(expected);
    expect(device.state).toBe(state);
  });

  it('asks for a customer where there are any, and for none where there are none', () => {
    const { customer: _, ...withoutCustomer } = declarationOf(BATCH);
    const bureau = readyDevice();
    expect(code(bureau.try({ kind: 'open', declaration: withoutCustomer, usedBefore: false }))).toBe(
      'customer-missing',
    );
    const mailer = readyDevice({ policy: { customers: [] } });
    expect(code(mailer.open(BATCH))).toBe('unknown-customer');
    expect(code(mailer.try({ kind: 'open', declaration: withoutCustomer, usedBefore: false }))).toBe('ok');
  });

  it('is refused when the records are full, and possible again after a confirmation', () => {
    const device = readyDevice({ recordCapacity: 2 });
    for (const n of [1, 2]) {
      device.open(batchNumbered(n));
      device.finish(batchNumbered(n));
    }
    expect(code(device.open(batchNumbered(3)))).toBe('memory-full');
    const [first] = device.state.unconfirmed;
    device.confirm(first!.sequence, first!.digest);
    expect(code(device.open(batchNumbered(3)))).toBe('ok');
  });

  it('reserves room in the memory inside the device; closing gives back what was not franked', () => {
    const device = readyDevice({ memory: 'psd', policy: { memoryPieces: 100 } });
    expect(code(device.open(BATCH, { expectedPieces: 101 }))).toBe('memory-full');
    device.open(BATCH, { expectedPieces: 100 });
    device.frank(BATCH, 0, pieces(10));
    device.finish(BATCH);
    expect(code(device.open(batchNumbered(2), { expectedPieces: 91 }))).toBe('memory-full');
    expect(code(device.open(batchNumbered(2), { expectedPieces: 90 }))).toBe('ok');
    device.finish(batchNumbered(2));
    const [first] = device.state.unconfirmed;
    device.confirm(first!.sequence, first!.digest);
    expect(code(device.open(batchNumbered(3), { expectedPieces: 100 }))).toBe('ok');
  });
});

describe('spoiling and closing', () => {
  it('spoils by number, once, only pieces of the open batch, and all or none', () => {
    const device = readyDevice();
    device.open(BATCH);
    device.frank(BATCH, 0, pieces(5));
    device.do({ kind: 'spoil', batch: BATCH, pieceNumbers: [4, 2] });
    const { state } = device;
    device.do({ kind: 'spoil', batch: BATCH, pieceNumbers: [2, 4, 4] });
    expect(device.state).toBe(state);
    expect(code(device.try({ kind: 'spoil', batch: BATCH, pieceNumbers: [1, 6] }))).toBe('unknown-piece');
    expect(code(device.try({ kind: 'spoil', batch: BATCH, pieceNumbers: [0] }))).toBe('unknown-piece');
    expect(device.state.batch?.spoiled).toEqual([2, 4]);
    device.do({ kind: 'close', batch: BATCH, reprints: 0 });
    expect(code(device.try({ kind: 'spoil', batch: BATCH, pieceNumbers: [1] }))).toBe('no-open-batch');
  });

  it('bounds the spoiled numbers by what a record holds', () => {
    const device = readyDevice({ policy: { highestFundsMills: mills(10n ** 12n) } });
    device.open(BATCH, { expectedPieces: 20_000 });
    for (let i = 0; i < 11; i++) device.frank(BATCH, i * 1_000, pieces(1_000, 100));
    const numbers = Array.from({ length: 10_001 }, (_, i) => i + 1);
    expect(code(device.try({ kind: 'spoil', batch: BATCH, pieceNumbers: numbers }))).toBe('too-many-spoiled');
    expect(code(device.try({ kind: 'spoil', batch: BATCH, pieceNumbers: numbers.slice(1) }))).toBe('ok');
  });

  it('closes once; asked again it corrects the reprints alone', () => {
    const device = readyDevice();
    device.open(BATCH);
    device.frank(BATCH, 0, pieces(1));
    device.do({ kind: 'close', batch: BATCH, reprints: 1 });
    const { state } = device;
    device.refill(1_000n);
    device.do({ kind: 'close', batch: BATCH, reprints: 3 });
    expect(device.state.batch?.closing).toEqual({ ...state.batch?.closing, reprints: 3 });
    expect(code(device.try({ kind: 'close', batch: batchNumbered(2), reprints: 0 }))).toBe('no-open-batch');
  });
});
