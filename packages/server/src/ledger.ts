/**
 * The ledger: double-entry, append-only, one entry per cause.
 *
 * Guarantees: the lines of every entry sum to zero; an entry's `ref` names its cause (a record's digest, a grant's digest, a
 * funds request, a dead device, an operator's key) and is booked once, at every repeat; balances are kept with the entries in the same unit of work. Amounts
 * of lines are signed: positive is what an account receives.
 * Accounts: `deposit:LIC`, `device:PSD` (funds in the device, until its confirmed records say what was franked),
 * `postage:LIC:CUSTOMER`, `discount:LIC:CUSTOMER`, `credit:LIC:CUSTOMER` (waiting to be drawn), `drawn:LIC` (drawn, waiting for
 * a funds grant), `authority:discounts`, `authority:credits`, `world`. Without customer (`postage:LIC`) it is the licensee's own.
 * Does not decide what may be booked.
 */
import type { CustomerId, DeviceId, LicenseeId } from '@countermark/protocol/id';
import type { SqlDatabase } from '@countermark/sql/database';
import type { Kysely, Transaction } from 'kysely';
import { insertRows } from './rows.ts';
import type { ServerTables } from './tables.ts';

export type Line = { readonly account: string; readonly amountMills: bigint };
export type NewEntry = {
  readonly ref: string;
  readonly kind:
    | 'deposit'
    | 'funds'
    | 'postage'
    | 'discount'
    | 'credit'
    | 'draw'
    | 'correction'
    | 'refund'
    | 'spoiled'
    | 'payout';
  /** In words, for people. */
  readonly note: string;
  readonly atMs: number;
  readonly lines: readonly Line[];
};
export type Entry = NewEntry & { readonly number: bigint };
export type Balance = { readonly account: string; readonly balanceMills: bigint };

type BeneficiaryAccount = 'postage' | 'discount' | 'credit';

/** An account by what it holds and for whom. */
export const ACCOUNT = {
  world: 'world',
  authorityDiscounts: 'authority:discounts',
  authorityCredits: 'authority:credits',
  deposit: (licensee: LicenseeId) => `deposit:${licensee}`,
  drawn: (licensee: LicenseeId) => `drawn:${licensee}`,
  device: (device: DeviceId) => `device:${device}`,
  of: (kind: BeneficiaryAccount, licensee: LicenseeId, customer: CustomerId | undefined) =>
    customer === undefined ? `${kind}:${licensee}` : `${kind}:${licensee}:${customer}`,
} as const;

export type LedgerTransaction = Transaction<ServerTables>;

export class Ledger {
  readonly #database: SqlDatabase<ServerTables>;

  constructor(database: SqlDatabase<ServerTables>) {
    this.#database = database;
  }

  /** Books entries in a unit of work of their own; see {@link bookIn}. */
  async book(entries: readonly NewEntry[]): Promise<readonly NewEntry[]> {
    return this.#database.transaction(async (tables) => this.bookIn(tables, entries));
  }

  /**
   * Books within the caller's unit of work and returns the entries that were new: those whose ref was booked before are
   * left as they stand. @throws RangeError for an entry that does not sum to zero.
   */
  async bookIn(tables: LedgerTransaction, entries: readonly NewEntry[]): Promise<readonly NewEntry[]> {
    for (const { ref, lines } of entries) {
      if (lines.reduce((sum, line) => sum + line.amountMills, 0n) !== 0n) {
        throw new RangeError(`The entry ${ref} does not sum to zero.`);
      }
    }
    const byRef = new Map<string, NewEntry>();
    for (const entry of entries) if (!byRef.has(entry.ref)) byRef.set(entry.ref, entry);
    if (byRef.size === 0) return [];
    const booked = await tables
      .selectFrom('entry')
      .select('ref')
      .where('ref', 'in', [...byRef.keys()])
      .execute();
    for (const { ref } of booked) byRef.delete(ref);
    const fresh = [...byRef.values()];
    if (fresh.length === 0) return [];
    const last = await tables
      .selectFrom('entry')
      .select((eb) => eb.fn.max('number').as('number'))
      .executeTakeFirst();
    let number = last?.number ?? 0n;
    const rows: [bigint, string, string, string, bigint][] = [];
    const lineRows: [bigint, string, bigint][] = [];
    const moved = new Map<string, bigint>();
    for (const entry of fresh) {
      number += 1n;
      rows.push([number, entry.ref, entry.kind, entry.note, BigInt(entry.atMs)]);
      for (const { account, amountMills } of merged(entry.lines)) {
        lineRows.push([number, account, amountMills]);
        moved.set(account, (moved.get(account) ?? 0n) + amountMills);
      }
    }
    const { kind } = this.#database;
    await tables.executeQuery(insertRows(kind, 'entry (number, ref, kind, note, at_ms)', rows));
    if (lineRows.length > 0) {
      await tables.executeQuery(insertRows(kind, 'entry_line (entry, account, amount_mills)', lineRows));
      await tables.executeQuery(
        insertRows(
          kind,
          'balance (account, balance_mills)',
          [...moved].sort(([one], [other]) => (one < other ? -1 : 1)),
          'ON CONFLICT (account) DO UPDATE SET balance_mills = balance.balance_mills + excluded.balance_mills',
        ),
      );
    }
    return fresh;
  }

  /** The balance of an account within a unit of work; 0 for one that was never used. */
  async balanceIn(tables: LedgerTransaction, account: string): Promise<bigint> {
    const row = await tables
      .selectFrom('balance')
      .select('balance_mills')
      .where('account', '=', account)
      .executeTakeFirst();
    return row?.balance_mills ?? 0n;
  }

  async balance(account: string): Promise<bigint> {
    return this.#database.read(async (tables) => {
      const row = await tables
        .selectFrom('balance')
        .select('balance_mills')
        .where('account', '=', account)
        .executeTakeFirst();
      return row?.balance_mills ?? 0n;
    });
  }

  /** What the entry of that ref moved in the account, or null where there is none. */
  async amountOf(ref: string, account: string): Promise<bigint | null> {
    return this.#database.read((tables) => this.amountIn(tables, ref, account));
  }

  /** The same within a unit of work. */
  async amountIn(tables: Kysely<ServerTables>, ref: string, account: string): Promise<bigint | null> {
    const entry = await tables.selectFrom('entry').select('number').where('ref', '=', ref).executeTakeFirst();
    if (entry === undefined) return null;
    const line = await tables
      .selectFrom('entry_line')
      .select('amount_mills')
      .where('entry', '=', entry.number)
      .where('account', '=', account)
      .executeTakeFirst();
    return line?.amount_mills ?? 0n;
  }

  /** The accounts of a licensee and of these devices, by name; only those of its customer, where one is given. */
  async accounts(
    licensee: LicenseeId,
    devices: readonly DeviceId[],
    customer: CustomerId | null = null,
  ): Promise<readonly Balance[]> {
    const rows = await this.#database.read(async (tables) =>
      tables
        .selectFrom('balance')
        .selectAll()
        .where((eb) => eb.or(ownAccounts(licensee, devices, customer).map(([op, name]) => eb('account', op, name))))
        .orderBy('account')
        .execute(),
    );
    return rows.map((row) => ({ account: row.account, balanceMills: row.balance_mills }));
  }

  /**
   * Entries that touch the licensee's accounts, after a number, oldest first. For a customer those that touch its own, with the lines of
   * these accounts alone: what else an entry moves is not the customer's to see.
   */
  async entries(
    licensee: LicenseeId,
    devices: readonly DeviceId[],
    after: bigint,
    limit: number,
    customer: CustomerId | null = null,
  ): Promise<readonly Entry[]> {
    return this.#database.read(async (tables) => {
      const numbers = await tables
        .selectFrom('entry_line')
        .select('entry')
        .distinct()
        .where('entry', '>', after)
        .where((eb) => eb.or(ownAccounts(licensee, devices, customer).map(([op, name]) => eb('account', op, name))))
        .orderBy('entry')
        .limit(limit)
        .execute();
      if (numbers.length === 0) return [];
      const wanted = numbers.map((row) => row.entry);
      const entries = await tables
        .selectFrom('entry')
        .selectAll()
        .where('number', 'in', wanted)
        .orderBy('number')
        .execute();
      const lines = await tables
        .selectFrom('entry_line')
        .selectAll()
        .where('entry', 'in', wanted)
        .$if(customer !== null, (query) =>
          query.where((eb) =>
            eb.or(ownAccounts(licensee, devices, customer).map(([op, name]) => eb('account', op, name))),
          ),
        )
        .orderBy('account')
        .execute();
      return entries.map((entry) => ({
        number: entry.number,
        ref: entry.ref,
        kind: entry.kind as NewEntry['kind'],
        note: entry.note,
        atMs: Number(entry.at_ms),
        lines: lines
          .filter((line) => line.entry === entry.number)
          .map((line) => ({ account: line.account, amountMills: line.amount_mills })),
      }));
    });
  }

  /** What is wrong, in words: entries that do not sum to zero, balances that are not the sum of their lines, draws that the ledger does not have. */
  async problems(): Promise<readonly string[]> {
    return this.#database.read(async (tables) => {
      const problems: string[] = [];
      const unbalanced = await tables
        .selectFrom('entry_line')
        .select((eb) => ['entry', eb.fn.sum<bigint>('amount_mills').as('sum')])
        .groupBy('entry')
        .having((eb) => eb.fn.sum('amount_mills'), '<>', 0n)
        .execute();
      for (const { entry } of unbalanced) problems.push(`the ledger entry ${entry} does not sum to zero`);
      const sums = await tables
        .selectFrom('entry_line')
        .select((eb) => ['account', eb.fn.sum<bigint>('amount_mills').as('sum')])
        .groupBy('account')
        .execute();
      const balances = new Map(
        (await tables.selectFrom('balance').selectAll().execute()).map((row) => [row.account, row.balance_mills]),
      );
      for (const { account, sum } of sums) {
        if (balances.get(account) !== sum) problems.push(`the balance of ${account} is not the sum of its lines`);
        balances.delete(account);
      }
      for (const [account, balance] of balances) {
        if (balance !== 0n) problems.push(`the account ${account} has a balance and no lines`);
      }
      const open = await tables
        .selectFrom('draw')
        .select((eb) => ['licensee', eb.fn.sum<bigint>('amount_mills').as('sum')])
        .where('device', 'is', null)
        .groupBy('licensee')
        .execute();
      const openMills = new Map(open.map((row) => [ACCOUNT.drawn(row.licensee as LicenseeId), row.sum]));
      for (const { account, sum } of sums) {
        if (account.startsWith('drawn:') && sum !== (openMills.get(account) ?? 0n)) {
          problems.push(`the balance of ${account} is not the sum of the draws that wait for a funds grant`);
        }
      }
      return problems;
    });
  }
}

/** Lines of one account in one entry are one line. */
function merged(lines: readonly Line[]): readonly Line[] {
  const sums = new Map<string, bigint>();
  for (const { account, amountMills } of lines) sums.set(account, (sums.get(account) ?? 0n) + amountMills);
  return [...sums].filter(([, sum]) => sum !== 0n).map(([account, amountMills]) => ({ account, amountMills }));
}

/** How a licensee's accounts are named, as conditions. Ids have no characters that LIKE knows, but for `_`, which stands for itself too. */
function ownAccounts(
  licensee: LicenseeId,
  devices: readonly DeviceId[],
  customer: CustomerId | null,
): (readonly ['=' | 'like', string])[] {
  if (customer !== null) {
    return (['postage', 'discount', 'credit'] as const).map((kind) => ['=', ACCOUNT.of(kind, licensee, customer)]);
  }
  const own: (readonly ['=' | 'like', string])[] = [
    ['=', ACCOUNT.deposit(licensee)],
    ['=', ACCOUNT.drawn(licensee)],
  ];
  for (const kind of ['postage', 'discount', 'credit'])
    own.push(['=', `${kind}:${licensee}`], ['like', `${kind}:${licensee}:%`]);
  for (const device of devices) own.push(['=', ACCOUNT.device(device)]);
  return own;
}
