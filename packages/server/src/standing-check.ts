/**
 * Reads withdrawals, declarations of death, closures and their refunds, and says in words what is wrong with them.
 *
 * Guarantees, where it says nothing: every withdrawn device is suspended in the log, and its signed word is authentic and lets no more records stand than
 * the log; no record is marked of a device that is not suspended, nor stands after the last one that does; every dead
 * one was declared and confirmed by two names, each with its act; a refund has one entry, of the amount that is told, not before its
 * time, and nothing is left in the account; a closed one was ordered by
 * an operator's act, and has its final statement; no entry of a refund is without a dead or closed device. What a closed device gave back is
 * compared with its statement in `ledger-check.ts`.
 */
import type { Examination } from '@countermark/node-platform/examination';
import { nodeVerification } from '@countermark/node-platform/verification';
import type { DeviceId } from '@countermark/protocol/id';
import { SUSPENSION } from '@countermark/protocol/messages/policy';
import { describeRejection } from '@countermark/protocol/rejection';
import type { SqlDatabase } from '@countermark/sql/database';
import { type KeySource, verifyMessage } from '@countermark/verify/verified';
import { actsOf } from './audit-trail.ts';
import { ACCOUNT } from './ledger.ts';
import { LATER, refundRef } from './refund.ts';
import type { ServerTables } from './tables.ts';

export type StandingCheckParts = { readonly database: SqlDatabase<ServerTables>; readonly roleKeys: KeySource };

/** Notes what is wrong. */
export async function checkStanding(
  { database, roleKeys }: StandingCheckParts,
  examination: Examination,
): Promise<void> {
  const withdrawals = await database.read(async (tables) =>
    tables
      .selectFrom('withdrawal')
      .leftJoin('head', 'head.device', 'withdrawal.device')
      .select(['withdrawal.device', 'withdrawal.suspension', 'head.suspended', 'head.suspended_after'])
      .orderBy('withdrawal.device')
      .execute(),
  );
  for (const { device, suspension, suspended, suspended_after: suspendedAfter } of withdrawals) {
    if (suspended !== 1n) examination.problem(`${device} was withdrawn, and the log has not suspended it`);
    if (suspension === null) continue;
    const verified = verifyMessage(SUSPENSION, suspension, { port: nodeVerification, keys: roleKeys });
    if (!verified.ok) examination.problem(`the withdrawal of ${device}: ${describeRejection(verified.rejection)}`);
    else if (verified.value.message.device !== device || verified.value.message.withdrawn !== true) {
      examination.problem(`what is stored as the withdrawal of ${device} is none, or another device's`);
    } else if (BigInt(verified.value.message.afterSequence ?? 0) > (suspendedAfter ?? 0n)) {
      examination.problem(`the withdrawal of ${device} lets records stand that the log does not`);
    }
  }
  await checkMarks(database, examination);
  const withdrawn = new Set(withdrawals.map((row) => row.device));
  const deaths = await database.read(async (tables) =>
    tables.selectFrom('death').selectAll().orderBy('device').execute(),
  );
  for (const death of deaths) await checkDeath(database, death, withdrawn, examination);
  const closures = await database.read(async (tables) =>
    tables.selectFrom('closure').selectAll().orderBy('device').execute(),
  );
  for (const closure of closures) await checkClosure(database, closure, examination);
  const refunded = [...deaths, ...closures].filter(isRefunded).map(({ device }) => device);
  await checkRefunds(database, new Set(refunded), examination);
}

/** No suspension ends at the server: exactly what came after the last record that stands is marked, or all that came before that was known. */
async function checkMarks(database: SqlDatabase<ServerTables>, examination: Examination): Promise<void> {
  const wrong = await database.read(async (tables) =>
    tables
      .selectFrom('record')
      .innerJoin('head', 'head.device', 'record.device')
      .select(['record.device', 'record.sequence', 'record.suspended'])
      .where((eb) =>
        eb.or([
          eb.and([eb('head.suspended', '=', 0n), eb('record.suspended', '=', 1n)]),
          eb.and([
            eb('head.suspended', '=', 1n),
            eb('record.suspended', '=', 0n),
            eb('record.sequence', '>', eb.ref('head.suspended_after')),
          ]),
        ]),
      )
      .orderBy('record.cursor')
      .limit(100)
      .execute(),
  );
  for (const { device, sequence, suspended } of wrong) {
    examination.problem(
      suspended === 1n
        ? `record ${sequence} of ${device} is marked, and the device is not suspended`
        : `record ${sequence} of ${device} stands, and the device was suspended before it`,
    );
  }
}

async function checkDeath(
  database: SqlDatabase<ServerTables>,
  death: ServerTables['death'],
  withdrawn: ReadonlySet<string>,
  examination: Examination,
): Promise<void> {
  const { device, declared_by: declaredBy, confirmed_by: confirmedBy } = death;
  const acts = await actsOf(database, device as DeviceId);
  const did = (act: string, operator: string): boolean =>
    acts.some((one) => one.act === act && one.operator === operator);
  if (!did('declared-dead', declaredBy)) examination.problem(`nobody's act declares ${device} dead`);
  if (confirmedBy === null) {
    if (death.settled !== '') examination.problem(`${device} was settled as dead, and nobody confirmed it`);
    return;
  }
  if (confirmedBy === declaredBy) examination.problem(`${device} was declared and confirmed dead by one name`);
  if (!did('confirmed-dead', confirmedBy)) examination.problem(`nobody's act confirms that ${device} is dead`);
  if (!withdrawn.has(device)) examination.problem(`${device} was confirmed dead, and not withdrawn`);
  if (!isRefunded(death)) return;
  const { refund_after_ms: after, refunded_mills: told, settled_at_ms: at } = death;
  if (at === null || after === null || at < after) examination.problem(`${device} was refunded before its time`);
  const booked = await database.read(async (tables) =>
    tables
      .selectFrom('entry')
      .innerJoin('entry_line', 'entry_line.entry', 'entry.number')
      .select('entry_line.amount_mills')
      .where('entry.ref', '=', refundRef(device as DeviceId))
      .where('entry_line.account', '=', ACCOUNT.device(device as DeviceId))
      .executeTakeFirst(),
  );
  if (-(booked?.amount_mills ?? 0n) !== (told ?? 0n)) {
    examination.problem(
      `the refund of ${device} is told as ${told ?? 0n} mills; the ledger has ${-(booked?.amount_mills ?? 0n)}`,
    );
  }
  const left = await database.read(async (tables) =>
    tables
      .selectFrom('balance')
      .select('balance_mills')
      .where('account', '=', ACCOUNT.device(device as DeviceId))
      .executeTakeFirst(),
  );
  if ((left?.balance_mills ?? 0n) !== 0n) {
    examination.problem(`${device} was refunded, and its account holds ${left?.balance_mills ?? 0n} mills`);
  }
}

async function checkClosure(
  database: SqlDatabase<ServerTables>,
  { device, operator, sequence, settled }: ServerTables['closure'],
  examination: Examination,
): Promise<void> {
  const acts = await actsOf(database, device as DeviceId);
  if (operator !== '' && !acts.some((one) => one.act === 'closing' && one.operator === operator)) {
    examination.problem(`nobody's act closes ${device}`);
  }
  if (settled !== '' && (operator === '' || sequence === null)) {
    examination.problem(`${device} was settled as closed, without an order or without its final statement`);
  }
}

/** Every entry of a refund is that of a refunded device, or moves on what turned up later. */
async function checkRefunds(
  database: SqlDatabase<ServerTables>,
  refunded: ReadonlySet<string>,
  examination: Examination,
): Promise<void> {
  const entries = await database.read(async (tables) =>
    tables
      .selectFrom('entry')
      .innerJoin('entry_line', 'entry_line.entry', 'entry.number')
      .select(['entry.ref', 'entry_line.account'])
      .where('entry.kind', '=', 'refund')
      .where('entry_line.account', 'like', 'device:%')
      .execute(),
  );
  for (const { ref, account } of entries) {
    const device = account.slice('device:'.length);
    const fits = ref === refundRef(device as DeviceId) || ref.startsWith(LATER);
    if (!fits || !refunded.has(device))
      examination.problem(`the ledger entry ${ref} refunds ${device}, which is no refunded device`);
  }
}

function isRefunded({ settled }: { readonly settled: string }): boolean {
  return settled === 'refunded';
}
