/**
 * Dead devices: lost, burnt, broken for good. One operator declares it, another confirms it; the balance is paid back later.
 *
 * Guarantees: nobody confirms their own declaration, nor that of somebody whose credential they made or who made theirs; both names stand
 * in the device's acts. A confirmed device is withdrawn. Its
 * balance (funds granted less confirmed postage) goes back to its licensee's deposit once, and not before the scan window has
 * passed by the server's clock and by the cryptographic device's own, and all its records in the log are booked. Whatever
 * is booked on it after that (a record that turns up, an archived grant) moves on to the deposit in the same unit of work, which
 * may thereby fall below zero: a debt that the next payment fills. A device of which a fork is known is never paid back: a copy may
 * have spent the same balance.
 * Does not know whether the device is dead: two people say so. One that franks on is found by its records or by scans.
 */
import { Fault } from '@countermark/node-platform/fault';
import type { Log } from '@countermark/node-platform/logs';
import { nodeVerification } from '@countermark/node-platform/verification';
import type { DeviceId } from '@countermark/protocol/id';
import { SIGNED_TIME } from '@countermark/protocol/messages/policy';
import { describeRejection, rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import type { SqlDatabase } from '@countermark/sql/database';
import { type KeySource, verifyMessage } from '@countermark/verify/verified';
import { type Actor, BY_ITSELF, recordAct } from './audit-trail.ts';
import type { CryptographicDevice } from './cryptographic-device-client.ts';
import { LEDGER_FOLLOWER } from './ledger-follower.ts';
import type { Ledger } from './ledger.ts';
import { moveToDeposit, refundRef } from './refund.ts';
import type { Registry } from './registry.ts';
import { dependence } from './second-person.ts';
import type { StatisticsLog } from './statistics-log.ts';
import type { ServerTables } from './tables.ts';
import { addWithdrawal, fitting, type Withdrawals } from './withdrawals.ts';

const DAY_MS = 86_400_000;
/** Devices that are settled in one step. */
const STEP = 64;

export type DeadDeviceParts = {
  readonly database: SqlDatabase<ServerTables>;
  readonly ledger: Ledger;
  readonly log: StatisticsLog;
  readonly registry: Registry;
  readonly withdrawals: Withdrawals;
  readonly cryptographicDevice: CryptographicDevice;
  readonly roleKeys: KeySource;
  /** How long pieces of a dead device may still turn up at a scanner. */
  readonly scanWindowDays: number;
  readonly nowMs: () => number;
  readonly logs: Log;
};

/** A declaration and what became of it. */
export type Death = {
  readonly reason: string;
  readonly declaredBy: string;
  readonly declaredAtMs: number;
  readonly confirmedBy: string | null;
  readonly confirmedAtMs: number | null;
  /** The balance is paid back at the earliest then. */
  readonly refundAfterMs: number | null;
  readonly settled: 'open' | 'refunded' | 'withheld';
  readonly refundedMills: bigint | null;
};

export class DeadDevices {
  readonly #parts: DeadDeviceParts;

  constructor(parts: DeadDeviceParts) {
    this.#parts = parts;
  }

  /** The declaration of the device, or null. */
  async of(device: DeviceId): Promise<Death | null> {
    const row = await this.#parts.database.read(async (tables) =>
      tables.selectFrom('death').selectAll().where('device', '=', device).executeTakeFirst(),
    );
    return row === undefined ? null : deathOf(row);
  }

  /**
   * Declares the device dead: no effect before another operator confirms it.
   * Rejections: `unknown-device`, `device-forked`, `device-withdrawn` (it has made its final statement).
   */
  async declare(device: DeviceId, reason: string, by: Actor): Promise<Result<Death>> {
    const { database, nowMs } = this.#parts;
    const unfit = await this.#unfit(device);
    if (unfit !== null) return unfit;
    await database.transaction(async (tables) => {
      const added = await tables
        .insertInto('death')
        .values({
          device,
          reason,
          declared_by: by.name,
          declared_at_ms: BigInt(nowMs()),
          confirmed_by: null,
          confirmed_at_ms: null,
          refund_after_ms: null,
          settled: '',
          settled_at_ms: null,
          refunded_mills: null,
        })
        .onConflict((conflict) => conflict.doNothing())
        .returning('device')
        .executeTakeFirst();
      if (added === undefined) return;
      await recordAct(tables, { act: 'declared-dead', by, subject: device, words: reason, atMs: nowMs() });
    });
    return this.#stored(device);
  }

  /**
   * Confirms another operator's declaration: the device is withdrawn, and the scan window begins.
   * Rejections: `unknown-device`, `device-forked`, `device-withdrawn`, `device-not-declared-dead`, `second-person-needed`,
   * `second-person-dependent`, `try-again`.
   */
  async confirm(device: DeviceId, by: Actor): Promise<Result<Death>> {
    const { database, withdrawals, nowMs, scanWindowDays } = this.#parts;
    const operator = by.name;
    const declared = await this.of(device);
    if (declared === null) {
      const unfit = await this.#unfit(device);
      return unfit ?? refuse(rejection('device-not-declared-dead', { device }));
    }
    const did = `declared the device ${device} dead`;
    if (declared.declaredBy === operator) return refuse(rejection('second-person-needed', { operator, did }));
    if (declared.confirmedBy !== null) return accept(declared);
    const dependent = await dependence(database, declared.declaredBy, operator, did);
    if (dependent !== null) return refuse(dependent);
    const unfit = await this.#unfit(device);
    if (unfit !== null) return unfit;
    const time = await this.#signedTimeMs(device);
    if (!time.ok) return time;
    const reason = `dead: ${declared.reason} (declared by ${declared.declaredBy}, confirmed by ${operator})`;
    await withdrawals.suspend(device, fitting(reason));
    await database.transaction(async (tables) => {
      const atMs = nowMs();
      const confirmed = await tables
        .updateTable('death')
        .set({
          confirmed_by: operator,
          confirmed_at_ms: BigInt(atMs),
          refund_after_ms: BigInt(time.value + scanWindowDays * DAY_MS),
        })
        .where('device', '=', device)
        .where('confirmed_by', 'is', null)
        .returning('device')
        .executeTakeFirst();
      if (confirmed === undefined) return;
      await addWithdrawal(tables, device, fitting(reason), atMs);
      await recordAct(tables, { act: 'confirmed-dead', by, subject: device, words: declared.reason, atMs });
    });
    await withdrawals.announced(device);
    return this.#stored(device);
  }

  /** Settles what is due. Fault: `signed-time-missing`, where the cryptographic device is away. */
  async settleDue(): Promise<'more' | 'idle'> {
    const { database, nowMs, logs } = this.#parts;
    const due = await database.read(async (tables) =>
      tables
        .selectFrom('death')
        .selectAll()
        .where('settled', '=', '')
        .where('refund_after_ms', '<=', BigInt(nowMs()))
        .orderBy('refund_after_ms')
        .limit(STEP)
        .execute(),
    );
    let settled = 0;
    for (const row of due) {
      const device = row.device as DeviceId;
      const time = await this.#signedTimeMs(device);
      if (!time.ok) throw new Fault('signed-time-missing', describeRejection(time.rejection), { retry: 'later' });
      if (BigInt(time.value) < (row.refund_after_ms ?? 0n)) {
        logs.warn('The scan window has passed by this clock, not by the cryptographic device’s', { device });
      } else if (await this.#settle(device)) settled += 1;
    }
    return settled === STEP ? 'more' : 'idle';
  }

  /** The time by the cryptographic device's own clock. Rejections: `try-again`, those of `verifyMessage`. */
  async #signedTimeMs(device: DeviceId): Promise<Result<number>> {
    const { cryptographicDevice, roleKeys } = this.#parts;
    const answered = await cryptographicDevice.signTime(device);
    if (!answered.ok) return answered;
    const time = verifyMessage(SIGNED_TIME, answered.value, { port: nodeVerification, keys: roleKeys });
    return time.ok ? accept(time.value.message.timeMs) : time;
  }

  /** Pays the balance back, or withholds it where a fork is known; false while records of the device are not booked. */
  async #settle(device: DeviceId): Promise<boolean> {
    const { database, ledger, nowMs } = this.#parts;
    return database.transaction(async (tables) => {
      const row = await tables.selectFrom('death').selectAll().where('device', '=', device).executeTakeFirst();
      if (row?.settled !== '') return true;
      const last = await tables
        .selectFrom('record')
        .select((eb) => eb.fn.max('cursor').as('cursor'))
        .where('device', '=', device)
        .executeTakeFirst();
      const booked = await tables
        .selectFrom('follower')
        .select('cursor')
        .where('name', '=', LEDGER_FOLLOWER)
        .executeTakeFirst();
      if ((last?.cursor ?? 0n) > (booked?.cursor ?? 0n)) return false;
      const atMs = nowMs();
      const done = { settled_at_ms: BigInt(atMs) };
      const fork = await tables
        .selectFrom('evidence')
        .select('sequence')
        .where('device', '=', device)
        .where('code', '=', 'fork')
        .executeTakeFirst();
      if (fork !== undefined) {
        await tables
          .updateTable('death')
          .set({ ...done, settled: 'withheld' })
          .where('device', '=', device)
          .execute();
        const words = `two different records for sequence ${fork.sequence}`;
        await recordAct(tables, { act: 'refund-withheld', by: BY_ITSELF, subject: device, words, atMs });
        return true;
      }
      const refundedMills = await moveToDeposit(tables, ledger, device, refundRef(device), atMs);
      await tables
        .updateTable('death')
        .set({ ...done, settled: 'refunded', refunded_mills: refundedMills })
        .where('device', '=', device)
        .execute();
      const words = `${refundedMills} mills to the deposit`;
      await recordAct(tables, { act: 'refunded', by: BY_ITSELF, subject: device, words, atMs });
      return true;
    });
  }

  /** Why the device cannot be declared dead, or null. */
  async #unfit(device: DeviceId): Promise<Result<never> | null> {
    const { database, registry, log } = this.#parts;
    if ((await registry.deviceLicensee(device)) === null) return refuse(rejection('unknown-device', { device }));
    // It said itself what it holds, and gave it up: its balance goes back by that, and not a second time.
    const ended = await database.read(async (tables) =>
      tables
        .selectFrom('closure')
        .select('device')
        .where('device', '=', device)
        .where('sequence', 'is not', null)
        .executeTakeFirst(),
    );
    if (ended !== undefined) return refuse(rejection('device-withdrawn', { device }));
    const forked = (await log.evidence(device)).some(({ code }) => code === 'fork');
    return forked ? refuse(rejection('device-forked', { device })) : null;
  }

  async #stored(device: DeviceId): Promise<Result<Death>> {
    const death = await this.of(device);
    if (death === null) throw new TypeError('a declaration that was just stored is missing');
    return accept(death);
  }
}

function deathOf(row: ServerTables['death']): Death {
  return {
    reason: row.reason,
    declaredBy: row.declared_by,
    declaredAtMs: Number(row.declared_at_ms),
    confirmedBy: row.confirmed_by,
    confirmedAtMs: row.confirmed_at_ms === null ? null : Number(row.confirmed_at_ms),
    refundAfterMs: row.refund_after_ms === null ? null : Number(row.refund_after_ms),
    settled: row.settled === '' ? 'open' : (row.settled as Death['settled']),
    refundedMills: row.refunded_mills,
  };
}
