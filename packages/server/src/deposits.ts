/**
 * Payments into a licensee's deposit.
 *
 * Guarantees: each is booked once for its key, whatever else is asked under it, in one unit of work with its entry in the audit trail;
 * all that was ever paid in stays within what a balance holds.
 */
import type { LicenseeId } from '@countermark/protocol/id';
import { MAX_MILLS } from '@countermark/protocol/money';
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import type { SqlDatabase } from '@countermark/sql/database';
import { type Actor, recordAct } from './audit-trail.ts';
import { ACCOUNT, type Ledger } from './ledger.ts';
import type { ServerTables } from './tables.ts';

export type DepositParts = {
  readonly database: SqlDatabase<ServerTables>;
  readonly ledger: Ledger;
  readonly nowMs: () => number;
};

/** A payment as it is booked; `isNew` is false where it was booked before. */
export type Payment = { readonly ref: string; readonly isNew: boolean };

export class Deposits {
  readonly #parts: DepositParts;

  constructor(parts: DepositParts) {
    this.#parts = parts;
  }

  /** Books the payment. Rejections: `limit-exceeded`, `idempotency-conflict`. */
  async pay(licensee: LicenseeId, amountMills: bigint, key: string, by: Actor): Promise<Result<Payment>> {
    const { database, ledger, nowMs } = this.#parts;
    const account = ACCOUNT.deposit(licensee);
    const lines = [
      { account: ACCOUNT.world, amountMills: -amountMills },
      { account, amountMills },
    ];
    const ref = `deposit:${licensee}:${key}`;
    const paidMills = amountMills - (await ledger.balance(ACCOUNT.world));
    if (paidMills > MAX_MILLS && (await ledger.amountOf(ref, account)) === null) {
      const value = `${paidMills} mills`;
      return refuse(rejection('limit-exceeded', { what: 'all that was paid in', value, limit: `${MAX_MILLS}` }));
    }
    const isNew = await database.transaction(async (tables) => {
      const atMs = nowMs();
      const booked = await ledger.bookIn(tables, [
        { ref, kind: 'deposit', note: 'Paid into the deposit', atMs, lines },
      ]);
      if (booked.length === 0) return false;
      const words = `${amountMills} mills under the key ${key}`;
      await recordAct(tables, { act: 'deposit-paid', by, subject: licensee, words, atMs });
      return true;
    });
    if (!isNew && (await ledger.amountOf(ref, account)) !== amountMills) {
      return refuse(rejection('idempotency-conflict', {}));
    }
    return accept({ ref, isNew });
  }
}
