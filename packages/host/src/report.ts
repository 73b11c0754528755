/**
 * What the host tells of batches, jobs, grants and records: journal rows as the types of its local interface.
 *
 * Guarantees: counts of a sealed batch are those of its record, the device's word; of an open one, those of the journal.
 * Changes nothing.
 */
import { CATALOGUE } from '@countermark/protocol/rejection-catalogue';
import { type CellKey, cellKeyText } from '@countermark/protocol/cell';
import { parseEnvelope } from '@countermark/protocol/cose';
import { digestText } from '@countermark/protocol/digest';
import { hex } from '@countermark/protocol/id';
import { parsePayload } from '@countermark/protocol/message';
import type {
  BatchReport,
  BatchStateName,
  CellReport,
  DeviceReport,
  DrawReport,
  GrantReport,
  PieceReport,
  RecordReport,
  RegistersReport,
  RejectionReport,
} from '@countermark/protocol/interfaces/host';
import type { DeviceStatus } from '@countermark/protocol/interfaces/psd';
import { BATCH_STATISTICS, type BatchStatistics } from '@countermark/protocol/messages/batch-statistics';
import { SALT_BYTES } from '@countermark/protocol/merkle';
import { CREDIT_GRANT, DISCOUNT_GRANT } from '@countermark/protocol/messages/grant';
import { controlTotalMills, type Registers } from '@countermark/protocol/registers';
import { describeRejection, type Rejection } from '@countermark/protocol/rejection';
import { nodeVerification } from '@countermark/node-platform/verification';
import { messageDigest } from '@countermark/protocol/cose';
import { fundsGrantOf } from './funds.ts';
import type { Journal } from './journal.ts';
import { recordTypeOf, type BatchRow, type GrantRow, type RecordRow } from './journal-rows.ts';
import { type PiecePlace, pieceRecords } from './piece-archive.ts';
import { readIndex, readPostage, readReference } from './staging.ts';
import { readUnverified } from './unverified-message.ts';

/** A rejection for people. What a server said in words is passed on as it said it. */
export function rejectionReport(refused: Rejection): RejectionReport {
  const { said } = refused.detail;
  return {
    code: refused.code,
    detail: refused.detail,
    message: typeof said === 'string' ? said : describeRejection(refused),
    exit: CATALOGUE[refused.code].exit,
  };
}

export function registersReport(registers: Registers): RegistersReport {
  return {
    ascendingMills: String(registers.ascendingMills),
    descendingMills: String(registers.descendingMills),
    controlTotalMills: String(controlTotalMills(registers)),
    pieces: registers.pieces,
  };
}

/** Whether the record's hold has not ended. */
export function isHeld(record: RecordRow, nowMs: number): boolean {
  return record.state === 'waiting' && !record.sent && record.holdUntilMs !== null && record.holdUntilMs > nowMs;
}

/** Whether the device has, or had, the batch. */
export function wasOpened({ state }: BatchRow): boolean {
  return state === 'sealed' || state === 'closed' || state === 'open';
}

export function batchReport(journal: Journal, batch: BatchRow, nowMs: number): BatchReport {
  const record = batch.state === 'sealed' ? journal.records.ofBatch(batch.id) : undefined;
  const statistics = record === undefined ? null : statisticsOf(record.bytes);
  const observed = statistics?.observed;
  return {
    id: batch.id,
    job: statistics?.declaration.job ?? journal.batches.jobOf(batch) ?? '',
    customer: batch.customer,
    product: statistics?.declaration.product ?? batch.product,
    pieces: observed?.pieces ?? batch.franked,
    postageMills: String(
      observed === undefined ? batch.postageMills : observed.closed.ascendingMills - observed.opened.ascendingMills,
    ),
    sequence: record?.sequence ?? null,
    digest: record === undefined ? null : digestText(record.digest),
    state: stateOf(batch, record, nowMs),
    deletedFromPsd: record?.state === 'confirmed',
    cells: observed === undefined ? journalCells(journal, batch) : recordCells(observed),
    firstPieceNumber: observed?.firstPieceNumber ?? batch.firstNumber,
    spoiled: statistics?.closing.spoiled.length ?? batch.spoiled.length,
    reprints: batch.reprints + batch.laterReprints,
    incomplete: batch.incomplete,
    mailingDate: statistics?.declaration.mailingDate ?? batch.mailingDate,
    ...(record?.state === 'quarantined' ? { reason: record.reason ?? '' } : {}),
  };
}

function stateOf(batch: BatchRow, record: RecordRow | undefined, nowMs: number): BatchStateName {
  if (record === undefined) return batch.state === 'open' || batch.state === 'planned' ? 'open' : 'closed';
  if (record.state !== 'waiting') return record.state;
  if (isHeld(record, nowMs)) return 'held';
  return record.sent ? 'sent' : 'closed';
}

function statisticsOf(bytes: Uint8Array): BatchStatistics | null {
  const statistics = readUnverified(BATCH_STATISTICS, bytes);
  return statistics.ok ? statistics.value : null;
}

function cellReport(key: CellKey, pieces: number, postageMills: bigint): CellReport {
  const { product, shape, level, entry, weightStep } = key;
  return { product, shape, level, entry, weightStep, pieces, postageMills: String(postageMills) };
}

function recordCells(observed: BatchStatistics['observed']): CellReport[] {
  return observed.cells.map(({ key, pieces, postageMills }) => cellReport(key, pieces, postageMills));
}

function journalCells(journal: Journal, batch: BatchRow): CellReport[] {
  const cells = batch.run === null ? [] : (journal.runs.get(batch.run)?.cells ?? []);
  const counts = new Map<string, { key: CellKey; pieces: number; postageMills: bigint }>();
  for (const firstIndex of journal.chunks.frankedIndices(batch.batch)) {
    const chunk = journal.chunks.get(batch.batch, firstIndex);
    if (chunk === undefined) continue;
    for (let i = 0; i < chunk.pieces; i++) {
      const key = cells[chunk.cells[readIndex(chunk.entries, i)] as number]?.key;
      if (key === undefined) continue;
      const text = cellKeyText(key);
      const count = counts.get(text) ?? { key, pieces: 0, postageMills: 0n };
      count.pieces += 1;
      count.postageMills += BigInt(readPostage(chunk.entries, i));
      counts.set(text, count);
    }
  }
  return [...counts.values()].map(({ key, pieces, postageMills }) => cellReport(key, pieces, postageMills));
}

export function recordReport(
  journal: Journal,
  record: RecordRow,
  nowMs: number,
  nextAttemptMs: number | null,
): RecordReport {
  const batch = record.batch === null ? undefined : journal.batches.get(record.batch);
  return {
    sequence: record.sequence,
    type: recordTypeOf(record),
    digest: digestText(record.digest),
    batch: record.batch,
    job: batch === undefined ? null : journal.batches.jobOf(batch),
    state:
      record.state === 'waiting' ? (isHeld(record, nowMs) ? 'held' : record.sent ? 'sent' : 'waiting') : record.state,
    sealedAtMs: record.sealedMs,
    holdUntilMs: record.holdUntilMs,
    nextAttemptMs: record.state === 'waiting' && !isHeld(record, nowMs) ? nextAttemptMs : null,
    attempts: record.attempts,
    reason: record.reason,
  };
}

/** A grant that was verified when it was archived. */
export function grantReport(row: GrantRow): GrantReport {
  const type = row.kind === 'credit' ? CREDIT_GRANT : DISCOUNT_GRANT;
  const envelope = parseEnvelope(row.bytes);
  const parsed = envelope.ok ? parsePayload(type, envelope.value) : envelope;
  if (!envelope.ok || !parsed.ok) throw new TypeError('An archived grant no longer parses.');
  const grant = parsed.value;
  return {
    kind: row.kind,
    digest: hex(messageDigest(envelope.value, nodeVerification.sha256)),
    customer: grant.customer ?? null,
    amountMills: String(grant.amountMills),
    programme: grant.programme,
    programmeVersion: grant.programmeVersion,
    period: grant.period,
    revision: grant.revision,
    reasons: grant.reasons,
    evidence: grant.evidence.map(digestText),
    demonstration: grant.demonstration,
    grantedAtMs: grant.grantedAtMs,
  };
}

/** Draws of the funds grants that came with or after the job, added up by customer. */
export function drawReports(fundsGrants: readonly Uint8Array[]): DrawReport[] {
  const sums = new Map<string | null, bigint>();
  for (const bytes of fundsGrants) {
    for (const { customer, amountMills } of fundsGrantOf(bytes)?.draws ?? []) {
      sums.set(customer ?? null, (sums.get(customer ?? null) ?? 0n) + amountMills);
    }
  }
  return [...sums].map(([customer, amountMills]) => ({ customer, amountMills: String(amountMills) }));
}

export function pieceReport(journal: Journal, device: DeviceStatus, place: PiecePlace): PieceReport {
  const { batch, chunk, franked, at } = place;
  const cells = batch.run === null ? [] : (journal.runs.get(batch.run)?.cells ?? []);
  const key = cells[chunk.cells[readIndex(chunk.entries, at)] as number]?.key;
  const indiciumBytes = franked.indicia.length / franked.pieces;
  const record = pieceRecords(device.device, batch.id, cells, { chunk, franked })[at];
  return {
    batch: batch.id,
    pieceNumber: franked.firstNumber + at,
    row: chunk.rows[at] as number,
    postageMills: String(readPostage(chunk.entries, at)),
    level: key?.level ?? '',
    weightStep: key?.weightStep ?? 0,
    reference: hex(readReference(chunk.entries, at)),
    indicium: hex(franked.indicia.subarray(at * indiciumBytes, (at + 1) * indiciumBytes)),
    salt: hex(franked.salts.subarray(at * SALT_BYTES, (at + 1) * SALT_BYTES)),
    record: hex(record ?? new Uint8Array(0)),
  };
}

export function deviceReport(status: DeviceStatus): DeviceReport {
  return {
    device: status.device,
    state: status.state,
    licensee: status.licensee ?? null,
    epoch: status.epoch,
    authentication: status.authentication,
    pendingEpoch: status.pendingEpoch ?? null,
    memory: status.memory,
    certified: status.certified,
    registers: registersReport(status.registers),
    sequence: status.sequence,
    head: hex(status.head),
    openBatch: status.batch?.batch ?? null,
    unconfirmedRecords: status.unconfirmedRecords,
    unconfirmedPostageMills: String(status.unconfirmedPostageMills),
    recordCapacity: status.recordCapacity,
    policyVersion: status.policyVersion ?? null,
    customers: status.customers,
    lock: status.lock ?? null,
    lockLifts: status.lockLifts ?? null,
    warnAfterDays: status.warnAfterDays ?? null,
    lockAfterDays: status.lockAfterDays ?? null,
    inspectionWarnsAtMs: status.inspectionWarnsAtMs ?? null,
    inspectionLocksAtMs: status.inspectionLocksAtMs ?? null,
    products: status.products ?? null,
    scheme: status.scheme ?? null,
    warning: status.warning ?? null,
    signedTimeMs: status.signedTimeMs ?? null,
    alarms: status.alarms,
    warnsAtMs: status.warnsAtMs ?? null,
    locksAtMs: status.locksAtMs ?? null,
    software: status.software.version,
    measurement: digestText(status.software.measurement),
    closing: status.closing ?? false,
    finalSequence: status.finalSequence ?? null,
    zeroised: status.zeroised ?? false,
  };
}
