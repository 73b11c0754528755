/**
 * Sheets of indicia as a PDF: the labels of a batch in the order of its list, a header and a reckoning on every sheet, and
 * the batch's totals at its end.
 *
 * Guarantees: what a sheet adds up is what its labels' own bytes say; a label is a specimen exactly if its bytes say so; memory
 * does not grow with the pieces (a sheet is given out as soon as it is full, the writer waits for the reader, and of each sheet
 * only its place in the file is kept); the same input gives the same bytes.
 * Does not open files, ask the time, verify authenticators or decide what is printed twice.
 */
import type { Writable } from 'node:stream';
import type { Indicium } from '@countermark/protocol/layout';
import { type Currency, formatMills } from '@countermark/protocol/money';
import PDFDocument from 'pdfkit';
import { type Face, type FontWidths, fitCodes, fontWidths, pdfString, widthOfCodes, winAnsi } from './clear-text.ts';
import {
  DOT_PT,
  indiciumOf,
  LABEL_HEIGHT_PT,
  LABEL_WIDTH_PT,
  type LabelBatch,
  type LabelPiece,
  type LabelStyle,
  labelContent,
  labelStyle,
} from './label.ts';
import { SPECIMEN_MARK } from './specimen.ts';

/** The paper. */
export type Sheet = 'letter' | 'a4';

/** What a document is about. */
export interface PagesOptions {
  /** Stands at the top of each sheet, for instance the job's id. */
  readonly title: string;
  readonly sheet: Sheet;
  readonly currency: Currency;
  /** The document's date, an input so that a document can be made again to the byte. */
  readonly createdAt: Date;
  /** Deflate the sheets; true where nothing is said. */
  readonly compress?: boolean;
}

/** A batch, as its sheets' header names it. */
export interface PageBatch extends LabelBatch {
  readonly job?: string;
}

/** What was drawn. */
export interface PageTotals {
  readonly pieces: number;
  readonly postageMills: bigint;
  readonly sheets: number;
}

/** A document in the making. Calls follow each other: each waits for the one before it. */
export interface Pages {
  /** Begins a batch on a new sheet; the one before, if any, ends with its totals. */
  openBatch(batch: PageBatch): Promise<void>;
  /**
   * Draws one piece in the next free place; resolves when the next one may come.
   * @throws TypeError when the payload is no indicium; whatever the stream fails with
   */
  write(piece: LabelPiece): Promise<void>;
  /** Draws the last totals, ends document and stream, and resolves when the stream has taken all of it. */
  end(): Promise<PageTotals>;
}

const COLUMNS = 3;
const ROWS = 6;
const PITCH_X_PT = 750 * DOT_PT;

/** Where things stand on each paper, in points from the top left corner; all on the grid of 300 dpi. */
const GEOMETRY = {
  letter: { leftPt: 153 * DOT_PT, topPt: 290 * DOT_PT, pitchYPt: 470 * DOT_PT, footerPt: 764 },
  a4: { leftPt: 119 * DOT_PT, topPt: 300 * DOT_PT, pitchYPt: 498 * DOT_PT, footerPt: 808 },
} as const;

/**
 * Begins a document.
 * @param out takes the PDF's bytes; it is ended, and listened to for errors, by this writer
 */
export function createPages(out: Writable, options: PagesOptions): Pages {
  return new PdfPages(out, options);
}

class PdfPages implements Pages {
  readonly #out: Writable;
  readonly #options: PagesOptions;
  readonly #document: PDFKit.PDFDocument;
  readonly #widths: FontWidths;
  #style: LabelStyle | undefined;
  #batch: PageBatch | undefined;
  #failure: Error | undefined;
  /** Places taken on the sheet in hand. */
  #taken = 0;
  #sheets = 0;
  #batches = 0;
  readonly #onSheet = new Reckoning();
  readonly #inBatch = new Reckoning();
  readonly #inDocument = new Reckoning();

  constructor(out: Writable, options: PagesOptions) {
    this.#out = out;
    this.#options = options;
    out.on('error', (error: Error) => {
      this.#failure = error;
    });
    this.#document = new PDFDocument({
      size: options.sheet,
      margin: 0,
      autoFirstPage: false,
      compress: options.compress ?? true,
      pdfVersion: '1.7',
      info: {
        Title: winAnsi(options.title),
        Producer: 'Countermark',
        Creator: 'Countermark',
        CreationDate: options.createdAt,
      },
    });
    this.#widths = fontWidths((character, face) => this.#face(face).fontSize(1000).widthOfString(character));
  }

  async openBatch(batch: PageBatch): Promise<void> {
    await this.#closeBatch(false);
    this.#batch = batch;
  }

  async write(piece: LabelPiece): Promise<void> {
    if (this.#batch === undefined) throw new TypeError('A piece was written before its batch was opened.');
    const indicium = indiciumOf(piece.payload);
    if (this.#style === undefined || this.#taken === COLUMNS * ROWS) await this.#nextSheet(this.#batch, indicium);
    const style = this.#style as LabelStyle;
    const { x, y } = this.#nextPlace();
    this.#draw(labelContent(x, y, piece, indicium, this.#batch, style));
    this.#onSheet.add(indicium);
    this.#inBatch.add(indicium);
    this.#inDocument.add(indicium);
  }

  async end(): Promise<PageTotals> {
    await this.#closeBatch(true);
    if (this.#sheets === 0) {
      this.#startSheet(undefined, false);
      this.#document.fontSize(10).text('No pieces.', GEOMETRY[this.#options.sheet].leftPt, 100, { lineBreak: false });
    }
    this.#document.end();
    await this.#giveOut();
    await this.#finish();
    const { pieces, postageMills } = this.#inDocument;
    return { pieces, postageMills, sheets: this.#sheets };
  }

  async #closeBatch(last: boolean): Promise<void> {
    const batch = this.#batch;
    this.#batch = undefined;
    if (batch === undefined || this.#inBatch.pieces === 0) return;
    this.#batches++;
    await this.#drawTotals('End of batch', this.#inBatch, batch, batch.customer);
    if (last && this.#batches > 1) {
      await this.#drawTotals('End of document', this.#inDocument, batch, `${this.#batches} batches`);
    }
    this.#endSheet();
    this.#inBatch.clear();
    await this.#giveOut();
  }

  async #nextSheet(batch: PageBatch, first: Indicium | undefined): Promise<void> {
    if (this.#style !== undefined) this.#endSheet();
    this.#startSheet(batch, first?.specimen === true);
    await this.#giveOut();
  }

  #startSheet(batch: PageBatch | undefined, specimen: boolean): void {
    const document = this.#document;
    const { leftPt } = GEOMETRY[this.#options.sheet];
    const right = leftPt + (COLUMNS - 1) * PITCH_X_PT + LABEL_WIDTH_PT;
    const finished = this.#sheets === 0 ? undefined : document.page;
    document.addPage();
    // pdfkit keeps a reference to each page for the tree of pages; what a finished one consists of has been written.
    if (finished !== undefined) Object.assign(finished.dictionary, { data: {} });
    this.#sheets++;
    this.#taken = 0;
    this.#onSheet.clear();

    // Both faces are used through pdfkit once on each sheet, which is what makes them resources of the sheet.
    this.#face('bold').fontSize(9).text('Countermark', leftPt, 24, { lineBreak: false });
    const [bold] = Object.keys(document.page.fonts as object);
    this.#face('regular')
      .fontSize(9)
      .text(' indicia', leftPt + 58, 24, { lineBreak: false });
    const [, regular] = Object.keys(document.page.fonts as object);
    if (bold === undefined || regular === undefined) throw new TypeError('The fonts of a sheet have no names.');
    this.#style ??= labelStyle(this.#options.currency, { bold, regular }, this.#widths);

    this.#text('bold', 9, right, 31, `Sheet ${this.#sheets}`, 'right');
    this.#text('regular', 9, leftPt + 180, 31, this.#options.title, 'left', 260);
    if (batch !== undefined) {
      this.#text('bold', 8, leftPt, 45, batch.customer, 'left', 170);
      this.#text('regular', 8, leftPt + 180, 45, batch.product, 'left', 170);
      if (batch.job !== undefined) this.#text('regular', 8, right, 45, `Job ${batch.job}`, 'right', 170);
      this.#text('regular', 8, leftPt, 56, `Batch ${batch.batch}`, 'left', 350);
    }
    if (specimen) {
      this.#draw('0.72 0.07 0.07 rg\n');
      this.#text('bold', 8, right, 56, SPECIMEN_MARK, 'right');
      this.#draw('0 g\n');
    }
    this.#draw(`0.4 G 0.6 w ${leftPt.toFixed(2)} 62 m ${right.toFixed(2)} 62 l S\n`);
  }

  /** What the sheet adds up, and what the batch came to so far. */
  #endSheet(): void {
    const { leftPt, footerPt } = GEOMETRY[this.#options.sheet];
    const right = leftPt + (COLUMNS - 1) * PITCH_X_PT + LABEL_WIDTH_PT;
    this.#style = undefined;
    const sheet = this.#onSheet;
    if (sheet.pieces > 0) {
      this.#text('regular', 8, leftPt, footerPt, `This sheet: ${sheet.text(this.#options.currency)}`, 'left');
    }
    this.#text('regular', 8, right, footerPt, `Batch so far: ${this.#inBatch.text(this.#options.currency)}`, 'right');
  }

  async #drawTotals(heading: string, totals: Reckoning, batch: PageBatch, whose: string): Promise<void> {
    if (this.#taken === COLUMNS * ROWS) await this.#nextSheet(batch, undefined);
    const { x, y } = this.#nextPlace();
    const rows: readonly (readonly [string, string])[] = [
      [whose, ''],
      ['Pieces', String(totals.pieces)],
      ['Postage', formatMills(totals.postageMills, this.#options.currency)],
      ['First piece', String(totals.first)],
      ['Last piece', String(totals.last)],
      ['Sheets to here', String(this.#sheets)],
    ];
    this.#draw(`0.93 g ${x.toFixed(2)} ${y.toFixed(2)} ${LABEL_WIDTH_PT} ${LABEL_HEIGHT_PT} re f 0 g\n`);
    this.#text('bold', 10, x + 8, y + 16, heading, 'left');
    for (const [i, [name, value]] of rows.entries()) {
      const baseline = y + 31 + 13 * i;
      this.#text('regular', 8, x + 8, baseline, name, 'left', value === '' ? LABEL_WIDTH_PT - 16 : 62);
      this.#text('bold', 8, x + LABEL_WIDTH_PT - 8, baseline, value, 'right', 96);
    }
  }

  #nextPlace(): { x: number; y: number } {
    const { leftPt, topPt, pitchYPt } = GEOMETRY[this.#options.sheet];
    const place = this.#taken++;
    return { x: leftPt + (place % COLUMNS) * PITCH_X_PT, y: topPt + Math.floor(place / COLUMNS) * pitchYPt };
  }

  #face(face: Face): PDFKit.PDFDocument {
    return this.#document.font(face === 'bold' ? 'Helvetica-Bold' : 'Helvetica');
  }

  #text(face: Face, sizePt: number, x: number, y: number, text: string, align: 'left' | 'right', limitPt = 300): void {
    const codes = fitCodes(winAnsi(text), this.#widths[face], sizePt, limitPt);
    const left = align === 'left' ? x : x - widthOfCodes(codes, this.#widths[face], sizePt);
    const [bold, regular] = Object.keys(this.#document.page.fonts as object);
    const font = face === 'bold' ? bold : regular;
    this.#draw(`BT /${font} ${sizePt} Tf 1 0 0 -1 ${left.toFixed(2)} ${y.toFixed(2)} Tm ${pdfString(codes)} Tj ET\n`);
  }

  #draw(content: string): void {
    this.#document.addContent(Buffer.from(content, 'latin1'));
  }

  /** Hands the stream what the document has ready, and waits until the stream can take more. */
  async #giveOut(): Promise<void> {
    this.#check();
    const bytes = this.#document.read() as Buffer | null;
    if (bytes === null || this.#out.write(bytes)) return;
    await this.#event('drain');
  }

  async #finish(): Promise<void> {
    this.#check();
    const finished = this.#event('finish');
    this.#out.end();
    await finished;
  }

  #check(): void {
    if (this.#failure !== undefined) throw this.#failure;
    if (this.#out.destroyed) throw new Error('The stream that takes the pages was closed before their end.');
  }

  /** Resolves at an event of the stream, and rejects if the stream fails or closes before it. */
  #event(name: 'drain' | 'finish'): Promise<void> {
    const out = this.#out;
    return new Promise((resolve, reject) => {
      const settle = (outcome: () => void): void => {
        out.off(name, happened).off('error', failed).off('close', closed);
        outcome();
      };
      const happened = (): void => settle(resolve);
      const failed = (error: Error): void => settle(() => reject(error));
      const closed = (): void =>
        settle(() =>
          reject(this.#failure ?? new Error('The stream that takes the pages was closed before their end.')),
        );
      out.on(name, happened).on('error', failed).on('close', closed);
    });
  }
}

/** Pieces and postage, as the labels' bytes say them. */
class Reckoning {
  pieces = 0;
  postageMills = 0n;
  first = 0;
  last = 0;

  add(indicium: Indicium): void {
    if (this.pieces === 0) this.first = indicium.pieceNumber;
    this.last = indicium.pieceNumber;
    this.pieces++;
    this.postageMills += indicium.postageMills;
  }

  clear(): void {
    this.pieces = 0;
    this.postageMills = 0n;
  }

  text(currency: Currency): string {
    return `${this.pieces} ${this.pieces === 1 ? 'piece' : 'pieces'}, ${formatMills(this.postageMills, currency)}`;
  }
}
