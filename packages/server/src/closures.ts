/**
 * Closing a device on its owner's wish: an operator orders it, the device makes its final statement, its balance goes back.
 *
 * Guarantees: from the order on the device's policy lets it frank no more and closes it; nothing is suspended, so that what it
 * reports still earns what it earns. The balance goes to its licensee's deposit in one entry, once, and not before the log holds the
 * final statement and every record before it is booked: and only where an operator ordered it, no fork of the device is known, and what the device gave back is
 * what the ledger has in its account. Where the two differ it waits for what is missing (a restored server books archived funds grants
 * first), and `check` names it. Nothing is refunded of a device that forked: a copy may have spent the same balance.
 * Does not carry out anything at the device: its host does, with the policy that says it (`device-end.ts` there).
 */
import type { DeviceId } from '@countermark/protocol/id';
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import type { SqlDatabase } from '@countermark/sql/database';
import { type Actor, BY_ITSELF, recordAct } from './audit-trail.ts';
import { ACCOUNT, type Ledger, type LedgerTransaction } from './ledger.ts';
import type { Policies } from './policies.ts';
import { moveToDeposit, refundRef } from './refund.ts';
import type { Registry } from './registry.ts';
import type { StatisticsLog } from './statistics-log.ts';
import type { ServerTables } from './tables.ts';
import { fitting } from './withdrawals.ts';

/** Devices that are settled in one step. */
const STEP = 64;

export type ClosureParts = {
  readonly database: SqlDatabase<ServerTables>;
  readonly ledger: Ledger;
  readonly log: StatisticsLog;
  readonly registry: Registry;
  readonly policies: Policies;
  readonly nowMs: () => number;
};

/** An order to close, and what became of it. */
export type Closure = {
  readonly reason: string;
  /** Empty where a restored server has the statement only: an operator orders it again. */
  readonly operator: string;
  readonly atMs: number;
  /** Of the final statement, null before it is booked. */
  readonly sequence: number | null;
  readonly returnedMills: bigint | null;
  readonly settled: 'open' | 'refunded' | 'withheld';
};

export class Closures {
  readonly #parts: ClosureParts;

  constructor(parts: ClosureParts) {
    this.#parts = parts;
  }

  /** The order of the device, or null. */
  async of(device: DeviceId): Promise<Closure | null> {
    const row = await this.#parts.database.read(async (tables) =>
      tables.selectFrom('closure').selectAll().where('device', '=', device).executeTakeFirst(),
    );
    return row === undefined ? null : closureOf(row);
  }

  /**
   * Orders that the device be closed; again, it changes nothing. Its policy is signed at once where the cryptographic device answers.
   * Rejections: `unknown-device`, `device-withdrawn`, `device-suspended`.
   */
  async close(device: DeviceId, words: string, by: Actor): Promise<Result<Closure>> {
    const { database, registry, log, policies, nowMs } = this.#parts;
    const licensee = await registry.deviceLicensee(device);
    if (licensee === null) return refuse(rejection('unknown-device', { device }));
    if ((await registry.withdrawal(device)) !== null) return refuse(rejection('device-withdrawn', { device }));
    const { suspended, reason: suspendedFor } = await log.head(device);
    if (suspended) return refuse(rejection('device-suspended', { device, reason: suspendedFor }));
    const reason = fitting(words);
    await database.transaction(async (tables) => {
      const atMs = nowMs();
      const ordered = await tables
        .insertInto('closure')
        .values({
          device,
          reason,
          operator: by.name,
          at_ms: BigInt(atMs),
          sequence: null,
          returned_mills: null,
          settled: '',
          settled_at_ms: null,
        })
        .onConflict((conflict) =>
          conflict.column('device').doUpdateSet({ reason, operator: by.name }).where('closure.operator', '=', ''),
        )
        .returning('device')
        .executeTakeFirst();
      if (ordered !== undefined) await recordAct(tables, { act: 'closing', by, subject: device, words: reason, atMs });
    });
    await policies.renewed(device, licensee, await registry.customersOf(licensee));
    const closure = await this.of(device);
    if (closure === null) throw new TypeError('an order that was just stored is missing');
    return accept(closure);
  }

  /** Signs what was ordered while the cryptographic device did not answer, and refunds what is due. */
  async settleDue(): Promise<'more' | 'idle'> {
    await this.#signOrders();
    let settled = 0;
    for (let after = ''; ; ) {
      const due = await this.#parts.database.read(async (tables) =>
        tables
          .selectFrom('closure')
          .select('device')
          .where('device', '>', after)
          .where('sequence', 'is not', null)
          .where('settled', '=', '')
          .where('operator', '<>', '')
          .orderBy('device')
          .limit(STEP)
          .execute(),
      );
      for (const row of due) {
        if (await this.#settle(row.device as DeviceId)) settled += 1;
        after = row.device;
      }
      if (due.length < STEP) return 'idle';
      if (settled > 0) return 'more';
    }
  }

  /** The policies of devices that have not made their final statement; most are signed. */
  async #signOrders(): Promise<void> {
    const { database, registry, policies } = this.#parts;
    const ordered = await database.read(async (tables) =>
      tables
        .selectFrom('closure')
        .select('device')
        .where('sequence', 'is', null)
        .where('operator', '<>', '')
        .orderBy('device')
        .execute(),
    );
    for (const row of ordered) {
      const device = row.device as DeviceId;
      const licensee = await registry.deviceLicensee(device);
      if (licensee !== null) await policies.renewed(device, licensee, await registry.customersOf(licensee));
    }
  }

  /** Pays the balance back, or withholds it where a fork is known; false where the ledger lacks something of the device. */
  async #settle(device: DeviceId): Promise<boolean> {
    const { database, ledger, nowMs } = this.#parts;
    return database.transaction(async (tables) => {
      const row = await tables.selectFrom('closure').selectAll().where('device', '=', device).executeTakeFirst();
      const returnedMills = row?.returned_mills ?? null;
      if (row?.settled !== '' || row.sequence === null || returnedMills === null) return true;
      const atMs = nowMs();
      const done = (settled: 'refunded' | 'withheld') =>
        tables
          .updateTable('closure')
          .set({ settled, settled_at_ms: BigInt(atMs) })
          .where('device', '=', device)
          .execute();
      const head = await tables.selectFrom('head').select('suspended').where('device', '=', device).executeTakeFirst();
      if (head?.suspended === 1n) {
        await done('withheld');
        const words = 'the device is suspended: a copy of it may have spent the same balance';
        await recordAct(tables, { act: 'refund-withheld', by: BY_ITSELF, subject: device, words, atMs });
        return true;
      }
      if ((await ledger.balanceIn(tables, ACCOUNT.device(device))) !== returnedMills) return false;
      const note = `Balance of the closed device ${device}, by its final statement ${row.sequence}`;
      await moveToDeposit(tables, ledger, device, refundRef(device), atMs, note);
      await done('refunded');
      const words = `${returnedMills} mills to the deposit, by the final statement ${row.sequence}`;
      await recordAct(tables, { act: 'refunded', by: BY_ITSELF, subject: device, words, atMs });
      return true;
    });
  }
}

/** Notes within a unit of work that the device's final statement is in the log, and every record before it booked. */
export async function noteFinalStatement(
  tables: LedgerTransaction,
  device: DeviceId,
  sequence: number,
  returnedMills: bigint,
  atMs: number,
): Promise<void> {
  const said = { sequence: BigInt(sequence), returned_mills: returnedMills };
  await tables
    .insertInto('closure')
    .values({ device, reason: '', operator: '', at_ms: BigInt(atMs), ...said, settled: '', settled_at_ms: null })
    .onConflict((conflict) => conflict.column('device').doUpdateSet(said))
    .execute();
}

function closureOf(row: ServerTables['closure']): Closure {
  return {
    reason: row.reason,
    operator: row.operator,
    atMs: Number(row.at_ms),
    sequence: row.sequence === null ? null : Number(row.sequence),
    returnedMills: row.returned_mills,
    settled: row.settled === '' ? 'open' : (row.settled as Closure['settled']),
  };
}
