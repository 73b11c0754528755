/**
 * The device's store: SQLite by the embedded store of node-platform, one commit per step.
 *
 * Guarantees: what a step changed and what its effects keep (chunk, record, request) is one transaction, durable when
 * `commit` returns; certificate and policy are verified again against the pinned trust bundle at every load, so that an
 * altered store does not pass for an enrolled device; what is loaded agrees with itself or is refused as damaged.
 * Does not retry: after a failed write the process ends.
 *
 * Chunks: with the memory in the host only the last ones are kept, until the record is sealed; with the memory inside the
 * device all of them, one row a chunk, until the record is confirmed.
 */
import { type EmbeddedStore, openEmbeddedStore } from '@countermark/node-platform/embedded-store';
import { errorText } from '@countermark/node-platform/fault';
import { nodeVerification } from '@countermark/node-platform/verification';
import { type Authentication } from '@countermark/protocol/cose';
import { digestOf } from '@countermark/protocol/digest';
import type { BatchId, DeviceId } from '@countermark/protocol/id';
import { frankChunkSchema, HELD_CHUNKS } from '@countermark/protocol/interfaces/psd';
import { frontierBytes, frontierOf } from '@countermark/protocol/merkle';
import { batchDeclaration } from '@countermark/protocol/messages/batch-declaration';
import type { Memory } from '@countermark/protocol/messages/batch-statistics';
import { DEVICE_CERTIFICATE, type DeviceCertificate } from '@countermark/protocol/messages/enrolment';
import { POLICY } from '@countermark/protocol/messages/policy';
import { type Mills, mills } from '@countermark/protocol/money';
import { fundsSchema, registersSchema } from '@countermark/protocol/registers';
import { describeRejection, rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import {
  bool,
  encodeWith,
  field,
  type Of,
  optional,
  parseBytes,
  type Schema,
  struct,
  timeMs,
  uint,
} from '@countermark/protocol/schema';
import { parseTrustBundle, trustedKeys } from '@countermark/verify/trust-bundle';
import { type Trust, type Verified, verifyMessage } from '@countermark/verify/verified';
import {
  type Batch,
  type DeviceState,
  type HeldChunk,
  type HeldRecord,
  type Identity,
  isZeroised,
  type KeptChunk,
  RECOUNT_START,
  stateProblems,
  UNINITIALISED,
} from '../core/state.ts';
import type { CommitMark, DeviceMark } from './device-mark.ts';
import type { AgreementKey, KeyHolder } from './key-holder.ts';
import { isReference } from './key-reference.ts';
import {
  type DeviceKeys,
  EPOCH_KEY_NAMES,
  type EpochKeys,
  keyBytes,
  keysOf,
  NEXT_PREFIX,
  NO_PUBLIC_HALVES,
  nextKeyBytes,
  nextKeysOf,
  publicHalves,
  STORE_KEYS,
} from './keys.ts';

const CACHE_KIB = 2_048;

/** "CmPS" */
const APPLICATION_ID = 0x436d5053;

const MIGRATIONS = [
  `CREATE TABLE identity (
     id INTEGER PRIMARY KEY CHECK (id = 1), device TEXT NOT NULL, epoch INTEGER NOT NULL,
     authentication TEXT NOT NULL, memory TEXT NOT NULL, trust_bundle TEXT NOT NULL) STRICT;
   CREATE TABLE secret (name TEXT PRIMARY KEY, bytes BLOB NOT NULL) STRICT;
   CREATE TABLE message (name TEXT PRIMARY KEY, bytes BLOB NOT NULL) STRICT;
   CREATE TABLE device (
     id INTEGER PRIMARY KEY CHECK (id = 1),
     ascending INTEGER NOT NULL CHECK (ascending >= 0), descending INTEGER NOT NULL CHECK (descending >= 0),
     pieces INTEGER NOT NULL, received INTEGER NOT NULL, returned INTEGER NOT NULL, last_grant INTEGER NOT NULL,
     sequence INTEGER NOT NULL, head BLOB NOT NULL, signed_time INTEGER, last_funds_number INTEGER NOT NULL,
     pending_number INTEGER, pending_amount INTEGER, last_grant_digest BLOB, alarms INTEGER NOT NULL,
     CHECK (ascending + descending = received - returned)) STRICT;
   CREATE TABLE batch (
     id INTEGER PRIMARY KEY CHECK (id = 1), opening BLOB NOT NULL, leaves INTEGER NOT NULL, frontier BLOB NOT NULL,
     cell_keys TEXT NOT NULL, spoiled TEXT NOT NULL, closing BLOB) STRICT;
   CREATE TABLE chunk (
     batch TEXT NOT NULL, first_index INTEGER NOT NULL, first_piece_number INTEGER NOT NULL,
     ascending INTEGER NOT NULL, request BLOB NOT NULL, request_digest BLOB NOT NULL, salts BLOB NOT NULL,
     PRIMARY KEY (batch, first_index)) STRICT;
   CREATE TABLE record (
     sequence INTEGER PRIMARY KEY, digest BLOB NOT NULL, batch TEXT NOT NULL UNIQUE, pieces INTEGER NOT NULL,
     postage INTEGER NOT NULL, aged_from INTEGER, payload_bytes INTEGER NOT NULL, bytes BLOB) STRICT;`,
  // Key rotations: records without a batch, and what is left of epochs that are over. agreement: in MAC mode, until the rotation is
  // confirmed, to check the codes of records that are held.
  `CREATE TABLE chained (
     sequence INTEGER PRIMARY KEY, digest BLOB NOT NULL, batch TEXT UNIQUE, pieces INTEGER NOT NULL,
     postage INTEGER NOT NULL, aged_from INTEGER, payload_bytes INTEGER NOT NULL, bytes BLOB) STRICT;
   INSERT INTO chained SELECT sequence, digest, batch, pieces, postage, aged_from, payload_bytes, bytes FROM record;
   DROP TABLE record;
   ALTER TABLE chained RENAME TO record;
   CREATE TABLE retired_epoch (epoch INTEGER PRIMARY KEY, certificate BLOB NOT NULL, agreement BLOB) STRICT;`,
  'ALTER TABLE device ADD COLUMN final_sequence INTEGER',
  // Of a device whose keys are on a token, which keeps the same (device-mark.ts).
  'CREATE TABLE mark (id INTEGER PRIMARY KEY CHECK (id = 1), commits INTEGER NOT NULL, nonce BLOB NOT NULL) STRICT',
];

const openingSchema = struct('opening', {
  declaration: field(1, batchDeclaration),
  opened: field(2, registersSchema),
  openedAfterMs: optional(3, timeMs),
  policyVersion: field(4, uint()),
  specimen: field(5, bool),
});

const closingSchema = struct('closing', {
  registers: field(1, registersSchema),
  funds: field(2, fundsSchema),
  reprints: field(3, uint()),
  afterMs: optional(4, timeMs),
});

/** What a commit keeps besides the state. */
export type Kept = {
  readonly chunk?: KeptChunk;
  readonly record?: { readonly sequence: number; readonly bytes: Uint8Array };
  readonly deleted?: { readonly sequence: number; readonly batch: BatchId | null };
  readonly fundsRequest?: Uint8Array;
  /** New keys of the next epoch. */
  readonly nextKeys?: EpochKeys;
  /** Under this certificate ended an epoch: the keys of the next one take their place. */
  readonly retired?: Verified<DeviceCertificate>;
  /** Whatever secret is left of former epochs is erased. */
  readonly forgetKeys?: boolean;
  /** Every secret of the device is erased. */
  readonly zeroise?: boolean;
  /** What the token keeps of this commit, too. */
  readonly mark?: CommitMark;
};

/** An epoch that is over; `agreement` as long as codes of held records are checked with it. */
export type RetiredEpoch = {
  readonly certificate: Verified<DeviceCertificate>;
  readonly agreement: AgreementKey | null;
};

/** A record as the store has it; `bytes` null once it is confirmed and deleted. */
export type StoredRecord = HeldRecord & { readonly record: Uint8Array | null };

/** A device as it was loaded. */
export type Loaded = {
  readonly state: DeviceState;
  /** Null: the device has come to its end, and they are erased. */
  readonly keys: DeviceKeys | null;
  /** Those that wait for their certificate. */
  readonly nextKeys: EpochKeys | null;
  readonly retired: readonly RetiredEpoch[];
  /** Null: of a device whose keys lie in the store. */
  readonly mark: DeviceMark | null;
  readonly identity: Identity;
  readonly trust: Trust;
};

export type StoreOptions = { readonly path: string; readonly pagesMax?: number };

type Row = Readonly<Record<string, bigint | string | Uint8Array | null>>;

/** Opens the store and takes it for this process. Rejections and faults: those of `openEmbeddedStore`. */
export function openStore(options: StoreOptions): Result<PsdStore> {
  const opened = openEmbeddedStore({
    path: options.path,
    applicationId: APPLICATION_ID,
    migrations: MIGRATIONS,
    ...(options.pagesMax === undefined ? {} : { pagesMax: options.pagesMax }),
  });
  return opened.ok ? accept(new PsdStore(opened.value)) : opened;
}

export class PsdStore {
  readonly embedded: EmbeddedStore;
  readonly #saveDevice;
  readonly #saveMark;
  readonly #insertChunk;
  readonly #dropChunksBefore;
  readonly #saveFrontier;
  readonly #saveCells;
  readonly #chunkAt;
  readonly #recordAt;
  readonly #recordOf;

  constructor(embedded: EmbeddedStore) {
    this.embedded = embedded;
    const { database } = embedded;
    // Rows are written once and read once, in order: a larger cache would only fill up with a large batch.
    database.pragma(`cache_size = -${CACHE_KIB}`);
    this.#saveDevice = database.prepare(
      `INSERT OR REPLACE INTO device VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
    );
    this.#saveMark = database.prepare('INSERT OR REPLACE INTO mark VALUES (1, ?, ?)');
    this.#insertChunk = database.prepare('INSERT INTO chunk VALUES (?, ?, ?, ?, ?, ?, ?)');
    this.#dropChunksBefore = database.prepare('DELETE FROM chunk WHERE batch = ? AND first_index < ?');
    this.#saveFrontier = database.prepare('UPDATE batch SET leaves = ?, frontier = ?');
    this.#saveCells = database.prepare('UPDATE batch SET cell_keys = ?');
    this.#chunkAt = database.prepare('SELECT * FROM chunk WHERE batch = ? AND first_index = ?');
    this.#recordAt = database.prepare('SELECT * FROM record WHERE sequence = ?');
    this.#recordOf = database.prepare('SELECT * FROM record WHERE batch = ?');
  }

  /** Whether a device was initialised here. */
  get initialised(): boolean {
    return this.embedded.read(() => this.embedded.database.prepare('SELECT 1 FROM identity').get() !== undefined);
  }

  /** Writes a new device: identity, keys, the trust bundle's text, its first state. One transaction. */
  initialise(
    identity: Identity,
    keys: DeviceKeys,
    trustBundle: string,
    state: DeviceState,
    mark: CommitMark | null,
  ): void {
    const { database } = this.embedded;
    this.embedded.transaction(() => {
      database
        .prepare('INSERT INTO identity VALUES (1, ?, ?, ?, ?, ?)')
        .run(identity.device, identity.epoch, identity.authentication, identity.memory, trustBundle);
      const insert = database.prepare('INSERT INTO secret VALUES (?, ?)');
      for (const [name, bytes] of keyBytes(keys)) insert.run(name, bytes);
      this.#writeDevice(state);
      if (mark !== null) this.#writeMark(mark);
    });
  }

  /** Whether a token has the device's keys; null once they are erased. */
  get isOnToken(): boolean | null {
    const stored = this.embedded.read(() =>
      this.embedded.database.prepare("SELECT bytes FROM secret WHERE name = 'signing'").pluck().get(),
    ) as Uint8Array | undefined;
    return stored === undefined ? null : isReference(stored);
  }

  /** What the store has of keys on a token: of those in use, those that wait, and those that check codes of held records. */
  keyReferences(): readonly Uint8Array[] {
    const all = this.embedded.read(() =>
      this.embedded.database
        .prepare('SELECT bytes FROM secret UNION ALL SELECT agreement FROM retired_epoch WHERE agreement IS NOT NULL')
        .pluck()
        .all(),
    ) as Uint8Array[];
    return all.filter(isReference);
  }

  /** The text of the trust bundle that was pinned. */
  pinnedBundle(): string {
    return this.embedded.read(
      () => this.embedded.database.prepare('SELECT trust_bundle FROM identity').pluck().get() as string,
    );
  }

  /** Reads the device. Rejection: `store-damaged`. */
  load(recordCapacity: number, holder: KeyHolder = STORE_KEYS): Result<Loaded> {
    try {
      return this.embedded.read(() => this.#load(recordCapacity, holder));
    } catch (error) {
      if (!(error instanceof TypeError || error instanceof RangeError)) throw error;
      return this.#damaged(errorText(error));
    }
  }

  /**
   * Makes the step from `before` to `after` durable, with what its effects keep. All or nothing.
   * Faults: those of `EmbeddedStore.transaction`; the process must end then.
   */
  commit(before: DeviceState, after: DeviceState, kept: Kept): void {
    if (kept.retired === undefined && kept.forgetKeys !== true && kept.zeroise !== true)
      this.#commit(before, after, kept);
    else {
      this.#erasing(() => {
        this.#commit(before, after, kept);
      });
    }
  }

  #commit(before: DeviceState, after: DeviceState, kept: Kept): void {
    const { database } = this.embedded;
    this.embedded.transaction(() => {
      this.#writeDevice(after);
      if (kept.mark !== undefined) this.#writeMark(kept.mark);
      if (after.certificate !== before.certificate && after.certificate !== null) {
        this.#writeMessage('certificate', after.certificate.bytes);
      }
      if (after.policy !== before.policy && after.policy !== null) this.#writeMessage('policy', after.policy.bytes);
      if (kept.fundsRequest !== undefined) this.#writeMessage('funds-request', kept.fundsRequest);
      if (after.unconfirmed !== before.unconfirmed) this.#writeRecords(before, after, kept);
      if (after.batch !== before.batch) this.#writeBatch(before, after);
      if (kept.chunk !== undefined) this.#writeChunk(kept.chunk, after);
      if (kept.deleted !== undefined) {
        database.prepare('UPDATE record SET bytes = NULL WHERE sequence = ?').run(kept.deleted.sequence);
        database.prepare('DELETE FROM chunk WHERE batch = ?').run(kept.deleted.batch);
      }
      if (kept.nextKeys !== undefined) {
        const insert = database.prepare('INSERT INTO secret VALUES (?, ?)');
        for (const [name, bytes] of nextKeyBytes(kept.nextKeys)) insert.run(name, bytes);
      }
      if (kept.retired !== undefined) this.#changeKeys(kept.retired, after);
      if (kept.forgetKeys === true || kept.zeroise === true) {
        database.prepare('UPDATE retired_epoch SET agreement = NULL').run();
      }
      if (kept.zeroise === true) database.prepare('DELETE FROM secret').run();
    });
  }

  /** The keys that waited take the place of those in use, of which only what checks codes is left. */
  #changeKeys(retired: Verified<DeviceCertificate>, after: DeviceState): void {
    const { database } = this.embedded;
    const { epoch, authentication } = retired.message;
    database
      .prepare(
        `INSERT INTO retired_epoch SELECT ?, ?, CASE WHEN ? = 'mac' THEN bytes END FROM secret WHERE name = 'agreement'`,
      )
      .run(epoch, retired.bytes, authentication);
    const remove = database.prepare('DELETE FROM secret WHERE name = ?');
    const rename = database.prepare('UPDATE secret SET name = ? WHERE name = ?');
    for (const name of EPOCH_KEY_NAMES) {
      remove.run(name);
      if (rename.run(name, NEXT_PREFIX + name).changes !== 1)
        throw new Error(`The key ${NEXT_PREFIX}${name} is missing.`);
    }
    database.prepare('UPDATE identity SET epoch = ?').run(after.identity?.epoch);
  }

  /** Carries out work whose deletions leave no bytes in the file, and empties the log of earlier writes. */
  #erasing(work: () => void): void {
    const { database } = this.embedded;
    database.pragma('secure_delete = ON');
    try {
      work();
    } finally {
      database.pragma('secure_delete = OFF');
    }
    database.pragma('wal_checkpoint(TRUNCATE)');
  }

  /** The record of the last key rotation, held or deleted, or null. */
  lastRotation(): StoredRecord | null {
    const row = this.embedded.read(
      () =>
        this.embedded.database
          .prepare(
            `SELECT * FROM record WHERE batch IS NULL
               AND sequence IS NOT (SELECT final_sequence FROM device) ORDER BY sequence DESC LIMIT 1`,
          )
          .get() as Row | undefined,
    );
    return row === undefined ? null : recordOf(row);
  }

  /** The bytes of the pending funds request. */
  pendingFundsRequest(): Uint8Array | null {
    return this.#message('funds-request');
  }

  /** The chunk of a batch that starts at the index, or null. */
  chunkAt(batch: BatchId, firstIndex: number): KeptChunk | null {
    const row = this.embedded.read(() => this.#chunkAt.get(batch, firstIndex) as Row | undefined);
    return row === undefined ? null : chunkOf(row);
  }

  /** The record of a sequence, held or deleted, or null. */
  recordAt(sequence: number): StoredRecord | null {
    const row = this.embedded.read(() => this.#recordAt.get(sequence) as Row | undefined);
    return row === undefined ? null : recordOf(row);
  }

  /** The record of a batch, held or deleted, or null. */
  recordOf(batch: BatchId): StoredRecord | null {
    const row = this.embedded.read(() => this.#recordOf.get(batch) as Row | undefined);
    return row === undefined ? null : recordOf(row);
  }

  close(): void {
    this.embedded.close();
  }

  #load(recordCapacity: number, holder: KeyHolder): Result<Loaded> {
    const { database } = this.embedded;
    const row = database.prepare('SELECT * FROM identity').get() as Row | undefined;
    const device = database.prepare('SELECT * FROM device').get() as Row | undefined;
    if (row === undefined || device === undefined) return this.#damaged('it holds no device');
    const secrets = database.prepare('SELECT name, bytes FROM secret').raw().all() as [string, Uint8Array][];
    const byName = new Map(secrets);
    const finalSequence = numberOrNull(device.final_sequence);
    // Erased with the confirmation of the final statement, and never before.
    const keys = finalSequence !== null && byName.size === 0 ? null : keysOf(byName, holder);
    const nextKeys = nextKeysOf(byName, holder);
    const bundle = parseTrustBundle(String(row.trust_bundle));
    if (!bundle.ok) return this.#damaged(describeRejection(bundle.rejection));
    const identity: Identity = {
      device: String(row.device) as DeviceId,
      epoch: Number(row.epoch),
      authentication: row.authentication as Authentication,
      memory: row.memory as Memory,
      ...(keys === null ? NO_PUBLIC_HALVES : publicHalves(keys)),
    };
    const trust: Trust = { port: nodeVerification, keys: trustedKeys(bundle.value) };
    const certificateBytes = this.#message('certificate');
    const policyBytes = this.#message('policy');
    const certificate = certificateBytes === null ? null : verifyMessage(DEVICE_CERTIFICATE, certificateBytes, trust);
    if (certificate?.ok === false) return this.#damaged(describeRejection(certificate.rejection));
    const policy = policyBytes === null ? null : verifyMessage(POLICY, policyBytes, trust);
    if (policy?.ok === false) return this.#damaged(describeRejection(policy.rejection));
    const held = database.prepare('SELECT * FROM record WHERE bytes IS NOT NULL ORDER BY sequence').all() as Row[];
    const state: DeviceState = {
      ...UNINITIALISED,
      identity,
      nextIdentity: nextKeys === null ? null : { ...identity, epoch: identity.epoch + 1, ...publicHalves(nextKeys) },
      certificate: certificate?.value ?? null,
      policy: policy?.value ?? null,
      recordCapacity,
      registers: {
        ascendingMills: millsOf(device.ascending),
        descendingMills: millsOf(device.descending),
        pieces: Number(device.pieces),
      },
      funds: {
        receivedMills: millsOf(device.received),
        returnedMills: millsOf(device.returned),
        lastGrant: Number(device.last_grant),
      },
      sequence: Number(device.sequence),
      head: digestOf(device.head as Uint8Array),
      signedTimeMs: numberOrNull(device.signed_time),
      batch: this.#loadBatch(),
      unconfirmed: held.map((record) => heldOf(record)),
      lastFundsNumber: Number(device.last_funds_number),
      pendingFunds:
        device.pending_number === null
          ? null
          : { number: Number(device.pending_number), amountMills: millsOf(device.pending_amount) },
      lastGrantDigest: device.last_grant_digest === null ? null : digestOf(device.last_grant_digest as Uint8Array),
      finalSequence,
      alarms: Number(device.alarms),
    };
    const keyProblems =
      isZeroised(state) === (keys === null) ? [] : ['its keys are not as its final statement has them'];
    const [problem] = [...stateProblems(state), ...this.#headProblems(state), ...keyProblems];
    return problem === undefined
      ? accept({
          state,
          keys,
          nextKeys,
          retired: this.#retiredEpochs(trust, holder),
          mark: this.#mark(state),
          identity,
          trust,
        })
      : this.#damaged(problem);
  }

  #retiredEpochs(trust: Trust, holder: KeyHolder): RetiredEpoch[] {
    const rows = this.embedded.database.prepare('SELECT * FROM retired_epoch ORDER BY epoch').all() as Row[];
    return rows.map((row) => {
      const certificate = verifyMessage(DEVICE_CERTIFICATE, row.certificate as Uint8Array, trust);
      if (!certificate.ok) throw new TypeError(describeRejection(certificate.rejection));
      const agreement = row.agreement === null ? null : holder.agreementKey(row.agreement as Uint8Array);
      return { certificate: certificate.value, agreement };
    });
  }

  /** The mark of the last commit, with what the state says. */
  #mark({ registers, sequence }: DeviceState): DeviceMark | null {
    const row = this.embedded.database.prepare('SELECT * FROM mark').get() as Row | undefined;
    if (row === undefined) return null;
    const { pieces, ascendingMills } = registers;
    return { commits: Number(row.commits), nonce: row.nonce as Uint8Array, sequence, pieces, ascendingMills };
  }

  /** The chain's head must be the last record. */
  #headProblems(state: DeviceState): string[] {
    const last = this.embedded.database.prepare('SELECT max(sequence) FROM record').pluck().get() as bigint | null;
    return Number(last ?? 0n) === state.sequence
      ? []
      : [`the chain stands at ${state.sequence}, the last record is ${last ?? 0n}`];
  }

  #loadBatch(): Batch | null {
    const row = this.embedded.database.prepare('SELECT * FROM batch').get() as Row | undefined;
    if (row === undefined) return null;
    const opening = parsed(openingSchema, row.opening as Uint8Array);
    const closing = row.closing === null ? null : parsed(closingSchema, row.closing as Uint8Array);
    const held = this.embedded.database
      .prepare('SELECT * FROM chunk WHERE batch = ? ORDER BY first_index DESC LIMIT ?')
      .all(opening.declaration.batch, HELD_CHUNKS) as Row[];
    return {
      declaration: opening.declaration,
      opened: opening.opened,
      openedAfterMs: opening.openedAfterMs ?? null,
      policyVersion: opening.policyVersion,
      specimen: opening.specimen,
      frontier: frontierOf(Number(row.leaves), row.frontier as Uint8Array),
      cellKeys: new Set(JSON.parse(String(row.cell_keys)) as string[]),
      spoiled: JSON.parse(String(row.spoiled)) as number[],
      held: held.map(heldChunkOf).reverse(),
      closing: closing === null ? null : { ...closing, afterMs: closing.afterMs ?? null },
      recount: RECOUNT_START,
    };
  }

  #writeDevice(state: DeviceState): void {
    const { registers, funds, pendingFunds } = state;
    this.#saveDevice.run(
      registers.ascendingMills,
      registers.descendingMills,
      registers.pieces,
      funds.receivedMills,
      funds.returnedMills,
      funds.lastGrant,
      state.sequence,
      state.head,
      state.signedTimeMs,
      state.lastFundsNumber,
      pendingFunds?.number ?? null,
      pendingFunds?.amountMills ?? null,
      state.lastGrantDigest,
      state.alarms,
      state.finalSequence,
    );
  }

  #writeMark({ commits, nonce }: CommitMark): void {
    this.#saveMark.run(commits, nonce);
  }

  #writeMessage(name: string, bytes: Uint8Array): void {
    this.embedded.database.prepare('INSERT OR REPLACE INTO message VALUES (?, ?)').run(name, bytes);
  }

  #writeRecords(before: DeviceState, after: DeviceState, kept: Kept): void {
    const { database } = this.embedded;
    const added = kept.record;
    if (added !== undefined) {
      const held = after.unconfirmed.find((record) => record.sequence === added.sequence);
      if (held === undefined) throw new Error('A record is kept without its place in the chain.');
      database
        .prepare('INSERT INTO record VALUES (?, ?, ?, ?, ?, ?, ?, ?)')
        .run(
          held.sequence,
          held.digest,
          held.batch,
          held.pieces,
          held.postageMills,
          held.agedFromMs,
          held.bytes,
          added.bytes,
        );
      // With the memory in the host the last chunk was kept for asking again, which ends here.
      if (after.identity?.memory === 'host') database.prepare('DELETE FROM chunk WHERE batch = ?').run(held.batch);
      return;
    }
    // The first signed time starts the deadlines of records sealed before it.
    if (before.signedTimeMs === null && after.signedTimeMs !== null) {
      database.prepare('UPDATE record SET aged_from = ? WHERE aged_from IS NULL').run(after.signedTimeMs);
    }
  }

  #writeBatch(before: DeviceState, after: DeviceState): void {
    const { database } = this.embedded;
    const { batch } = after;
    if (batch === null) {
      database.prepare('DELETE FROM batch').run();
      return;
    }
    const old = before.batch;
    if (old === null) {
      const opening: Of<typeof openingSchema> = {
        declaration: batch.declaration,
        opened: batch.opened,
        policyVersion: batch.policyVersion,
        specimen: batch.specimen,
        ...(batch.openedAfterMs === null ? {} : { openedAfterMs: batch.openedAfterMs }),
      };
      database
        .prepare("INSERT INTO batch VALUES (1, ?, 0, x'', '[]', '[]', NULL)")
        .run(encodeWith(openingSchema, opening));
      return;
    }
    if (batch.frontier !== old.frontier) this.#saveFrontier.run(batch.frontier.leaves, frontierBytes(batch.frontier));
    if (batch.cellKeys !== old.cellKeys) this.#saveCells.run(JSON.stringify([...batch.cellKeys]));
    if (batch.spoiled !== old.spoiled) {
      database.prepare('UPDATE batch SET spoiled = ?').run(JSON.stringify(batch.spoiled));
    }
    if (batch.closing !== old.closing && batch.closing !== null) {
      const { registers, funds, reprints, afterMs } = batch.closing;
      const closing = { registers, funds, reprints, ...(afterMs === null ? {} : { afterMs }) };
      database.prepare('UPDATE batch SET closing = ?').run(encodeWith(closingSchema, closing));
    }
  }

  #writeChunk(chunk: KeptChunk, after: DeviceState): void {
    const { request } = chunk;
    // Asking for this one acknowledged those before the held ones: only the memory inside the device keeps them.
    const heldFrom = after.batch?.held[0]?.firstIndex ?? 0;
    if (after.identity?.memory === 'host' && heldFrom > 0) this.#dropChunksBefore.run(request.batch, heldFrom);
    this.#insertChunk.run(
      request.batch,
      request.firstIndex,
      chunk.firstPieceNumber,
      chunk.ascendingMills,
      chunk.requestBytes,
      chunk.requestDigest,
      chunk.salts,
    );
  }

  #message(name: string): Uint8Array | null {
    const row = this.embedded.database.prepare('SELECT bytes FROM message WHERE name = ?').pluck().get(name);
    return (row as Uint8Array | undefined) ?? null;
  }

  #damaged(reason: string): { readonly ok: false; readonly rejection: ReturnType<typeof rejection> } {
    return refuse(rejection('store-damaged', { store: this.embedded.path, reason }));
  }
}

function heldChunkOf(row: Row): HeldChunk {
  return {
    firstIndex: Number(row.first_index),
    requestDigest: digestOf(row.request_digest as Uint8Array),
    firstPieceNumber: Number(row.first_piece_number),
    ascendingMills: millsOf(row.ascending),
    salts: row.salts as Uint8Array,
  };
}

function chunkOf(row: Row): KeptChunk {
  const requestBytes = row.request as Uint8Array;
  return { ...heldChunkOf(row), request: parsed(frankChunkSchema, requestBytes), requestBytes };
}

function heldOf(row: Row): HeldRecord {
  return {
    sequence: Number(row.sequence),
    digest: digestOf(row.digest as Uint8Array),
    batch: row.batch as BatchId | null,
    pieces: Number(row.pieces),
    postageMills: millsOf(row.postage),
    agedFromMs: numberOrNull(row.aged_from),
    bytes: Number(row.payload_bytes),
  };
}

function recordOf(row: Row): StoredRecord {
  return { ...heldOf(row), record: row.bytes as Uint8Array | null };
}

function parsed<T>(schema: Schema<T>, bytes: Uint8Array): T {
  const result = parseBytes(schema, bytes);
  if (!result.ok) throw new TypeError(describeRejection(result.rejection));
  return result.value;
}

function millsOf(value: Row[string] | undefined): Mills {
  if (typeof value !== 'bigint') throw new TypeError('an amount is missing');
  return mills(value);
}

function numberOrNull(value: Row[string] | undefined): number | null {
  return value === null || value === undefined ? null : Number(value);
}
