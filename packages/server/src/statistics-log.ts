/**
 * The statistics log: the only truth about records (design, 2.7 and invariant 5).
 *
 * Guarantees of the port: `append` is one atomic compare-and-append for each device, durable when it resolves; the exact bytes
 * of record and attestation are stored, with the digest of the certificate under which the record stands; a device's records
 * form one chain without gap; a confirmation is stored if there is none and what is stored is answered, at every repeat; of a
 * fork both records are kept and the device is marked suspended in the same unit of work; an inconsistent record is kept as
 * quarantined. Cursors rise in the order of commits and have gaps.
 * Takes only verified records, and does not ask who verified them.
 */
import { digestOf, NO_DIGEST, type Digest } from '@countermark/protocol/digest';
import type { DeviceId } from '@countermark/protocol/id';
import { mills } from '@countermark/protocol/money';
import type { Rejection } from '@countermark/protocol/rejection';
import type { SqlDatabase } from '@countermark/sql/database';
import { CHAIN_START, type ChainHead, judge } from '@countermark/verify/chain';
import { recordIdentity, type VerifiedRecord } from '@countermark/verify/record';
import { CompiledQuery, type Kysely } from 'kysely';
import { groups, insertRows, type SqlValue } from './rows.ts';
import type { ServerTables } from './tables.ts';

/** A record to append, verified by the cryptographic device. */
export type LogItem = {
  readonly record: VerifiedRecord;
  readonly attestation: Uint8Array;
  /** Digest of the device certificate under which it stands. */
  readonly certificate: Digest;
};

/** An accepted record as it lies in the log. */
export type LogEntry = {
  readonly device: DeviceId;
  readonly sequence: number;
  readonly cursor: bigint;
  readonly digest: Digest;
  readonly record: Uint8Array;
  readonly attestation: Uint8Array;
  readonly certificate: Digest;
  /** It came after the last record that stands of a suspended device. */
  readonly suspended: boolean;
  readonly acceptedAtMs: number;
  readonly confirmation: Uint8Array | null;
};

export type AppendOutcome =
  | { readonly outcome: 'appended' }
  /** With what was stored the first time: other bytes of the same digest are answered with it. */
  | { readonly outcome: 'already-accepted'; readonly entry: LogEntry }
  | { readonly outcome: 'rejected'; readonly rejection: Rejection };

/** A device's head, and whether the log has suspended it: then its records after `suspendedAfter` are marked. */
export type DeviceHead = ChainHead & {
  readonly suspended: boolean;
  readonly suspendedAfter: number;
  readonly reason: string;
};

/** A confirmation to store. */
export type StoredConfirmation = {
  readonly device: DeviceId;
  readonly sequence: number;
  readonly confirmation: Uint8Array;
};

export type StatisticsLog = {
  /** Appends in order, items of many devices; one outcome each. Rejections: those of `judge`. */
  append(items: readonly LogItem[], nowMs: number): Promise<readonly AppendOutcome[]>;
  /** Stores each if absent and answers what is stored. */
  confirm(items: readonly StoredConfirmation[]): Promise<readonly Uint8Array[]>;
  entry(device: DeviceId, sequence: number): Promise<LogEntry | null>;
  /** Entries after the cursor, in its order. */
  after(cursor: bigint, limit: number): Promise<readonly LogEntry[]>;
  head(device: DeviceId): Promise<DeviceHead>;
  /** The last cursor. */
  position(): Promise<bigint>;
  /** The last sequence of the device at or before the cursor, 0 for none. */
  sequenceAt(device: DeviceId, cursor: bigint): Promise<number>;
  /** Records that were not accepted and are kept: forks, inconsistent ones, those under a superseded key or after the end; oldest first. */
  evidence(device: DeviceId): Promise<readonly EvidenceEntry[]>;
  /** Suspends the device, for the reason, if it is not yet: its records after the head are marked. */
  suspend(device: DeviceId, reason: string): Promise<void>;
  /**
   * Lets records of a suspended device stand up to the sequence: a log that was restored was suspended at a lower head than the signed word
   * names, and is fed what it lost. What is marked already stays marked.
   */
  standUntil(device: DeviceId, sequence: number): Promise<void>;
};

/** A record that was authentic and yet not accepted. */
export type EvidenceEntry = {
  readonly sequence: number;
  readonly digest: Digest;
  /** Of the rejection: `fork`, `inconsistent`, `superseded-key` or `chain-ended`. */
  readonly code: string;
  readonly record: Uint8Array;
  readonly attestation: Uint8Array;
  readonly atMs: number;
};

type HeadRow = ServerTables['head'];
type Tables = Pick<Kysely<ServerTables>, 'executeQuery'>;

const EVIDENCE_PER_DEVICE = 64;
/** Of them for forks alone: who has a key that is over can make as many other refused records as he likes. */
const EVIDENCE_FOR_FORKS = 32;
/** Codes of records that prove something against their device or its keys. */
const KEPT_AS_EVIDENCE = new Set<string>(['fork', 'inconsistent', 'superseded-key', 'chain-ended']);
const RECORD_COLUMNS = 'device, sequence, cursor, digest, record, attestation, certificate, suspended, accepted_at_ms';
const HEAD_COLUMNS =
  'device, sequence, digest, ascending_mills, descending_mills, pieces, received_mills, returned_mills, last_grant, epoch, suspended, suspended_after, reason';
const HEAD_UPSERT = `ON CONFLICT (device) DO UPDATE SET ${HEAD_COLUMNS.split(', ')
  .slice(1)
  .map((column) => `${column} = excluded.${column}`)
  .join(', ')}`;

/** The log on SQLite or PostgreSQL. */
export class SqlStatisticsLog implements StatisticsLog {
  readonly #database: SqlDatabase<ServerTables>;

  constructor(database: SqlDatabase<ServerTables>) {
    this.#database = database;
  }

  async append(items: readonly LogItem[], nowMs: number): Promise<readonly AppendOutcome[]> {
    const identities = items.map((item) => recordIdentity(item.record));
    const devices = [...new Set(identities.map((identity) => identity.device))].sort();
    return this.#database.transaction(
      async (tables) => {
        // The log's position is the first lock that every append takes: cursors commit in their order, heads cannot deadlock.
        const advanced = await tables.executeQuery<{ cursor: bigint }>(
          this.#query('UPDATE log_position SET cursor = cursor + ? WHERE id = 1 RETURNING cursor', [
            BigInt(items.length),
          ]),
        );
        let cursor = (advanced.rows[0]?.cursor ?? 0n) - BigInt(items.length);
        const heads = await this.#heads(tables, devices);
        const accepted = await this.#acceptedBelow(tables, identities, heads);
        const outcomes: AppendOutcome[] = [];
        const records: SqlValue[][] = [];
        const evidence: SqlValue[][] = [];
        for (const [index, item] of items.entries()) {
          const identity = identities[index];
          if (identity === undefined) throw new TypeError('order');
          const { device, sequence, digest } = identity;
          const head = heads.get(device) ?? START;
          const { bytes } = item.record.verified;
          const verdict = judge(head, item.record, (at) => accepted.get(`${device}#${at}`)?.digest ?? null);
          cursor += 1n;
          if (verdict.outcome === 'continues') {
            const suspended = head.suspended && sequence > head.suspendedAfter;
            records.push([
              device,
              BigInt(sequence),
              cursor,
              digest,
              bytes,
              item.attestation,
              item.certificate,
              suspended ? 1n : 0n,
              BigInt(nowMs),
            ]);
            accepted.set(`${device}#${sequence}`, {
              device,
              sequence,
              cursor,
              digest,
              record: bytes,
              attestation: item.attestation,
              certificate: item.certificate,
              suspended,
              acceptedAtMs: nowMs,
              confirmation: null,
            });
            heads.set(device, { ...head, ...verdict.head });
            outcomes.push({ outcome: 'appended' });
          } else if (verdict.outcome === 'already-accepted') {
            const entry = accepted.get(`${device}#${sequence}`);
            if (entry === undefined) throw new TypeError('judged by a record that is not there');
            outcomes.push({ outcome: 'already-accepted', entry });
          } else {
            const refused = verdict.rejection;
            outcomes.push({ outcome: 'rejected', rejection: refused });
            if (KEPT_AS_EVIDENCE.has(refused.code)) {
              evidence.push([device, digest, BigInt(sequence), refused.code, bytes, item.attestation, BigInt(nowMs)]);
            }
            if (refused.code === 'fork' && !head.suspended) {
              heads.set(device, {
                ...head,
                suspended: true,
                suspendedAfter: head.sequence,
                reason: `two different records for sequence ${sequence}`,
              });
            }
          }
        }
        const insert = async (target: string, rows: readonly SqlValue[][], suffix = ''): Promise<void> => {
          if (rows.length > 0) await tables.executeQuery(insertRows(this.#database.kind, target, rows, suffix));
        };
        await insert(`record (${RECORD_COLUMNS})`, records);
        await insert(
          'evidence (device, digest, sequence, code, record, attestation, at_ms)',
          await this.#withRoom(tables, distinct(evidence)),
          'ON CONFLICT DO NOTHING',
        );
        if (records.length + evidence.length > 0) {
          const rows = [...heads].filter(([, head]) => head !== START).map(([device, head]) => headRow(device, head));
          await insert(`head (${HEAD_COLUMNS})`, rows, HEAD_UPSERT);
        }
        return outcomes;
      },
      { isolation: 'read committed' },
    );
  }

  async confirm(items: readonly StoredConfirmation[]): Promise<readonly Uint8Array[]> {
    const { kind } = this.#database;
    return this.#database.transaction(
      async (tables) => {
        const given = new Map(items.map((item) => [`${item.device}#${item.sequence}`, item]));
        const rows = [...given.values()].map(({ device, sequence, confirmation }) => [
          device,
          BigInt(sequence),
          confirmation,
        ]);
        const inserted = await tables.executeQuery(
          insertRows(kind, 'confirmation (device, sequence, confirmation)', rows, 'ON CONFLICT DO NOTHING'),
        );
        // All were new: what is stored is what was given.
        if (inserted.numAffectedRows === BigInt(rows.length)) {
          return items.map((item) => given.get(`${item.device}#${item.sequence}`)?.confirmation ?? item.confirmation);
        }
        const stored = new Map<string, Uint8Array>();
        const reread = await tables.executeQuery<ServerTables['confirmation']>(
          this.#query(
            `SELECT device, sequence, confirmation FROM confirmation WHERE (device, sequence) IN (${pairs(kind, rows.length)})`,
            rows.flatMap(([device, sequence]) => [device, sequence] as SqlValue[]),
          ),
        );
        for (const row of reread.rows) stored.set(`${row.device}#${row.sequence}`, row.confirmation);
        return items.map(({ device, sequence }) => {
          const confirmation = stored.get(`${device}#${sequence}`);
          if (confirmation === undefined) throw new TypeError('a confirmation that was just stored is missing');
          return confirmation;
        });
      },
      { isolation: 'read committed' },
    );
  }

  async entry(device: DeviceId, sequence: number): Promise<LogEntry | null> {
    return this.#database.read(async (tables) => {
      const found = await this.#entries(tables, 'r.device = ? AND r.sequence = ?', [device, BigInt(sequence)]);
      return found[0] ?? null;
    });
  }

  async after(cursor: bigint, limit: number): Promise<readonly LogEntry[]> {
    return this.#database.read(async (tables) =>
      this.#entries(tables, 'r.cursor > ? ORDER BY r.cursor LIMIT ?', [cursor, BigInt(limit)]),
    );
  }

  async head(device: DeviceId): Promise<DeviceHead> {
    return this.#database.read(async (tables) => (await this.#heads(tables, [device])).get(device) ?? START);
  }

  async position(): Promise<bigint> {
    return this.#database.read(async (tables) => {
      const last = await tables
        .selectFrom('record')
        .select((eb) => eb.fn.max('cursor').as('cursor'))
        .executeTakeFirst();
      return last?.cursor ?? 0n;
    });
  }

  async sequenceAt(device: DeviceId, cursor: bigint): Promise<number> {
    return this.#database.read(async (tables) => {
      const last = await tables
        .selectFrom('record')
        .select((eb) => eb.fn.max('sequence').as('sequence'))
        .where('device', '=', device)
        .where('cursor', '<=', cursor)
        .executeTakeFirst();
      return Number(last?.sequence ?? 0n);
    });
  }

  async evidence(device: DeviceId): Promise<readonly EvidenceEntry[]> {
    const rows = await this.#database.read(async (tables) =>
      tables
        .selectFrom('evidence')
        .selectAll()
        .where('device', '=', device)
        .orderBy('at_ms')
        .orderBy('sequence')
        .execute(),
    );
    return rows.map((row) => ({
      sequence: Number(row.sequence),
      digest: digestOf(row.digest),
      code: row.code,
      record: row.record,
      attestation: row.attestation,
      atMs: Number(row.at_ms),
    }));
  }

  async suspend(device: DeviceId, reason: string): Promise<void> {
    await this.#changeHead(device, (head) =>
      head.suspended ? null : { ...head, suspended: true, suspendedAfter: head.sequence, reason },
    );
  }

  async standUntil(device: DeviceId, sequence: number): Promise<void> {
    await this.#changeHead(device, (head) =>
      head.suspended && head.suspendedAfter < sequence ? { ...head, suspendedAfter: sequence } : null,
    );
  }

  /** `change` answers null where nothing is to be changed. */
  async #changeHead(device: DeviceId, change: (head: DeviceHead) => DeviceHead | null): Promise<void> {
    await this.#database.transaction(
      async (tables) => {
        // The lock that every append takes: none is between reading the head and writing it.
        await tables.executeQuery(this.#query('UPDATE log_position SET cursor = cursor WHERE id = 1', []));
        const changed = change((await this.#heads(tables, [device])).get(device) ?? START);
        if (changed === null) return;
        const row = headRow(device, changed);
        await tables.executeQuery(insertRows(this.#database.kind, `head (${HEAD_COLUMNS})`, [row], HEAD_UPSERT));
      },
      { isolation: 'read committed' },
    );
  }

  async #heads(tables: Tables, devices: readonly DeviceId[]): Promise<Map<DeviceId, DeviceHead>> {
    const { kind } = this.#database;
    const lock = kind === 'postgres' ? ' ORDER BY device FOR UPDATE' : '';
    const found = await tables.executeQuery<HeadRow>(
      this.#query(
        `SELECT ${HEAD_COLUMNS} FROM head WHERE device IN (${devices.map(() => '?').join(', ')})${lock}`,
        devices,
      ),
    );
    return new Map(found.rows.map((row) => [row.device as DeviceId, headOf(row)]));
  }

  /** Evidence without what would be too much of one device: it proves, and is no way to fill the disk. */
  async #withRoom(tables: Tables, evidence: readonly SqlValue[][]): Promise<readonly SqlValue[][]> {
    if (evidence.length === 0) return evidence;
    const devices = [...new Set(evidence.map((row) => String(row[0])))];
    const kept = await tables.executeQuery<{ device: string; kept: bigint }>(
      this.#query(
        `SELECT device, count(*) AS kept FROM evidence WHERE device IN (${devices.map(() => '?').join(', ')}) GROUP BY device`,
        devices,
      ),
    );
    const room = new Map(kept.rows.map((row) => [row.device, EVIDENCE_PER_DEVICE - Number(row.kept)]));
    return evidence.filter((row) => {
      const left = room.get(String(row[0])) ?? EVIDENCE_PER_DEVICE;
      if (left <= (row[3] === 'fork' ? 0 : EVIDENCE_FOR_FORKS)) return false;
      room.set(String(row[0]), left - 1);
      return true;
    });
  }

  /** What was accepted at the items' own places, where these are not after the head. */
  async #acceptedBelow(
    tables: Tables,
    identities: readonly { readonly device: DeviceId; readonly sequence: number }[],
    heads: ReadonlyMap<DeviceId, DeviceHead>,
  ): Promise<Map<string, LogEntry>> {
    const below = identities.filter(({ device, sequence }) => sequence <= (heads.get(device) ?? START).sequence);
    if (below.length === 0) return new Map();
    const entries = await this.#entries(
      tables,
      `(r.device, r.sequence) IN (${pairs(this.#database.kind, below.length)})`,
      below.flatMap(({ device, sequence }) => [device, BigInt(sequence)]),
    );
    return new Map(entries.map((entry) => [`${entry.device}#${entry.sequence}`, entry]));
  }

  async #entries(tables: Tables, where: string, values: readonly SqlValue[]): Promise<LogEntry[]> {
    const found = await tables.executeQuery<ServerTables['record'] & { confirmation: Uint8Array | null }>(
      this.#query(
        `SELECT ${RECORD_COLUMNS.split(', ')
          .map((column) => `r.${column}`)
          .join(', ')}, c.confirmation FROM record r
         LEFT JOIN confirmation c ON c.device = r.device AND c.sequence = r.sequence WHERE ${where}`,
        values,
      ),
    );
    return found.rows.map((row) => ({
      device: row.device as DeviceId,
      sequence: Number(row.sequence),
      cursor: row.cursor,
      digest: digestOf(row.digest),
      record: row.record,
      attestation: row.attestation,
      certificate: digestOf(row.certificate),
      suspended: row.suspended === 1n,
      acceptedAtMs: Number(row.accepted_at_ms),
      confirmation: row.confirmation,
    }));
  }

  /** Question marks become what the kind of database wants. */
  #query(text: string, values: readonly SqlValue[]): CompiledQuery {
    let next = 1;
    return CompiledQuery.raw(this.#database.kind === 'postgres' ? text.replace(/\?/g, () => `$${next++}`) : text, [
      ...values,
    ]);
  }
}

const START: DeviceHead = { ...CHAIN_START, suspended: false, suspendedAfter: 0, reason: '' };

function headRow(device: DeviceId, head: DeviceHead): SqlValue[] {
  return [
    device,
    BigInt(head.sequence),
    head.digest,
    head.registers.ascendingMills,
    head.registers.descendingMills,
    BigInt(head.registers.pieces),
    head.funds.receivedMills,
    head.funds.returnedMills,
    BigInt(head.funds.lastGrant),
    BigInt(head.epoch),
    head.suspended ? 1n : 0n,
    BigInt(head.suspendedAfter),
    head.reason,
  ];
}

function headOf(row: HeadRow): DeviceHead {
  return {
    sequence: Number(row.sequence),
    digest: row.sequence === 0n ? NO_DIGEST : digestOf(row.digest),
    registers: {
      ascendingMills: mills(row.ascending_mills),
      descendingMills: mills(row.descending_mills),
      pieces: Number(row.pieces),
    },
    funds: {
      receivedMills: mills(row.received_mills),
      returnedMills: mills(row.returned_mills),
      lastGrant: Number(row.last_grant),
    },
    epoch: Number(row.epoch),
    suspended: row.suspended === 1n,
    suspendedAfter: Number(row.suspended_after),
    reason: row.reason,
  };
}

/** Rows that name the same (device, digest) once: some databases refuse two in one statement. */
function distinct(rows: readonly SqlValue[][]): SqlValue[][] {
  return [
    ...new Map(
      rows.map((row) => [`${String(row[0])}#${Buffer.from(row[1] as Uint8Array).toString('hex')}`, row]),
    ).values(),
  ];
}

function pairs(kind: 'sqlite' | 'postgres', count: number): string {
  return kind === 'sqlite' ? `VALUES ${groups('sqlite', count, 2)}` : groups('sqlite', count, 2);
}
