/**
 * Printing a run of a job: follows the journal piece by piece, while franking goes on, and gives each franked piece to the print
 * port exactly once per print.
 *
 * Guarantees: what is printed was durable in the journal before; a print that was interrupted begins again from the first piece,
 * because an unfinished one leaves no files; a reprint debits nothing, is marked, and has no spoiled piece on it.
 */
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import type { Clock } from '@countermark/node-platform/clock';
import type { Currency } from '@countermark/protocol/money';
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import type { Archive } from './archive.ts';
import type { Journal } from './journal.ts';
import type { BatchRow, RunRow } from './journal-rows.ts';
import { type FrankedChunkRows, pieceByNumber } from './piece-archive.ts';
import type { Print, PrintPiece, PrintPort } from './print-port.ts';
import { readIndex } from './staging.ts';

export type PrintingOptions = {
  readonly journal: Journal;
  readonly archive: Archive;
  readonly port: PrintPort;
  readonly clock: Clock;
  readonly currency: Currency;
  readonly sheet: 'letter' | 'a4';
  readonly pages: boolean;
  /** Said on pages where a batch has no customer. */
  readonly licensee: string;
};

/** Where a run's files are, or will be. */
export function runFiles(archive: Archive, run: RunRow, pages: boolean) {
  const suffix = run.ordinal === 1 ? '' : `-${String(run.ordinal)}`;
  const folder = archive.jobFolder(run.job);
  return {
    indicia: pages ? join(folder, `indicia${suffix}.pdf`) : null,
    merge: join(folder, `merge${suffix}.csv`),
  };
}

/** One run being printed. */
export class RunPrinting {
  readonly #options: PrintingOptions;
  readonly #run: RunRow;
  #frankingEnded = false;
  #abandoned = false;
  #wake: (() => void) | undefined;
  #printed = 0;
  /** Resolves when the files are complete, or the print was abandoned. Rejects where the port fails. */
  readonly done: Promise<void>;

  constructor(options: PrintingOptions, run: RunRow) {
    this.#options = options;
    this.#run = run;
    this.done = this.#print();
    // Whoever ends the run awaits it; a failure before that must not end the process.
    this.done.catch(() => undefined);
  }

  get printed(): number {
    return this.#printed;
  }

  /** More was franked. */
  notify(): void {
    const wake = this.#wake;
    this.#wake = undefined;
    wake?.();
  }

  /** Everything of the run that is to be printed is in the journal. */
  finish(): Promise<void> {
    this.#frankingEnded = true;
    this.notify();
    return this.done;
  }

  /** The rest is franked later: the print is then begun again. */
  abandon(): Promise<void> {
    this.#abandoned = true;
    this.notify();
    return this.done;
  }

  async #print(): Promise<void> {
    const { journal, archive, port, clock, currency, sheet, pages } = this.#options;
    const run = this.#run;
    const files = runFiles(archive, run, pages);
    const print = await port.open({
      title: run.job,
      currency,
      createdAt: new Date(clock.nowMs()),
      sheet,
      columns: run.columns,
      pagesFile: files.indicia,
      mergeFile: files.merge,
      reprint: false,
    });
    try {
      for (const { batch } of journal.batches.ofRun(run.run)) {
        await this.#batch(print, batch);
        if (this.#abandoned) break;
      }
      if (this.#abandoned) {
        await print.abandon();
        return;
      }
      await print.end();
      journal.runs.markPrinted(run.run);
    } catch (error) {
      await print.abandon();
      throw error;
    }
  }

  async #batch(print: Print, number: number): Promise<void> {
    const { journal, licensee } = this.#options;
    let next = 0;
    for (;;) {
      if (this.#abandoned) return;
      const batch = journal.batches.byNumber(number);
      if (batch === undefined) return;
      const franked = next < batch.franked ? journal.chunks.franked(number, next) : undefined;
      const chunk = franked === undefined ? undefined : journal.chunks.get(number, next);
      if (franked !== undefined && chunk !== undefined) {
        if (next === 0) await print.openBatch(printBatch(batch, this.#run.job, licensee));
        await print.pieces(piecesOf(this.#run, { chunk, franked }));
        next += franked.pieces;
        this.#printed += franked.pieces;
        await setImmediate();
        continue;
      }
      if (this.#frankingEnded || batch.state === 'sealed' || batch.franked === batch.expected) return;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
        if (this.#frankingEnded || this.#abandoned) this.notify();
      });
    }
  }
}

function printBatch(batch: BatchRow, job: string, licensee: string) {
  return { batch: batch.id, job, customer: batch.customer ?? licensee, product: batch.product };
}

/** The pieces of a chunk as they are printed. */
function piecesOf(
  run: RunRow,
  { chunk, franked }: FrankedChunkRows,
  asked: (pieceNumber: number) => boolean = () => true,
): PrintPiece[] {
  const indiciumBytes = franked.indicia.length / franked.pieces;
  const addressee = run.columns.findIndex((column) => /^(name|addressee|recipient)$/i.test(column.trim()));
  const lines = Buffer.from(chunk.texts).toString('utf8').split('\n');
  const pieces: PrintPiece[] = [];
  for (let i = 0; i < chunk.pieces; i++) {
    if (!asked(franked.firstNumber + i)) continue;
    const cells = JSON.parse(lines[i] as string) as string[];
    const cell = run.cells[chunk.cells[readIndex(chunk.entries, i)] as number];
    pieces.push({
      payload: franked.indicia.subarray(i * indiciumBytes, (i + 1) * indiciumBytes),
      cells,
      level: cell?.key.level ?? '',
      row: chunk.rows[i] as number,
      addressee: addressee < 0 ? undefined : cells[addressee],
    });
  }
  return pieces;
}

/**
 * Prints pieces again, marked, into a file of their own. Rejections: `unknown-piece`, `journal-damaged` is not one: what is
 * missing is named as an unknown piece.
 */
export async function reprint(
  options: PrintingOptions,
  batches: readonly { readonly batch: BatchRow; readonly numbers: ReadonlySet<number> | null }[],
): Promise<Result<{ readonly file: string; readonly pieces: number }>> {
  const { journal, archive, port, clock, currency, sheet, licensee } = options;
  const nowMs = clock.nowMs();
  const [first] = batches;
  const job = first === undefined ? null : journal.batches.jobOf(first.batch);
  if (first === undefined || job === null) return refuse(rejection('unknown-batch', { batch: first?.batch.id ?? '' }));
  const stamp = new Date(nowMs).toISOString().replaceAll(/[:.]/g, '-');
  const file = join(archive.jobFolder(job), `reprint-${stamp}.pdf`);
  const run = first.batch.run === null ? undefined : journal.runs.get(first.batch.run);
  if (run === undefined) return refuse(rejection('unknown-batch', { batch: first.batch.id }));
  const print = await port.open({
    title: `${job} (reprint)`,
    currency,
    createdAt: new Date(nowMs),
    sheet,
    columns: run.columns,
    pagesFile: file,
    mergeFile: null,
    reprint: true,
  });
  let pieces = 0;
  try {
    for (const { batch, numbers } of batches) {
      const ofRun = batch.run === null ? undefined : journal.runs.get(batch.run);
      if (ofRun === undefined) continue;
      await print.openBatch(printBatch(batch, job, licensee));
      for (const firstIndex of journal.chunks.frankedIndices(batch.batch)) {
        const franked = journal.chunks.franked(batch.batch, firstIndex);
        const chunk = journal.chunks.get(batch.batch, firstIndex);
        if (franked === undefined || chunk === undefined) continue;
        const some = piecesOf(
          ofRun,
          { chunk, franked },
          (number) => (numbers?.has(number) ?? true) && !batch.spoiled.includes(number),
        );
        if (some.length > 0) await print.pieces(some);
        pieces += some.length;
      }
    }
    await print.end();
  } catch (error) {
    await print.abandon();
    throw error;
  }
  return accept({ file, pieces });
}

/** Groups piece numbers by their batches. Rejection: `unknown-piece`. */
export function batchesOfNumbers(
  journal: Journal,
  numbers: readonly number[],
): Result<readonly { readonly batch: BatchRow; readonly numbers: ReadonlySet<number> }[]> {
  const found = new Map<string, { batch: BatchRow; numbers: Set<number> }>();
  for (const pieceNumber of numbers) {
    const place = pieceByNumber(journal, pieceNumber);
    if (place === null || place.batch.spoiled.includes(pieceNumber)) {
      return refuse(rejection('unknown-piece', { pieceNumber }));
    }
    const group = found.get(place.batch.id) ?? { batch: place.batch, numbers: new Set<number>() };
    group.numbers.add(pieceNumber);
    found.set(place.batch.id, group);
  }
  return accept([...found.values()]);
}
