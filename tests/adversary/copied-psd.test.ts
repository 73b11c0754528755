/**
 * The attack that is not stopped: a copied PSD whose second branch never reaches server or scanner. On the device's own core, what
 * is seen of it (nothing), what it can cost under the caps, and what a single report or scan of it shows.
 *
 * SECURITY.md has the formula: copies x min(funds in the copied store, room below the limit on unconfirmed postage).
 */
import { recordIdentity, type VerifiedRecord } from '@countermark/verify/record';
import { CHAIN_START, judge } from '@countermark/verify/chain';
import type { BatchStatistics } from '@countermark/protocol/messages/batch-statistics';
import { mills } from '@countermark/protocol/money';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { CoreDevice } from '../../packages/psd/testing/core-device.ts';
import { batchNumbered, pieces } from '../../packages/psd/testing/mailing.ts';

const PIECE_MILLS = 740n;

function statisticsOf(record: VerifiedRecord): BatchStatistics {
  if (record.type !== 'batch-statistics') throw new Error('no batch');
  return record.verified.message;
}

/** Franks as long as the device lets it; the batch's record, which nobody sends. */
function exhausted(device: CoreDevice, batch: number): BatchStatistics {
  const id = batchNumbered(batch);
  if (!device.open(id, { expectedPieces: 1_000 }).ok) throw new Error('not even open');
  let index = 0;
  for (const size of [16, 4, 1]) {
    for (;;) {
      const before = device.state;
      try {
        device.frank(id, index, pieces(size));
      } catch {
        device.state = before;
        break;
      }
      index += size;
    }
  }
  return statisticsOf(device.finish(id));
}

function postageOf({ observed }: BatchStatistics): bigint {
  return observed.closed.ascendingMills - observed.opened.ascendingMills;
}

const worlds = fc.record({
  fundsMills: fc.bigInt({ min: PIECE_MILLS, max: 40_000n }),
  unconfirmedMills: fc.bigInt({ min: PIECE_MILLS, max: 40_000n }),
  copies: fc.integer({ min: 1, max: 3 }),
});

describe('A copied PSD whose second branch never reaches server or scanner', () => {
  test('is not seen, and costs at most the copies times what funds and caps leave', () => {
    fc.assert(
      fc.property(worlds, ({ fundsMills, unconfirmedMills, copies }) => {
        const device = new CoreDevice()
          .enrol({ maxUnconfirmedPostageMills: mills(unconfirmedMills) })
          .refill(fundsMills);
        const copied = device.state;
        const bound = fundsMills < unconfirmedMills ? fundsMills : unconfirmedMills;
        let costMills = 0n;
        for (let copy = 1; copy <= copies; copy += 1) {
          device.state = copied;
          const hidden = postageOf(exhausted(device, copy));
          expect(hidden).toBeLessThanOrEqual(bound);
          // The bound is what the attack really reaches, to a piece.
          expect(hidden + PIECE_MILLS).toBeGreaterThan(bound - (bound % PIECE_MILLS));
          costMills += hidden;
        }
        expect(costMills).toBeLessThanOrEqual(BigInt(copies) * bound);
        // What reports is one good chain: nobody can tell.
        device.state = copied;
        const reported = device;
        reported.open(batchNumbered(99), {});
        reported.frank(batchNumbered(99), 0, pieces(1));
        const verdict = judge(CHAIN_START, reported.finish(batchNumbered(99)), () => null);
        expect(verdict.outcome).toBe('continues');
      }),
      { numRuns: 25 },
    );
  });

  test('is seen by the first record of it that reports, and by the first two pieces that are scanned', () => {
    const device = new CoreDevice().enrol().refill(100_000n);
    const copied = device.state;
    const own = batchNumbered(1);
    device.open(own, {});
    device.frank(own, 0, pieces(3));
    const reported = device.finish(own);
    device.state = copied;
    const hidden = batchNumbered(2);
    device.open(hidden, {});
    device.frank(hidden, 0, pieces(5));
    const branch = device.finish(hidden);
    const { digest, sequence } = recordIdentity(reported);
    const first = judge(CHAIN_START, reported, () => null);
    if (first.outcome !== 'continues') throw new Error(first.outcome);
    const second = judge(first.head, branch, (at) => (at === sequence ? digest : null));
    expect(second).toMatchObject({ outcome: 'rejected', rejection: { code: 'fork' } });
    // Both branches numbered the same pieces: duplicates by device and piece number.
    const numbers = [reported, branch].map((record) => statisticsOf(record).observed.firstPieceNumber);
    expect(new Set(numbers).size).toBe(1);
  });
});
