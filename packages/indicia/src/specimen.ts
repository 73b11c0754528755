/**
 * The mark of a specimen: what makes an indicium without certification impossible to take for postage.
 *
 * Guarantees: one wording wherever a specimen shows (pages, merge file); on a label it stands in a solid band at the top and, large,
 * behind the clear text.
 * Does not decide what is a specimen: that is in the indicium's own bytes, and nothing else is asked.
 */
import { pdfString } from './clear-text.ts';

/** The word that no reader overlooks. */
const SPECIMEN = 'SPECIMEN';
/** What it means, for someone who does not know the word. */
const NOT_VALID = 'NOT VALID POSTAGE';
/** Both in one line, as it stands in the merge file and the sheet's header. */
export const SPECIMEN_MARK = `${SPECIMEN} - ${NOT_VALID}`;

/** The height of the band at a label's top. */
export const SPECIMEN_BAND_PT = 14.4;

/** Width of `SPECIMEN` in Helvetica-Bold, in font sizes. */
const SPECIMEN_EMS = 5.223;
/** Height of a capital in Helvetica-Bold, in font sizes. */
const CAPITAL_EMS = 0.718;

/** A rectangle in points; y grows downwards. */
export interface Area {
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly height: number;
}

/**
 * The content stream of the mark on a label, drawn before everything else on it.
 * @param widthPt the label's width, the band's too
 * @param free where the word may stand large, from the area's lower left to its upper right corner: all that is not symbol
 * @param boldFont the resource name of Helvetica-Bold
 * The origin is the label's top left corner, and y grows downwards.
 */
export function specimenContent(widthPt: number, free: Area, boldFont: string): string {
  // The word's box, w by h, turned by the angle, fits the area: w cos + h sin <= width and w sin + h cos <= height.
  const angle = Math.atan2(free.height, free.width) * 0.9;
  const cos = Math.cos(angle);
  const sin = Math.sin(angle);
  const sizePt = Math.min(
    free.width / (SPECIMEN_EMS * cos + CAPITAL_EMS * sin),
    free.height / (SPECIMEN_EMS * sin + CAPITAL_EMS * cos),
  );
  const along = (SPECIMEN_EMS * sizePt) / 2;
  const across = (CAPITAL_EMS * sizePt) / 2;
  const startX = free.x + free.width / 2 - cos * along + sin * across;
  const startY = free.y + free.height / 2 + sin * along + cos * across;
  const n = (value: number): string => value.toFixed(3);
  const upright = '1 0 0 -1';
  return (
    `0.96 0.78 0.77 rg BT /${boldFont} ${n(sizePt)} Tf ${n(cos)} ${n(-sin)} ${n(-sin)} ${n(-cos)} ${n(startX)} ${n(startY)} Tm ` +
    `${pdfString(SPECIMEN)} Tj ET\n` +
    `0.72 0.07 0.07 rg 0 0 ${n(widthPt)} ${SPECIMEN_BAND_PT} re f\n` +
    `1 g BT /${boldFont} 10 Tf ${upright} 6 10.8 Tm 1.2 Tc ${pdfString(SPECIMEN)} Tj ET\n` +
    `BT /${boldFont} 7 Tf ${upright} ${n(widthPt - 82.5)} 10 Tm 0.2 Tc ${pdfString(NOT_VALID)} Tj ET\n` +
    '0 Tc 0 g\n'
  );
}
