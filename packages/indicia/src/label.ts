/**
 * One label: the symbol of an indicium and what it says in clear text, as PDF content.
 *
 * Guarantees: amount, date, device, piece number and the specimen mark are read out of the very bytes that the symbol
 * carries, so clear text and symbol cannot disagree and no option can hide a specimen. Modules are six dots of a 300 dpi
 * printer and lie on its grid, so that no edge of the symbol falls between dots; the quiet zone is four times what the standard asks.
 * Does not verify the authenticator: a label is as genuine as the bytes that it is made of.
 */
import { type Indicium, parseIndicium } from '@countermark/protocol/layout';
import { type Currency, formatMills } from '@countermark/protocol/money';
import { type Face, type FontWidths, fitCodes, pdfString, widthOfCodes, winAnsi } from './clear-text.ts';
import { type Area, SPECIMEN_BAND_PT, specimenContent } from './specimen.ts';
import { type DataMatrix, encodeDataMatrix } from './symbol.ts';

/** A dot of a 300 dpi printer, in points. */
export const DOT_PT = 0.24;
/** A module's side: six dots, 0.508 mm. */
const MODULE_PT = 6 * DOT_PT;
/** White around the symbol, in modules; ISO/IEC 16022 asks for one. */
const QUIET_ZONE_MODULES = 4;

export const LABEL_WIDTH_PT = 735 * DOT_PT;
export const LABEL_HEIGHT_PT = 450 * DOT_PT;
const PADDING_PT = 25 * DOT_PT;

/** The column of clear text beside the symbol of the longest indicium, 40 modules. */
const SYMBOL_X_PT = PADDING_PT + DOT_PT;
const TEXT_X_PT = SYMBOL_X_PT + (40 + QUIET_ZONE_MODULES) * MODULE_PT + 3;
const TEXT_AREA: Area = {
  x: TEXT_X_PT - 2,
  y: SPECIMEN_BAND_PT + 3,
  width: LABEL_WIDTH_PT - TEXT_X_PT - 2,
  height: LABEL_HEIGHT_PT - SPECIMEN_BAND_PT - 6,
};

/** What a label says beyond its indicium: the batch's part. Texts are shown as they are given. */
export interface LabelBatch {
  readonly batch: string;
  readonly customer: string;
  readonly product: string;
}

/** A piece to print. */
export interface LabelPiece {
  /** The indicium, as the PSD made it. */
  readonly payload: Uint8Array;
  /** The declared level of presort. */
  readonly level: string;
  /** The row of the mailing's list, the first below the header being 1. */
  readonly row: number;
  readonly addressee?: string;
  /** Set where this indicium has been printed before; said on the label. */
  readonly reprint?: boolean;
}

/** What all labels of a document share. */
export interface LabelStyle {
  readonly currency: Currency;
  readonly fonts: Readonly<Record<Face, string>>;
  readonly widths: FontWidths;
  /** The content of {@link specimenContent} for a label. */
  readonly specimen: string;
}

/** The style for a document's fonts. */
export function labelStyle(currency: Currency, fonts: LabelStyle['fonts'], widths: FontWidths): LabelStyle {
  return { currency, fonts, widths, specimen: specimenContent(LABEL_WIDTH_PT, TEXT_AREA, fonts.bold) };
}

/**
 * The indicium that a payload carries.
 * @throws TypeError when it carries none: what is printed comes from a PSD's answer or from a journal that was checked.
 */
export function indiciumOf(payload: Uint8Array): Indicium {
  const parsed = parseIndicium(payload);
  if (!parsed.ok)
    throw new TypeError('These bytes are no indicium, so nothing was drawn.', { cause: parsed.rejection });
  return parsed.value.indicium;
}

/**
 * The content of one label, in Latin-1 characters.
 * @param x the left edge in points, y the top edge in points downwards from the top of the sheet
 */
export function labelContent(
  x: number,
  y: number,
  piece: LabelPiece,
  indicium: Indicium,
  batch: LabelBatch,
  style: LabelStyle,
): string {
  const symbol = encodeDataMatrix(piece.payload);
  const symbolPt = symbol.size * MODULE_PT;
  const quietPt = QUIET_ZONE_MODULES * MODULE_PT;
  const symbolY = SPECIMEN_BAND_PT + quietPt;
  const textWidth = LABEL_WIDTH_PT - TEXT_X_PT - 4;
  const fullWidth = LABEL_WIDTH_PT - 2 * PADDING_PT;
  const text = (face: Face, sizePt: number, left: number, baseline: number, limit: number, value: string): string => {
    const shown = fitCodes(winAnsi(value), style.widths[face], sizePt, limit);
    return `BT /${style.fonts[face]} ${sizePt} Tf 1 0 0 -1 ${left.toFixed(2)} ${baseline} Tm ${pdfString(shown)} Tj ET\n`;
  };
  const column = (face: Face, sizePt: number, baseline: number, value: string): string =>
    text(face, sizePt, TEXT_X_PT, baseline, textWidth, value);
  const line = (baseline: number, value: string): string => text('regular', 6, PADDING_PT, baseline, fullWidth, value);
  // An amount is never cut: a long one is set smaller.
  const amount = formatMills(indicium.postageMills, style.currency);
  const amountSizePt =
    Math.floor(Math.min(14, textWidth / widthOfCodes(winAnsi(amount), style.widths.bold, 1)) * 10) / 10;
  const heading = piece.reprint === true ? `Piece ${indicium.pieceNumber} (reprint)` : `Piece ${indicium.pieceNumber}`;

  return (
    `q 1 0 0 1 ${x.toFixed(2)} ${y.toFixed(2)} cm\n` +
    (indicium.specimen ? style.specimen : text('bold', 7, PADDING_PT, 10, fullWidth, 'METERED POSTAGE')) +
    whiteGround(SYMBOL_X_PT, symbolY, symbolPt, quietPt) +
    darkModules(SYMBOL_X_PT, symbolY, symbol) +
    column('bold', amountSizePt, 31, amount) +
    column('bold', 8, 42.5, indicium.mailingDate) +
    column('regular', 7, 52.5, batch.product) +
    column('regular', 7, 61, piece.level) +
    column('bold', 7, 71, heading) +
    column('regular', 7, 79.5, indicium.device) +
    line(89.5, `Row ${piece.row}  ${batch.customer}`) +
    line(97, batch.batch) +
    (piece.addressee === undefined ? '' : line(104.3, piece.addressee)) +
    `0.6 G 0.4 w 0 0 ${LABEL_WIDTH_PT} ${LABEL_HEIGHT_PT} re S Q\n`
  );
}

/** Symbol and quiet zone stand on white, whatever else the label shows. */
function whiteGround(x: number, y: number, sidePt: number, quietPt: number): string {
  const side = (sidePt + 2 * quietPt).toFixed(2);
  return `1 g ${(x - quietPt).toFixed(2)} ${(y - quietPt).toFixed(2)} ${side} ${side} re f 0 g\n`;
}

/**
 * The dark modules as one path in units of modules, a rectangle for each horizontal run, filled once: readers and printers
 * see no seams between modules.
 */
function darkModules(x: number, y: number, symbol: DataMatrix): string {
  const { size, modules } = symbol;
  let path = `q ${MODULE_PT} 0 0 ${MODULE_PT} ${x.toFixed(2)} ${y.toFixed(2)} cm\n`;
  for (let row = 0; row < size; row++) {
    const start = row * size;
    let column = 0;
    while (column < size) {
      if (modules[start + column] === 0) {
        column++;
        continue;
      }
      let end = column + 1;
      while (end < size && modules[start + end] === 1) end++;
      path += `${column} ${row} ${end - column} 1 re\n`;
      column = end;
    }
  }
  return `${path}f Q\n`;
}
