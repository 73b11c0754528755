/**
 * The check of accounts that the process tests rely on (tests/accounting.ts) sees what it is there to see: each tampering with
 * evidence that fits is told.
 */
import { describe, expect, it } from 'vitest';
import { type Evidence, unaccounted } from '../accounting.ts';

const BATCH = {
  id: 'bat_1',
  pieces: 2,
  postageMills: '1480',
  state: 'confirmed',
  deletedFromPsd: true,
  sequence: 1,
  digest: 'd1',
  firstPieceNumber: 1,
};

/** Two pieces of 740 mills in one batch, and nothing else in the device's life. */
function whole() {
  const piece = (pieceNumber: number) => ({
    key: `A-${pieceNumber}`,
    pieceNumber,
    postageMills: 740n,
    indicium: { pieceNumber, postageMills: 740n, device: 'psd_1' },
  });
  const zero = { ascendingMills: 0n, descendingMills: 10_000n, pieces: 0 };
  const closed = { ascendingMills: 1_480n, descendingMills: 8_520n, pieces: 2 };
  return {
    report: {
      pieces: 2,
      postageMills: '1480',
      batches: [{ ...BATCH }],
      registers: { ascendingMills: '1480', descendingMills: '8520', controlTotalMills: '10000', pieces: 2 },
    },
    pieces: [piece(1), piece(2)],
    records: [
      {
        digest: 'd1',
        statistics: {
          sequence: 1,
          observed: {
            opened: zero,
            closed,
            incomplete: false,
            cells: [{ pieces: 1, postageMills: 740n }],
            spoiledPieces: 1,
            spoiledPostageMills: 740n,
          },
        },
      },
    ],
    batches: [{ ...BATCH }],
    device: { device: 'psd_1', sequence: 1, registers: closed, funds: { receivedMills: 10_000n, returnedMills: 0n } },
  };
}

type Whole = ReturnType<typeof whole>;
const judged = (evidence: unknown): string[] => unaccounted(evidence as Evidence);

describe('The check of accounts', () => {
  it('finds nothing where all fits', () => {
    expect(judged(whole())).toEqual([]);
  });

  it.each<readonly [string, (evidence: Whole) => void, RegExp]>([
    ['a piece that is missing', ({ pieces }) => void pieces.pop(), /pieces of bat_1/],
    ['a piece that is there twice', ({ pieces }) => void pieces.splice(1, 1, pieces[0]!), /numbers/],
    ['two pieces with one key', ({ pieces }) => void (pieces[1]!.key = 'A-1'), /keys/],
    [
      'an indicium of another amount',
      ({ pieces }) => void (pieces[0]!.indicium.postageMills = 741n),
      /postage of piece 1/,
    ],
    ['an indicium of another device', ({ pieces }) => void (pieces[0]!.indicium.device = 'psd_2'), /device of piece 1/],
    ['a mill too much in the report', ({ report }) => void (report.postageMills = '1481'), /merge file/],
    ['a record that is not confirmed', ({ report }) => void (report.batches[0]!.state = 'sent'), /state/],
    ['a record that is missing', ({ records }) => void records.pop(), /records and batches/],
    [
      'cells that lack a piece',
      ({ records }) => void (records[0]!.statistics.observed.spoiledPieces = 0),
      /cells and spoiled/,
    ],
    ['a debit without a piece', ({ device }) => void (device.registers.ascendingMills += 740n), /ascending/],
    ['a gap in the numbers', ({ batches }) => void (batches[0]!.firstPieceNumber = 2), /first number/],
    ['a piece that only the device counted', ({ device }) => void (device.registers.pieces += 1), /piece counter/],
    ['funds from nowhere', ({ device }) => void (device.registers.descendingMills += 1n), /registers and funds/],
    ['a sequence that is missing', ({ device }) => void (device.sequence = 2), /sequences/],
  ])('tells %s', (_, tamper, words) => {
    const evidence = whole();
    tamper(evidence);
    expect(judged(evidence).join('\n')).toMatch(words);
  });
});
