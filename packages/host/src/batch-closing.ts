/**
 * From a batch whose pieces are franked to its sealed record in the host's store.
 *
 * With memory in the host the piece records go back to the device first, from index 0 in order; it checks each by its code.
 * Guarantees: every step can be taken again after a crash on either side; a journal that is altered, shortened or gone is an
 * answer that names the piece; the record is in the store before anyone is told of it.
 */
import type { Clock } from '@countermark/node-platform/clock';
import { BATCH_STATISTICS } from '@countermark/protocol/messages/batch-statistics';
import { batchDeclaration } from '@countermark/protocol/messages/batch-declaration';
import { type DeviceStatus, MAX_CHUNK, PSD } from '@countermark/protocol/interfaces/psd';
import { concat } from '@countermark/protocol/bytes';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { encodeWith } from '@countermark/protocol/schema';
import type { Journal } from './journal.ts';
import type { BatchRow } from './journal-rows.ts';
import { damaged, type FrankedChunkRows, frankedChunks, pieceRecords } from './piece-archive.ts';
import type { PsdClient } from './psd-client.ts';
import { readUnverified } from './unverified-message.ts';

export type ClosingOptions = {
  readonly journal: Journal;
  readonly psd: PsdClient;
  readonly clock: Clock;
  /** How long records are held; null where they are sent at once. */
  readonly holdForMs: number | null;
};

/** What a closing tells while it goes on: pieces recounted. */
export type ClosingProgress = (done: number, total: number) => void;

/** What a device says that has lost the beginning of a recount: it is kept in its working memory alone. */
const FORGOTTEN = new Set(['recount-out-of-order', 'recount-missing']);
/** Recounts of one closing; more restarts than these are for a person to look at. */
const RECOUNTS_MAX = 10;

/**
 * Closes and seals the batch. Rejections: those of the PSD's `close-batch`, `recount` and `seal`; `journal-damaged`.
 */
export async function closeBatch(
  options: ClosingOptions,
  batch: BatchRow,
  device: DeviceStatus,
  incomplete: boolean,
  progress: ClosingProgress = () => undefined,
): Promise<Result<{ readonly sequence: number }>> {
  const { journal, psd } = options;
  const closed = await psd.call(PSD.closeBatch, { batch: batch.id, reprints: batch.reprints });
  if (!closed.ok) {
    // It was sealed, and the answer was lost with this process: the device has the record, or had it.
    return closed.rejection.code === 'no-open-batch' ? takeSealed(options, batch, closed) : closed;
  }
  journal.batches.close(batch.batch, incomplete);
  const recounts = device.memory === 'host' && !incomplete;
  if (recounts && closed.value.pieces !== batch.franked) {
    return refuse(damaged(batch, batch.franked, 'the journal ends before it'));
  }
  for (let attempt = 1; ; attempt++) {
    const counted = recounts ? await recount(options, batch, device, progress) : accept(null);
    const sealed = counted.ok ? await psd.call(PSD.seal, { batch: batch.id, incomplete }) : counted;
    if (sealed.ok) {
      store(options, batch, sealed.value.sequence, sealed.value.digest, sealed.value.record);
      return accept({ sequence: sealed.value.sequence });
    }
    // The journal has every piece: a device that lacks some has started anew in the midst of the recount, and forgot it.
    const isForgotten = recounts && FORGOTTEN.has(sealed.rejection.code);
    if (!isForgotten || attempt === RECOUNTS_MAX) return sealed;
  }
}

async function takeSealed(
  options: ClosingOptions,
  batch: BatchRow,
  otherwise: Result<never>,
): Promise<Result<{ readonly sequence: number }>> {
  const { psd } = options;
  const records = await psd.call(PSD.records, {});
  if (!records.ok) return records;
  const found = records.value.records.find((record) => record.batch === batch.id);
  if (found === undefined) return otherwise;
  const record = await psd.call(PSD.record, { sequence: found.sequence });
  if (!record.ok) return record;
  store(options, batch, found.sequence, found.digest, record.value.record);
  return accept({ sequence: found.sequence });
}

/** Puts records into the store that the device keeps and the host lacks: after a journal was lost, or a crash. */
export async function adoptRecords(options: ClosingOptions): Promise<void> {
  const { journal, psd } = options;
  const records = await psd.call(PSD.records, {});
  if (!records.ok) return;
  for (const { sequence, digest, batch: id } of records.value.records) {
    if (journal.records.get(sequence) !== undefined) continue;
    const record = await psd.call(PSD.record, { sequence });
    if (!record.ok) continue;
    const batch = id === undefined ? undefined : journal.batches.get(id);
    store(options, batch ?? null, sequence, digest, record.value.record, id ?? null);
  }
}

function store(
  { journal, clock, holdForMs }: ClosingOptions,
  batch: BatchRow | null,
  sequence: number,
  digest: Uint8Array,
  bytes: Uint8Array,
  id = batch?.id ?? null,
): void {
  const sealedMs = clock.nowMs();
  journal.records.add(batch?.batch ?? null, {
    sequence,
    digest,
    id,
    bytes,
    sealedMs,
    holdUntilMs: holdForMs === null ? null : sealedMs + holdForMs,
  });
  if (batch?.declaration === null) {
    // A batch that was found at the device: what was declared of it stands in its record.
    const statistics = readUnverified(BATCH_STATISTICS, bytes);
    if (statistics.ok) {
      journal.batches.setDeclaration(batch.batch, encodeWith(batchDeclaration, statistics.value.declaration));
    }
  }
}

async function recount(
  { journal, psd }: ClosingOptions,
  batch: BatchRow,
  device: DeviceStatus,
  progress: ClosingProgress,
): Promise<Result<null>> {
  const cells = batch.run === null ? [] : (journal.runs.get(batch.run)?.cells ?? []);
  let done = 0;
  let asked: Promise<Result<unknown>> | null = null;
  const settle = async (): Promise<Result<unknown>> => {
    const answer = asked === null ? accept(null) : await asked;
    asked = null;
    return answer;
  };
  for (const part of joined(frankedChunks(journal, batch, true))) {
    if (!part.ok) {
      await settle();
      return part;
    }
    const { firstIndex, chunks } = part.value;
    const records = chunks.flatMap((one) => pieceRecords(device.device, batch.id, cells, one));
    // The next part was read and built while the device counted this one.
    const before = await settle();
    if (!before.ok) return before;
    progress(done, batch.franked);
    asked = psd.call(PSD.recount, {
      batch: batch.id,
      firstIndex,
      records,
      salts: concat(chunks.map(({ franked }) => franked.salts)),
      codes: concat(chunks.map(({ franked }) => franked.codes)),
    });
    // Awaited in the next turn; until then a failure must not count as unhandled.
    asked.catch(() => undefined);
    done = firstIndex + records.length;
  }
  const last = await settle();
  return last.ok ? accept(null) : last;
}

/** Joins chunks to as many pieces as one call takes. */
function* joined(
  chunks: Iterable<Result<FrankedChunkRows>>,
): Generator<Result<{ readonly firstIndex: number; readonly chunks: readonly FrankedChunkRows[] }>> {
  let held: FrankedChunkRows[] = [];
  let pieces = 0;
  for (const one of chunks) {
    if (!one.ok) {
      yield one;
      return;
    }
    if (pieces + one.value.chunk.pieces > MAX_CHUNK) {
      yield accept({ firstIndex: (held[0] as FrankedChunkRows).chunk.firstIndex, chunks: held });
      held = [];
      pieces = 0;
    }
    held.push(one.value);
    pieces += one.value.chunk.pieces;
  }
  const [first] = held;
  if (first !== undefined) yield accept({ firstIndex: first.chunk.firstIndex, chunks: held });
}
