/**
 * Postage of spoiled pieces, paid back: what a confirmed batch says was spoiled goes to its licensee's deposit when the scan window has
 * passed, because a piece that was declared spoiled and mailed all the same turns up at a scanner within it.
 *
 * Guarantees: one entry for each record, not before the window has passed by the server's clock, which begins when the record was logged;
 * a window that runs keeps its length. Never for an incomplete batch, whose record does not say what was spoiled; never where the
 * record came from a suspended device, or the device is suspended, withdrawn or dead, or has forked, when the window ends: then it is
 * withheld for good. An operator withholds a single one, with a reason, as long as it is not paid.
 * Does not look for the pieces itself, and pays nothing for records that were booked before there was this table.
 */
import { digestText, type Digest } from '@countermark/protocol/digest';
import type { CustomerId, DeviceId, LicenseeId } from '@countermark/protocol/id';
import type { BatchStatistics } from '@countermark/protocol/messages/batch-statistics';
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import type { SqlDatabase } from '@countermark/sql/database';
import { type Actor, BY_ITSELF, recordAct } from './audit-trail.ts';
import { ACCOUNT, type Ledger, type LedgerTransaction, type Line } from './ledger.ts';
import type { LogEntry } from './statistics-log.ts';
import type { ServerTables } from './tables.ts';

/** Records that are settled in one step. */
const STEP = 64;

export type SpoiledPostageParts = {
  readonly database: SqlDatabase<ServerTables>;
  readonly ledger: Ledger;
  readonly nowMs: () => number;
};

/** Spoiled postage of one record, and what became of it. */
export type Spoiled = {
  readonly device: DeviceId;
  readonly sequence: number;
  readonly customer: string;
  readonly amountMills: bigint;
  readonly refundAfterMs: number;
  readonly settled: 'waiting' | 'refunded' | 'withheld';
  readonly settledAtMs: number | null;
  /** Why it was withheld. */
  readonly reason: string;
};

/** What of a record's postage can come back; 0 for an incomplete one. */
export function spoiledMills({ observed }: BatchStatistics): bigint {
  return observed.incomplete ? 0n : observed.spoiledPostageMills;
}

/** The ref of the entry that pays a record's spoiled postage back. */
export function spoiledRef(digest: Digest): string {
  return `spoiled:${digestText(digest)}`;
}

/** The lines of that entry. */
export function spoiledLines(licensee: LicenseeId, customer: CustomerId | undefined, amountMills: bigint): Line[] {
  return [
    { account: ACCOUNT.of('postage', licensee, customer), amountMills: -amountMills },
    { account: ACCOUNT.deposit(licensee), amountMills },
  ];
}

/** Notes what may be paid back of records that were just booked, within the unit of work that books them. */
export async function noteSpoiled(
  tables: LedgerTransaction,
  booked: readonly { readonly entry: LogEntry; readonly statistics: BatchStatistics }[],
  windowMs: number,
): Promise<void> {
  for (const { entry, statistics } of booked) {
    const amountMills = spoiledMills(statistics);
    if (amountMills === 0n || entry.suspended) continue;
    await tables
      .insertInto('spoilage')
      .values({
        digest: entry.digest,
        device: entry.device,
        sequence: BigInt(entry.sequence),
        licensee: statistics.licensee,
        customer: statistics.declaration.customer ?? '',
        amount_mills: amountMills,
        refund_after_ms: BigInt(entry.acceptedAtMs + windowMs),
        settled: '',
        settled_at_ms: null,
        reason: '',
      })
      .onConflict((conflict) => conflict.doNothing())
      .execute();
  }
}

export class SpoiledPostage {
  readonly #parts: SpoiledPostageParts;

  constructor(parts: SpoiledPostageParts) {
    this.#parts = parts;
  }

  /** Pays back what is due, or withholds it. */
  async settleDue(): Promise<'more' | 'idle'> {
    const { database, nowMs } = this.#parts;
    const due = await database.read(async (tables) =>
      tables
        .selectFrom('spoilage')
        .select('digest')
        .where('settled', '=', '')
        .where('refund_after_ms', '<=', BigInt(nowMs()))
        .orderBy('refund_after_ms')
        .limit(STEP)
        .execute(),
    );
    for (const { digest } of due) await this.#settle(digest);
    return due.length === STEP ? 'more' : 'idle';
  }

  async #settle(digest: Uint8Array): Promise<void> {
    const { database, ledger, nowMs } = this.#parts;
    await database.transaction(async (tables) => {
      const row = await tables.selectFrom('spoilage').selectAll().where('digest', '=', digest).executeTakeFirst();
      if (row?.settled !== '') return;
      const device = row.device as DeviceId;
      const licensee = row.licensee as LicenseeId;
      const customer = row.customer === '' ? undefined : (row.customer as CustomerId);
      const atMs = nowMs();
      const against = await standsAgainst(tables, device);
      await settleAs(tables, digest, against === null ? 'refunded' : 'withheld', atMs, against ?? '');
      if (against !== null) {
        const words = `spoiled postage of record ${row.sequence}: ${against}`;
        await recordAct(tables, { act: 'refund-withheld', by: BY_ITSELF, subject: device, words, atMs });
        return;
      }
      await ledger.bookIn(tables, [
        {
          ref: spoiledRef(digest as Digest),
          kind: 'spoiled',
          note: `Spoiled pieces of record ${row.sequence} of ${device}, after the scan window`,
          atMs,
          lines: spoiledLines(licensee, customer, row.amount_mills),
        },
      ]);
    });
  }

  /**
   * Withholds what a record says was spoiled, for good. Asked again it changes nothing.
   * Rejections: `unknown-record` (nothing of it waits, or ever did), `spoiled-refunded`.
   */
  async withhold(device: DeviceId, sequence: number, reason: string, by: Actor): Promise<Result<Spoiled>> {
    const { database, nowMs } = this.#parts;
    return database.transaction(async (tables): Promise<Result<Spoiled>> => {
      const found = () =>
        tables
          .selectFrom('spoilage')
          .selectAll()
          .where('device', '=', device)
          .where('sequence', '=', BigInt(sequence))
          .executeTakeFirst();
      const row = await found();
      if (row === undefined) return refuse(rejection('unknown-record', { sequence }));
      if (row.settled === 'refunded') return refuse(rejection('spoiled-refunded', { device, sequence }));
      if (row.settled === '') {
        const atMs = nowMs();
        await settleAs(tables, row.digest, 'withheld', atMs, reason);
        const words = `spoiled postage of record ${sequence}: ${reason}`;
        await recordAct(tables, { act: 'refund-withheld', by, subject: device, words, atMs });
      }
      return accept(spoiledOf((await found()) ?? row));
    });
  }

  /** Of a licensee, those whose windows end last first. */
  async of(licensee: LicenseeId, limit: number): Promise<readonly Spoiled[]> {
    const rows = await this.#parts.database.read(async (tables) =>
      tables
        .selectFrom('spoilage')
        .selectAll()
        .where('licensee', '=', licensee)
        .orderBy('refund_after_ms', 'desc')
        .orderBy('device')
        .orderBy('sequence', 'desc')
        .limit(limit)
        .execute(),
    );
    return rows.map(spoiledOf);
  }
}

async function settleAs(
  tables: LedgerTransaction,
  digest: Uint8Array,
  settled: 'refunded' | 'withheld',
  atMs: number,
  reason: string,
): Promise<void> {
  await tables
    .updateTable('spoilage')
    .set({ settled, settled_at_ms: BigInt(atMs), reason })
    .where('digest', '=', digest)
    .where('settled', '=', '')
    .execute();
}

/** Why nothing is paid back for the device, or null. */
async function standsAgainst(tables: LedgerTransaction, device: DeviceId): Promise<string | null> {
  const fork = await tables
    .selectFrom('evidence')
    .select('sequence')
    .where('device', '=', device)
    .where('code', '=', 'fork')
    .executeTakeFirst();
  if (fork !== undefined) return `two different records for sequence ${fork.sequence}`;
  const head = await tables
    .selectFrom('head')
    .select(['suspended', 'reason'])
    .where('device', '=', device)
    .executeTakeFirst();
  return head?.suspended === 1n ? `the device is suspended: ${head.reason}` : null;
}

function spoiledOf(row: ServerTables['spoilage']): Spoiled {
  return {
    device: row.device as DeviceId,
    sequence: Number(row.sequence),
    customer: row.customer,
    amountMills: row.amount_mills,
    refundAfterMs: Number(row.refund_after_ms),
    settled: row.settled === '' ? 'waiting' : (row.settled as Spoiled['settled']),
    settledAtMs: row.settled_at_ms === null ? null : Number(row.settled_at_ms),
    reason: row.reason,
  };
}
