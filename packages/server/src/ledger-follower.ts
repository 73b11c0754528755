/**
 * The ledger follows the log: the postage of each confirmed record, the credits that it draws, and devices that have ended (whose
 * balance `closures.ts` refunds).
 *
 * Guarantees: one entry per record digest, so that following again from the start books nothing twice; each mill of postage
 * draws at most one mill of credit, each mill of credit is drawn once, by its own customer's postage only. The postage of a
 * batch is what the ascending register moved, spoiled pieces included: that is what the device paid. What was spoiled draws
 * nothing, because it may come back (`spoiled-postage.ts`). Records that came while
 * their device was suspended draw nothing; on a dead device that was refunded, their postage is taken from the deposit.
 * Whether a batch was opened after a credit was booked: by the signed time that the device had seen at opening, where it is
 * there (it must not lie before the booking: a device that has not asked for the time since draws nothing yet). Where it is
 * not there, the record must have been logged after the booking.
 */
import { nodeVerification } from '@countermark/node-platform/verification';
import { digestText } from '@countermark/protocol/digest';
import type { BatchStatistics } from '@countermark/protocol/messages/batch-statistics';
import type { FinalStatement } from '@countermark/protocol/messages/final-statement';
import type { SqlDatabase } from '@countermark/sql/database';
import { openRecord, type VerifiedRecord } from '@countermark/verify/record';
import type { KeySource } from '@countermark/verify/verified';
import { noteFinalStatement } from './closures.ts';
import { followerCursor, moveCursor } from './follower.ts';
import { ACCOUNT, type Ledger, type LedgerTransaction, type NewEntry } from './ledger.ts';
import { settleRefunded } from './refund.ts';
import type { Registry } from './registry.ts';
import { insertRows } from './rows.ts';
import { noteSpoiled, spoiledMills } from './spoiled-postage.ts';
import type { LogEntry, StatisticsLog } from './statistics-log.ts';
import type { ServerTables } from './tables.ts';

export const LEDGER_FOLLOWER = 'ledger';
const STEP = 256;

export type LedgerFollowerParts = {
  readonly database: SqlDatabase<ServerTables>;
  readonly log: StatisticsLog;
  readonly ledger: Ledger;
  readonly registry: Registry;
  /** Told when the final statement of a device was booked. */
  readonly onEnded?: () => void;
  /** How long spoiled postage waits, from when its record was logged. */
  readonly scanWindowMs: number;
};

type Credit = {
  readonly grant: Uint8Array;
  remainingMills: bigint;
  readonly bookedAtMs: bigint;
  readonly bookedAtCursor: bigint;
};
type Franked = { readonly entry: LogEntry; readonly statistics: BatchStatistics; readonly postageMills: bigint };

/** Books what is new in the log. */
export async function bookPostage(parts: LedgerFollowerParts): Promise<'more' | 'idle'> {
  const { database, log, ledger, registry } = parts;
  const cursor = await followerCursor(database, LEDGER_FOLLOWER);
  const entries = await log.after(cursor, STEP);
  const last = entries.at(-1);
  if (last === undefined) return 'idle';
  const franked: Franked[] = [];
  const ended: { readonly statement: FinalStatement; readonly atMs: number }[] = [];
  for (const entry of entries) {
    const record = await recordOf(entry, registry);
    if (record.type === 'final-statement') {
      ended.push({ statement: record.verified.message, atMs: entry.acceptedAtMs });
    }
    if (record.type !== 'batch-statistics') continue;
    const statistics = record.verified.message;
    const { opened, closed } = statistics.observed;
    const postageMills = closed.ascendingMills - opened.ascendingMills;
    if (postageMills > 0n) franked.push({ entry, statistics, postageMills });
  }
  await database.transaction(async (tables) => {
    const fresh = new Set((await ledger.bookIn(tables, franked.map(postageEntry))).map((entry) => entry.ref));
    const booked = franked.filter((one) => fresh.has(refOf(one)));
    await noteSpoiled(tables, booked, parts.scanWindowMs);
    await drawCredits(
      tables,
      parts,
      booked.filter((one) => !one.entry.suspended),
    );
    // Whether it stands or not: what a restored log is fed again may come after the refund. Of several records of one device the last names
    // the cause of all.
    const causes = new Map(booked.map((one) => [one.entry.device, refOf(one)] as const));
    await settleRefunded(tables, ledger, causes, booked.at(-1)?.entry.acceptedAtMs ?? 0);
    for (const { statement, atMs } of ended) {
      const { device, sequence, returnedMills } = statement;
      await noteFinalStatement(tables, device, sequence, returnedMills, atMs);
    }
    await moveCursor(tables, LEDGER_FOLLOWER, last.cursor);
  });
  if (ended.length > 0) parts.onEnded?.();
  return entries.length === STEP ? 'more' : 'idle';
}

/** A record of the log, which took only verified ones. */
async function recordOf(entry: LogEntry, registry: Registry): Promise<VerifiedRecord> {
  const keys: KeySource = ({ holder, epoch }) => registry.certificateInMemory(holder, epoch)?.message ?? null;
  let opened = openRecord(entry.record, { port: nodeVerification, keys });
  if (!opened.ok && opened.rejection.code === 'unknown-device') {
    const [holder = '', epoch = ''] = String(opened.rejection.detail['device']).split('#');
    await registry.certificate(holder, Number(epoch));
    opened = openRecord(entry.record, { port: nodeVerification, keys });
  }
  const record = opened.ok ? opened.value.finish(true) : opened;
  if (!record.ok) throw new TypeError(`the log holds a record that cannot be read: ${record.rejection.code}`);
  return record.value;
}

function refOf({ entry }: Franked): string {
  return `postage:${digestText(entry.digest)}`;
}

function postageEntry(franked: Franked): NewEntry {
  const { entry, statistics, postageMills } = franked;
  const { device, licensee, sequence, declaration } = statistics;
  return {
    ref: refOf(franked),
    kind: 'postage',
    note: `Record ${sequence} of ${device}, batch ${declaration.batch}`,
    atMs: entry.acceptedAtMs,
    lines: [
      { account: ACCOUNT.device(device), amountMills: -postageMills },
      { account: ACCOUNT.of('postage', licensee, declaration.customer), amountMills: postageMills },
    ],
  };
}

async function drawCredits(
  tables: LedgerTransaction,
  { database, ledger }: LedgerFollowerParts,
  franked: readonly Franked[],
): Promise<void> {
  const credits = new Map<string, Credit[]>();
  const changed = new Set<Credit>();
  const entries: NewEntry[] = [];
  const draws: (readonly [string, string, string, bigint])[] = [];
  for (const { entry, statistics, postageMills } of franked) {
    const { licensee, declaration, observed } = statistics;
    const { customer } = declaration;
    const beneficiary = `${licensee} ${customer ?? ''}`;
    let own = credits.get(beneficiary);
    if (own === undefined) {
      own = await openCredits(tables, licensee, customer ?? '');
      credits.set(beneficiary, own);
    }
    let leftMills = postageMills - spoiledMills(statistics);
    for (const credit of own) {
      if (leftMills === 0n || credit.remainingMills === 0n) continue;
      const { openedAfterMs } = observed;
      const after =
        openedAfterMs === undefined ? entry.cursor > credit.bookedAtCursor : BigInt(openedAfterMs) >= credit.bookedAtMs;
      if (!after) continue;
      const amountMills = leftMills < credit.remainingMills ? leftMills : credit.remainingMills;
      leftMills -= amountMills;
      credit.remainingMills -= amountMills;
      changed.add(credit);
      const ref = `draw:${digestText(entry.digest)}:${digestText(credit.grant)}`;
      entries.push({
        ref,
        kind: 'draw',
        note: `Credit drawn by the postage of record ${statistics.sequence} of ${statistics.device}`,
        atMs: entry.acceptedAtMs,
        lines: [
          { account: ACCOUNT.of('credit', licensee, customer), amountMills: -amountMills },
          { account: ACCOUNT.drawn(licensee), amountMills },
        ],
      });
      draws.push([ref, licensee, customer ?? '', amountMills]);
    }
  }
  if (draws.length === 0) return;
  await ledger.bookIn(tables, entries);
  await tables.executeQuery(insertRows(database.kind, 'draw (ref, licensee, customer, amount_mills)', draws));
  for (const credit of changed) {
    await tables
      .updateTable('credit')
      .set({ remaining_mills: credit.remainingMills })
      .where('grant_digest', '=', credit.grant)
      .execute();
  }
}

async function openCredits(tables: LedgerTransaction, licensee: string, customer: string): Promise<Credit[]> {
  const rows = await tables
    .selectFrom('credit')
    .selectAll()
    .where('licensee', '=', licensee)
    .where('customer', '=', customer)
    .where('remaining_mills', '>', 0n)
    .orderBy('place')
    .execute();
  return rows.map((row) => ({
    grant: row.grant_digest,
    remainingMills: row.remaining_mills,
    bookedAtMs: row.booked_at_ms,
    bookedAtCursor: row.booked_at_cursor,
  }));
}
