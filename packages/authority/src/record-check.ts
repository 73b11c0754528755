/**
 * One record and one grant of the authority's store, examined: what `check` asks of all of them, and a start of the last ones.
 *
 * Guarantees: a record that passes is authentic, attested, the next of its device's chain, and stored as what it says it is.
 */
import { nodeVerification } from '@countermark/node-platform/verification';
import { parseEnvelope } from '@countermark/protocol/cose';
import { digestText, sameBytes } from '@countermark/protocol/digest';
import type { DeviceId } from '@countermark/protocol/id';
import { parsePayload } from '@countermark/protocol/message';
import { BATCH_STATISTICS } from '@countermark/protocol/messages/batch-statistics';
import { CREDIT_GRANT, DISCOUNT_GRANT, type Grant } from '@countermark/protocol/messages/grant';
import { FINAL_STATEMENT } from '@countermark/protocol/messages/final-statement';
import { KEY_ROTATION } from '@countermark/protocol/messages/key-rotation';
import { describeFinding } from '@countermark/protocol/rejection';
import type { Result } from '@countermark/protocol/result';
import { CHAIN_START, type ChainHead, ENDED_EPOCH, judge } from '@countermark/verify/chain';
import { recordIdentity } from '@countermark/verify/record';
import { type TrustBundle, trustedKeys } from '@countermark/verify/trust-bundle';
import { type KeySource, type Verified, verifyMessage } from '@countermark/verify/verified';
import type { GrantSigner } from './grant.ts';
import { type CertifiedKeys, certifiedKeys, verifyItem } from './intake.ts';
import type { AuthorityStore, GrantItem, StoredRecord } from './store/authority-store.ts';

/** Records and grants that a start reads again: at least, whatever was checked before, and at most. */
const TAIL_MIN = 16;
const TAIL_MAX = 128;

export type LoggedRecord = StoredRecord & { readonly cursor: number };

/**
 * What is wrong with the end of an opened store, or null: records and grants that came since the last start that found nothing,
 * the last 16 at least and 128 at most. Remembers how far it came.
 */
export async function tailProblem({
  store,
  bundle,
  signer,
}: {
  readonly store: AuthorityStore;
  readonly bundle: TrustBundle;
  readonly signer: GrantSigner;
}): Promise<string | null> {
  const { intake, rolled, grants, checked } = await store.positions();
  if (rolled > intake) return `The totals stand at ${rolled}; the log ends at ${intake}.`;
  const from = Math.max(0, Math.min(Math.max(checked, intake - TAIL_MAX), intake - TAIL_MIN));
  const records = await store.records(from, TAIL_MAX);
  if ((records.at(-1)?.cursor ?? from) !== intake) {
    return `The log ends at ${records.at(-1)?.cursor ?? from}; its position is ${intake}.`;
  }
  const keys = await keysOf(records, store);
  const heads = new Map<DeviceId, ChainHead>();
  for (const record of records) {
    const name = nameOf(record);
    const head = heads.get(record.device) ?? (await headBefore(record, store));
    if (head === null) return `${name}: the one before it is missing.`;
    const judged = judgedRecord(record, head, keys, trustedKeys(bundle));
    if (typeof judged === 'string') return `${name} ${judged}`;
    heads.set(record.device, judged);
  }
  for (const [device, head] of heads) {
    const stored = await store.device(device);
    if (stored === null || !sameBytes(stored.head.digest, head.digest)) return headProblem(device, head);
  }
  const items = await store.grants(Math.max(0, grants - TAIL_MIN), TAIL_MAX);
  for (const item of items) {
    const grant = verifiedGrant(item, signer.keys);
    if (!grant.ok) return `Grant ${item.cursor}: ${describeFinding(grant.rejection)}`;
    if (!sameBytes(item.digest, grant.value.digest)) return `Grant ${item.cursor} is stored under another digest.`;
  }
  if (checked !== intake) await store.markChecked(intake);
  return null;
}

export function nameOf({ sequence, device, cursor }: LoggedRecord): string {
  return `Record ${sequence} of ${device} (cursor ${cursor})`;
}

export function headProblem(device: string, head: ChainHead): string {
  return `The stored head of ${device} is not its last record, ${digestText(head.digest)}.`;
}

export function keysOf(records: readonly LoggedRecord[], store: AuthorityStore): Promise<CertifiedKeys> {
  return certifiedKeys(
    records.map(({ bytes }) => ({ record: bytes })),
    store,
  );
}

/** The head after a record, or what is wrong with it. */
export function judgedRecord(
  record: LoggedRecord,
  head: ChainHead | null,
  keys: CertifiedKeys,
  roles: KeySource,
): ChainHead | string {
  const attested = verifyItem({ record: record.bytes, attestation: record.attestation }, keys, roles);
  if (!attested.ok) return `is not good: ${describeFinding(attested.rejection)}`;
  const after = headAfter(record);
  if (after === null) return 'cannot be read.';
  if (head !== null && judge(head, attested.value.record, () => null).outcome !== 'continues') {
    return 'does not continue its chain.';
  }
  if (!sameBytes(recordIdentity(attested.value.record).digest, record.digest)) return 'is stored under another digest.';
  const { message } = attested.value.record.verified;
  if (message.device !== record.device || message.sequence !== record.sequence)
    return `is record ${message.sequence} of ${message.device}.`;
  if (message.licensee !== record.licensee) return `is stored as of ${record.licensee}; it is of ${message.licensee}.`;
  if ('declaration' in message) {
    const { customer = null, mailingDate } = message.declaration;
    if (customer !== record.customer)
      return `is stored as of the customer ${record.customer ?? '(none)'}; it is of ${customer ?? '(none)'}.`;
    if (mailingDate !== record.mailingDate) return `is stored as of ${record.mailingDate}; it is of ${mailingDate}.`;
  }
  return after;
}

/** The head of a device's chain before one of its records, by the record before it; null where that one is missing. */
async function headBefore({ device, sequence }: LoggedRecord, store: AuthorityStore): Promise<ChainHead | null> {
  if (sequence === 1) return CHAIN_START;
  const before = await store.recordAt(device, sequence - 1);
  return before === null ? null : headAfter(before);
}

/** What a record says that the chain stands at after it, unverified; null where it cannot be read. */
export function headAfter({ bytes, sequence, digest }: StoredRecord): ChainHead | null {
  const envelope = parseEnvelope(bytes);
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

export function verifiedGrant({ grant }: GrantItem, keys: KeySource): Result<Verified<Grant>> {
  const trust = { port: nodeVerification, keys };
  const discount = verifyMessage(DISCOUNT_GRANT, grant, trust);
  return discount.ok ? discount : verifyMessage(CREDIT_GRANT, grant, trust);
}
