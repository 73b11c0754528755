/**
 * The print port: where indicia leave the host. Implementations print; this one draws PDF pages and writes the merge file.
 *
 * Guarantees: a print that did not come to its end leaves no file under its final name, so that what is there has every piece
 * exactly once. Drawing gives way to other work after a few pieces. Memory does not grow with the pieces.
 * Does not know where pieces come from, nor which were printed before: `printing.ts` does.
 */
import { createWriteStream, mkdirSync, renameSync, rmSync, type WriteStream } from 'node:fs';
import { dirname } from 'node:path';
import { finished } from 'node:stream/promises';
import { setImmediate } from 'node:timers/promises';
import type { Currency } from '@countermark/protocol/money';
import { createMergeFile, type MergeFile } from '@countermark/indicia/merge-file';
import type { Pages, Sheet } from '@countermark/indicia/page';

/** One print: batches in order, their pieces in list order. */
export type PrintRequest = {
  readonly title: string;
  readonly currency: Currency;
  readonly createdAt: Date;
  readonly sheet: Sheet;
  /** The mailer's columns. */
  readonly columns: readonly string[];
  /** Null where none is to be made. */
  readonly pagesFile: string | null;
  readonly mergeFile: string | null;
  readonly reprint: boolean;
};

export type PrintBatch = {
  readonly batch: string;
  readonly job: string;
  readonly customer: string;
  readonly product: string;
};

export type PrintPiece = {
  readonly payload: Uint8Array;
  readonly cells: readonly string[];
  readonly level: string;
  readonly row: number;
  readonly addressee: string | undefined;
};

export interface Print {
  openBatch(batch: PrintBatch): Promise<void>;
  pieces(pieces: readonly PrintPiece[]): Promise<void>;
  /** Completes the files. */
  end(): Promise<void>;
  /** Leaves no file. */
  abandon(): Promise<void>;
}

export interface PrintPort {
  open(request: PrintRequest): Promise<Print>;
}

/** Pieces drawn before other work has its turn; about 2 ms. */
const DRAWN_AT_ONCE = 8;

/** PDF pages and a merge file. pdfkit is loaded with the first page. */
export const filePrinter: PrintPort = {
  open: async (request) => {
    const { pagesFile, mergeFile } = request;
    const files = [pagesFile, mergeFile].filter((file) => file !== null);
    for (const file of files) mkdirSync(dirname(file), { recursive: true });
    const merge = mergeFile === null ? null : createWriteStream(partOf(mergeFile));
    const pagesOut = pagesFile === null ? null : createWriteStream(partOf(pagesFile));
    const pages =
      pagesOut === null
        ? null
        : (await import('@countermark/indicia/page')).createPages(pagesOut, {
            title: request.title,
            sheet: request.sheet,
            currency: request.currency,
            createdAt: request.createdAt,
          });
    return new FilePrint(request, files, merge, pagesOut, pages);
  },
};

class FilePrint implements Print {
  readonly #request: PrintRequest;
  readonly #files: readonly string[];
  readonly #out: WriteStream | null;
  readonly #pagesOut: WriteStream | null;
  readonly #pages: Pages | null;
  readonly #merge: MergeFile;
  #failure: Error | undefined;
  #begun = false;

  constructor(
    request: PrintRequest,
    files: readonly string[],
    out: WriteStream | null,
    pagesOut: WriteStream | null,
    pages: Pages | null,
  ) {
    this.#request = request;
    this.#files = files;
    this.#out = out;
    this.#pagesOut = pagesOut;
    this.#pages = pages;
    this.#merge = createMergeFile(request.columns, request.currency);
    out?.on('error', (error) => {
      this.#failure = error;
    });
  }

  async openBatch(batch: PrintBatch): Promise<void> {
    await this.#pages?.openBatch(batch);
  }

  async pieces(pieces: readonly PrintPiece[]): Promise<void> {
    if (this.#out !== null) {
      let text = this.#begun ? '' : this.#merge.header();
      this.#begun = true;
      for (const { cells, payload } of pieces) text += this.#merge.row(cells, payload);
      await this.#write(text);
    }
    if (this.#pages === null) return;
    for (const [i, { payload, level, row, addressee }] of pieces.entries()) {
      await this.#pages.write({
        payload,
        level,
        row,
        ...(addressee === undefined ? {} : { addressee }),
        ...(this.#request.reprint ? { reprint: true } : {}),
      });
      if (i % DRAWN_AT_ONCE === DRAWN_AT_ONCE - 1) await setImmediate();
    }
  }

  async end(): Promise<void> {
    await this.#pages?.end();
    if (this.#out !== null) {
      if (!this.#begun) await this.#write(this.#merge.header());
      this.#out.end();
      await finished(this.#out);
    }
    for (const file of this.#files) renameSync(partOf(file), file);
  }

  async abandon(): Promise<void> {
    for (const out of [this.#out, this.#pagesOut]) {
      if (out === null) continue;
      out.on('error', () => undefined);
      out.destroy();
      if (!out.closed) await new Promise<void>((resolve) => out.once('close', resolve));
    }
    for (const file of this.#files) rmSync(partOf(file), { force: true });
  }

  async #write(text: string): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    const out = this.#out;
    if (out === null || out.write(text)) return;
    await new Promise<void>((resolve, reject) => {
      const settle = (error?: Error): void => {
        out.off('drain', settle).off('error', settle);
        if (error === undefined) resolve();
        else reject(error);
      };
      out.once('drain', settle).once('error', settle);
    });
  }
}

function partOf(file: string): string {
  return `${file}.part`;
}
