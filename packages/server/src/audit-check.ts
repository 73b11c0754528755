/**
 * Reads the audit trail from its first entry, and says in words where its chain breaks.
 *
 * Guarantees, where it says nothing: the entries are numbered without gap, each has the digest that its content and the entry before
 * give, and the first one covers what was done before there was a trail. Does not see a trail that was cut at its end, or written
 * anew as a whole: only who kept one of its digests does.
 */
import type { Examination } from '@countermark/node-platform/examination';
import { sha256 } from '@countermark/node-platform/verification';
import { type Digest, NO_DIGEST, sameBytes } from '@countermark/protocol/digest';
import { auditDigest } from '@countermark/protocol/interfaces/audit-entry';
import type { SqlDatabase } from '@countermark/sql/database';
import { auditEntries, type ChainedEntry, earlierActs } from './audit-trail.ts';
import type { ServerTables } from './tables.ts';

const PAGE = 1_000;

/** Notes what is wrong. Stops at the first break: what follows it would only repeat that. */
export async function checkTrail(database: SqlDatabase<ServerTables>, examination: Examination): Promise<void> {
  let number = 0;
  let previous: Digest = NO_DIGEST;
  for (;;) {
    const page = await auditEntries(database, number, PAGE);
    for (const entry of page) {
      if (entry.number !== number + 1) {
        examination.problem(`the audit trail lacks its entry ${number + 1}: ${entry.number} comes next`);
        return;
      }
      if (!continues(entry, previous)) {
        examination.problem(
          `the audit trail breaks at its entry ${entry.number} (${entry.act} ${entry.subject} by ${entry.actor}): it, or one before it, is not as it was written`,
        );
        return;
      }
      if (number === 0) {
        const earlier = await database.read(earlierActs);
        if (entry.act !== 'trail-begun' || entry.words !== earlier) {
          examination.problem('what operators did before the audit trail began is not what its first entry says');
        }
      }
      number = entry.number;
      previous = entry.digest;
    }
    if (page.length < PAGE) return;
  }
}

function continues(entry: ChainedEntry, previous: Digest): boolean {
  try {
    return sameBytes(entry.digest, auditDigest(entry, previous, sha256));
  } catch {
    // What no entry can hold was not written by this program.
    return false;
  }
}
