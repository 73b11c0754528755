/**
 * The automatic refill: when it asks, for how much, and that a refusal is said once and stops nothing.
 */
import { Fault } from '@countermark/node-platform/fault';
import { ManualClock } from '@countermark/node-platform/manual-clock';
import { openLog } from '@countermark/node-platform/logs';
import type { JobId } from '@countermark/protocol/id';
import type { FundsGrant } from '@countermark/protocol/messages/funds';
import { mills } from '@countermark/protocol/money';
import { accept, type Result } from '@countermark/protocol/result';
import { beforeEach, expect, test } from 'vitest';
import { AutomaticRefill } from './automatic-refill.ts';

const JOB = 'job_one' as JobId;
let availableMills: bigint;
let pending: number | undefined;
let asked: bigint[];
let statuses: number;
let said: string[];
let answer: (amountMills: bigint) => Result<FundsGrant>;
let highestMills: bigint | null;

const grant = (amountMills: bigint, refusal?: string): Result<FundsGrant> =>
  accept({ amountMills: mills(amountMills), draws: [], refusal } as unknown as FundsGrant);
const granting = (amountMills: bigint): Result<FundsGrant> => {
  availableMills += amountMills;
  return grant(amountMills);
};

beforeEach(() => {
  availableMills = 0n;
  pending = undefined;
  asked = [];
  statuses = 0;
  said = [];
  answer = granting;
  highestMills = null;
});

function refill(belowMills = 1_000n, toMills = 5_000n): AutomaticRefill {
  return new AutomaticRefill({
    belowMills,
    toMills,
    psd: {
      call: async () => {
        statuses += 1;
        return accept({ registers: { descendingMills: availableMills }, pendingFundsRequest: pending }) as never;
      },
      close: () => undefined,
    },
    funds: {
      request: async (amountMills: bigint) => {
        asked.push(amountMills);
        return answer(amountMills);
      },
      complete: async () => {
        pending = undefined;
        return granting(4_500n);
      },
    },
    highestMills: () => highestMills,
    clock: new ManualClock(1_000),
    log: openLog('test', { write: (line) => void said.push(line) }),
  });
}

/** Debits a chunk, as the device does, and tells of it. */
async function frank(automatic: AutomaticRefill, postageMills: bigint): Promise<void> {
  availableMills -= postageMills;
  await automatic.franked(postageMills, JOB);
}

test('Below the threshold it asks for what is missing, and for nothing above it; the device is looked at only when it may be low', async () => {
  availableMills = 2_000n;
  const automatic = refill();
  await automatic.franked(0n, JOB);
  for (let i = 0; i < 10; i++) await frank(automatic, 100n);
  expect(asked).toEqual([]);
  expect(statuses).toBe(1);
  await frank(automatic, 100n);
  expect(asked).toEqual([4_100n]);
  expect(availableMills).toBe(5_000n);
  for (let i = 0; i < 40; i++) await frank(automatic, 100n);
  expect(asked).toEqual([4_100n]);
});

test('It never asks for more than the device may hold', async () => {
  highestMills = 3_000n;
  await refill().franked(0n, JOB);
  expect(asked).toEqual([3_000n]);
});

test('Where the threshold is nothing it asks for nothing, not even when the funds are used up', async () => {
  const automatic = refill(0n, 0n);
  await automatic.franked(0n, JOB);
  expect(await automatic.usedUp(JOB)).toBe(false);
  expect(asked).toEqual([]);
  expect(automatic.report()).toBeNull();
});

test('A request that was cut off is completed first: no second one where it brought enough', async () => {
  pending = 7;
  await refill().franked(0n, JOB);
  expect(asked).toEqual([]);
  expect(availableMills).toBe(4_500n);
});

test('A refusal is said once and asked again only when the funds are used up, or after a refill', async () => {
  answer = () => grant(0n, 'insufficient-deposit: the deposit holds USD 0.000');
  availableMills = 900n;
  const automatic = refill();
  for (let i = 0; i < 5; i++) await frank(automatic, 100n);
  expect(asked).toHaveLength(1);
  expect(automatic.report()).toEqual({
    belowMills: '1000',
    toMills: '5000',
    refused: { reason: 'insufficient-deposit: the deposit holds USD 0.000', atMs: 1_000 },
  });
  expect(await automatic.usedUp(JOB)).toBe(false);
  expect(asked).toHaveLength(2);
  expect(said).toHaveLength(1);
  answer = granting;
  expect(await automatic.usedUp(JOB)).toBe(true);
  expect(automatic.refusal).toBeNull();
});

test('Where the next pieces cost more than the device has, the threshold does not matter', async () => {
  availableMills = 3_000n;
  const automatic = refill();
  await automatic.franked(0n, JOB);
  expect(asked).toEqual([]);
  expect(await automatic.usedUp(JOB)).toBe(true);
  expect(asked).toEqual([2_000n]);
  expect(await automatic.usedUp(JOB)).toBe(false);
});

test('A server that is away stops no franking', async () => {
  answer = () => {
    throw new Fault('server-unreachable', 'the server does not answer', { retry: 'later' });
  };
  const automatic = refill();
  await automatic.franked(0n, JOB);
  await automatic.franked(0n, JOB);
  expect(asked).toHaveLength(1);
  expect(automatic.refusal).toMatch(/does not answer/);
  automatic.renew();
  answer = granting;
  await automatic.franked(0n, JOB);
  expect(availableMills).toBe(5_000n);
});
