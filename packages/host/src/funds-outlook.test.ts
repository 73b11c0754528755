/**
 * What is said of the funds before a mailing begins.
 */
import { expect, test } from 'vitest';
import { fundsWarnings, type FundsSituation } from './funds-outlook.ts';

const warned = (rest: Partial<FundsSituation> = {}): string =>
  fundsWarnings({
    neededMills: 1_500n,
    availableMills: 1_000n,
    depositMills: 10_000n,
    highestMills: 50_000n,
    automatic: false,
    currency: { code: 'USD', exponent: 3 },
    ...rest,
  }).join('|');

test('Nothing is said where the funds suffice, to the last mill', () => {
  expect(warned({ neededMills: 1_000n })).toBe('');
  expect(warned({ neededMills: 1_001n })).not.toBe('');
});

test('What is missing is said, what will happen, and the command that helps', () => {
  expect(warned()).toBe(
    'The mailing needs USD 1.500 and the device has USD 1.000: USD 0.500 are missing. Franking stops when the funds are used up, and the same command goes on after a refill: countermark funds refill 0.500',
  );
});

test('A host that asks by itself says so, and names no command', () => {
  const said = warned({ automatic: true });
  expect(said).toContain('The host asks for refills by itself');
  expect(said).not.toContain('countermark funds refill');
});

test('A deposit that does not suffice: what must be paid in, and only what it holds is asked for', () => {
  const said = warned({ depositMills: 200n });
  expect(said).toContain('The deposit holds USD 0.200: USD 0.300 more must be paid in');
  expect(said).toContain('funds refill 0.200');
  const owing = warned({ depositMills: -100n });
  expect(owing).toContain('The deposit holds USD -0.100: USD 0.500 more must be paid in');
  expect(owing).not.toContain('funds refill');
});

test('A server that does not say what the deposit holds is named', () => {
  expect(warned({ depositMills: null })).toContain('What the deposit holds is not known');
});

test('A mailing that costs more than the device may hold is refilled more than once, each time as far as it may', () => {
  const said = warned({ highestMills: 1_200n });
  expect(said).toContain('The device may hold at most USD 1.200: it must be refilled again, each time');
  expect(said).toContain('funds refill 0.200');
  expect(warned({ highestMills: 1_200n, automatic: true })).toContain('several times');
});
