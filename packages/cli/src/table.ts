/**
 * Tables of text that line up: a heading, rows, and a total where there is one.
 *
 * Guarantees: columns are as wide as their widest cell, in characters as a terminal shows them (marks that combine take no room,
 * East Asian wide characters take two); numbers stand to the right; no line ends in blanks; control characters of data are
 * shown as `?`, so that a name in a file cannot move the cursor. Does not wrap or cut: a narrow terminal does that.
 */

/** A column: its heading, and whether its cells stand to the right. */
export type Column = { readonly heading: string; readonly right?: boolean };

/** What is done to headings and totals; the identity where colours are off. */
export type Emphasis = (text: string) => string;

const GAP = '  ';
const plain: Emphasis = (text) => text;

/** Formats rows under headings; `total`, if any, follows below a rule. Ends without a line feed. */
export function formatTable(
  columns: readonly Column[],
  rows: readonly (readonly string[])[],
  options: { readonly total?: readonly string[]; readonly emphasis?: Emphasis } = {},
): string {
  const emphasis = options.emphasis ?? plain;
  const total = options.total?.map(printable);
  const cells = rows.map((row) => row.map(printable));
  const widths = columns.map((column, i) =>
    Math.max(
      width(column.heading),
      ...[...cells, ...(total === undefined ? [] : [total])].map((row) => width(row[i] ?? '')),
    ),
  );
  const line = (row: readonly string[]): string =>
    columns
      .map((column, i) => pad(row[i] ?? '', widths[i] ?? 0, column.right === true))
      .join(GAP)
      .trimEnd();
  const lines = [emphasis(line(columns.map((column) => column.heading))), ...cells.map(line)];
  if (total !== undefined) {
    lines.push(widths.map((columnWidth) => '-'.repeat(columnWidth)).join(GAP), emphasis(line(total)));
  }
  return lines.join('\n');
}

/** Names and values below each other, the values lined up. */
export function formatPairs(pairs: readonly (readonly [name: string, value: string])[]): string {
  const widest = Math.max(0, ...pairs.map(([name]) => width(name)));
  return pairs
    .map(([name, value]) => `${pad(printable(name), widest, false)}${GAP}${printable(value)}`.trimEnd())
    .join('\n');
}

/** The text without characters that would act on a terminal. */
function printable(text: string): string {
  return text.replace(/[\p{Cc}\u2028\u2029\u202a-\u202e\u2066-\u2069]/gu, '?');
}

function pad(text: string, columns: number, right: boolean): string {
  const blanks = ' '.repeat(Math.max(0, columns - width(text)));
  return right ? blanks + text : text + blanks;
}

/** Columns that a terminal gives the text. */
function width(text: string): number {
  let columns = 0;
  for (const character of text) {
    if (/\p{Mark}|\u200b|\u200d/u.test(character)) continue;
    columns += WIDE.test(character) ? 2 : 1;
  }
  return columns;
}

const WIDE =
  /[\u1100-\u115f\u2e80-\u303e\u3041-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe4f\uff00-\uff60\uffe0-\uffe6\u{1f300}-\u{1faff}]/u;
