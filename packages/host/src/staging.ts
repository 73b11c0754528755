/**
 * Staging a mailing: the whole file is checked and laid out as chunks to frank, before the first piece is franked.
 *
 * Rows are grouped by customer, product and entry, each group in list order; a group is a batch (or several, where the policy's
 * bounds ask for it). A piece's key is its `piece_ref`, or its row's digest and occurrence; what a piece record carries of it is
 * the first half of the key's SHA-256. Pieces of the job that were franked before are left out.
 * Guarantees: memory does not grow with the file; nothing of a staging is seen before `Journal.activate`; a `piece_ref` that
 * stands twice in the file is a bad row, the second time.
 */
import { hash } from 'node:crypto';
import { CUSTOMER_ID, DAY } from '@countermark/protocol/id';
import { CHUNK_ENTRY_BYTES } from '@countermark/protocol/interfaces/psd';
import { mailingDay } from '@countermark/protocol/layout';
import { MAX_CELLS } from '@countermark/protocol/messages/batch-statistics';
import { REFERENCE_BYTES } from '@countermark/protocol/messages/piece-record';
import { type MinimumCheck, startMinimumCheck } from '@countermark/tariff/minimums';
import type { Tariff } from '@countermark/tariff/tariff';
import { checkZip } from '@countermark/tariff/zip';
import type { Journal } from './journal.ts';
import type { BadRow, ChunkRow, RunCell } from './journal-rows.ts';
import type { MailingColumns } from './mailing.ts';
import { Rater } from './rating.ts';
import { ReferenceTable, partitionOf, partitionsFor } from './reference-table.ts';
import { RowSet } from './row-set.ts';

/** Pieces in a chunk. */
const CHUNK_PIECES = 256;
/** Where an entry's reference stands: after index u16 and postage u32. */
const REFERENCE_AT = CHUNK_ENTRY_BYTES - REFERENCE_BYTES;
/** What is held back in memory before chunks are written, however many groups there are. */
const HELD_TEXT_MAX = 4 * 1024 * 1024;
const WRITTEN_AT_ONCE = 32;
const GROUPS_MAX = 4_096;
const VALUE_MAX = 100;

export type StagingOptions = {
  readonly run: number;
  readonly job: string;
  readonly tariff: Tariff;
  readonly customers: 'one' | 'many';
  /** Where the file has no such column. */
  readonly mailingDate: string;
  readonly maxPiecesPerBatch: number;
  readonly maxCellsPerBatch: number;
};

export type GroupTotal = {
  readonly customer: string | null;
  readonly product: string;
  readonly entry: string;
  /** Cell of the run -> pieces. */
  readonly cells: ReadonlyMap<number, number>;
};

export type StagedRun = {
  readonly pieces: number;
  readonly postageMills: bigint;
  readonly badRows: number;
  readonly frankedBefore: number;
  readonly cells: readonly RunCell[];
  readonly groups: readonly GroupTotal[];
  readonly mailingDate: string;
  readonly warnings: ReturnType<MinimumCheck['shortfalls']>;
};

type Group = {
  readonly customer: string | null;
  readonly product: string;
  readonly entry: string;
  /** Row of the journal; null before the first piece. */
  batch: number | null;
  /** Pieces written to `batch`, and its cells. */
  written: number;
  batchCells: Set<number>;
  held: number;
  readonly entries: Buffer;
  readonly cells: Uint16Array;
  readonly rows: Uint32Array;
  texts: string[];
  textLength: number;
};

/** Stages one run. Give it header and rows of the file, then ask it to finish. */
export class Staging {
  readonly #journal: Journal;
  readonly #options: StagingOptions;
  readonly #groups = new Map<string, Group>();
  readonly #minimums: MinimumCheck;
  readonly #derived = new RowSet();
  #columns!: MailingColumns;
  #rater!: Rater;
  #heldText = 0;
  #chunks: (ChunkRow & { batch: number })[] = [];
  #bad: BadRow[] = [];
  #staged = 0;
  #rejections = 0;
  #mailingDate: string | null = null;
  readonly #good = new Map<string, string>();

  constructor(journal: Journal, options: StagingOptions) {
    this.#journal = journal;
    this.#options = options;
    this.#minimums = startMinimumCheck(options.tariff);
  }

  get rows(): number {
    return this.#staged;
  }

  header(columns: MailingColumns): void {
    this.#columns = columns;
    this.#rater = new Rater(this.#options.tariff, columns.weightUnit);
  }

  /** Checks a row and stages it, or notes what is wrong with it. */
  row(cells: readonly string[], row: number): void {
    const columns = this.#columns;
    if (cells.length !== columns.names.length) {
      const cure = `the header has ${columns.names.length} fields: put fields that hold separators into quotes`;
      this.#reject(row, '(row)', `${cells.length} fields`, cure);
      return;
    }
    const at = (column: number | null): string => (column === null ? '' : (cells[column] as string).trim());
    const rejectedBefore = this.#rejections;
    const wrong = (field: string, value: string, cure: string): void => {
      this.#reject(row, field, value, cure);
    };

    const customer = at(columns.customer);
    if (customer !== '' && !this.#good.has(customer)) {
      if (this.#options.customers === 'one') {
        wrong('customer', customer, 'this licensee franks its own mail only: leave the field empty');
      } else if (!CUSTOMER_ID.test(customer)) {
        wrong('customer', customer, 'write the customer’s id: lower-case letters, digits and hyphens, at most 32');
      } else this.#good.set(customer, customer);
    }
    const zip = checkZip(at(columns.zip));
    if (!zip.ok) wrong(columns.names[columns.zip] as string, zip.defect.value, zip.defect.cure);
    const date = at(columns.mailingDate);
    if (date !== '' && date !== this.#mailingDate) this.#checkDate(date, wrong);

    const product = at(columns.product);
    const level = at(columns.level);
    const entry = at(columns.entry);
    const rating = this.#rater.rate(product, level, entry === '' ? 'none' : entry, at(columns.weight));
    if (!rating.ok) {
      for (const { field, value, cure } of rating.defects) {
        const column = field === 'weight' ? columns.names[columns.weight] : field;
        wrong(column as string, field === 'weight' ? at(columns.weight) : value, cure);
      }
      return;
    }
    if (!zip.ok || this.#rejections > rejectedBefore) return;

    const group = this.#group(customer, product, entry === '' ? 'none' : entry);
    if (group === null) {
      const cure = `a file may have at most ${GROUPS_MAX} combinations of customer and product: split it`;
      this.#reject(row, 'customer', customer, cure);
      return;
    }
    const reference = at(columns.pieceRef);
    const text = JSON.stringify(cells);
    if (reference === '') this.#derived.add(row);
    this.#hold(group, rating, reference === '' ? keyOfRow(text, 1) : keyOf(reference), row, text);
    this.#minimums.count({ customer, product, level, zip5: zip.value.slice(0, 5) });
  }

  /** Writes the rest, finds duplicates and what was franked before, and says what is staged. */
  async finish(pause: () => Promise<void>): Promise<StagedRun> {
    this.#releaseAll();
    this.#write();
    if (this.#bad.length > 0) this.#writeBad();
    const table = new ReferenceTable();
    if (this.#derived.size > 0) await this.#numberOccurrences(table, pause);
    const { left, frankedBefore } = await this.#findTwice(table, pause);
    if (left.size > 0) await this.#leaveOut(left, pause);
    return this.#total(frankedBefore);
  }

  #checkDate(date: string, wrong: (field: string, value: string, cure: string) => void): void {
    if (this.#mailingDate !== null) {
      wrong('mailing_date', date, `a file has one mailing date, here ${this.#mailingDate}: split it by date`);
    } else if (isMailingDate(date)) this.#mailingDate = date;
    else wrong('mailing_date', date, 'write a day as 2026-11-30');
  }

  #reject(row: number, field: string, value: string, cure: string): void {
    this.#rejections += 1;
    this.#bad.push({ row, field, value: value.slice(0, VALUE_MAX), cure });
    if (this.#bad.length >= 2_000) this.#writeBad();
  }

  #writeBad(): void {
    this.#journal.runs.addBadRows(this.#options.run, this.#bad);
    this.#bad = [];
  }

  #group(customer: string, product: string, entry: string): Group | null {
    const name = `${customer}\t${product}\t${entry}`;
    let group = this.#groups.get(name);
    if (group === undefined) {
      if (this.#groups.size >= GROUPS_MAX) return null;
      group = {
        customer: customer === '' ? null : customer,
        product,
        entry,
        batch: null,
        written: 0,
        batchCells: new Set(),
        held: 0,
        entries: Buffer.alloc(CHUNK_PIECES * CHUNK_ENTRY_BYTES),
        cells: new Uint16Array(CHUNK_PIECES),
        rows: new Uint32Array(CHUNK_PIECES),
        texts: [],
        textLength: 0,
      };
      this.#groups.set(name, group);
    }
    return group;
  }

  #hold(
    group: Group,
    rating: { cell: number; postageMills: number },
    key: Uint8Array,
    row: number,
    text: string,
  ): void {
    const at = group.held * CHUNK_ENTRY_BYTES;
    group.entries.writeUInt32BE(rating.postageMills, at + 2);
    group.entries.set(key.subarray(0, REFERENCE_BYTES), at + REFERENCE_AT);
    group.cells[group.held] = rating.cell;
    group.rows[group.held] = row;
    group.texts.push(text);
    group.textLength += text.length;
    group.held += 1;
    this.#staged += 1;
    this.#heldText += text.length;
    if (group.held === CHUNK_PIECES) this.#release(group);
    if (this.#heldText > HELD_TEXT_MAX) this.#releaseAll();
  }

  #releaseAll(): void {
    for (const group of this.#groups.values()) this.#release(group);
  }

  /** Makes a chunk of what a group holds back. */
  #release(group: Group): void {
    if (group.held === 0) return;
    this.#heldText -= group.textLength;
    const { maxPiecesPerBatch, maxCellsPerBatch } = this.#options;
    const used = [...new Set(group.cells.subarray(0, group.held))];
    const cellsAfter = new Set([...group.batchCells, ...used]);
    const beyond =
      group.written + group.held > maxPiecesPerBatch || cellsAfter.size > Math.min(MAX_CELLS, maxCellsPerBatch);
    if (group.batch === null || (beyond && group.written > 0)) this.#startBatch(group);
    for (const cell of used) group.batchCells.add(cell);
    for (let i = 0; i < group.held; i++) {
      group.entries.writeUInt16BE(used.indexOf(group.cells[i] as number), i * CHUNK_ENTRY_BYTES);
    }
    this.#chunks.push({
      batch: group.batch as number,
      firstIndex: group.written,
      pieces: group.held,
      entries: Buffer.from(group.entries.subarray(0, group.held * CHUNK_ENTRY_BYTES)),
      cells: Uint16Array.from(used),
      rows: group.rows.slice(0, group.held),
      texts: Buffer.from(group.texts.join('\n')),
    });
    group.written += group.held;
    group.held = 0;
    group.texts = [];
    group.textLength = 0;
    if (this.#chunks.length >= WRITTEN_AT_ONCE) this.#write();
  }

  #startBatch(group: Group): void {
    const mailingDate = this.#mailingDate ?? this.#options.mailingDate;
    group.batch = this.#journal.batches.add(this.#options.run, group.customer, group.product, group.entry, mailingDate);
    group.written = 0;
    group.batchCells = new Set();
  }

  #write(): void {
    if (this.#chunks.length > 0) this.#journal.chunks.add(this.#chunks);
    this.#chunks = [];
  }

  /** Rows without a key of their own that are equal get the second, third... occurrence as their key. */
  async #numberOccurrences(table: ReferenceTable, pause: () => Promise<void>): Promise<void> {
    const partitions = partitionsFor(this.#derived.size);
    const later: { batch: number; firstIndex: number; at: number; occurrence: number }[] = [];
    for (let partition = 0; partition < partitions; partition++) {
      table.clear();
      for (const { batch, chunk } of this.#stagedChunks()) {
        for (let i = 0; i < chunk.pieces; i++) {
          if (!this.#derived.has(chunk.rows[i] as number)) continue;
          const at = i * CHUNK_ENTRY_BYTES + REFERENCE_AT;
          if (partitionOf(chunk.entries, at, partitions) !== partition) continue;
          const index = table.put(chunk.entries, at, 1);
          if (index < 0) continue;
          table.setNumber(index, table.number(index) + 1);
          later.push({ batch, firstIndex: chunk.firstIndex, at: i, occurrence: table.number(index) });
        }
        await pause();
        // Written at once where many rows are equal, so that memory stays flat. References of the second occurrence on differ
        // from all first ones, so a rewritten chunk does not disturb the counting of what is left.
        if (later.length > 0) this.#rekey(later.splice(0));
      }
    }
  }

  #rekey(rows: readonly { batch: number; firstIndex: number; at: number; occurrence: number }[]): void {
    const [first] = rows;
    if (first === undefined) return;
    const chunk = this.#journal.chunks.get(first.batch, first.firstIndex);
    if (chunk === undefined) return;
    const entries = Buffer.from(chunk.entries);
    const lines = Buffer.from(chunk.texts).toString('utf8').split('\n');
    for (const { at, occurrence } of rows) {
      const key = keyOfRow(lines[at] as string, occurrence);
      entries.set(key.subarray(0, REFERENCE_BYTES), at * CHUNK_ENTRY_BYTES + REFERENCE_AT);
    }
    this.#journal.chunks.setEntries(first.batch, first.firstIndex, entries);
  }

  /** Which rows are not to be franked: keys that stood before in the file (bad rows), or that the job has franked. */
  async #findTwice(table: ReferenceTable, pause: () => Promise<void>) {
    const left = new RowSet();
    const twice: BadRow[] = [];
    let frankedBefore = 0;
    let before = 0;
    for (const entries of this.#journal.chunks.frankedEntries(this.#options.job))
      before += entries.length / CHUNK_ENTRY_BYTES;
    const partitions = partitionsFor(this.#staged + before);
    const note = (row: number, value: string): void => {
      left.add(row);
      twice.push({
        row,
        field: 'piece_ref',
        value: value.slice(0, VALUE_MAX),
        cure: 'it stands twice in the file: give each piece its own, or remove one',
      });
      if (twice.length >= 2_000) this.#journal.runs.addBadRows(this.#options.run, twice.splice(0));
    };
    for (let partition = 0; partition < partitions; partition++) {
      table.clear();
      for (const entries of this.#journal.chunks.frankedEntries(this.#options.job)) {
        for (let at = REFERENCE_AT; at < entries.length; at += CHUNK_ENTRY_BYTES) {
          if (partitionOf(entries, at, partitions) === partition) table.put(entries, at, 0);
        }
      }
      await pause();
      for (const { chunk } of this.#stagedChunks()) {
        for (let i = 0; i < chunk.pieces; i++) {
          const at = i * CHUNK_ENTRY_BYTES + REFERENCE_AT;
          if (partitionOf(chunk.entries, at, partitions) !== partition) continue;
          const row = chunk.rows[i] as number;
          const index = table.put(chunk.entries, at, row);
          if (index < 0) continue;
          const first = table.number(index);
          if (first === 0) {
            left.add(row);
            frankedBefore += 1;
            // Seen once: another row with the same key is a second one.
            table.setNumber(index, row);
          } else {
            const value = this.#reference(chunk, i);
            // Groups are gone through one after the other: the row that stands later in the file is the wrong one.
            if (first > row && !left.has(first)) {
              table.setNumber(index, row);
              note(first, value);
            } else note(row, value);
          }
        }
        await pause();
      }
    }
    if (twice.length > 0) this.#journal.runs.addBadRows(this.#options.run, twice);
    return { left, frankedBefore };
  }

  #reference(chunk: ChunkRow, i: number): string {
    const line = Buffer.from(chunk.texts).toString('utf8').split('\n')[i] as string;
    return (JSON.parse(line) as string[])[this.#columns.pieceRef ?? -1] ?? '';
  }

  /** Lays the batches out again without these rows. */
  async #leaveOut(left: RowSet, pause: () => Promise<void>): Promise<void> {
    for (const { batch } of this.#journal.batches.ofRun(this.#options.run)) {
      const indices = this.#journal.chunks.indices(batch);
      let next = 0;
      for (const firstIndex of indices) {
        const chunk = this.#journal.chunks.get(batch, firstIndex) as ChunkRow;
        const kept: number[] = [];
        for (let i = 0; i < chunk.pieces; i++) if (!left.has(chunk.rows[i] as number)) kept.push(i);
        if (kept.length < chunk.pieces || next !== firstIndex) {
          this.#journal.transaction(() => {
            this.#journal.chunks.delete(batch, firstIndex);
            if (kept.length > 0) this.#journal.chunks.addInside([{ batch, ...part(chunk, kept, next) }]);
          });
        }
        next += kept.length;
        await pause();
      }
      if (next === 0) this.#journal.batches.drop(batch);
    }
  }

  *#stagedChunks(): Generator<{ batch: number; chunk: ChunkRow }> {
    for (const { batch } of this.#journal.batches.ofRun(this.#options.run)) {
      for (const firstIndex of this.#journal.chunks.indices(batch)) {
        yield { batch, chunk: this.#journal.chunks.get(batch, firstIndex) as ChunkRow };
      }
    }
  }

  #total(frankedBefore: number): StagedRun {
    const { run } = this.#options;
    const cells = this.#rater.cells;
    const groups = new Map<
      string,
      { customer: string | null; product: string; entry: string; cells: Map<number, number> }
    >();
    let pieces = 0;
    let postageMills = 0n;
    const batches = this.#journal.batches.ofRun(run);
    for (const batch of batches) {
      const { customer, product, entry } = batch;
      const name = `${customer ?? ''}\t${product}\t${entry}`;
      const group = groups.get(name) ?? { customer, product, entry, cells: new Map<number, number>() };
      groups.set(name, group);
      const ofBatch = new Set<number>();
      let inBatch = 0;
      for (const firstIndex of this.#journal.chunks.indices(batch.batch)) {
        const chunk = this.#journal.chunks.get(batch.batch, firstIndex) as ChunkRow;
        for (let i = 0; i < chunk.pieces; i++) {
          const cell = chunk.cells[readIndex(chunk.entries, i)] as number;
          ofBatch.add(cell);
          group.cells.set(cell, (group.cells.get(cell) ?? 0) + 1);
        }
        inBatch += chunk.pieces;
      }
      pieces += inBatch;
      this.#journal.batches.setExpected(
        batch.batch,
        inBatch,
        Math.max(1, ofBatch.size),
        this.#mailingDate ?? this.#options.mailingDate,
      );
    }
    for (const group of groups.values()) {
      for (const [cell, count] of group.cells) postageMills += (cells[cell] as RunCell).affixedMills * BigInt(count);
    }
    return {
      pieces,
      postageMills,
      badRows: this.#journal.runs.countBadRows(run),
      frankedBefore,
      cells,
      groups: [...groups.values()],
      mailingDate: this.#mailingDate ?? this.#options.mailingDate,
      warnings: this.#minimums.shortfalls(),
    };
  }
}

/** The index into the chunk's cells of its piece `i`. */
export function readIndex(entries: Uint8Array, i: number): number {
  const at = i * CHUNK_ENTRY_BYTES;
  return ((entries[at] as number) << 8) | (entries[at + 1] as number);
}

/** The postage in mills of the chunk's piece `i`. */
export function readPostage(entries: Uint8Array, i: number): number {
  const at = i * CHUNK_ENTRY_BYTES + 2;
  return (
    (entries[at] as number) * 0x1_000_000 +
    (((entries[at + 1] as number) << 16) | ((entries[at + 2] as number) << 8) | (entries[at + 3] as number))
  );
}

/** The reference of the chunk's piece `i`. */
export function readReference(entries: Uint8Array, i: number): Uint8Array {
  const at = i * CHUNK_ENTRY_BYTES + REFERENCE_AT;
  return entries.subarray(at, at + REFERENCE_BYTES);
}

/** SHA-256 of the key of a piece that has a `piece_ref`. */
export function keyOf(pieceRef: string): Uint8Array {
  return hash('sha256', pieceRef, 'buffer');
}

/** SHA-256 of the key of a row without one: its cells as a JSON list, and which of equal rows it is, from 1. */
function keyOfRow(text: string, occurrence: number): Uint8Array {
  return hash('sha256', `row:${occurrence}:${text}`, 'buffer');
}

/** Whether a text is a day that exists and that an indicium can carry. */
export function isMailingDate(text: string): boolean {
  if (!DAY.test(text) || new Date(`${text}T00:00:00Z`).toISOString().slice(0, 10) !== text) return false;
  try {
    mailingDay(text);
    return true;
  } catch {
    return false;
  }
}

function part(chunk: ChunkRow, kept: readonly number[], firstIndex: number): ChunkRow {
  const lines = Buffer.from(chunk.texts).toString('utf8').split('\n');
  return {
    firstIndex,
    pieces: kept.length,
    entries: Buffer.concat(kept.map((i) => chunk.entries.subarray(i * CHUNK_ENTRY_BYTES, (i + 1) * CHUNK_ENTRY_BYTES))),
    cells: chunk.cells,
    rows: Uint32Array.from(kept, (i) => chunk.rows[i] as number),
    texts: Buffer.from(kept.map((i) => lines[i] as string).join('\n')),
  };
}
