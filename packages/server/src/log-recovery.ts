/**
 * Records that this log has lost and the authority still has: the server was restored from an older backup, and the host that would feed it
 * again is gone, or they were brought to the authority by their host because this server did not log them.
 *
 * Guarantees: the authority is believed nothing: a record is taken only with an attestation of the cryptographic device, under a certificate
 * that it issued, as the next of its device's chain, and is then confirmed and followed like any other. Up to which point of the
 * authority's history its records are in this log is a cursor of its own, which moves with the records or with their delivery: a crash
 * in between only asks again, and what an honest server delivers itself it is never sent back.
 * Does not cover what else a backup lacks: funds grants come from hosts, deposits from people.
 */
import { Fault } from '@countermark/node-platform/fault';
import type { Log } from '@countermark/node-platform/logs';
import { nodeVerification } from '@countermark/node-platform/verification';
import { type Digest, digestOf, NO_DIGEST, sameBytes } from '@countermark/protocol/digest';
import type { LicenseeId } from '@countermark/protocol/id';
import { HISTORY_START, type HistoryPoint } from '@countermark/protocol/interfaces/delivery';
import { DEVICE_CERTIFICATE } from '@countermark/protocol/messages/enrolment';
import { describeRejection } from '@countermark/protocol/rejection';
import type { SqlDatabase } from '@countermark/sql/database';
import { type KeySource, verifyMessage } from '@countermark/verify/verified';
import type { Kysely } from 'kysely';
import type { Acceptance } from './acceptance.ts';
import { BY_ITSELF } from './audit-trail.ts';
import type { AuthorityClient } from './authority-client.ts';
import { lastMark } from './delivery-marks.ts';
import type { Enrolment } from './enrolment.ts';
import { moveCursor } from './follower.ts';
import type { LedgerTransaction } from './ledger.ts';
import type { Registry } from './registry.ts';
import type { ServerTables } from './tables.ts';

/** Up to which of the authority's cursors its records are known to be in this log; the digest is that of its history. */
const RECOVERY_FOLLOWER = 'recovery';

export type LogRecoveryParts = {
  readonly database: SqlDatabase<ServerTables>;
  readonly acceptance: Pick<Acceptance, 'recover'>;
  readonly enrolment: Pick<Enrolment, 'restore'>;
  readonly registry: Pick<Registry, 'certificate'>;
  readonly authority: Pick<AuthorityClient, 'records'>;
  readonly roleKeys: KeySource;
  readonly logs: Log;
};

export class LogRecovery {
  readonly #parts: LogRecoveryParts;

  constructor(parts: LogRecoveryParts) {
    this.#parts = parts;
  }

  /** Takes the next records that the authority has and this log may lack. Fault: `authority-unavailable`. */
  async recover(): Promise<'more' | 'idle'> {
    const { database, acceptance, authority, logs } = this.#parts;
    const since = await database.read(recoveredPoint);
    const list = await authority.records(since.cursor === 0 ? undefined : since);
    if (!list.ok) throw new Fault('authority-unavailable', describeRejection(list.rejection), { retry: 'later' });
    const { certificates, items, cursor, history, continues } = list.value;
    if (!continues) return this.#startOver(since);
    if (items.length === 0) return 'idle';
    const introduced = await this.#introduce(certificates);
    const answers = await acceptance.recover(items);
    const taken = answers.filter(({ outcome }) => outcome === 'accepted').length;
    if (taken > 0) logs.warn('Records that this log lacked came from the authority', { count: taken });
    for (const { rejection: refused } of answers) {
      if (refused?.code === 'try-again') {
        throw new Fault('cryptographic-device-unavailable', describeRejection(refused), { retry: 'later' });
      }
      if (refused !== undefined) logs.warn('A record of the authority was not taken', { code: refused.code });
    }
    // Records of a licensee who is not registered again yet cannot come back: they are asked for again later.
    if (!introduced) return 'idle';
    await moveIf(database, since, { cursor, digest: history });
    return 'more';
  }

  /** The authority was restored, too: what it has since its history's last point that both know may be lacking here. */
  async #startOver(since: HistoryPoint): Promise<'more' | 'idle'> {
    const { database } = this.#parts;
    const mark = (await lastMark(database))?.point ?? HISTORY_START;
    // Delivery gives that up as well, and is there first: then there is an earlier one.
    if (mark.cursor === since.cursor && sameBytes(mark.digest, since.digest)) return 'idle';
    await moveIf(database, since, mark.cursor < since.cursor ? mark : HISTORY_START);
    return 'more';
  }

  /** Takes back the certificates that the registry lacks; false where one cannot be taken now. */
  async #introduce(certificates: readonly Uint8Array[]): Promise<boolean> {
    const { enrolment, registry, roleKeys, logs } = this.#parts;
    const lacking = new Map<LicenseeId, Uint8Array[]>();
    for (const bytes of certificates) {
      const certificate = verifyMessage(DEVICE_CERTIFICATE, bytes, { port: nodeVerification, keys: roleKeys });
      if (!certificate.ok) {
        logs.warn('A certificate of the authority was refused', { code: certificate.rejection.code });
        continue;
      }
      const { device, epoch, licensee } = certificate.value.message;
      if ((await registry.certificate(device, epoch)) !== null) continue;
      lacking.set(licensee, [...(lacking.get(licensee) ?? []), bytes]);
    }
    let introduced = true;
    for (const [licensee, own] of lacking) {
      const restored = await enrolment.restore(licensee, own, BY_ITSELF);
      if (restored.ok) continue;
      logs.warn('The certificates of a lost device were not taken', { licensee, code: restored.rejection.code });
      introduced = false;
    }
    return introduced;
  }
}

/**
 * Within the unit of work of a delivery: the authority has taken records from this log and from nobody else since the point before, so
 * that none of them has to come back.
 */
export async function recoveredWithDelivery(
  tables: LedgerTransaction,
  {
    before,
    after,
    accepted,
  }: { readonly before: HistoryPoint; readonly after: HistoryPoint; readonly accepted: number },
): Promise<void> {
  if (after.cursor !== before.cursor + accepted) return;
  const { cursor, digest } = await recoveredPoint(tables);
  if (cursor !== before.cursor || !sameBytes(digest, before.digest)) return;
  await moveCursor(tables, RECOVERY_FOLLOWER, BigInt(after.cursor), after.digest);
}

/** Another worker may have been there first. */
async function moveIf(database: SqlDatabase<ServerTables>, from: HistoryPoint, to: HistoryPoint): Promise<void> {
  await database.transaction(async (tables) => {
    const { cursor, digest } = await recoveredPoint(tables);
    if (cursor !== from.cursor || !sameBytes(digest, from.digest)) return;
    await moveCursor(tables, RECOVERY_FOLLOWER, BigInt(to.cursor), to.digest);
  });
}

async function recoveredPoint(tables: Kysely<ServerTables>): Promise<HistoryPoint> {
  const row = await tables
    .selectFrom('follower')
    .select(['cursor', 'digest'])
    .where('name', '=', RECOVERY_FOLLOWER)
    .executeTakeFirst();
  if (row === undefined) return HISTORY_START;
  const digest: Digest = row.digest === null ? NO_DIGEST : digestOf(row.digest);
  return { cursor: Number(row.cursor), digest };
}
