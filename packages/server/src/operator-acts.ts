/**
 * What operators did to devices: who, what, when, in which words.
 *
 * Guarantees: append-only, in the unit of work of what was done, so that nothing is done without its entry. Says who by the
 * name that the server's configuration gives a credential; whether two names are two people is the operators' own.
 */
import type { DeviceId } from '@countermark/protocol/id';
import type { SqlDatabase } from '@countermark/sql/database';
import type { LedgerTransaction } from './ledger.ts';
import type { ServerTables } from './tables.ts';

export type Act = {
  readonly device: DeviceId;
  readonly act:
    | 'withdrawn'
    | 'declared-dead'
    | 'confirmed-dead'
    | 'closing'
    | 'refunded'
    | 'refund-withheld'
    | 'profile-chosen'
    | 'inspected';
  /** Empty for what follows by itself. */
  readonly operator: string;
  /** In words, for people. */
  readonly words: string;
  readonly atMs: number;
};

/** Records an act within the unit of work of what is done. */
export async function recordAct(tables: LedgerTransaction, { device, act, operator, words, atMs }: Act): Promise<void> {
  const last = await tables
    .selectFrom('operator_act')
    .select((eb) => eb.fn.max('number').as('number'))
    .executeTakeFirst();
  const number = (last?.number ?? 0n) + 1n;
  await tables
    .insertInto('operator_act')
    .values({ number, device, act, operator, words, at_ms: BigInt(atMs) })
    .execute();
}

/** The acts of a device, oldest first. */
export async function actsOf(database: SqlDatabase<ServerTables>, device: DeviceId): Promise<readonly Act[]> {
  const rows = await database.read(async (tables) =>
    tables.selectFrom('operator_act').selectAll().where('device', '=', device).orderBy('number').execute(),
  );
  return rows.map(({ act, operator, words, at_ms }) => ({
    device,
    act: act as Act['act'],
    operator,
    words,
    atMs: Number(at_ms),
  }));
}
