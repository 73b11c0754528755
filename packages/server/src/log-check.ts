/**
 * Reads the statistics log from its first record and says in words what is wrong with it.
 *
 * Guarantees, where it says nothing: every record is verified again by its attestation (and its signature, where there is
 * one), every device's chain is without gap and its stored head is its last record, every confirmation is authentic and names
 * its record's digest, certificates and evidence are authentic, and no cursor is ahead of what it follows. Records are read page
 * by page; kept in memory are the heads, one for each device.
 * A start asks the same of the last records only (`logTailProblem`).
 */
import type { Examination } from '@countermark/node-platform/examination';
import { nodeVerification } from '@countermark/node-platform/verification';
import { parseEnvelope } from '@countermark/protocol/cose';
import { digestText, sameBytes } from '@countermark/protocol/digest';
import type { DeviceId } from '@countermark/protocol/id';
import { parsePayload } from '@countermark/protocol/message';
import { BATCH_STATISTICS } from '@countermark/protocol/messages/batch-statistics';
import { CONFIRMATION } from '@countermark/protocol/messages/confirmation';
import { DEVICE_CERTIFICATE } from '@countermark/protocol/messages/enrolment';
import { FINAL_STATEMENT } from '@countermark/protocol/messages/final-statement';
import { KEY_ROTATION } from '@countermark/protocol/messages/key-rotation';
import { POLICY } from '@countermark/protocol/messages/policy';
import { describeFinding } from '@countermark/protocol/rejection';
import type { SqlDatabase } from '@countermark/sql/database';
import { verifyAttestedRecord } from '@countermark/verify/attested-record';
import { CHAIN_START, type ChainHead, ENDED_EPOCH, judge } from '@countermark/verify/chain';
import { recordIdentity, type VerifiedRecord } from '@countermark/verify/record';
import { type KeySource, type Trust, verifyMessage } from '@countermark/verify/verified';
import { DELIVERY_FOLLOWER } from './delivery-marks.ts';
import { EVALUATED_FOLLOWER, followerCursor, moveCursor } from './follower.ts';
import { LEDGER_FOLLOWER } from './ledger-follower.ts';
import { pages } from './pages.ts';
import type { Registry } from './registry.ts';
import type { LogEntry, StatisticsLog } from './statistics-log.ts';
import type { ServerTables } from './tables.ts';

const PAGE = 200;
/** Records that a start reads again: at least, whatever was checked before, and at most. */
const TAIL_MIN = 16;
const TAIL_MAX = 128;
/** Up to where a start found nothing wrong. */
const CHECKED = 'checked';

export type LogCheckParts = {
  readonly database: SqlDatabase<ServerTables>;
  readonly log: StatisticsLog;
  readonly registry: Registry;
  readonly roleKeys: KeySource;
};

/** A record of the log that was found good. */
export type CheckedRecord = { readonly entry: LogEntry; readonly record: VerifiedRecord };

/** Notes what is wrong with the log, and answers how many records are not good; `onPage` sees the good ones, in the log's order. */
export async function checkLog(
  parts: LogCheckParts,
  examination: Examination,
  onPage: (records: readonly CheckedRecord[]) => Promise<void>,
): Promise<number> {
  const { log, database } = parts;
  const heads = new Map<string, ChainHead | null>();
  const last = await log.position();
  let broken = 0;
  let cursor = 0n;
  for (;;) {
    const entries = await log.after(cursor, PAGE);
    const good: CheckedRecord[] = [];
    for (const entry of entries) {
      const checked = await checkedRecord(entry, headOf(heads, entry.device), parts);
      if (typeof checked === 'string') {
        examination.problem(`record ${entry.sequence} of ${entry.device}: ${checked}`);
        // A break is told once: what follows is judged by what stands before it, or where that cannot be read, not at all.
        heads.set(entry.device, headAfter(entry));
        broken += 1;
      } else {
        heads.set(entry.device, checked.head);
        good.push({ entry, record: checked.record });
      }
    }
    await onPage(good);
    const end = entries.at(-1);
    if (end === undefined) break;
    cursor = end.cursor;
    examination.progress('records', Number(cursor), Number(last));
  }
  await checkHeads(parts, heads, examination);
  await checkCursors(database, last, examination);
  await checkCertificates(parts, examination);
  await checkEvidence(parts, examination);
  return broken;
}

/** Where a device's chain stands: at its start before the first record; null where a record could not be read. */
function headOf(heads: ReadonlyMap<string, ChainHead | null>, device: string): ChainHead | null {
  const head = heads.get(device);
  return head === undefined ? CHAIN_START : head;
}

/**
 * What is wrong with the end of the log, or null: what came since the last start that found nothing, the last 16 records at
 * least and 128 at most. Remembers how far it came.
 */
export async function logTailProblem(parts: LogCheckParts): Promise<string | null> {
  const { database, log } = parts;
  const found = await followerCursor(database, CHECKED);
  const tail = await lastEntries(parts, TAIL_MAX);
  const since = tail.findIndex((entry) => entry.cursor > found);
  const first = Math.max(0, Math.min(since === -1 ? tail.length : since, tail.length - TAIL_MIN));
  const heads = new Map<DeviceId, ChainHead>();
  for (const entry of tail.slice(first)) {
    const head = heads.get(entry.device) ?? (await headBefore(entry, log));
    const name = `record ${entry.sequence} of ${entry.device}`;
    if (head === null) return `${name}: the record before it is missing`;
    const checked = await checkedRecord(entry, head, parts);
    if (typeof checked === 'string') return `${name}: ${checked}`;
    heads.set(entry.device, checked.head);
  }
  for (const [device, head] of heads) {
    const stored = await log.head(device);
    if (!sameBytes(stored.digest, head.digest)) return `the head of ${device} is not its last record ${head.sequence}`;
  }
  const last = tail.at(-1)?.cursor ?? 0n;
  for (const name of FOLLOWERS) {
    if ((await followerCursor(database, name)) > last) return aheadOf(name, last);
  }
  if (last !== found) await database.transaction((tables) => moveCursor(tables, CHECKED, last));
  return null;
}

const FOLLOWERS = [LEDGER_FOLLOWER, DELIVERY_FOLLOWER, EVALUATED_FOLLOWER];

function aheadOf(follower: string, last: bigint): string {
  return `the follower ${follower} is further than the log, which ends at cursor ${last}: its end is lost`;
}

/** The last entries, oldest first. */
async function lastEntries({ database, log }: LogCheckParts, count: number): Promise<readonly LogEntry[]> {
  const rows = await database.read((tables) =>
    tables.selectFrom('record').select('cursor').orderBy('cursor', 'desc').limit(count).execute(),
  );
  const oldest = rows.at(-1)?.cursor;
  return oldest === undefined ? [] : log.after(oldest - 1n, count);
}

/** The head of a device's chain before one of its records, by the record before it; null where that one is missing. */
async function headBefore({ device, sequence }: LogEntry, log: StatisticsLog): Promise<ChainHead | null> {
  if (sequence === 1) return CHAIN_START;
  const before = await log.entry(device, sequence - 1);
  return before === null ? null : headAfter(before);
}

/** What a record says that the chain stands at after it, unverified; null where it cannot be read. */
function headAfter({ record, sequence, digest }: LogEntry): ChainHead | null {
  const envelope = parseEnvelope(record);
  if (!envelope.ok) return null;
  if (envelope.value.type === KEY_ROTATION.type) {
    const rotation = parsePayload(KEY_ROTATION, envelope.value);
    if (!rotation.ok) return null;
    const { registers, funds, newEpoch: epoch } = rotation.value;
    return { sequence, digest, registers, funds, epoch };
  }
  if (envelope.value.type === FINAL_STATEMENT.type) {
    const statement = parsePayload(FINAL_STATEMENT, envelope.value);
    if (!statement.ok) return null;
    const { registers, funds } = statement.value;
    return { sequence, digest, registers, funds, epoch: ENDED_EPOCH };
  }
  const statistics = parsePayload(BATCH_STATISTICS, envelope.value);
  if (!statistics.ok) return null;
  const { closed: registers, funds, epoch } = statistics.value.observed;
  return { sequence, digest, registers, funds, epoch };
}

/** The record with the head after it, or what is wrong with it. */
async function checkedRecord(
  entry: LogEntry,
  head: ChainHead | null,
  { registry, roleKeys }: LogCheckParts,
): Promise<string | { readonly record: VerifiedRecord; readonly head: ChainHead }> {
  const { device, sequence, record, attestation, confirmation, digest } = entry;
  const envelope = parseEnvelope(record);
  if (!envelope.ok) return describeFinding(envelope.rejection);
  const certificate = await registry.certificate(device, envelope.value.key.epoch);
  if (certificate === null) return 'the certificate of its key is not in the registry';
  if (!sameBytes(certificate.digest, entry.certificate))
    return 'it is stored under another certificate than that of its key';
  const keys: KeySource = (key) =>
    roleKeys(key) ?? registry.certificateInMemory(key.holder, key.epoch)?.message ?? null;
  const trust: Trust = { port: nodeVerification, keys };
  const verified = verifyAttestedRecord(record, attestation, trust);
  if (!verified.ok) return describeFinding(verified.rejection);
  const identity = recordIdentity(verified.value.record);
  if (identity.device !== device || identity.sequence !== sequence) {
    return `it is record ${identity.sequence} of ${identity.device}`;
  }
  if (!sameBytes(identity.digest, digest)) return 'its stored digest is not its own';
  const after = headAfter(entry);
  if (after === null) return 'it cannot be read';
  const verdict = head === null ? ({ outcome: 'continues' } as const) : judge(head, verified.value.record, () => null);
  if (verdict.outcome === 'rejected') return `it does not continue the chain: ${describeFinding(verdict.rejection)}`;
  if (verdict.outcome !== 'continues') return 'it does not continue the chain';
  if (confirmation !== null) {
    const confirmed = verifyMessage(CONFIRMATION, confirmation, trust);
    if (!confirmed.ok) return `its confirmation: ${describeFinding(confirmed.rejection)}`;
    if (!sameBytes(confirmed.value.message.digest, digest)) return 'its confirmation names another digest';
  }
  return { record: verified.value.record, head: after };
}

/** Every stored head is the last record of its device, with its registers. */
async function checkHeads(
  { database }: LogCheckParts,
  heads: ReadonlyMap<string, ChainHead | null>,
  examination: Examination,
): Promise<void> {
  const seen = new Set<string>();
  for await (const row of pages(
    database,
    (tables, after: string) => tables.selectFrom('head').selectAll().where('device', '>', after).orderBy('device'),
    (row) => row.device,
    '',
  )) {
    seen.add(row.device);
    const head = headOf(heads, row.device);
    if (head === null) continue;
    if (row.sequence !== BigInt(head.sequence) || (head.sequence > 0 && !sameBytes(row.digest, head.digest))) {
      examination.problem(
        `the head of ${row.device} is record ${row.sequence}; the last record in the log is ${head.sequence}`,
      );
    } else if (head.sequence > 0 && !sameRegisters(row, head)) {
      examination.problem(
        `the head of ${row.device} has other registers or funds than its last record ${head.sequence}`,
      );
    }
  }
  for (const device of heads.keys()) if (!seen.has(device)) examination.problem(`${device} has records and no head`);
}

function sameRegisters(row: ServerTables['head'], { registers, funds, epoch }: ChainHead): boolean {
  return (
    row.ascending_mills === registers.ascendingMills &&
    row.descending_mills === registers.descendingMills &&
    row.pieces === BigInt(registers.pieces) &&
    row.received_mills === funds.receivedMills &&
    row.returned_mills === funds.returnedMills &&
    row.last_grant === BigInt(funds.lastGrant) &&
    row.epoch === BigInt(epoch)
  );
}

async function checkCursors(
  database: SqlDatabase<ServerTables>,
  last: bigint,
  examination: Examination,
): Promise<void> {
  const counted = await database.read((tables) =>
    tables.selectFrom('log_position').select('cursor').where('id', '=', 1n).executeTakeFirst(),
  );
  if (counted === undefined || counted.cursor < last) {
    examination.problem(
      `the log's position is ${counted?.cursor ?? 'missing'}; its last record has the cursor ${last}`,
    );
  }
  for (const name of FOLLOWERS) {
    if ((await followerCursor(database, name)) > last) examination.problem(aheadOf(name, last));
  }
  const delivered = await followerCursor(database, DELIVERY_FOLLOWER);
  if ((await followerCursor(database, EVALUATED_FOLLOWER)) > delivered) {
    examination.problem(
      `the follower ${EVALUATED_FOLLOWER} is further than what was delivered, to cursor ${delivered}`,
    );
  }
}

/** Certificates and policies are authentic and stand where they belong. */
async function checkCertificates({ database, roleKeys }: LogCheckParts, examination: Examination): Promise<void> {
  const trust: Trust = { port: nodeVerification, keys: roleKeys };
  const owners = new Map<string, string>();
  for await (const row of pages(
    database,
    (tables, after: string) => tables.selectFrom('device').selectAll().where('device', '>', after).orderBy('device'),
    (row) => row.device,
    '',
  )) {
    owners.set(row.device, row.licensee);
    const certificates = await database.read((tables) =>
      tables.selectFrom('certificate').selectAll().where('device', '=', row.device).orderBy('epoch').execute(),
    );
    for (const { device, epoch, certificate, digest } of certificates) {
      const name = `the certificate of ${device}, epoch ${epoch},`;
      const verified = verifyMessage(DEVICE_CERTIFICATE, certificate, trust);
      if (!verified.ok) {
        examination.problem(`${name} is not authentic: ${describeFinding(verified.rejection)}`);
        continue;
      }
      const said = verified.value.message;
      if (said.device !== device || BigInt(said.epoch) !== epoch || said.licensee !== row.licensee) {
        examination.problem(`${name} is that of ${said.device}, epoch ${said.epoch}, of ${said.licensee}`);
      }
      if (!sameBytes(verified.value.digest, digest)) examination.problem(`${name} is stored under another digest`);
    }
    const policies = await database.read((tables) =>
      tables.selectFrom('policy').selectAll().where('device', '=', row.device).orderBy('version').execute(),
    );
    for (const { device, version, policy } of policies) {
      const verified = verifyMessage(POLICY, policy, trust);
      if (!verified.ok) {
        examination.problem(`policy ${version} of ${device}: ${describeFinding(verified.rejection)}`);
      } else if (verified.value.message.device !== device || BigInt(verified.value.message.version) !== version) {
        examination.problem(`policy ${version} of ${device} is another policy`);
      }
    }
  }
}

/** Evidence is authentic, and its device suspended where it proves a fork. */
async function checkEvidence(parts: LogCheckParts, examination: Examination): Promise<void> {
  const { database, log, registry, roleKeys } = parts;
  const rows = await database.read((tables) => tables.selectFrom('evidence').select('device').distinct().execute());
  for (const { device } of rows) {
    for (const { sequence, code, record, attestation, digest } of await log.evidence(device as DeviceId)) {
      const name = `the evidence against ${device}, record ${sequence},`;
      const envelope = parseEnvelope(record);
      if (envelope.ok) await registry.certificate(device, envelope.value.key.epoch);
      const keys: KeySource = (key) =>
        roleKeys(key) ?? registry.certificateInMemory(key.holder, key.epoch)?.message ?? null;
      const verified = verifyAttestedRecord(record, attestation, { port: nodeVerification, keys });
      if (!verified.ok) {
        examination.problem(`${name} is not authentic: ${describeFinding(verified.rejection)}`);
        continue;
      }
      const identity = recordIdentity(verified.value.record);
      if (identity.device !== device || !sameBytes(identity.digest, digest))
        examination.problem(`${name} is another record`);
      if (code !== 'fork') continue;
      const accepted = await log.entry(device as DeviceId, identity.sequence);
      if (accepted !== null && sameBytes(accepted.digest, digest)) {
        examination.problem(`${name} is the record that the log has accepted`);
      }
      if (!(await log.head(device as DeviceId)).suspended) {
        examination.problem(`${device} forked its chain (${digestText(digest)}) and is not suspended`);
      }
    }
  }
}
