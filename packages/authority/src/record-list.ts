/**
 * Records of the authority's log for a server that has lost them: it was restored from an older backup, and the host that had them is gone.
 *
 * Guarantees: records come in the order of intake with their attestations and the certificates that they need, a bounded number at once,
 * after a point that this log has come by, or not at all. The server verifies them again: that they come from here proves nothing.
 */
import { HISTORY_START, type HistoryPoint, type RecordList } from '@countermark/protocol/interfaces/delivery';
import { certifiedKeysOf } from './intake.ts';
import type { AuthorityStore } from './store/authority-store.ts';

const RECORDS = 256;
const BYTES = 4 * 1024 * 1024;

/** The records after a point of the history, from the first one where none is named. */
export async function recordsAfter(store: AuthorityStore, since: HistoryPoint = HISTORY_START): Promise<RecordList> {
  if (!(await store.cameBy(since))) {
    return { certificates: [], items: [], cursor: since.cursor, history: since.digest, continues: false };
  }
  const found = fitting(await store.records(since.cursor, RECORDS));
  const items = found.map(({ bytes, attestation }) => ({ record: bytes, attestation }));
  const keys = await certifiedKeysOf(items, store);
  const { cursor, digest: history } = await store.pointAt(found.at(-1)?.cursor ?? since.cursor);
  return { certificates: keys.map(({ bytes }) => bytes), items, cursor, history, continues: true };
}

function fitting<R extends { readonly bytes: Uint8Array; readonly attestation: Uint8Array }>(
  records: readonly R[],
): readonly R[] {
  let bytes = 0;
  const end = records.findIndex((record, index) => {
    bytes += record.bytes.length + record.attestation.length;
    return index > 0 && bytes > BYTES;
  });
  return end < 0 ? records : records.slice(0, end);
}
