// The minimums: 500 presorted pieces of a product in a mailing, 150 in a 5-digit group.
import { describe, expect, it } from 'vitest';
import { type CountedPiece, describeShortfall, type Shortfall, startMinimumCheck } from './minimums.ts';
import { SHIPPED_TARIFFS } from './shipped.ts';
import type { Tariff } from './tariff.ts';

const usps = SHIPPED_TARIFFS[0]?.tariff as Tariff;

function shortfallsOf(...lots: (Partial<CountedPiece> & { pieces: number })[]): Shortfall[] {
  const check = startMinimumCheck(usps);
  for (const { pieces, ...lot } of lots) {
    const piece = { customer: 'alder-press', product: 'usps-fcm-letter', level: 'aadc', zip5: '02139', ...lot };
    for (let counted = 0; counted < pieces; counted += 1) check.count(piece);
  }
  return check.shortfalls();
}

describe('the minimum of a mailing', () => {
  it('is met by exactly 500 presorted pieces, over all presort levels', () => {
    expect(shortfallsOf({ pieces: 350 }, { pieces: 150, level: '5-digit' })).toEqual([]);
    expect(shortfallsOf({ pieces: 499 })).toEqual([
      {
        minimum: 'mailing',
        customer: 'alder-press',
        product: 'usps-fcm-letter',
        level: null,
        group: null,
        pieces: 499,
        minimumPieces: 500,
      },
    ]);
  });

  it('counts each customer and each product for itself', () => {
    const short = shortfallsOf(
      { pieces: 499 },
      { pieces: 499, customer: 'birch-mutual' },
      { pieces: 499, product: 'usps-fcm-card' },
    );
    expect(short.map(({ customer, product }) => [customer, product])).toEqual([
      ['alder-press', 'usps-fcm-letter'],
      ['alder-press', 'usps-fcm-card'],
      ['birch-mutual', 'usps-fcm-letter'],
    ]);
  });

  it('asks nothing of single pieces, which do not help either', () => {
    expect(shortfallsOf({ pieces: 3, level: 'single-piece' })).toEqual([]);
    expect(shortfallsOf({ pieces: 499 }, { pieces: 10, level: 'single-piece' })).toMatchObject([{ pieces: 499 }]);
  });
});

describe('the minimum of a 5-digit group', () => {
  it('is met by exactly 150 pieces that were declared so for one ZIP Code', () => {
    expect(shortfallsOf({ pieces: 350 }, { pieces: 150, level: '5-digit' })).toEqual([]);
    const short = shortfallsOf(
      { pieces: 500 },
      { pieces: 149, level: '5-digit' },
      { pieces: 151, level: '5-digit', zip5: '02140' },
    );
    expect(short).toMatchObject([
      { minimum: 'group', level: '5-digit', group: '02139', pieces: 149, minimumPieces: 150 },
    ]);
  });

  it('is not met by pieces of another customer, product or level in the same ZIP Code', () => {
    const short = shortfallsOf(
      { pieces: 500 },
      { pieces: 149, level: '5-digit' },
      { pieces: 500, level: '5-digit', customer: 'birch-mutual' },
      { pieces: 500, level: '5-digit', product: 'usps-fcm-flat' },
    );
    expect(short).toMatchObject([{ customer: 'alder-press', product: 'usps-fcm-letter', pieces: 149 }]);
  });
});

it('leaves products without a price to rating', () => {
  expect(shortfallsOf({ pieces: 1, product: 'usps-fcm-parcel' })).toEqual([]);
});

it('says a shortfall in words: who, what, how many, and what can be done', () => {
  const [mailing, group] = shortfallsOf({ pieces: 3, level: '5-digit' }).map(describeShortfall);
  expect(mailing).toMatch(
    /^alder-press: 3 presorted pieces of usps-fcm-letter, and a mailing needs 500\..*single-piece/,
  );
  expect(group).toMatch(/^alder-press: 3 pieces .*5-digit for ZIP 02139, .*150\. Declare/);
  const [own] = shortfallsOf({ pieces: 3, customer: '' }).map(describeShortfall);
  expect(own).toMatch(/^Own mail: 3 presorted pieces/);
});
