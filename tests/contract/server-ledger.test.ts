/**
 * The ledger on SQLite and on a real PostgreSQL: one contract, with properties.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { CustomerId, DeviceId, LicenseeId } from '@countermark/protocol/id';
import { ACCOUNT, Ledger, type NewEntry } from '@countermark/server/ledger';
import { MIGRATIONS, type ServerTables } from '@countermark/server/tables';
import { openDatabase, type SqlDatabase } from '@countermark/sql/database';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type TestPostgres, testPostgres } from '../postgres.ts';

const LICENSEE = 'lic_one' as LicenseeId;
const OTHER = 'lic_one-b' as LicenseeId;
const DEVICE = 'psd_0123456789abcdef' as DeviceId;
const folder = mkdtempSync(join(tmpdir(), 'ledger-'));
const postgres = await testPostgres();
const kinds: readonly (readonly [string, () => string])[] = [
  ['SQLite', () => `sqlite://${join(folder, 'ledger.sqlite')}`],
  ['PostgreSQL', () => (postgres as TestPostgres).url],
];

afterAll(async () => {
  if (typeof postgres !== 'string') await postgres.stop();
  rmSync(folder, { recursive: true });
});

function transfer(ref: string, from: string, to: string, amountMills: bigint): NewEntry {
  return {
    ref,
    kind: 'deposit',
    note: ref,
    atMs: 1,
    lines: [
      { account: from, amountMills: -amountMills },
      { account: to, amountMills },
    ],
  };
}

describe.each(kinds)('The ledger on %s', (name, url) => {
  const skipped = name === 'PostgreSQL' && typeof postgres === 'string';
  let database: SqlDatabase<ServerTables>;
  let ledger: Ledger;
  beforeAll(async () => {
    if (skipped) return;
    database = await openDatabase<ServerTables>(url(), { migrations: MIGRATIONS, schema: 'countermark_server' });
    ledger = new Ledger(database);
  });
  afterAll(async () => {
    if (!skipped) await database.close();
  });

  it.skipIf(skipped)('books each ref once, and says which were new', async () => {
    const one = transfer('a1', 'world', 'deposit:lic_a', 100n);
    const two = transfer('a2', 'world', 'deposit:lic_a', 7n);
    expect((await ledger.book([one])).map((entry) => entry.ref)).toEqual(['a1']);
    expect((await ledger.book([one, two, two])).map((entry) => entry.ref)).toEqual(['a2']);
    expect(await ledger.balance('deposit:lic_a')).toBe(107n);
    expect(await ledger.amountOf('a1', 'deposit:lic_a')).toBe(100n);
    expect(await ledger.amountOf('a3', 'deposit:lic_a')).toBeNull();
  });

  it.skipIf(skipped)('refuses an entry that does not sum to zero, and books nothing of its unit', async () => {
    const bad: NewEntry = { ...transfer('b2', 'world', 'x', 1n), lines: [{ account: 'x', amountMills: 1n }] };
    await expect(ledger.book([transfer('b1', 'world', 'deposit:lic_b', 5n), bad])).rejects.toThrow(RangeError);
    expect(await ledger.balance('deposit:lic_b')).toBe(0n);
  });

  it.skipIf(skipped)('holds amounts beyond 2^53 exactly', async () => {
    const amount = (1n << 61n) + 1n;
    await ledger.book([transfer('c1', 'world:c', 'deposit:lic_c', amount)]);
    expect(await ledger.balance('deposit:lic_c')).toBe(amount);
    expect(await ledger.balance('world:c')).toBe(-amount);
  });

  it.skipIf(skipped)('shows a licensee its own accounts and entries only', async () => {
    const customer = 'acme' as CustomerId;
    await ledger.book([
      transfer('d1', 'world', ACCOUNT.deposit(LICENSEE), 50n),
      transfer('d2', ACCOUNT.deposit(LICENSEE), ACCOUNT.device(DEVICE), 20n),
      transfer('d3', ACCOUNT.device(DEVICE), ACCOUNT.of('postage', LICENSEE, customer), 8n),
      transfer('d4', ACCOUNT.authorityDiscounts, ACCOUNT.of('discount', LICENSEE, undefined), 2n),
      transfer('d5', 'world', ACCOUNT.deposit(OTHER), 99n),
    ]);
    expect(await ledger.accounts(LICENSEE, [DEVICE])).toEqual([
      { account: `deposit:${LICENSEE}`, balanceMills: 30n },
      { account: `device:${DEVICE}`, balanceMills: 12n },
      { account: `discount:${LICENSEE}`, balanceMills: 2n },
      { account: `postage:${LICENSEE}:acme`, balanceMills: 8n },
    ]);
    const refs = async (after: bigint) =>
      (await ledger.entries(LICENSEE, [DEVICE], after, 3)).map((entry) => entry.ref);
    expect(await refs(0n)).toEqual(['d1', 'd2', 'd3']);
    const third = (await ledger.entries(LICENSEE, [DEVICE], 0n, 3))[2]!;
    expect(third.lines.map((line) => line.amountMills)).toEqual([-8n, 8n]);
    expect(await refs(third.number)).toEqual(['d4']);
    expect(await ledger.accounts(OTHER, [])).toEqual([{ account: `deposit:${OTHER}`, balanceMills: 99n }]);
  });

  it.skipIf(skipped)('books what many book at once, each ref once', async () => {
    const entries = Array.from({ length: 10 }, (_, i) => transfer(`e${i}`, 'world', 'deposit:lic_e', 1n));
    const booked = await Promise.all([
      ...entries.map((entry) => ledger.book([entry])),
      ledger.book(entries),
      ledger.book([...entries].reverse()),
    ]);
    expect(booked.flat()).toHaveLength(10);
    expect(await ledger.balance('deposit:lic_e')).toBe(10n);
  });

  it.skipIf(skipped)(
    'conserves money: whatever is booked, balances are the sums of lines and all sum to zero',
    async () => {
      let run = 0;
      const amounts = fc.array(fc.tuple(fc.nat(5), fc.nat(5), fc.bigInt({ min: 0n, max: 1n << 40n })), {
        maxLength: 12,
      });
      await fc.assert(
        fc.asyncProperty(amounts, fc.nat(), async (moves, split) => {
          run += 1;
          const account = (i: number): string => `p${run}:${i}`;
          const entries = moves.map(([from, to, amount], i) =>
            transfer(`p${run}-${i}`, account(from), account(to), amount),
          );
          const at = entries.length === 0 ? 0 : split % entries.length;
          // In two units that overlap, as after a lost answer.
          await ledger.book(entries.slice(0, at + 1));
          await ledger.book(entries.slice(Math.max(0, at - 2)));
          const expected = new Map<string, bigint>();
          for (const { lines } of entries) {
            for (const line of lines) expected.set(line.account, (expected.get(line.account) ?? 0n) + line.amountMills);
          }
          let sum = 0n;
          for (const [name, balance] of expected) {
            expect(await ledger.balance(name)).toBe(balance);
            sum += balance;
          }
          expect(sum).toBe(0n);
        }),
        { numRuns: name === 'SQLite' ? 40 : 15 },
      );
      expect(await ledger.problems()).toEqual([]);
    },
  );
});
