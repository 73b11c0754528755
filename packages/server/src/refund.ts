/**
 * What a device's account holds, moved to its licensee's deposit: the refund of a dead or closed device, and what is booked on it later.
 *
 * Guarantees: one entry for each cause; after it the device's account is at zero. The deposit may fall below zero: postage that turned
 * up after the refund is owed. Does not decide when a device is refunded (`dead-devices.ts`, `closures.ts`).
 */
import type { DeviceId, LicenseeId } from '@countermark/protocol/id';
import { ACCOUNT, type Ledger, type LedgerTransaction } from './ledger.ts';

/** Refs of what turned up after a refund begin with it; the ref of its cause follows. */
export const LATER = 'after-refund:';

/** The ref of a device's refund: of its death or of its closure, and never of both. */
export function refundRef(device: DeviceId): string {
  return `refund:${device}`;
}

/** Moves all that the device's account holds, or lacks; answers how much, in mills. */
export async function moveToDeposit(
  tables: LedgerTransaction,
  ledger: Ledger,
  device: DeviceId,
  ref: string,
  atMs: number,
  note = `Balance of the dead device ${device}`,
): Promise<bigint> {
  const balanceMills = await ledger.balanceIn(tables, ACCOUNT.device(device));
  if (balanceMills === 0n) return 0n;
  const owner = await tables
    .selectFrom('device')
    .select('licensee')
    .where('device', '=', device)
    .executeTakeFirstOrThrow();
  const later = ref.startsWith(LATER);
  await ledger.bookIn(tables, [
    {
      ref,
      kind: 'refund',
      note: later ? `Turned up after the refund of ${device}` : note,
      atMs,
      lines: [
        { account: ACCOUNT.device(device), amountMills: -balanceMills },
        { account: ACCOUNT.deposit(owner.licensee as LicenseeId), amountMills: balanceMills },
      ],
    },
  ]);
  return balanceMills;
}

/** Moves on what was just booked, under the cause's ref, on a device among these that has been refunded. */
export async function settleRefunded(
  tables: LedgerTransaction,
  ledger: Ledger,
  causes: ReadonlyMap<DeviceId, string>,
  atMs: number,
): Promise<void> {
  if (causes.size === 0) return;
  const refunded = [];
  for (const table of ['death', 'closure'] as const) {
    refunded.push(
      ...(await tables
        .selectFrom(table)
        .select('device')
        .where('settled', '=', 'refunded')
        .where('device', 'in', [...causes.keys()])
        .execute()),
    );
  }
  for (const row of refunded) {
    const device = row.device as DeviceId;
    await moveToDeposit(tables, ledger, device, `${LATER}${causes.get(device)}`, atMs);
  }
}
