/**
 * Money that goes into a deposit, out of it, and back to it: payments by operators, and the postage of spoiled pieces after the scan
 * window, on SQLite and on a real PostgreSQL. Time is moved by hand.
 */
import { Examination } from '@countermark/node-platform/examination';
import { type Clock, systemClock } from '@countermark/node-platform/clock';
import type { CustomerId } from '@countermark/protocol/id';
import { CREDIT_GRANT } from '@countermark/protocol/messages/grant';
import { LedgerCheck } from '@countermark/server/ledger-check';
import { checkLog } from '@countermark/server/log-check';
import { Registry } from '@countermark/server/registry';
import { trustedKeys } from '@countermark/verify/trust-bundle';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { SimulatedBatch, SimulatedDevice } from '../../bench/src/simulated-device.ts';
import { testPostgres } from '../postgres.ts';
import { grantOf } from './server-grants.ts';
import { ask, enrolled, eventually, licensee, type Parties, startParties, submit } from './server-parties.ts';

const postgres = await testPostgres();
const DAY_MS = 86_400_000;
const WINDOW_DAYS = 30;
const DEPOSIT_MILLS = 1_000_000n;
const FUNDS_MILLS = 200_000n;
const PIECE_MILLS = 740n;
const ACME = 'acme' as CustomerId;

afterAll(async () => {
  if (typeof postgres !== 'string') await postgres.stop();
});

describe.each(['SQLite', 'PostgreSQL'])('On %s', (kind) => {
  const skipped = kind === 'PostgreSQL' && typeof postgres === 'string';
  let movedMs = 0;
  const clock: Clock = {
    nowMs: () => systemClock.nowMs() + movedMs,
    sleep: (ms, signal) => systemClock.sleep(ms, signal),
  };
  let parties: Parties;
  beforeAll(async () => {
    if (skipped) return;
    parties = await startParties({
      ...(kind === 'PostgreSQL' && typeof postgres !== 'string' ? { database: postgres.url } : {}),
      clock,
      settings: { scanWindowDays: WINDOW_DAYS },
    });
  });
  afterAll(async () => {
    if (!skipped) await parties.stop();
  });

  const balance = (account: string): Promise<bigint> => parties.service.ledger.balance(account);
  const pay = (how: 'deposits' | 'payouts', id: string, amountMills: bigint, key: string, by = parties.operator) =>
    ask(parties, by, `/v1/licensees/${id}/${how}`, { amountMills: String(amountMills) }, { 'idempotency-key': key });
  const funded = async (id: string) => {
    const credential = await licensee(parties, id, String(DEPOSIT_MILLS));
    const device = await enrolled(parties, credential, id);
    await ask(parties, credential, '/v1/funds-requests', device.fundsRequest(1, FUNDS_MILLS));
    device.receive(FUNDS_MILLS);
    return { credential, device };
  };
  const booked = (credential: string, device: SimulatedDevice) =>
    eventually(
      async () => (await ask(parties, credential, `/v1/devices/${device.device}/settlement`)).json(),
      (seen) => seen['booked'] === device.sequence,
    );
  const report = async (credential: string, device: SimulatedDevice, batch: SimulatedBatch): Promise<void> => {
    const [answer] = await submit(parties, credential, [device.record(batch)]);
    expect(answer?.outcome).toBe('accepted');
    await booked(credential, device);
  };
  /** Lets days pass, and settles what is due by then. */
  const pass = async (days: number): Promise<void> => {
    movedMs += days * DAY_MS;
    while ((await parties.service.spoiledPostage.settleDue()) === 'more');
  };
  type Listed = { spoiled: { sequence: number; amountMills: string; settled: string; reason: string }[] };
  const listed = async (credential: string, id: string) =>
    (await ask(parties, credential, `/v1/licensees/${id}/spoiled-postage`)).json<Listed>().spoiled;
  /** What `countermark check` says of the ledger. */
  const problems = async (): Promise<readonly string[]> => {
    const { database, log, ledger } = parties.service;
    const roleKeys = trustedKeys(parties.bundle);
    const examination = new Examination();
    const check = await LedgerCheck.of(database, roleKeys, examination);
    const registry = new Registry(database, roleKeys);
    await checkLog({ database, roleKeys, registry, log }, examination, (records) => check.page(records));
    await check.rest(ledger, true);
    return examination.problems;
  };

  describe('Spoiled postage', () => {
    it.skipIf(skipped)('comes back to the deposit when the scan window has passed, once', async () => {
      const id = 'lic_spoiled';
      const { credential, device } = await funded(id);
      await report(credential, device, { pieces: 10, spoiled: 3, customer: ACME });
      const before = await balance(`deposit:${id}`);
      await pass(WINDOW_DAYS - 1);
      expect(await balance(`deposit:${id}`)).toBe(before);
      expect(await listed(credential, id)).toMatchObject([{ sequence: 1, amountMills: '2220', settled: 'waiting' }]);
      await pass(1);
      await pass(WINDOW_DAYS);
      expect(await balance(`deposit:${id}`)).toBe(before + 3n * PIECE_MILLS);
      expect(await balance(`postage:${id}:acme`)).toBe(7n * PIECE_MILLS);
      expect(await listed(credential, id)).toMatchObject([{ settled: 'refunded' }]);
      expect(await problems()).toEqual([]);
    });

    it.skipIf(skipped)('never comes back of an incomplete batch, nor where nothing is spoiled', async () => {
      const id = 'lic_incomplete';
      const { credential, device } = await funded(id);
      await report(credential, device, { pieces: 5, spoiled: 5, incomplete: true });
      await report(credential, device, { pieces: 5 });
      const before = await balance(`deposit:${id}`);
      await pass(WINDOW_DAYS + 1);
      expect(await balance(`deposit:${id}`)).toBe(before);
      expect(await listed(credential, id)).toEqual([]);
    });

    it.skipIf(skipped)(
      'never comes back where the device forked, or was withdrawn, before the window ended',
      async () => {
        for (const end of ['fork', 'withdrawal']) {
          const id = `lic_${end}`;
          const { credential, device } = await funded(id);
          const other = device.statistics({ pieces: 2 });
          await report(credential, device, { pieces: 4, spoiled: 4 });
          await pass(WINDOW_DAYS - 1);
          const before = await balance(`deposit:${id}`);
          if (end === 'fork') {
            expect(JSON.stringify(await submit(parties, credential, [device.seal(other)]))).toContain('fork');
          } else {
            const path = `/v1/devices/${device.device}/withdrawal`;
            expect((await ask(parties, parties.operator, path, { reason: 'sold' })).status).toBe(200);
            await report(credential, device, { pieces: 3, spoiled: 1 });
          }
          await pass(WINDOW_DAYS * 2);
          expect(await balance(`deposit:${id}`), end).toBe(before);
          const [one, ...more] = await listed(credential, id);
          expect(one, end).toMatchObject({
            settled: 'withheld',
            reason: expect.stringMatching(/different records|suspended/),
          });
          // A record that came while it was suspended is not even noted.
          expect(more).toEqual([]);
        }
        expect(await problems()).toEqual([]);
      },
    );

    it.skipIf(skipped)('is withheld by an operator who says why, as long as it is not paid back', async () => {
      const id = 'lic_withheld';
      const { credential, device } = await funded(id);
      await report(credential, device, { pieces: 4, spoiled: 2 });
      const path = `/v1/devices/${device.device}/records/1/spoiled-postage/withholding`;
      const reason = 'piece 2 was scanned';
      expect((await ask(parties, credential, path, { reason })).status).toBe(401);
      expect((await ask(parties, parties.operator, path, { reason })).json()).toMatchObject({
        settled: 'withheld',
        reason,
      });
      await report(credential, device, { pieces: 4, spoiled: 1 });
      const before = await balance(`deposit:${id}`);
      await pass(WINDOW_DAYS + 1);
      expect(await balance(`deposit:${id}`)).toBe(before + PIECE_MILLS);
      const late = path.replace('records/1', 'records/2');
      expect((await ask(parties, parties.operator, late, { reason })).json()).toMatchObject({
        code: 'spoiled-refunded',
      });
      const acts = (await ask(parties, parties.operator, `/v1/devices/${device.device}`)).json<{ acts: object[] }>()
        .acts;
      expect(acts).toMatchObject([
        { act: 'refund-withheld', operator: 'operator', words: expect.stringContaining(reason) },
      ]);
    });

    it.skipIf(skipped)('draws no credit: it comes back as postage', async () => {
      const id = 'lic_drawing';
      const { credential, device } = await funded(id);
      parties.authority.grant(CREDIT_GRANT, grantOf(id, ACME, 100_000n));
      parties.service.wake();
      await eventually(
        () => balance(`credit:${id}:acme`),
        (seen) => seen === 100_000n,
      );
      await report(credential, device, { pieces: 10, spoiled: 4, customer: ACME });
      expect(await balance(`drawn:${id}`)).toBe(6n * PIECE_MILLS);
    });
  });

  it.skipIf(skipped)('is found by the check where it was paid back too early, twice, or of no record', async () => {
    const id = 'lic_checked';
    const { credential, device } = await funded(id);
    await report(credential, device, { pieces: 4, spoiled: 2 });
    await pass(WINDOW_DAYS + 1);
    const { database } = parties.service;
    const early = async (by: bigint) =>
      database.transaction(async (tables) =>
        tables
          .updateTable('spoilage')
          .set((eb) => ({ refund_after_ms: eb('refund_after_ms', '+', by) }))
          .where('licensee', '=', id)
          .execute(),
      );
    await early(BigInt(2 * WINDOW_DAYS * DAY_MS));
    expect((await problems()).join()).toMatch(/paid back before its scan window/);
    await early(BigInt(-2 * WINDOW_DAYS * DAY_MS));
    expect(await problems()).toEqual([]);
    const lines = [
      { account: `postage:${id}`, amountMills: -1n },
      { account: `deposit:${id}`, amountMills: 1n },
    ];
    await parties.service.ledger.book([{ ref: 'spoiled:none', kind: 'spoiled', note: '', atMs: 1, lines }]);
    expect((await problems()).join()).toMatch(/entries of spoiled; \d+ have a cause/);
    await parties.service.ledger.book([
      {
        ref: `deposit:${id}:postage`,
        kind: 'deposit',
        note: '',
        atMs: 1,
        lines: lines.map((line) => ({ ...line, amountMills: -line.amountMills })),
      },
    ]);
    expect((await problems()).join()).toMatch(/is no deposit: it moves/);
  });

  it.skipIf(skipped)(
    'a deposit is paid out by an operator only, once for a key, and never more than it holds',
    async () => {
      const id = 'lic_paid-out';
      const credential = await licensee(parties, id, '1000');
      expect((await pay('payouts', id, 400n, 'one', credential)).status).toBe(401);
      expect((await pay('payouts', id, 400n, 'one')).status).toBe(201);
      expect((await pay('payouts', id, 400n, 'one')).json()).toMatchObject({ balanceMills: '600' });
      expect((await pay('payouts', id, 401n, 'one')).json()).toMatchObject({ code: 'idempotency-conflict' });
      const more = await pay('payouts', id, 601n, 'two');
      expect(more.json()).toMatchObject({ code: 'insufficient-deposit', detail: expect.stringContaining('USD 0.600') });
      expect((await pay('payouts', id, 600n, 'two')).json()).toMatchObject({ balanceMills: '0' });
      // A deposit and a payout under one key are two things.
      expect((await pay('deposits', id, 5n, 'one')).json()).toMatchObject({ balanceMills: '5' });
      expect(
        (await ask(parties, credential, `/v1/licensees/${id}/entries`))
          .json<{ entries: { kind: string }[] }>()
          .entries.map((entry) => entry.kind),
      ).toEqual(['deposit', 'payout', 'payout', 'deposit']);
    },
  );

  it.skipIf(skipped)('payouts at the same time do not take a deposit below zero', async () => {
    const id = 'lic_at-once';
    await licensee(parties, id, '1000');
    const answers = await Promise.all(Array.from({ length: 8 }, (_, i) => pay('payouts', id, 300n, `key-${i}`)));
    expect(answers.filter(({ status }) => status === 201)).toHaveLength(3);
    expect(await balance(`deposit:${id}`)).toBe(100n);
  });

  let worlds = 0;
  it.skipIf(skipped)(
    'the ledger balances whatever is done, and no mill of spoiled postage comes back twice',
    async () => {
      const STEP = fc.oneof(
        fc.record({
          does: fc.constant('frank' as const),
          pieces: fc.integer({ min: 1, max: 8 }),
          spoiled: fc.integer({ min: 0, max: 3 }),
          incomplete: fc.boolean(),
        }),
        fc.record({ does: fc.constantFrom('in', 'out', 'fund'), amount: fc.integer({ min: 1, max: 900_000 }) }),
        fc.record({ does: fc.constant('pass' as const), days: fc.integer({ min: 1, max: WINDOW_DAYS }) }),
        fc.record({ does: fc.constantFrom('withhold', 'again') }),
      );
      await fc.assert(
        fc.asyncProperty(fc.array(STEP, { maxLength: 12 }), async (steps) => {
          worlds += 1;
          const id = `lic_world-${worlds}`;
          const { credential, device } = await funded(id);
          let paidMills = DEPOSIT_MILLS;
          let spoiledMills = 0n;
          let numbers = 1;
          const moved = async (how: 'deposits' | 'payouts', amountMills: bigint): Promise<void> => {
            numbers += 1;
            const key = `k-${numbers}`;
            const done = (await pay(how, id, amountMills, key)).status === 201;
            await pay(how, id, amountMills, key);
            if (done) paidMills += how === 'deposits' ? amountMills : -amountMills;
          };
          for (const step of steps) {
            if ('pieces' in step) {
              const { pieces, incomplete } = step;
              const spoiled = Math.min(step.spoiled, pieces);
              await report(credential, device, { pieces, spoiled, incomplete });
              if (!incomplete) spoiledMills += BigInt(spoiled) * PIECE_MILLS;
            } else if ('amount' in step) {
              const amountMills = BigInt(step.amount);
              if (step.does === 'fund') {
                const held = await balance(`deposit:${id}`);
                numbers += 1;
                await ask(parties, credential, '/v1/funds-requests', device.fundsRequest(numbers, amountMills));
                const granted = held - (await balance(`deposit:${id}`));
                if (granted > 0n) device.receive(granted);
              } else await moved(step.does === 'in' ? 'deposits' : 'payouts', amountMills);
            } else if ('days' in step) await pass(step.days);
            else if (step.does === 'again') await pass(0);
            else if (device.sequence > 0) {
              const path = `/v1/devices/${device.device}/records/${device.sequence}/spoiled-postage/withholding`;
              await ask(parties, parties.operator, path, { reason: 'a doubt' });
            }
            const [deposit, inDevice, postage] = await Promise.all([
              balance(`deposit:${id}`),
              balance(`device:${device.device}`),
              balance(`postage:${id}`),
            ]);
            expect(deposit + inDevice + postage).toBe(paidMills);
            expect(deposit).toBeGreaterThanOrEqual(0n);
            expect(await parties.service.ledger.problems()).toEqual([]);
          }
          await pass(WINDOW_DAYS + 1);
          const spoiled = await listed(credential, id);
          const sum = (settled: string): bigint =>
            spoiled
              .filter((one) => one.settled === settled)
              .reduce((total, one) => total + BigInt(one.amountMills), 0n);
          expect(sum('refunded') + sum('withheld')).toBe(spoiledMills);
          expect(await balance(`postage:${id}`)).toBe(device.registers.ascendingMills - sum('refunded'));
        }),
        { numRuns: 15 },
      );
    },
  );
});
