/**
 * The merge file: the mailer's own rows, and behind each what was franked for it, as CSV for a mail merge or a printing line.
 *
 * Guarantees: RFC 4180 with `\\r\\n`, one line per row in the order given; every cell of the mailer comes back as it was, except
 * that a cell which a spreadsheet would run as a formula gets an apostrophe in front; what our columns say is read out
 * of the indicium's own bytes, the specimen mark included, so that no merge turns a specimen into postage.
 * Does not parse CSV, write files, put a byte order mark, or verify authenticators. The caller encodes the text as UTF-8.
 */
import { hex } from '@countermark/protocol/id';
import { type Currency, decimalMills } from '@countermark/protocol/money';
import { indiciumOf } from './label.ts';
import { SPECIMEN_MARK } from './specimen.ts';

/**
 * Our columns, behind the mailer's: piece number; postage in currency units with all places of the exponent, `0.740`; the
 * currency's code; `SPECIMEN - NOT VALID POSTAGE`, or nothing for a certified indicium; the indicium in lower-case hex, which is what the
 * Data Matrix symbol carries as bytes. Hex, because no tool takes it for a formula or a number and scanners show bytes that way.
 */
const OWN_COLUMNS = ['piece_number', 'postage', 'currency', 'mark', 'payload'] as const;

/** A merge file in the making: text to be written one after the other. */
export interface MergeFile {
  /** The first line. */
  header(): string;
  /**
   * A row: the mailer's cells, as many as there are columns, and the indicium franked for it.
   * @throws TypeError when the number of cells differs or the payload is no indicium
   */
  row(cells: readonly string[], payload: Uint8Array): string;
}

/**
 * Begins a merge file.
 * @param columns the mailer's columns. Where one of ours has the same name, ours is prefixed `countermark_`, as often as it takes.
 */
export function createMergeFile(columns: readonly string[], currency: Currency): MergeFile {
  const own = OWN_COLUMNS.map((name) => unusedName(name, columns));
  return {
    header: () => `${[...columns.map(guardedCell), ...own].join(',')}\r\n`,
    row(cells, payload) {
      if (cells.length !== columns.length) {
        throw new TypeError(`A row has ${cells.length} cells where the merge file has ${columns.length} columns.`);
      }
      const indicium = indiciumOf(payload);
      const ours = [
        String(indicium.pieceNumber),
        decimalMills(indicium.postageMills, currency.exponent),
        currency.code,
        indicium.specimen ? SPECIMEN_MARK : '',
        hex(payload),
      ];
      return `${[...cells.map(guardedCell), ...ours].join(',')}\r\n`;
    },
  };
}

function unusedName(name: string, columns: readonly string[]): string {
  let unused = name;
  while (columns.includes(unused)) unused = `countermark_${unused}`;
  return unused;
}

/** What makes a spreadsheet run a cell: the four signs, their full-width forms, and white space that hides one. */
const FORMULA_START = /^[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]/;

/** A cell of the mailer: guarded against formulas, quoted where RFC 4180 asks for it. */
function guardedCell(value: string): string {
  const guarded = FORMULA_START.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(guarded) ? `"${guarded.replaceAll('"', '""')}"` : guarded;
}
