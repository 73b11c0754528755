/**
 * `check`: reads the authority's store from the first record and says in words what is wrong.
 *
 * Guarantees to find: a record that is missing, altered, out of its chain or not attested; a device whose stored head is
 * not that of its chain; totals that are not what the records add up to; a grant that is altered, out of its chain, or
 * whose amounts do not continue. Changes nothing in an existing store. Does not reckon entitlements again: programmes are not read.
 */
import { digestText, sameBytes } from '@countermark/protocol/digest';
import { CREDIT_GRANT, DISCOUNT_GRANT, type Grant } from '@countermark/protocol/messages/grant';
import { accept, type Result } from '@countermark/protocol/result';
import { describeRejection } from '@countermark/protocol/rejection';
import { nodeVerification } from '@countermark/node-platform/verification';
import { CHAIN_START, type ChainHead, judge } from '@countermark/verify/chain';
import { trustedKeys } from '@countermark/verify/trust-bundle';
import { type KeySource, type Verified, verifyMessage } from '@countermark/verify/verified';
import { openParts } from './authority.ts';
import type { Config } from './config.ts';
import { certifiedKeys, verifyItem } from './intake.ts';
import { shippedTariffs } from './rating.ts';
import { cellsOf } from './settlement.ts';
import type { AuthorityStore } from './store/authority-store.ts';

const PAGE = 500;

/** What is wrong, a sentence each. Rejections: those of opening. */
export async function checkAuthority(config: Config): Promise<Result<readonly string[]>> {
  const opened = await openParts(config);
  if (!opened.ok) return opened;
  const { store, bundle, signer } = opened.value;
  try {
    const problems = await checkRecords(store, trustedKeys(bundle));
    const granting: KeySource = ({ holder, epoch }) =>
      holder === 'granting' && epoch === signer.epoch
        ? { publicKey: signer.publicKey, authentication: 'signature' }
        : null;
    return accept([...problems, ...(await checkGrants(store, granting))]);
  } finally {
    await store.close();
  }
}

async function checkRecords(store: AuthorityStore, roles: KeySource): Promise<string[]> {
  const problems: string[] = [];
  const heads = new Map<string, ChainHead>();
  const tariffs = shippedTariffs();
  const { intake, rolled } = await store.positions();
  let pieces = 0n;
  let postageMills = 0n;
  let cursor = 0;
  for (;;) {
    const page = await store.records(cursor, PAGE);
    if (page.length === 0) break;
    const keys = await certifiedKeys(
      page.map(({ bytes }) => ({ record: bytes })),
      store,
    );
    for (const record of page) {
      const name = `Record ${record.sequence} of ${record.device} (cursor ${record.cursor})`;
      if (record.cursor !== cursor + 1) problems.push(`${name}: the one before is missing.`);
      cursor = record.cursor;
      const attested = verifyItem({ record: record.bytes, attestation: record.attestation }, keys, roles);
      if (!attested.ok) {
        problems.push(`${name}: ${describeRejection(attested.rejection)}`);
        continue;
      }
      const verdict = judge(heads.get(record.device) ?? CHAIN_START, attested.value.record, () => null);
      if (verdict.outcome !== 'continues') {
        problems.push(`${name} does not continue its chain.`);
        continue;
      }
      if (!sameBytes(verdict.head.digest, record.digest)) problems.push(`${name} is stored under another digest.`);
      heads.set(record.device, verdict.head);
      if (record.cursor > rolled) continue;
      for (const cell of cellsOf(record, tariffs)) {
        pieces += BigInt(cell.pieces);
        postageMills += cell.postageMills;
      }
    }
  }
  if (cursor !== intake) problems.push(`The log ends at ${cursor}; its position is ${intake}.`);
  for (const [device, head] of heads) {
    const stored = await store.device(device as never);
    if (stored === null || !sameBytes(stored.head.digest, head.digest)) {
      problems.push(`The stored head of ${device} is not its last record, ${digestText(head.digest)}.`);
    }
  }
  const { rows } = await store.totals({ by: [], where: new Map(), mailingDateFrom: null, mailingDateTo: null }, 1);
  const total = rows[0] ?? { pieces: 0n, postageMills: 0n };
  if (total.pieces !== pieces || total.postageMills !== postageMills) {
    problems.push(
      `The totals have ${total.pieces} pieces and ${total.postageMills} mills; the records have ${pieces} and ${postageMills}.`,
    );
  }
  return problems;
}

async function checkGrants(store: AuthorityStore, keys: KeySource): Promise<string[]> {
  const problems: string[] = [];
  const last = new Map<string, Verified<Grant>>();
  let cursor = 0;
  for (;;) {
    const page = await store.grants(cursor, PAGE);
    if (page.length === 0) return problems;
    for (const item of page) {
      const name = `Grant ${item.cursor}`;
      if (item.cursor !== cursor + 1) problems.push(`${name}: the one before is missing.`);
      cursor = item.cursor;
      const trust = { port: nodeVerification, keys };
      const discount = verifyMessage(DISCOUNT_GRANT, item.grant, trust);
      const grant = discount.ok ? discount : verifyMessage(CREDIT_GRANT, item.grant, trust);
      if (!grant.ok) {
        problems.push(`${name}: ${describeRejection(grant.rejection)}`);
        continue;
      }
      const { message, digest } = grant.value;
      const { programme, programmeVersion, licensee, customer, period } = message;
      const group = `${programme} ${programmeVersion} ${licensee} ${customer ?? ''} ${period}`;
      const before = last.get(group);
      last.set(group, grant.value);
      const continues =
        before === undefined
          ? message.revision === 1 && message.previous === undefined && message.grantedBeforeMills === 0n
          : message.revision === before.message.revision + 1 &&
            message.previous !== undefined &&
            sameBytes(message.previous, before.digest) &&
            message.grantedBeforeMills === before.message.entitlementMills;
      if (!continues) problems.push(`${name} does not continue the revision before it.`);
      if (message.amountMills !== message.entitlementMills - message.grantedBeforeMills) {
        problems.push(`${name}: its amount is not entitlement minus what was granted before.`);
      }
      if (!sameBytes(item.digest, digest)) problems.push(`${name} is stored under another digest.`);
    }
  }
}
