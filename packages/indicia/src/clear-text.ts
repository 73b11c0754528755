/**
 * Clear text in a PDF content stream, in the standard fonts that every PDF reader has (no font is embedded).
 *
 * Guarantees: text of any origin becomes a well-formed PDF string of WinAnsi characters (ISO 32000-1, annex D) and cannot
 * leave it; widths are those of the font, so that text is cut before it runs into what stands beside it.
 * Does not cover scripts beyond Western European ones: characters that WinAnsi lacks lose their accent where that helps, and
 * stand as `?` otherwise. The exact text is in the merge file.
 */

/** The two faces of a label. */
export type Face = 'regular' | 'bold';

/** What WinAnsi has at 0x80 to 0x9f; the rest of its upper half is Latin-1. */
const WINDOWS_1252 = new Map<string, number>(
  Array.from('€\u0081‚ƒ„…†‡ˆ‰Š‹Œ\u008dŽ\u008f\u0090‘’“”•–—˜™š›œ\u009džŸ', (character, i) => [character, 0x80 + i]),
);

const UNKNOWN = 0x3f;

/** Advance widths in thousandths of the font size, by WinAnsi code. */
export interface FontWidths {
  readonly regular: Float64Array;
  readonly bold: Float64Array;
}

/**
 * Collects the widths of both faces.
 * @param widthOf the width of one WinAnsi character in thousandths of the font size
 */
export function fontWidths(widthOf: (character: string, face: Face) => number): FontWidths {
  const widths = { regular: new Float64Array(256), bold: new Float64Array(256) };
  const upper = new Map([...WINDOWS_1252].map(([character, code]) => [code, character]));
  for (let code = 0x20; code < 0x100; code++) {
    if (code >= 0x7f && code < 0xa0 && !upper.has(code)) continue;
    const character = upper.get(code) ?? String.fromCharCode(code);
    widths.regular[code] = widthOf(character, 'regular');
    widths.bold[code] = widthOf(character, 'bold');
  }
  return widths;
}

/** The text as characters 0x20 to 0xff that stand for their WinAnsi codes. */
export function winAnsi(text: string): string {
  if (/^[\x20-\x7e]*$/.test(text)) return text;
  let codes = '';
  for (const character of text.normalize('NFC')) codes += String.fromCharCode(winAnsiCode(character));
  return codes;
}

function winAnsiCode(character: string): number {
  const code = character.codePointAt(0) ?? UNKNOWN;
  if ((code >= 0x20 && code <= 0x7e) || (code >= 0xa0 && code <= 0xff)) return code;
  if (code < 0x20 || code === 0x7f) return 0x20;
  const windows = WINDOWS_1252.get(character);
  if (windows !== undefined && code > 0xff) return windows;
  const base = character.normalize('NFKD').codePointAt(0) ?? UNKNOWN;
  return base >= 0x20 && base <= 0x7e ? base : UNKNOWN;
}

/** The width in points of text that {@link winAnsi} made. */
export function widthOfCodes(codes: string, widths: Float64Array, sizePt: number): number {
  let width = 0;
  for (let i = 0; i < codes.length; i++) width += widths[codes.charCodeAt(i)] ?? 0;
  return (width * sizePt) / 1000;
}

/** The text of {@link winAnsi}, cut with an ellipsis where it is wider than `limitPt`. */
export function fitCodes(codes: string, widths: Float64Array, sizePt: number, limitPt: number): string {
  if (widthOfCodes(codes, widths, sizePt) <= limitPt) return codes;
  const ellipsis = '\u0085';
  let width = widthOfCodes(ellipsis, widths, sizePt);
  let end = 0;
  for (; end < codes.length; end++) {
    width += ((widths[codes.charCodeAt(end)] ?? 0) * sizePt) / 1000;
    if (width > limitPt) break;
  }
  return codes.slice(0, end).trimEnd() + ellipsis;
}

/** A PDF literal string: parentheses and backslash escaped (ISO 32000-1, 7.3.4.2). */
export function pdfString(codes: string): string {
  return `(${codes.replace(/[()\\]/g, '\\$&')})`;
}
