/**
 * The desk of the batches: shown, spoiled, closed and reprinted at the operator's word.
 *
 * Guarantees: spoiled pieces and reprints are in the journal only when the device, or the printer, has taken them; no batch is
 * closed under a job that is being franked.
 */
import type {
  BatchReport,
  CloseParameters,
  ReprintAnswer,
  ReprintParameters,
  ShowAnswer,
  ShowParameters,
} from '@countermark/protocol/interfaces/host';
import { type DeviceStatus, PSD } from '@countermark/protocol/interfaces/psd';
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { closeBatch, type ClosingOptions } from './batch-closing.ts';
import type { JobRunner } from './job-runner.ts';
import type { BatchRow } from './journal-rows.ts';
import type { Outbox } from './outbox.ts';
import { pieceByKey, pieceByNumber, pieceByRow, type PiecePlace } from './piece-archive.ts';
import { parseNumbers } from './piece-numbers.ts';
import { batchesOfNumbers, type PrintingOptions, reprint } from './printing.ts';
import { statusOf } from './psd-client.ts';
import { batchReport, pieceReport, wasOpened } from './report.ts';

export class BatchesDesk {
  readonly #closing: ClosingOptions;
  readonly #printing: PrintingOptions;
  readonly #outbox: Outbox;
  readonly #runner: Pick<JobRunner, 'inHand'>;

  constructor(closing: ClosingOptions, printing: PrintingOptions, outbox: Outbox, runner: Pick<JobRunner, 'inHand'>) {
    this.#closing = closing;
    this.#printing = printing;
    this.#outbox = outbox;
    this.#runner = runner;
  }

  list(job: string | undefined): Result<{ readonly batches: readonly BatchReport[] }> {
    const { journal, clock } = this.#closing;
    const rows = job === undefined ? journal.batches.all() : journal.batches.ofJob(job);
    if (job !== undefined && journal.jobs.get(job) === undefined) return refuse(rejection('unknown-job', { job }));
    return accept({
      batches: rows.filter(wasOpened).map((batch) => batchReport(journal, batch, clock.nowMs())),
    });
  }

  async show(parameters: ShowParameters): Promise<Result<ShowAnswer>> {
    const { journal, clock, psd } = this.#closing;
    const { pieceNumber, pieceRef, row } = parameters;
    const place = this.#place(parameters);
    if (place === null) {
      return refuse(rejection('unknown-piece', { pieceNumber: pieceNumber ?? pieceRef ?? `of row ${String(row)}` }));
    }
    if (place !== undefined) {
      const device = await statusOf(psd);
      return accept({
        batch: batchReport(journal, place.batch, clock.nowMs()),
        piece: pieceReport(journal, device, place),
      });
    }
    const id = parameters.batch ?? (await statusOf(psd)).batch?.batch;
    if (id === undefined) return refuse(rejection('no-open-batch', { batch: '(none)' }));
    const batch = journal.batches.get(id);
    if (batch === undefined) return refuse(rejection('unknown-batch', { batch: id }));
    return accept({ batch: batchReport(journal, batch, clock.nowMs()) });
  }

  /** Declares pieces of the open batch spoiled. */
  async spoil(numbers: readonly number[]): Promise<Result<BatchReport>> {
    const { journal, psd, clock } = this.#closing;
    const device = await statusOf(psd);
    const open = device.batch;
    if (open === undefined) return refuse(rejection('no-open-batch', { batch: '(none)' }));
    const spoiled = await psd.call(PSD.spoil, { batch: open.batch, pieceNumbers: numbers });
    if (!spoiled.ok) return spoiled;
    const batch = this.#adopted(device) as BatchRow;
    journal.batches.setSpoiled(
      batch.batch,
      [...new Set([...batch.spoiled, ...numbers])].sort((a, b) => a - b),
    );
    return accept(batchReport(journal, journal.batches.get(batch.id) as BatchRow, clock.nowMs()));
  }

  /** Closes and seals a batch; `incomplete` where its piece records are gone for good. */
  async close({ batch: id, incomplete = false }: CloseParameters): Promise<Result<BatchReport>> {
    const { journal, psd, clock } = this.#closing;
    const job = this.#runner.inHand;
    if (job !== null) return refuse(rejection('job-conflict', { job }));
    const device = await statusOf(psd);
    const batch = id === undefined ? this.#adopted(device) : (journal.batches.get(id) ?? this.#adoptedAs(device, id));
    if (batch === null) {
      return refuse(
        id === undefined ? rejection('no-open-batch', { batch: '(none)' }) : rejection('unknown-batch', { batch: id }),
      );
    }
    if (batch.state !== 'sealed') {
      const closed = await closeBatch(this.#closing, batch, device, incomplete);
      if (!closed.ok) return closed;
      this.#outbox.kick();
    }
    return accept(batchReport(journal, journal.batches.get(batch.id) as BatchRow, clock.nowMs()));
  }

  /** Prints pieces again. Nothing is debited; reprints of a batch that is not closed are declared in its record. */
  async reprint({ batch: id, numbers }: ReprintParameters): Promise<Result<ReprintAnswer>> {
    const { journal } = this.#closing;
    let batches: readonly { readonly batch: BatchRow; readonly numbers: ReadonlySet<number> | null }[];
    if (id !== undefined) {
      const batch = journal.batches.get(id);
      if (batch === undefined) return refuse(rejection('unknown-batch', { batch: id }));
      batches = [{ batch, numbers: null }];
    } else {
      const parsed = parseNumbers(numbers ?? []);
      if (!parsed.ok) return parsed;
      const grouped = batchesOfNumbers(journal, parsed.value);
      if (!grouped.ok) return grouped;
      batches = grouped.value;
    }
    const printed = await reprint(this.#printing, batches);
    if (!printed.ok) return printed;
    for (const { batch, numbers: some } of batches) {
      const now = journal.batches.get(batch.id) as BatchRow;
      journal.batches.addReprints(
        batch.batch,
        some?.size ?? batch.franked - batch.spoiled.length,
        now.state !== 'open',
      );
    }
    return printed;
  }

  /** Where the piece that is asked for is; null where it is not there, undefined where none is asked for. */
  #place({ pieceNumber, pieceRef, row, job: named }: ShowParameters): PiecePlace | null | undefined {
    const { journal } = this.#closing;
    if (pieceNumber !== undefined) return pieceByNumber(journal, pieceNumber);
    const job = named ?? journal.jobs.last() ?? '';
    if (pieceRef !== undefined) return pieceByKey(journal, job, pieceRef);
    return row === undefined ? undefined : pieceByRow(journal, job, row);
  }

  /** The row of the batch at the device; made where the journal was lost. */
  #adopted(device: DeviceStatus): BatchRow | null {
    const { journal } = this.#closing;
    const open = device.batch;
    if (open === undefined) return null;
    return (
      journal.batches.get(open.batch) ??
      journal.batches.adopt(open.batch, open.customer ?? null, open.pieces, open.postageMills, open.firstPieceNumber)
    );
  }

  #adoptedAs(device: DeviceStatus, id: string): BatchRow | null {
    return device.batch?.batch === id ? this.#adopted(device) : null;
  }
}
