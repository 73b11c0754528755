/**
 * Reads the statistics log from its first record and says in words what is wrong with it.
 *
 * Guarantees, where it says nothing: every record is verified again by its attestation (and its signature, where there is
 * one), every device's chain is without gap, and every confirmation is authentic and names its record's digest.
 */
import { nodeVerification } from '@countermark/node-platform/verification';
import { sameBytes } from '@countermark/protocol/digest';
import { CONFIRMATION } from '@countermark/protocol/messages/confirmation';
import { describeRejection } from '@countermark/protocol/rejection';
import { verifyAttestedRecord } from '@countermark/verify/attested-record';
import { CHAIN_START, type ChainHead, judge } from '@countermark/verify/chain';
import { type KeySource, verifyMessage } from '@countermark/verify/verified';
import type { Registry } from './registry.ts';
import type { LogEntry, StatisticsLog } from './statistics-log.ts';

const PAGE = 500;
const PROBLEMS_MAX = 100;

/** What is wrong, at most the first hundred. */
export async function logProblems(
  log: StatisticsLog,
  registry: Registry,
  roleKeys: KeySource,
): Promise<readonly string[]> {
  const heads = new Map<string, ChainHead>();
  const problems: string[] = [];
  let cursor = 0n;
  for (;;) {
    const entries = await log.after(cursor, PAGE);
    for (const entry of entries) {
      const problem = await problemOf(entry, heads, registry, roleKeys);
      if (problem !== null) problems.push(`record ${entry.sequence} of ${entry.device}: ${problem}`);
      if (problems.length >= PROBLEMS_MAX) return problems;
    }
    const last = entries.at(-1);
    if (last === undefined) return problems;
    cursor = last.cursor;
  }
}

async function problemOf(
  entry: LogEntry,
  heads: Map<string, ChainHead>,
  registry: Registry,
  roleKeys: KeySource,
): Promise<string | null> {
  const { device, record, attestation, confirmation } = entry;
  const head = heads.get(device) ?? CHAIN_START;
  await registry.certificate(device, head.epoch === 0 ? 1 : head.epoch);
  const keys: KeySource = (key) =>
    roleKeys(key) ?? registry.certificateInMemory(key.holder, key.epoch)?.message ?? null;
  const trust = { port: nodeVerification, keys };
  const verified = verifyAttestedRecord(record, attestation, trust);
  if (!verified.ok) return describeRejection(verified.rejection);
  const verdict = judge(head, verified.value.record, () => null);
  if (verdict.outcome !== 'continues') return 'it does not continue the chain';
  heads.set(device, verdict.head);
  if (!sameBytes(verdict.head.digest, entry.digest)) return 'its stored digest is not its own';
  if (confirmation === null) return null;
  const confirmed = verifyMessage(CONFIRMATION, confirmation, trust);
  if (!confirmed.ok) return `its confirmation: ${describeRejection(confirmed.rejection)}`;
  return sameBytes(confirmed.value.message.digest, entry.digest) ? null : 'its confirmation names another digest';
}
