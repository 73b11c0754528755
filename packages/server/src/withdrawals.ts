/**
 * Withdrawal of devices, for good: after a fork, a theft, or when a device is no longer used.
 *
 * Guarantees: the log suspends the device first, so that nothing is granted to it whatever happens next; then withdrawal and the
 * operator's act are stored in one unit of work. There is no way back: the cryptographic device signs no release of what it
 * withdrew, and enrols the device's id never again. The signed word is asked for again by whoever needs it (`suspensions.ts`),
 * where the cryptographic device was away. It names the last record that stands; later ones of a withdrawn device are still accepted, marked.
 */
import type { DeviceId } from '@countermark/protocol/id';
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import type { SqlDatabase } from '@countermark/sql/database';
import { type Actor, recordAct } from './audit-trail.ts';
import type { LedgerTransaction } from './ledger.ts';
import type { Registry } from './registry.ts';
import type { StatisticsLog } from './statistics-log.ts';
import type { Suspensions } from './suspensions.ts';
import type { ServerTables } from './tables.ts';

export type WithdrawalParts = {
  readonly database: SqlDatabase<ServerTables>;
  readonly registry: Registry;
  readonly log: StatisticsLog;
  readonly suspensions: Suspensions;
  readonly nowMs: () => number;
  /** Told after a device was withdrawn: the authority has to hear of it. */
  readonly onWithdrawn: () => void;
};

/** A withdrawal; `suspension` is its signed word, null as long as the cryptographic device has not signed it. */
export type Withdrawal = {
  readonly reason: string;
  readonly suspension: Uint8Array | null;
  /** The last record that stands, 0 for none. */
  readonly afterSequence: number;
};

export class Withdrawals {
  readonly #parts: WithdrawalParts;

  constructor(parts: WithdrawalParts) {
    this.#parts = parts;
  }

  /** Withdraws the device; one that is withdrawn already stays so, for its first reason. Rejection: `unknown-device`. */
  async withdraw(device: DeviceId, words: string, by: Actor): Promise<Result<Withdrawal>> {
    const { database, nowMs } = this.#parts;
    const reason = fitting(words);
    const known = await this.suspend(device, reason);
    if (!known.ok) return known;
    await database.transaction(async (tables) => {
      if (await addWithdrawal(tables, device, reason, nowMs())) {
        await recordAct(tables, { act: 'withdrawn', by, subject: device, words: reason, atMs: nowMs() });
      }
    });
    return this.announced(device);
  }

  /** Has the log suspend the device. Rejection: `unknown-device`. */
  async suspend(device: DeviceId, reason: string): Promise<Result<void>> {
    const { registry, log } = this.#parts;
    if ((await registry.deviceLicensee(device)) === null) return refuse(rejection('unknown-device', { device }));
    await log.suspend(device, reason);
    return accept(undefined);
  }

  /** Has the withdrawal of the device signed and told; answers it as it is stored. */
  async announced(device: DeviceId): Promise<Result<Withdrawal>> {
    const { registry, suspensions, log, onWithdrawn } = this.#parts;
    const withdrawal = await registry.withdrawal(device);
    if (withdrawal === null) return refuse(rejection('unknown-device', { device }));
    const signed = await suspensions.of(device, withdrawal.reason);
    onWithdrawn();
    const { suspendedAfter: afterSequence } = await log.head(device);
    return accept({ reason: withdrawal.reason, suspension: signed.ok ? signed.value : null, afterSequence });
  }
}

/** A reason as it fits in the signed word, which holds 200 bytes. */
export function fitting(reason: string): string {
  const bytes = Buffer.from(reason).subarray(0, 200);
  return new TextDecoder().decode(bytes).replace(/\uFFFD$/, '');
}

/** Stores the withdrawal within a unit of work; false where the device was withdrawn before. */
export async function addWithdrawal(
  tables: LedgerTransaction,
  device: DeviceId,
  reason: string,
  atMs: number,
): Promise<boolean> {
  const added = await tables
    .insertInto('withdrawal')
    .values({ device, reason, suspension: null, at_ms: BigInt(atMs) })
    .onConflict((conflict) => conflict.doNothing())
    .returning('device')
    .executeTakeFirst();
  return added !== undefined;
}
