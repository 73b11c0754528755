/**
 * The authority's store on packages/sql: one implementation for SQLite and PostgreSQL.
 *
 * Guarantees what `authority-store.ts` asks: every change is one serialisable transaction; cursors are counted in a locked
 * row, never by a sequence of the database, whose numbers can be committed out of order.
 */
import { nodeVerification } from '@countermark/node-platform/verification';
import { concat } from '@countermark/protocol/bytes';
import { type Digest, digestOf, digestText, NO_DIGEST, sameBytes } from '@countermark/protocol/digest';
import type { CustomerId, DeviceId, LicenseeId, ProgrammeId } from '@countermark/protocol/id';
import type { HistoryPoint } from '@countermark/protocol/interfaces/delivery';
import { mills } from '@countermark/protocol/money';
import { isRejectionCode, rejection } from '@countermark/protocol/rejection';
import { openDatabase, type SqlDatabase } from '@countermark/sql/database';
import type { Programme } from '@countermark/tariff/programme';
import {
  type Expression,
  type ExpressionBuilder,
  type Kysely,
  type Selectable,
  type SqlBool,
  sql,
  type Transaction,
} from 'kysely';
import { newDevice } from '../intake.ts';
import type { RatedCell, Standing } from '../rating.ts';
import { DIMENSIONS, type TotalsQuery, type TotalsRow } from '../totals.ts';
import type {
  AuthorityStore,
  CertifiedKey,
  CountedCell,
  DeviceState,
  GrantIdentity,
  GrantItem,
  IntakeChanges,
  IntakeView,
  LastGrant,
  Position,
  Positions,
  ProgrammeState,
  QuarantinedRecord,
  SignedGrant,
  StoredRecord,
  StoredTotal,
  WrongTotal,
} from './authority-store.ts';
import { MIGRATIONS, type Tables } from './tables.ts';

/** A position of this name and a cursor: the grants after it were lost, and their cursors are not given again. */
const GAP = 'grants-lost-after:';
/** Where the authority's tables lie in a PostgreSQL that it shares with others. */
const SCHEMA = 'countermark_authority';
/** Rows of one INSERT, values of one IN: below every driver's bound on parameters. */
const ROWS = 100;
const VALUES = 500;
/** Quarantined records that are kept of one device: evidence, not a way to fill the disk. */
const QUARANTINED_PER_DEVICE = 16n;

/** Opens the store and migrates it; `onBroken` is told once when it takes nothing more. Faults: those of `openDatabase`. */
export async function openAuthorityStore(
  url: string,
  onBroken: (fault: unknown) => void = () => undefined,
): Promise<AuthorityStore> {
  return new SqlStore(await openDatabase<Tables>(url, { migrations: MIGRATIONS, schema: SCHEMA, onBroken }));
}

class SqlStore implements AuthorityStore {
  readonly #database: SqlDatabase<Tables>;

  constructor(database: SqlDatabase<Tables>) {
    this.#database = database;
  }

  async addCertificates(keys: readonly CertifiedKey[]): Promise<void> {
    if (keys.length === 0) return;
    const rows = keys.map((key) => ({
      device: key.device,
      epoch: BigInt(key.epoch),
      licensee: key.licensee,
      authentication: key.authentication,
      public_key: key.publicKey,
      digest: key.digest,
      bytes: key.bytes,
    }));
    await this.#database.transaction(async (tables) => {
      for (const part of chunks(rows, ROWS)) {
        await tables
          .insertInto('certificate')
          .values(part)
          .onConflict((conflict) => conflict.columns(['device', 'epoch']).doNothing())
          .execute();
      }
    });
  }

  async certificates(keys: readonly { device: string; epoch: number }[]): Promise<CertifiedKey[]> {
    const found: CertifiedKey[] = [];
    for (const part of chunks(keys, VALUES)) {
      const rows = await this.#database.read((tables) =>
        tables
          .selectFrom('certificate')
          .selectAll()
          .where(
            'device',
            'in',
            part.map((key) => key.device),
          )
          .execute(),
      );
      for (const row of rows) {
        if (!part.some((key) => key.device === row.device && BigInt(key.epoch) === row.epoch)) continue;
        found.push({
          device: row.device as DeviceId,
          epoch: Number(row.epoch),
          licensee: row.licensee as LicenseeId,
          authentication: authenticationOf(row.authentication),
          publicKey: row.public_key,
          digest: digestOf(row.digest),
          bytes: row.bytes,
        });
      }
    }
    return found;
  }

  async intake<Decision extends IntakeChanges>(
    devices: readonly DeviceId[],
    positions: readonly Position[],
    decide: (view: IntakeView) => Decision,
    since?: HistoryPoint,
  ): Promise<{ decision: Decision | null; point: HistoryPoint }> {
    return this.#database.transaction(async (tables) => {
      const before = await this.#locked(tables, 'intake');
      let history = (await historyAt(tables, before)) ?? unreachable();
      if (since !== undefined && !(await hasComeBy(tables, since))) {
        return { decision: null, point: { cursor: Number(before), digest: history } };
      }
      const states = new Map<DeviceId, DeviceState>();
      for (const part of chunks(devices, VALUES)) {
        const rows = await tables.selectFrom('device').selectAll().where('device', 'in', part).execute();
        for (const row of rows) states.set(row.device as DeviceId, deviceOf(row));
      }
      const digests = await digestsAt(tables, positions);
      const decision = decide({
        device: (device) => states.get(device) ?? newDevice(device),
        acceptedAt: (device, sequence) => digests.get(`${device} ${sequence}`) ?? null,
      });
      const cursor = before + BigInt(decision.records.length);
      const rows = decision.records.map((record, i) => {
        history = digestOf(nodeVerification.sha256(concat([history, record.digest])));
        return { ...recordRow(record, before + BigInt(i + 1)), history };
      });
      for (const part of chunks(rows, ROWS)) await tables.insertInto('record').values(part).execute();
      for (const state of decision.devices) await putDevice(tables, state);
      for (const record of decision.quarantined) await quarantine(tables, record);
      if (cursor !== before) {
        await tables.updateTable('position').set({ value: cursor }).where('name', '=', 'intake').execute();
      }
      return { decision, point: { cursor: Number(cursor), digest: history } };
    });
  }

  async cameBy(point: HistoryPoint): Promise<boolean> {
    return this.#database.read((tables) => hasComeBy(tables, point));
  }

  async pointAt(cursor: number): Promise<HistoryPoint> {
    const history = await this.#database.read((tables) => historyAt(tables, BigInt(cursor)));
    return { cursor, digest: history ?? unreachable() };
  }

  async gave(cursor: number, digest: Digest): Promise<boolean> {
    const given = await this.#database.read((tables) =>
      tables
        .selectFrom('issued_grant')
        .select('cursor')
        .where('cursor', '=', BigInt(cursor))
        .where('digest', '=', digest)
        .executeTakeFirst(),
    );
    return given !== undefined;
  }

  async positions(): Promise<Positions> {
    const rows = await this.#database.read((tables) => tables.selectFrom('position').selectAll().execute());
    const at = (name: string): number => Number(rows.find((row) => row.name === name)?.value ?? 0n);
    return { intake: at('intake'), rolled: at('rolled'), grants: at('grants'), checked: at('checked') };
  }

  async roll(rolled: number, limit: number, rate: (record: StoredRecord) => readonly RatedCell[]): Promise<number> {
    return this.#database.transaction(async (tables) => {
      const at = await this.#locked(tables, 'rolled');
      if (at !== BigInt(rolled)) return Number(at);
      const rows = await tables
        .selectFrom('record')
        .selectAll()
        .where('cursor', '>', at)
        .orderBy('cursor')
        .limit(limit)
        .execute();
      const last = rows.at(-1);
      if (last === undefined) return rolled;
      const cells = rows.flatMap((row) =>
        rate(recordOf(row)).map((cell, ordinal) => ({ cursor: row.cursor, ordinal: BigInt(ordinal), cell })),
      );
      const ids = await addToTotals(
        tables,
        cells.map(({ cell }) => cell),
      );
      const cellRows = cells.map(({ cursor, ordinal, cell }) => ({
        cursor,
        ordinal,
        total: ids.get(keyOf(cell)) ?? unreachable(),
        pieces: BigInt(cell.pieces),
        postage_mills: cell.postageMills,
        reason: cell.reason,
      }));
      for (const part of chunks(cellRows, ROWS)) await tables.insertInto('cell').values(part).execute();
      await tables.updateTable('position').set({ value: last.cursor }).where('name', '=', 'rolled').execute();
      return Number(last.cursor);
    });
  }

  async touched(after: number, through: number) {
    const rows = await this.#database.read((tables) =>
      tables
        .selectFrom('record')
        .select(['licensee', 'customer', 'mailing_date'])
        .distinct()
        .where('cursor', '>', BigInt(after))
        .where('cursor', '<=', BigInt(through))
        .where('type', '=', 'batch-statistics')
        .orderBy('licensee')
        .orderBy('customer')
        .orderBy('mailing_date')
        .execute(),
    );
    return rows.map((row) => ({
      licensee: row.licensee as LicenseeId,
      customer: customerOf(row.customer),
      mailingDate: row.mailing_date,
    }));
  }

  async totalsOf(
    licensee: LicenseeId,
    customer: CustomerId | null | undefined,
    from: string,
    to: string,
  ): Promise<StoredTotal[]> {
    const rows = await this.#database.read((tables) => {
      const query = tables
        .selectFrom('total')
        .selectAll()
        .where('licensee', '=', licensee)
        .where('mailing_date', '>=', from)
        .where('mailing_date', '<=', to)
        .orderBy('id');
      return (customer === undefined ? query : query.where('customer', '=', customer ?? '')).execute();
    });
    return rows.map(totalOf);
  }

  async totals(query: TotalsQuery, limit: number): Promise<{ rolled: number; rows: TotalsRow[] }> {
    const columns = query.by.map((dimension) => DIMENSIONS[dimension]);
    const { rows, rolled } = await this.#database.transaction(
      async (tables) => {
        let select = tables
          .selectFrom('total')
          .select((build) => [
            build.fn.sum<bigint | null>('pieces').as('pieces'),
            build.fn.sum<bigint | null>('postage_mills').as('postage_mills'),
            build.fn.sum<bigint | null>('declared_mills').as('declared_mills'),
          ])
          .select(columns.map((column, i) => sql.ref(column).as(`d${i}`)))
          .where((build) => matches(build, query));
        for (const column of columns) select = select.groupBy(sql.ref(column)).orderBy(sql.ref(column));
        const at = await tables.selectFrom('position').select('value').where('name', '=', 'rolled').executeTakeFirst();
        return { rows: await select.limit(limit).execute(), rolled: Number(at?.value ?? 0n) };
      },
      { isolation: 'repeatable read' },
    );
    return {
      rolled,
      rows: rows
        .filter((row) => row.pieces !== null)
        .map((row) => ({
          values: query.by.map((dimension, i) => {
            const value = (row as Record<string, unknown>)[`d${i}`];
            if (dimension === 'specimen') return value === 1n ? 'true' : 'false';
            return value === '' ? null : String(value);
          }),
          pieces: row.pieces ?? 0n,
          postageMills: row.postage_mills ?? 0n,
          declaredMills: row.declared_mills ?? 0n,
        })),
    };
  }

  async evidence(totals: readonly bigint[], after: number, through: number): Promise<Digest[]> {
    const found = new Map<bigint, Digest>();
    for (const part of chunks(totals, VALUES)) {
      const rows = await this.#database.read((tables) =>
        tables
          .selectFrom('cell')
          .innerJoin('record', 'record.cursor', 'cell.cursor')
          .select(['record.cursor', 'record.digest'])
          .distinct()
          .where('cell.total', 'in', part)
          .where('cell.cursor', '>', BigInt(after))
          .where('cell.cursor', '<=', BigInt(through))
          .execute(),
      );
      for (const row of rows) found.set(row.cursor, digestOf(row.digest));
    }
    return [...found.entries()].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, digest]) => digest);
  }

  async programmes(): Promise<ProgrammeState[]> {
    const rows = await this.#database.read((tables) =>
      tables.selectFrom('programme').selectAll().orderBy('id').orderBy('version').execute(),
    );
    return rows.map((row) => ({
      id: row.id as ProgrammeId,
      version: Number(row.version),
      canonical: row.canonical,
      evaluated: Number(row.evaluated),
    }));
  }

  async addProgrammes(programmes: readonly Programme[]): Promise<void> {
    await this.#database.transaction(async (tables) => {
      for (const { id, version, canonical } of programmes) {
        await tables
          .insertInto('programme')
          .values({ id, version: BigInt(version), canonical, evaluated: 0n })
          .onConflict((conflict) => conflict.columns(['id', 'version']).doNothing())
          .execute();
      }
    });
  }

  async grantedFrom(programme: ProgrammeId, beforeVersion: number, day: string): Promise<boolean> {
    const row = await this.#database.read((tables) =>
      tables
        .selectFrom('issued_grant')
        .innerJoin('record', (join) => join.onRef('record.licensee', '=', 'issued_grant.licensee'))
        .select('issued_grant.cursor')
        .where('issued_grant.programme', '=', programme)
        .where('issued_grant.version', '<', BigInt(beforeVersion))
        .where('record.mailing_date', '>=', day)
        .whereRef('record.cursor', '<=', 'issued_grant.through')
        .limit(1)
        .executeTakeFirst(),
    );
    return row !== undefined;
  }

  async lastGrant(identity: GrantIdentity): Promise<LastGrant | null> {
    const row = await this.#database.read((tables) =>
      tables
        .selectFrom('issued_grant')
        .select(['revision', 'entitlement_mills', 'through', 'digest'])
        .where('programme', '=', identity.programme)
        .where('version', '=', BigInt(identity.version))
        .where('licensee', '=', identity.licensee)
        .where('customer', '=', identity.customer ?? '')
        .where('period', '=', identity.period)
        .orderBy('revision', 'desc')
        .limit(1)
        .executeTakeFirst(),
    );
    if (row === undefined) return null;
    return {
      revision: Number(row.revision),
      entitlementMills: mills(row.entitlement_mills),
      through: Number(row.through),
      digest: digestOf(row.digest),
    };
  }

  async evaluated(
    programme: { readonly id: ProgrammeId; readonly version: number },
    from: number,
    through: number,
    grants: readonly SignedGrant[],
  ): Promise<boolean> {
    return this.#database.transaction(async (tables) => {
      const state = await this.#database
        .locking(
          tables
            .selectFrom('programme')
            .select('evaluated')
            .where('id', '=', programme.id)
            .where('version', '=', BigInt(programme.version)),
        )
        .executeTakeFirst();
      if (state?.evaluated !== BigInt(from)) return false;
      let cursor = grants.length === 0 ? 0n : await this.#locked(tables, 'grants');
      for (const grant of grants) {
        cursor += 1n;
        await tables
          .insertInto('issued_grant')
          .values({
            cursor,
            programme: grant.programme,
            version: BigInt(grant.version),
            licensee: grant.licensee,
            customer: grant.customer ?? '',
            period: grant.period,
            revision: BigInt(grant.revision),
            amount_mills: grant.amountMills,
            entitlement_mills: grant.entitlementMills,
            through: BigInt(through),
            digest: grant.digest,
            bytes: grant.bytes,
          })
          .execute();
      }
      if (grants.length > 0) {
        await tables.updateTable('position').set({ value: cursor }).where('name', '=', 'grants').execute();
      }
      await tables
        .updateTable('programme')
        .set({ evaluated: BigInt(through) })
        .where('id', '=', programme.id)
        .where('version', '=', BigInt(programme.version))
        .execute();
      return true;
    });
  }

  async continueGrants(after: number): Promise<void> {
    if ((await this.positions()).grants >= after) return;
    await this.#database.transaction(async (tables) => {
      const at = await this.#locked(tables, 'grants');
      if (at >= BigInt(after)) return;
      await tables
        .updateTable('position')
        .set({ value: BigInt(after) })
        .where('name', '=', 'grants')
        .execute();
      await tables
        .insertInto('position')
        .values({ name: `${GAP}${at}`, value: BigInt(after) })
        .execute();
    });
  }

  async grantGaps(): Promise<ReadonlyMap<number, number>> {
    const rows = await this.#database.read((tables) =>
      tables.selectFrom('position').selectAll().where('name', 'like', `${GAP}%`).execute(),
    );
    return new Map(rows.map(({ name, value }) => [Number(name.slice(GAP.length)), Number(value)]));
  }

  async grants(after: number, limit: number): Promise<GrantItem[]> {
    const rows = await this.#database.read((tables) =>
      tables
        .selectFrom('issued_grant')
        .select(['cursor', 'digest', 'bytes'])
        .where('cursor', '>', BigInt(after))
        .orderBy('cursor')
        .limit(limit)
        .execute(),
    );
    return rows.map((row) => ({ cursor: Number(row.cursor), digest: digestOf(row.digest), grant: row.bytes }));
  }

  async records(after: number, limit: number): Promise<(StoredRecord & { cursor: number })[]> {
    const rows = await this.#database.read((tables) =>
      tables
        .selectFrom('record')
        .selectAll()
        .where('cursor', '>', BigInt(after))
        .orderBy('cursor')
        .limit(limit)
        .execute(),
    );
    return rows.map((row) => ({ ...recordOf(row), cursor: Number(row.cursor) }));
  }

  async quarantined(): Promise<QuarantinedRecord[]> {
    const rows = await this.#database.read((tables) =>
      tables.selectFrom('quarantine').selectAll().orderBy('device').orderBy('sequence').orderBy('digest').execute(),
    );
    return rows.map((row) => ({
      device: row.device as DeviceId,
      sequence: Number(row.sequence),
      digest: digestOf(row.digest),
      bytes: row.bytes,
      attestation: row.attestation,
      receivedMs: Number(row.received_ms),
      rejection: isRejectionCode(row.code)
        ? rejection(row.code, JSON.parse(row.detail) as Record<string, string | number>)
        : unreachable(),
    }));
  }

  async device(device: DeviceId): Promise<DeviceState | null> {
    const row = await this.#database.read((tables) =>
      tables.selectFrom('device').selectAll().where('device', '=', device).executeTakeFirst(),
    );
    return row === undefined ? null : deviceOf(row);
  }

  async recordAt(device: DeviceId, sequence: number): Promise<StoredRecord | null> {
    const row = await this.#database.read((tables) =>
      tables
        .selectFrom('record')
        .selectAll()
        .where('device', '=', device)
        .where('sequence', '=', BigInt(sequence))
        .executeTakeFirst(),
    );
    return row === undefined ? null : recordOf(row);
  }

  async markChecked(cursor: number): Promise<void> {
    const value = BigInt(cursor);
    await this.#database.transaction(async (tables) => {
      await tables
        .insertInto('position')
        .values({ name: 'checked', value })
        .onConflict((conflict) => conflict.column('name').doUpdateSet({ value }))
        .execute();
    });
  }

  async pageProblems(): Promise<readonly string[]> {
    if (this.#database.kind !== 'sqlite') return [];
    const { rows } = await this.#database.read((tables) =>
      sql<{ integrity_check: string }>`PRAGMA integrity_check`.execute(tables),
    );
    return rows.map((row) => row.integrity_check).filter((words) => words !== 'ok');
  }

  async cells(from: number, to: number): Promise<ReadonlyMap<number, readonly CountedCell[]>> {
    const rows = await this.#database.read((tables) =>
      tables
        .selectFrom('cell')
        .innerJoin('total', 'total.id', 'cell.total')
        .select([
          'cell.cursor',
          'cell.pieces',
          'cell.postage_mills',
          'total.standing',
          'total.licensee',
          'total.customer',
          'total.level',
        ])
        .where('cell.cursor', '>=', BigInt(from))
        .where('cell.cursor', '<=', BigInt(to))
        .orderBy('cell.cursor')
        .orderBy('cell.ordinal')
        .execute(),
    );
    const cells = new Map<number, CountedCell[]>();
    for (const row of rows) {
      const own = cells.get(Number(row.cursor)) ?? [];
      own.push({
        pieces: Number(row.pieces),
        postageMills: row.postage_mills,
        standing: row.standing as Standing,
        licensee: row.licensee as LicenseeId,
        customer: customerOf(row.customer),
        level: row.level,
      });
      cells.set(Number(row.cursor), own);
    }
    return cells;
  }

  async wrongTotals(limit: number): Promise<readonly WrongTotal[]> {
    const rows = await this.#database.read((tables) =>
      tables
        .selectFrom('total')
        .leftJoin('cell', 'cell.total', 'total.id')
        .select((build) => [
          'total.id',
          'total.key',
          'total.pieces',
          'total.postage_mills',
          build.fn.coalesce(build.fn.sum<bigint>('cell.pieces'), sql<bigint>`0`).as('cell_pieces'),
          build.fn.coalesce(build.fn.sum<bigint>('cell.postage_mills'), sql<bigint>`0`).as('cell_postage_mills'),
        ])
        .groupBy(['total.id', 'total.key', 'total.pieces', 'total.postage_mills'])
        .having(
          sql<boolean>`total.pieces <> coalesce(sum(cell.pieces), 0) OR total.postage_mills <> coalesce(sum(cell.postage_mills), 0)`,
        )
        .orderBy('total.id')
        .limit(limit)
        .execute(),
    );
    return rows.map((row) => ({
      key: row.key,
      pieces: row.pieces,
      postageMills: row.postage_mills,
      cellPieces: row.cell_pieces,
      cellPostageMills: row.cell_postage_mills,
    }));
  }

  async grantColumns(cursor: number): Promise<(Omit<SignedGrant, 'bytes'> & { readonly through: number }) | null> {
    const row = await this.#database.read((tables) =>
      tables.selectFrom('issued_grant').selectAll().where('cursor', '=', BigInt(cursor)).executeTakeFirst(),
    );
    if (row === undefined) return null;
    return {
      programme: row.programme as ProgrammeId,
      version: Number(row.version),
      licensee: row.licensee as LicenseeId,
      customer: customerOf(row.customer),
      period: row.period,
      revision: Number(row.revision),
      amountMills: mills(row.amount_mills),
      entitlementMills: mills(row.entitlement_mills),
      through: Number(row.through),
      digest: digestOf(row.digest),
    };
  }

  async missingEvidence(digests: readonly Digest[], through: number): Promise<readonly Digest[]> {
    const found = new Set<string>();
    for (const part of chunks(digests, VALUES)) {
      const rows = await this.#database.read((tables) =>
        tables
          .selectFrom('record')
          .select('digest')
          .where('digest', 'in', [...part])
          .where('cursor', '<=', BigInt(through))
          .execute(),
      );
      for (const row of rows) found.add(digestText(row.digest));
    }
    return digests.filter((digest) => !found.has(digestText(digest)));
  }

  async close(): Promise<void> {
    await this.#database.close();
  }

  /** A position's value; nobody else changes it until the transaction ends. */
  async #locked(tables: Transaction<Tables>, name: string): Promise<bigint> {
    const row = await this.#database
      .locking(tables.selectFrom('position').select('value').where('name', '=', name))
      .executeTakeFirstOrThrow();
    return row.value;
  }
}

/** The digest over the digests of all records up to a cursor, none at the beginning; null where the log does not reach so far. */
async function historyAt(tables: Kysely<Tables>, cursor: bigint): Promise<Digest | null> {
  if (cursor === 0n) return NO_DIGEST;
  const row = await tables.selectFrom('record').select('history').where('cursor', '=', cursor).executeTakeFirst();
  if (row === undefined) return null;
  return row.history === null ? NO_DIGEST : digestOf(row.history);
}

async function hasComeBy(tables: Kysely<Tables>, { cursor, digest }: HistoryPoint): Promise<boolean> {
  const history = await historyAt(tables, BigInt(cursor));
  return history !== null && sameBytes(history, digest);
}

async function digestsAt(
  tables: Transaction<Tables>,
  positions: readonly Position[],
): Promise<ReadonlyMap<string, Digest>> {
  const digests = new Map<string, Digest>();
  const byDevice = new Map<DeviceId, bigint[]>();
  for (const { device, sequence } of positions) {
    const sequences = byDevice.get(device) ?? [];
    sequences.push(BigInt(sequence));
    byDevice.set(device, sequences);
  }
  for (const [device, sequences] of byDevice) {
    const rows = await tables
      .selectFrom('record')
      .select(['sequence', 'digest'])
      .where('device', '=', device)
      .where('sequence', 'in', sequences)
      .execute();
    for (const row of rows) digests.set(`${device} ${row.sequence}`, digestOf(row.digest));
  }
  return digests;
}

async function putDevice(
  tables: Transaction<Tables>,
  { device, head, suspended, suspendedAfter, suspensionMs }: DeviceState,
) {
  const row = {
    device,
    sequence: BigInt(head.sequence),
    digest: head.digest,
    epoch: BigInt(head.epoch),
    ascending_mills: head.registers.ascendingMills,
    descending_mills: head.registers.descendingMills,
    pieces: BigInt(head.registers.pieces),
    received_mills: head.funds.receivedMills,
    returned_mills: head.funds.returnedMills,
    last_grant: BigInt(head.funds.lastGrant),
    suspended,
    suspended_after: BigInt(suspendedAfter),
    suspension_ms: BigInt(suspensionMs),
  };
  await tables
    .insertInto('device')
    .values(row)
    .onConflict((conflict) => conflict.column('device').doUpdateSet(row))
    .execute();
}

async function quarantine(tables: Transaction<Tables>, record: QuarantinedRecord): Promise<void> {
  const { kept } = await tables
    .selectFrom('quarantine')
    .select((build) => build.fn.countAll<bigint>().as('kept'))
    .where('device', '=', record.device)
    .executeTakeFirstOrThrow();
  // Half of the room is for forks alone: whoever has a key that is over can make as many other refused records as he likes.
  const room = record.rejection.code === 'fork' ? QUARANTINED_PER_DEVICE : QUARANTINED_PER_DEVICE / 2n;
  if (kept >= room) return;
  await tables
    .insertInto('quarantine')
    .values({
      device: record.device,
      sequence: BigInt(record.sequence),
      digest: record.digest,
      code: record.rejection.code,
      detail: JSON.stringify(record.rejection.detail),
      bytes: record.bytes,
      attestation: record.attestation,
      received_ms: BigInt(record.receivedMs),
    })
    .onConflict((conflict) => conflict.columns(['device', 'sequence', 'digest']).doNothing())
    .execute();
}

/** Adds cells to their totals, each total once; returns the totals' ids by key. */
async function addToTotals(tables: Transaction<Tables>, cells: readonly RatedCell[]): Promise<Map<string, bigint>> {
  const sums = new Map<string, RatedCell>();
  for (const cell of cells) {
    const key = keyOf(cell);
    const sum = sums.get(key);
    sums.set(
      key,
      sum === undefined
        ? cell
        : {
            ...cell,
            pieces: sum.pieces + cell.pieces,
            postageMills: sum.postageMills + cell.postageMills,
            declaredMills: sum.declaredMills + cell.declaredMills,
          },
    );
  }
  // In one order everywhere, so that two workers cannot wait for each other.
  const rows = [...sums.entries()].sort(([a], [b]) => (a < b ? -1 : 1)).map(([key, cell]) => totalRow(key, cell));
  const ids = new Map<string, bigint>();
  for (const part of chunks(rows, ROWS)) {
    const stored = await tables
      .insertInto('total')
      .values(part)
      .onConflict((conflict) =>
        conflict.column('key').doUpdateSet((build) => ({
          pieces: build('total.pieces', '+', build.ref('excluded.pieces')),
          postage_mills: build('total.postage_mills', '+', build.ref('excluded.postage_mills')),
          declared_mills: build('total.declared_mills', '+', build.ref('excluded.declared_mills')),
        })),
      )
      .returning(['id', 'key'])
      .execute();
    for (const { id, key } of stored) ids.set(key, id);
  }
  return ids;
}

function keyOf(cell: RatedCell): string {
  const { key } = cell;
  return JSON.stringify([
    cell.licensee,
    cell.customer ?? '',
    cell.device,
    cell.mailingDate,
    key.product,
    key.shape,
    key.affixed,
    key.level,
    key.entry,
    key.weightStep,
    cell.submitter,
    cell.preparer,
    cell.tariff,
    cell.currency.code,
    cell.currency.exponent,
    cell.authentication,
    cell.specimen,
    cell.standing,
  ]);
}

function totalRow(key: string, cell: RatedCell) {
  return {
    key,
    licensee: cell.licensee,
    customer: cell.customer ?? '',
    device: cell.device,
    mailing_date: cell.mailingDate,
    product: cell.key.product,
    shape: cell.key.shape,
    affixed: cell.key.affixed,
    level: cell.key.level,
    entry: cell.key.entry,
    weight_step: BigInt(cell.key.weightStep),
    submitter: cell.submitter,
    preparer: cell.preparer,
    tariff: cell.tariff,
    currency: cell.currency.code,
    exponent: BigInt(cell.currency.exponent),
    authentication: cell.authentication,
    specimen: cell.specimen ? 1n : 0n,
    standing: cell.standing,
    pieces: BigInt(cell.pieces),
    postage_mills: cell.postageMills,
    declared_mills: cell.declaredMills,
  };
}

function totalOf(row: Selectable<Tables['total']>): StoredTotal {
  return {
    id: row.id,
    key: {
      product: row.product,
      shape: row.shape,
      affixed: row.affixed,
      level: row.level,
      entry: row.entry,
      weightStep: Number(row.weight_step),
    },
    licensee: row.licensee as LicenseeId,
    customer: customerOf(row.customer),
    device: row.device,
    mailingDate: row.mailing_date,
    submitter: row.submitter,
    preparer: row.preparer,
    tariff: row.tariff,
    currency: { code: row.currency, exponent: Number(row.exponent) },
    authentication: authenticationOf(row.authentication),
    specimen: row.specimen === 1n,
    standing: row.standing as Standing,
    reason: '',
    pieces: Number(row.pieces),
    postageMills: row.postage_mills,
    declaredMills: row.declared_mills,
  };
}

function matches(build: ExpressionBuilder<Tables, 'total'>, query: TotalsQuery): Expression<SqlBool> {
  const conditions: Expression<SqlBool>[] = [...query.where].map(([dimension, value]) => {
    const typed =
      dimension === 'weightStep' ? BigInt(value) : dimension === 'specimen' ? flag(value === 'true') : value;
    return build(DIMENSIONS[dimension], '=', typed as never);
  });
  if (query.mailingDateFrom !== null) conditions.push(build('mailing_date', '>=', query.mailingDateFrom));
  if (query.mailingDateTo !== null) conditions.push(build('mailing_date', '<=', query.mailingDateTo));
  return build.and(conditions);
}

function recordRow(record: StoredRecord, cursor: bigint) {
  return {
    cursor,
    device: record.device,
    sequence: BigInt(record.sequence),
    digest: record.digest,
    type: record.type,
    licensee: record.licensee,
    customer: record.customer ?? '',
    mailing_date: record.mailingDate,
    suspended: flag(record.suspended),
    bytes: record.bytes,
    attestation: record.attestation,
    received_ms: BigInt(record.receivedMs),
  };
}

function recordOf(row: Selectable<Tables['record']>): StoredRecord {
  return {
    device: row.device as DeviceId,
    sequence: Number(row.sequence),
    digest: digestOf(row.digest),
    type: row.type === 'key-rotation' || row.type === 'final-statement' ? row.type : 'batch-statistics',
    licensee: row.licensee as LicenseeId,
    customer: customerOf(row.customer),
    mailingDate: row.mailing_date,
    suspended: row.suspended === 1n,
    bytes: row.bytes,
    attestation: row.attestation,
    receivedMs: Number(row.received_ms),
  };
}

function deviceOf(row: Selectable<Tables['device']>): DeviceState {
  return {
    device: row.device as DeviceId,
    head: {
      sequence: Number(row.sequence),
      digest: digestOf(row.digest),
      epoch: Number(row.epoch),
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
    },
    suspended: row.suspended,
    suspendedAfter: Number(row.suspended_after),
    suspensionMs: Number(row.suspension_ms),
  };
}

function customerOf(text: string): CustomerId | null {
  return text === '' ? null : (text as CustomerId);
}

function authenticationOf(text: string): 'signature' | 'mac' {
  return text === 'mac' ? 'mac' : 'signature';
}

function flag(value: boolean): bigint {
  return value ? 1n : 0n;
}

function chunks<T>(items: readonly T[], size: number): T[][] {
  const parts: T[][] = [];
  for (let i = 0; i < items.length; i += size) parts.push(items.slice(i, i + size));
  return parts;
}

function unreachable(): never {
  throw new Error('the store holds what it cannot');
}
