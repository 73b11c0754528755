/**
 * Money into a licensee's deposit and out of it, as an operator was paid it, or pays it out.
 *
 * Guarantees: one entry for each key of a licensee, the same answer at every repeat, another amount under the same key refused; nothing
 * is paid out that the deposit does not hold at that moment; the entry in the audit trail is in the same unit of work. What was paid by whom outside, nothing here knows.
 */
import type { LicenseeId } from '@countermark/protocol/id';
import { type Currency, MAX_MILLS } from '@countermark/protocol/money';
import { inCurrency, type Rejection, rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import type { SqlDatabase } from '@countermark/sql/database';
import { type Actor, recordAct } from './audit-trail.ts';
import { ACCOUNT, type Ledger, type LedgerTransaction } from './ledger.ts';
import type { ServerTables } from './tables.ts';

export type DepositParts = {
  readonly database: SqlDatabase<ServerTables>;
  readonly ledger: Ledger;
  readonly currency: Currency;
  readonly nowMs: () => number;
};

/** `fresh`: booked by this call. */
export type Moved = {
  readonly ref: string;
  readonly fresh: boolean;
  readonly amountMills: bigint;
  readonly balanceMills: bigint;
};

export class Deposits {
  readonly #parts: DepositParts;

  constructor(parts: DepositParts) {
    this.#parts = parts;
  }

  /** Rejections: `idempotency-conflict`, `limit-exceeded`. */
  payIn(licensee: LicenseeId, amountMills: bigint, key: string, by: Actor): Promise<Result<Moved>> {
    return this.#move('deposit', licensee, amountMills, key, by, async (tables) => {
      const paidMills = amountMills - (await this.#parts.ledger.balanceIn(tables, ACCOUNT.world));
      if (paidMills <= MAX_MILLS) return null;
      const value = `${paidMills} mills`;
      return rejection('limit-exceeded', { what: 'all that was paid in', value, limit: `${MAX_MILLS}` });
    });
  }

  /** Rejections: `idempotency-conflict`, `insufficient-deposit`. */
  payOut(licensee: LicenseeId, amountMills: bigint, key: string, by: Actor): Promise<Result<Moved>> {
    return this.#move('payout', licensee, amountMills, key, by, async (tables) => {
      const { ledger, currency } = this.#parts;
      const availableMills = await ledger.balanceIn(tables, ACCOUNT.deposit(licensee));
      if (amountMills <= availableMills) return null;
      return rejection('insufficient-deposit', {
        availableMills: String(availableMills),
        neededMills: String(amountMills),
        ...inCurrency(currency),
      });
    });
  }

  async #move(
    kind: 'deposit' | 'payout',
    licensee: LicenseeId,
    amountMills: bigint,
    key: string,
    by: Actor,
    obstacle: (tables: LedgerTransaction) => Promise<Rejection | null>,
  ): Promise<Result<Moved>> {
    const { database, ledger, nowMs } = this.#parts;
    const ref = `${kind}:${licensee}:${key}`;
    const account = ACCOUNT.deposit(licensee);
    const intoMills = kind === 'deposit' ? amountMills : -amountMills;
    return database.transaction(async (tables): Promise<Result<Moved>> => {
      const bookedMills = await ledger.amountIn(tables, ref, account);
      if (bookedMills === null) {
        const against = await obstacle(tables);
        if (against !== null) return refuse(against);
        const note = kind === 'deposit' ? 'Paid into the deposit' : 'Paid out of the deposit';
        const lines = [
          { account: ACCOUNT.world, amountMills: -intoMills },
          { account, amountMills: intoMills },
        ];
        const atMs = nowMs();
        await ledger.bookIn(tables, [{ ref, kind, note, atMs, lines }]);
        const act = kind === 'deposit' ? 'deposit-paid' : 'deposit-paid-out';
        await recordAct(tables, {
          act,
          by,
          subject: licensee,
          words: `${amountMills} mills under the key ${key}`,
          atMs,
        });
      } else if (bookedMills !== intoMills) return refuse(rejection('idempotency-conflict', {}));
      const balanceMills = await ledger.balanceIn(tables, account);
      return accept({ ref, fresh: bookedMills === null, amountMills, balanceMills });
    });
  }
}
