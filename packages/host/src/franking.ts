/**
 * Franking a run: batch after batch, chunk after chunk, each closed and sealed.
 *
 * The next chunk is read and prepared while the PSD works on this one; it is asked only when this one's answer is durable,
 * because asking it acknowledges that. Where the run stands is in the journal alone, so going on after a crash, a stop or a
 * refill is the same as starting.
 * Guarantees: the content of a chunk never changes once it was asked (it is split only after a refusal, which leaves no trace);
 * nothing is franked twice; what was franked when a run stops is in the journal.
 */
import type { Clock } from '@countermark/node-platform/clock';
import { batchDeclaration, type BatchDeclaration } from '@countermark/protocol/messages/batch-declaration';
import { BATCH_STATISTICS } from '@countermark/protocol/messages/batch-statistics';
import type { JobId } from '@countermark/protocol/id';
import type { FrankProgress } from '@countermark/protocol/interfaces/host';
import {
  type DeviceStatus,
  type FrankChunk,
  type FrankedChunk,
  PSD,
  RECORD_CODE_BYTES,
} from '@countermark/protocol/interfaces/psd';
import { LAYOUTS } from '@countermark/protocol/layout';
import { SALT_BYTES } from '@countermark/protocol/merkle';
import type { Currency } from '@countermark/protocol/money';
import type { Rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { encodeWith, parseBytes } from '@countermark/protocol/schema';
import { SCHEME } from '@countermark/protocol/scheme';
import { Fault } from '@countermark/node-platform/fault';
import { closeBatch } from './batch-closing.ts';
import { deviceOlder } from './device-age.ts';
import type { Journal } from './journal.ts';
import type { BatchRow, ChunkRow, RunCell, RunRow } from './journal-rows.ts';
import { damaged } from './piece-archive.ts';
import { type PsdClient, statusOf } from './psd-client.ts';
import { readPostage } from './staging.ts';
import { readUnverified } from './unverified-message.ts';

export type FrankingOptions = {
  readonly journal: Journal;
  readonly psd: PsdClient;
  readonly clock: Clock;
  readonly holdForMs: number | null;
  readonly submitter: string;
  readonly preparer: string;
  readonly currency: Currency;
  /** SHA-256 of the tariff's canonical text. */
  readonly tariffDigest: Uint8Array;
  /** Asks for these funds and says whether any came. */
  readonly refill: ((neededMills: bigint, job: JobId) => Promise<boolean>) | null;
  /** Told before each batch and after each chunk what was debited since; franking goes on when it has done what it does. */
  readonly debited: (postageMills: bigint) => Promise<void>;
  /** Makes room in a full device where that is possible now: sends what is due. */
  readonly makeRoom: () => Promise<boolean>;
  readonly onFranked: () => void;
  readonly onSealed: () => void;
  readonly progress: (event: FrankProgress) => void;
  readonly stopped: () => boolean;
};

/** How a run ended: all of it franked, stopped by request, or refused by the device, which may change. */
export type RunOutcome =
  | { readonly state: 'done' }
  | { readonly state: 'stopped' }
  | { readonly state: 'waiting'; readonly rejection: Rejection };

type Asked = { readonly request: FrankChunk; readonly chunk: ChunkRow; readonly postageMills: bigint };

export class Franking {
  readonly #options: FrankingOptions;
  readonly #run: RunRow;
  #device!: DeviceStatus;
  #done = 0;
  #total = 0;

  constructor(options: FrankingOptions, run: RunRow) {
    this.#options = options;
    this.#run = run;
  }

  /** Franks what of the run is not franked. Faults: `psd-unreachable` and those of the store. */
  async frank(): Promise<RunOutcome> {
    const { journal, psd } = this.#options;
    this.#device = await statusOf(psd);
    const older = deviceOlder(journal, this.#device);
    if (older !== null) return { state: 'waiting', rejection: older };
    const batches = journal.batches.ofRun(this.#run.run);
    this.#total = batches.reduce((sum, batch) => sum + batch.expected, 0);
    this.#done = batches.reduce((sum, batch) => sum + batch.franked, 0);
    for (const [i, { batch }] of batches.entries()) {
      const keepOpen = this.#run.keepOpen && i === batches.length - 1;
      const outcome = await this.#batch(batch, keepOpen);
      if (outcome !== null) return outcome;
    }
    return { state: 'done' };
  }

  /**
   * Finishes the batch in hand without franking further: takes over what the device franked and the journal lacks, closes and
   * seals. For a run that another one supersedes.
   */
  async finishOpen(): Promise<Result<null>> {
    const { journal, psd } = this.#options;
    this.#device = await statusOf(psd);
    const older = deviceOlder(journal, this.#device);
    if (older !== null) return refuse(older);
    for (const { batch } of journal.batches.ofRun(this.#run.run)) {
      const row = journal.batches.byNumber(batch) as BatchRow;
      if (row.state !== 'open' && row.state !== 'closed') continue;
      const inDevice = this.#device.batch;
      if (inDevice?.batch === row.id && inDevice.pieces > row.franked) {
        const asked = this.#prepare(row, row.franked);
        if (asked === null) return refuse(damaged(row, row.franked, 'the chunk that was asked is missing'));
        const answer = await psd.call(PSD.frankChunk, asked.request);
        if (!answer.ok) return answer;
        this.#keep(row, asked, answer.value);
      }
      // A batch that the device never opened: its declaration was durable, and nothing else happened.
      if (inDevice?.batch !== row.id && row.franked === 0 && row.state === 'open') {
        const known = await psd.call(PSD.records, {});
        if (known.ok && !known.value.records.some((record) => record.batch === row.id)) {
          journal.batches.drop(batch);
          continue;
        }
      }
      const closed = await this.#close(journal.batches.byNumber(batch) as BatchRow);
      if (!closed.ok) return closed;
    }
    return accept(null);
  }

  /**
   * Seals what was closed before all of it was franked (by an operator), and gives its rest to a batch of its own, at the end of
   * the run. Where the rest begins is the device's word, in its record: what it debited is not franked again.
   */
  async carryOver(): Promise<Result<null>> {
    const { journal, psd } = this.#options;
    const short = journal.batches
      .ofRun(this.#run.run)
      .filter(({ state, franked, expected }) => (state === 'closed' || state === 'sealed') && franked < expected);
    if (short.length === 0) return accept(null);
    this.#device = await statusOf(psd);
    const older = deviceOlder(journal, this.#device);
    if (older !== null) return refuse(older);
    for (const batch of short) {
      const closed = batch.state === 'closed' ? await this.#close(batch) : accept(null);
      if (!closed.ok) return closed;
      const record = journal.records.ofBatch(batch.id);
      const said = record === undefined ? null : readUnverified(BATCH_STATISTICS, record.bytes);
      const from = Math.max(batch.franked, said?.ok === true ? said.value.observed.pieces : 0);
      if (!journal.chunks.carryOver(batch, from)) return refuse(damaged(batch, from, 'the staged chunk is missing'));
    }
    return accept(null);
  }

  async #batch(number: number, keepOpen: boolean): Promise<RunOutcome | null> {
    const { journal } = this.#options;
    const batch = journal.batches.byNumber(number) as BatchRow;
    if (batch.state === 'sealed') return null;
    if (batch.state !== 'closed') {
      if (batch.franked < batch.expected) {
        if (this.#options.stopped()) return { state: 'stopped' };
        await this.#options.debited(0n);
        const opened = await this.#open(batch);
        if (!opened.ok) return { state: 'waiting', rejection: opened.rejection };
        const outcome = await this.#chunks(number);
        if (outcome !== null) return outcome;
      }
      if (keepOpen) return null;
    }
    const closed = await this.#close(journal.batches.byNumber(number) as BatchRow);
    return closed.ok ? null : { state: 'waiting', rejection: closed.rejection };
  }

  async #open(batch: BatchRow): Promise<Result<unknown>> {
    const { journal, psd, makeRoom } = this.#options;
    const declaration = this.#declaration(batch);
    journal.batches.open(batch.batch, encodeWith(batchDeclaration, declaration));
    const opened = await psd.call(PSD.openBatch, { declaration });
    if (opened.ok || (opened.rejection.code !== 'memory-full' && opened.rejection.code !== 'device-locked'))
      return opened;
    return (await makeRoom()) ? psd.call(PSD.openBatch, { declaration }) : opened;
  }

  /** What the mailer says of the batch; once said, it stays. */
  #declaration(batch: BatchRow): BatchDeclaration {
    if (batch.declaration !== null) {
      const kept = parseBytes(batchDeclaration, batch.declaration);
      if (!kept.ok) throw new Fault('store-damaged', `the declaration of ${batch.id} is damaged`, { retry: 'never' });
      return kept.value;
    }
    const { submitter, preparer, currency, tariffDigest } = this.#options;
    return {
      batch: batch.id,
      job: this.#run.job,
      ...(batch.customer === null ? {} : { customer: batch.customer }),
      submitter,
      preparer,
      product: batch.product,
      entry: batch.entry,
      mailingDate: batch.mailingDate,
      expectedPieces: batch.expected,
      expectedCells: batch.expectedCells,
      tariff: tariffDigest as BatchDeclaration['tariff'],
      scheme: SCHEME,
      currency,
    };
  }

  async #chunks(number: number): Promise<RunOutcome | null> {
    const { journal, psd, progress, onFranked, debited, stopped } = this.#options;
    const at = (): BatchRow => journal.batches.byNumber(number) as BatchRow;
    let batch = at();
    let asked = this.#prepare(batch, batch.franked);
    while (asked !== null) {
      const answering = psd.call(PSD.frankChunk, asked.request);
      answering.catch(() => undefined);
      const nextIndex: number = asked.chunk.firstIndex + asked.chunk.pieces;
      let next = this.#prepare(batch, nextIndex);
      const answer = await answering;
      if (answer.ok) {
        this.#keep(batch, asked, answer.value);
        this.#done += asked.chunk.pieces;
        progress({
          phase: 'franking',
          done: this.#done,
          total: this.#total,
          batch: batch.id,
          customer: batch.customer,
        });
        onFranked();
        await debited(asked.postageMills);
      } else {
        const smaller: Asked | RunOutcome = await this.#refused(batch, asked, answer.rejection);
        if ('state' in smaller) return smaller;
        next = smaller;
      }
      if (stopped()) return next === null ? null : { state: 'stopped' };
      asked = next;
    }
    batch = at();
    return batch.franked === batch.expected
      ? null
      : { state: 'waiting', rejection: damaged(batch, batch.franked, 'the staged chunk is missing') };
  }

  #prepare(batch: BatchRow, firstIndex: number): Asked | null {
    const chunk = this.#options.journal.chunks.get(batch.batch, firstIndex);
    if (chunk === undefined) return null;
    const cells = Array.from(chunk.cells, (cell) => (this.#run.cells[cell] as RunCell).key);
    let postageMills = 0;
    for (let i = 0; i < chunk.pieces; i++) postageMills += readPostage(chunk.entries, i);
    return {
      chunk,
      postageMills: BigInt(postageMills),
      request: { batch: batch.id, firstIndex, cells, pieces: chunk.entries },
    };
  }

  /** Makes an answer durable. @throws Fault `psd-malformed` for columns that are not as long as the chunk. */
  #keep(batch: BatchRow, { chunk, postageMills }: Asked, answer: FrankedChunk): void {
    const { authentication, memory } = this.#device;
    const layout = LAYOUTS[authentication];
    const { pieces, firstIndex } = chunk;
    if (
      answer.indicia.length !== pieces * (layout.bodyBytes + layout.authenticatorBytes) ||
      answer.salts.length !== pieces * SALT_BYTES ||
      answer.codes.length !== (memory === 'host' ? pieces * RECORD_CODE_BYTES : 0)
    ) {
      throw new Fault('psd-malformed', `the PSD answered a chunk of ${String(pieces)} pieces with other columns`, {
        retry: 'never',
      });
    }
    const { firstPieceNumber: firstNumber, indicia, salts, codes } = answer;
    this.#options.journal.chunks.addFranked(
      batch.batch,
      { firstIndex, pieces, firstNumber, indicia, salts, codes },
      postageMills,
    );
  }

  /** After a refusal: the chunk to ask instead, or how the run ends. */
  async #refused(batch: BatchRow, asked: Asked, refused: Rejection): Promise<Asked | RunOutcome> {
    const { journal, psd, refill } = this.#options;
    if (refused.code !== 'insufficient-funds') return { state: 'waiting', rejection: refused };
    if (refill !== null && (await refill(this.#missing(batch, asked), this.#run.job))) return asked;
    // A chunk is all or nothing: what the funds suffice for is asked as a chunk of its own.
    const { registers } = await statusOf(psd);
    let sum = 0n;
    let affordable = 0;
    while (affordable < asked.chunk.pieces) {
      sum += BigInt(readPostage(asked.chunk.entries, affordable));
      if (sum > registers.descendingMills) break;
      affordable += 1;
    }
    if (affordable === 0) return { state: 'waiting', rejection: refused };
    if (affordable < asked.chunk.pieces) journal.chunks.split(batch.batch, asked.chunk, affordable);
    return this.#prepare(batch, asked.chunk.firstIndex) ?? { state: 'waiting', rejection: refused };
  }

  /** What the rest of the run costs. */
  #missing(batch: BatchRow, asked: Asked): bigint {
    const { journal } = this.#options;
    let missing = 0n;
    for (const other of journal.batches.ofRun(this.#run.run)) {
      if (other.state === 'sealed' || other.state === 'closed') continue;
      for (const firstIndex of journal.chunks.indices(other.batch)) {
        if (other.batch === batch.batch && firstIndex < asked.chunk.firstIndex) continue;
        missing += this.#prepare(other, firstIndex)?.postageMills ?? 0n;
      }
    }
    return missing;
  }

  async #close(batch: BatchRow): Promise<Result<unknown>> {
    const { progress, onSealed } = this.#options;
    const closed = await closeBatch(this.#options, batch, this.#device, batch.incomplete, (done, total) => {
      progress({ phase: 'closing', done, total, batch: batch.id, customer: batch.customer });
    });
    if (closed.ok) onSealed();
    return closed;
  }
}
