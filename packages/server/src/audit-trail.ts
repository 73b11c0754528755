/**
 * The audit trail: what people did at this server, in one chain of digests.
 *
 * Guarantees: append-only; an entry is written in the unit of work of what it tells, so that nothing is done without its entry and no
 * entry stands for what was not done; each entry's digest covers the one before (`protocol/interfaces/audit-entry`). The first entry covers
 * what operators did before there was a chain, which stands in a table of its own.
 * Does not resist who can write the database: they can compute the chain anew. An auditor who keeps a number with its digest sees that
 * (`countermark audit list --known`). What hosts and followers do by themselves is in the log and the ledger, not here.
 */
import { sha256 } from '@countermark/node-platform/verification';
import { type Digest, digestOf, digestText, NO_DIGEST } from '@countermark/protocol/digest';
import type { DeviceId } from '@countermark/protocol/id';
import {
  type ActorKind,
  AUDIT_WORDS_BYTES,
  type AuditEntry,
  auditDigest,
} from '@countermark/protocol/interfaces/audit-entry';
import type { SqlDatabase } from '@countermark/sql/database';
import type { Kysely } from 'kysely';
import type { LedgerTransaction } from './ledger.ts';
import type { ServerTables } from './tables.ts';

/** Who acts. `name` is the configured name, the person's, the licensee of the host; empty for the server itself. */
export type Actor = { readonly kind: ActorKind; readonly name: string };

/** What follows by itself. */
export const BY_ITSELF: Actor = { kind: 'server', name: '' };

const DEVICE_ACTS = [
  'withdrawn',
  'declared-dead',
  'confirmed-dead',
  'closing',
  'refunded',
  'refund-withheld',
  'profile-chosen',
  'inspected',
  'sessions-revoked',
] as const;
type DeviceActName = (typeof DEVICE_ACTS)[number];

export type ActName =
  | DeviceActName
  | 'trail-begun'
  | 'person-added'
  | 'person-revoked'
  | 'licensee-registered'
  | 'customers-registered'
  | 'deposit-paid'
  | 'deposit-paid-out'
  | 'code-issued'
  | 'code-revoked'
  | 'certificate-issued'
  | 'certificate-restored'
  | 'credentials-refused'
  | 'ceremony-ordered'
  | 'ceremony-confirmed'
  | 'ceremony-cancelled'
  | 'role-key-rotated';

/** An act, not yet in the trail. */
export type NewAct = {
  readonly act: ActName;
  readonly by: Actor;
  /** A device, a licensee, a person, a role of the cryptographic device. */
  readonly subject: string;
  /** For people; cut where it is too long. */
  readonly words: string;
  readonly atMs: number;
};

/** An act on a device, as its file shows it. */
export type DeviceAct = {
  readonly act: DeviceActName;
  /** Empty for what follows by itself. */
  readonly operator: string;
  readonly words: string;
  readonly atMs: number;
};

export type ChainedEntry = AuditEntry & { readonly digest: Digest };

/** Appends an act within the unit of work of what is done. */
export async function recordAct(tables: LedgerTransaction, { act, by, subject, words, atMs }: NewAct): Promise<void> {
  const last = await tables
    .selectFrom('audit_entry')
    .select(['number', 'digest'])
    .orderBy('number', 'desc')
    .limit(1)
    .executeTakeFirst();
  await append(
    tables,
    {
      number: Number(last?.number ?? 0n) + 1,
      atMs,
      actorKind: by.kind,
      actor: by.name,
      act,
      subject,
      words: fitting(words),
    },
    last === undefined ? NO_DIGEST : digestOf(last.digest),
  );
}

/** Begins the trail where it is not begun: with a digest over what operators did before. */
export async function beginTrail(database: SqlDatabase<ServerTables>, nowMs: number): Promise<void> {
  await database.transaction(async (tables) => {
    const begun = await tables.selectFrom('audit_entry').select('number').limit(1).executeTakeFirst();
    if (begun !== undefined) return;
    const words = await earlierActs(tables);
    await recordAct(tables, { act: 'trail-begun', by: BY_ITSELF, subject: '', words, atMs: nowMs });
  });
}

/** How the first entry names what was done before: its number, and a digest over all of it in order. */
export async function earlierActs(tables: Pick<Kysely<ServerTables>, 'selectFrom'>): Promise<string> {
  const rows = await tables.selectFrom('operator_act').selectAll().orderBy('number').execute();
  let chained: Digest = NO_DIGEST;
  for (const { number, device, act, operator, words, at_ms } of rows) {
    const line = JSON.stringify([digestText(chained), String(number), device, act, operator, words, String(at_ms)]);
    chained = digestOf(sha256(Buffer.from(line)));
  }
  return rows.length === 0 ? 'nothing was done before' : `${rows.length} acts before, ${digestText(chained)}`;
}

/** Entries after a number, oldest first. */
export async function auditEntries(
  database: SqlDatabase<ServerTables>,
  after: number,
  limit: number,
): Promise<readonly ChainedEntry[]> {
  const rows = await database.read(async (tables) =>
    tables
      .selectFrom('audit_entry')
      .selectAll()
      .where('number', '>', BigInt(after))
      .orderBy('number')
      .limit(limit)
      .execute(),
  );
  return rows.map((row) => ({
    number: Number(row.number),
    atMs: Number(row.at_ms),
    actorKind: row.actor_kind as ActorKind,
    actor: row.actor,
    act: row.act,
    subject: row.subject,
    words: row.words,
    digest: row.digest as Digest,
  }));
}

/** What was done to a device, oldest first, before the trail was begun and since. */
export async function actsOf(database: SqlDatabase<ServerTables>, device: DeviceId): Promise<readonly DeviceAct[]> {
  return database.read(async (tables) => {
    const earlier = await tables
      .selectFrom('operator_act')
      .selectAll()
      .where('device', '=', device)
      .orderBy('number')
      .execute();
    const entries = await tables
      .selectFrom('audit_entry')
      .selectAll()
      .where('subject', '=', device)
      .where('act', 'in', [...DEVICE_ACTS])
      .orderBy('number')
      .execute();
    return [...earlier, ...entries.map(({ actor, ...entry }) => ({ ...entry, operator: actor }))].map(
      ({ act, operator, words, at_ms }) => ({ act: act as DeviceActName, operator, words, atMs: Number(at_ms) }),
    );
  });
}

async function append(tables: LedgerTransaction, entry: AuditEntry, previous: Digest): Promise<void> {
  await tables
    .insertInto('audit_entry')
    .values({
      number: BigInt(entry.number),
      at_ms: BigInt(entry.atMs),
      actor_kind: entry.actorKind,
      actor: entry.actor,
      act: entry.act,
      subject: entry.subject,
      words: entry.words,
      digest: auditDigest(entry, previous, sha256),
    })
    .execute();
}

/** Words as an entry takes them: without control characters, whole characters only. */
function fitting(words: string): string {
  const bytes = Buffer.from(words.replace(/\p{Cc}/gu, ' ')).subarray(0, AUDIT_WORDS_BYTES);
  return new TextDecoder().decode(bytes).replace(/\uFFFD$/, '');
}
