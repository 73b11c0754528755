/**
 * Mailing files: rows of CSV in several encodings, separators and quotings, read and staged.
 *
 * `mailing`: where a file is read, its rows are exactly those that a second, small reader finds in it, cell by cell.
 * `staging`: every row of a file that is read is staged, or is listed with what is wrong with it; the postage staged is the sum of
 * the rows' prices.
 */
import { writeFileSync } from 'node:fs';
import { join as joinPath } from 'node:path';
import { Journal } from '@countermark/host/journal';
import { openHostStore } from '@countermark/host/journal-schema';
import { readMailing } from '@countermark/host/mailing';
import { Staging } from '@countermark/host/staging';
import { SHIPPED_TARIFFS } from '@countermark/tariff/shipped';
import iconv from 'iconv-lite';
import { join, type Material, type Mutation, mutateNumbers } from '../mutation.ts';
import type { Random } from '../random.ts';
import { ACCEPTED, must, type Target } from '../target.ts';

/** The first byte of an input says which; undefined is UTF-8. */
const ENCODINGS = [
  undefined,
  undefined,
  undefined,
  'windows-1252',
  'utf-16le',
  'iso-8859-15',
  'macroman',
  'no-such',
] as const;

const HEADER = ['piece_ref', 'customer', 'product', 'level', 'weight_oz', 'zip'];
const ROWS = [
  ['a-1', 'alder', 'usps-fcm-letter', '5-digit', '0.95', '02108'],
  ['a-2', 'birch', 'usps-fcm-letter', 'aadc', '1.5', '10001-1234'],
  ['', '', 'usps-fcm-letter', 'single-piece', '3.5', '94105'],
  ['a-1', 'alder', 'usps-fcm-letter', '5-digit', '0.95', '02108'],
  ['x', 'No Slug', 'no-such', '5-digit', '-1', '2108'],
];

function written(rows: readonly (readonly string[])[], separator: string, lineEnd: string): string {
  return rows.map((row) => row.map((cell) => quoted(cell, separator)).join(separator)).join(lineEnd) + lineEnd;
}

function quoted(cell: string, separator: string): string {
  return /["\r\n]/.test(cell) || cell.includes(separator) ? `"${cell.replaceAll('"', '""')}"` : cell;
}

function seeds(): Uint8Array[] {
  const quotedRows = [...ROWS, ['q "1", x', 'al;der', 'usps-fcm-letter', 'line\nbreak', '0.95', 'é ü 😀']];
  return [',', ';', '\t'].flatMap((separator) =>
    ['\n', '\r\n'].flatMap((lineEnd) => {
      const text = written([HEADER, ...quotedRows], separator, lineEnd);
      return [
        join(Uint8Array.of(0), Buffer.from(text)),
        join(Uint8Array.of(0), Buffer.from(`\ufeff${text}`)),
        join(Uint8Array.of(3), iconv.encode(text.replace('😀', ''), 'windows-1252')),
        join(Uint8Array.of(4), iconv.encode(text, 'utf-16le')),
      ];
    }),
  );
}

/** Changes cells, quotes, line ends and separators of a text in UTF-8 or in bytes that are close to it. */
const mutateCsv: Mutation = (input, material) => {
  const { random } = material;
  const text = Buffer.from(input.subarray(1)).toString('latin1');
  const separator = random.pick([',', ';', '\t']);
  const changed = random.pick([
    () => lines(text, random, (line) => cells(line, separator, material)),
    () => lines(text, random, (line) => `${line}\n${line}`),
    () => lines(text, random, () => ''),
    () => lines(text, random, () => separator.repeat(random.below(8))),
    () => text.replaceAll('\r\n', '\n').replaceAll('\n', random.pick(['\n', '\r\n', '\r', '\n\n'])),
    () => text.replaceAll(random.pick([',', ';', '\t']), separator),
    () =>
      insert(text, random.pick(['"', '""', '"\n"', '\r', '\n', '\r\n', separator, '\u00a0', ' ', '\u0000']), random),
    () => text + text.slice(text.indexOf('\n') + 1),
    () => insert(text, 'x'.repeat(random.pick([100, 66_000])), random),
  ])();
  return join(input.subarray(0, 1), Buffer.from(changed, 'latin1')).slice(0, material.maxBytes);
};

function insert(text: string, what: string, random: Random): string {
  const at = random.below(text.length + 1);
  return text.slice(0, at) + what + text.slice(at);
}

function lines(text: string, random: Random, change: (line: string) => string): string {
  const all = text.split('\n');
  const at = random.below(all.length);
  return all.map((line, i) => (i === at ? change(line) : line)).join('\n');
}

function cells(line: string, separator: string, { random, words }: Material): string {
  const all = line.split(separator);
  const at = random.below(all.length);
  const word = words.length === 0 ? 'x' : random.pick(words);
  const change = (cell: string): string =>
    random.pick([
      `"${cell.replaceAll('"', '""')}"`,
      `"${cell}\n${cell}"`,
      `"${cell}${separator}"`,
      `${cell}"`,
      ` ${cell} `,
      word,
      '',
      `${cell}${separator}${cell}`,
      `"${cell}"x`,
      `"${word}""${cell}"`,
    ]);
  return all.map((cell, i) => (i === at ? change(cell) : cell)).join(separator);
}

type Rows = readonly (readonly string[])[];

/**
 * The rows of a text by the definition (RFC 4180, with the separator given and one kind of line end: the first that stands
 * outside quotes), or null where quotes stand where none may. Lines without any character are no rows.
 */
function rowsOf(text: string, separator: string): Rows | null {
  if (text.includes('\0')) return null;
  const lineEnd = firstLineEnd(text, separator);
  const rows: string[][] = [];
  let at = 0;
  while (at < text.length) {
    const row: string[] = [];
    for (;;) {
      let cell = '';
      if (text[at] === '"') {
        at += 1;
        for (;;) {
          const end = text.indexOf('"', at);
          if (end < 0) return null;
          cell += text.slice(at, end);
          at = end + 1;
          if (text[at] !== '"') break;
          cell += '"';
          at += 1;
        }
        const ends = at >= text.length || text.startsWith(separator, at) || text.startsWith(lineEnd, at);
        if (!ends) return null;
      } else {
        const start = at;
        while (at < text.length && !text.startsWith(separator, at) && !text.startsWith(lineEnd, at)) {
          if (text[at] === '"') return null;
          at += 1;
        }
        cell = text.slice(start, at);
      }
      row.push(cell);
      if (text.startsWith(separator, at) && at < text.length) {
        at += separator.length;
        continue;
      }
      at += at < text.length ? lineEnd.length : 0;
      break;
    }
    if (row.length > 1 || row[0] !== '') rows.push(row);
  }
  return rows;
}

function firstLineEnd(text: string, separator: string): string {
  let isQuoted = false;
  for (let at = 0; at < text.length; at++) {
    // A quote opens a cell at its beginning only.
    if (text[at] === '"' && (isQuoted || at === 0 || text[at - 1] === separator)) isQuoted = !isQuoted;
    else if (!isQuoted && text[at] === '\n') return '\n';
    else if (!isQuoted && text[at] === '\r') return text[at + 1] === '\n' ? '\r\n' : '\r';
  }
  return '\n';
}

function decoded(bytes: Uint8Array, encoding: string | undefined): string {
  const text = encoding === undefined ? Buffer.from(bytes).toString() : iconv.decode(Buffer.from(bytes), encoding);
  return text.startsWith('\ufeff') ? text.slice(1) : text;
}

export const mailingTarget: Target = {
  name: 'mailing',
  about: 'mailing files: encodings, separators, quotes; the rows read are those of a second reader, cell by cell',
  words: ['host'],
  maxBytes: 70_000,
  mutations: [mutateCsv, mutateCsv, mutateCsv],
  open: (folder) => {
    const file = joinPath(folder, 'list.csv');
    return {
      seeds: seeds(),
      run: async (input) => {
        const encoding = ENCODINGS[(input[0] ?? 0) % ENCODINGS.length];
        const bytes = input.subarray(1);
        writeFileSync(file, bytes);
        const rows: (readonly string[])[] = [];
        let header: readonly string[] = [];
        const result = await readMailing(file, encoding, {
          header: ({ names }) => {
            header = names;
          },
          row: (read, row) => {
            must(row === rows.length + 1, 'rows are not numbered in order');
            rows.push([...read]);
          },
        });
        if (!result.ok) return result.rejection.code;
        must(result.value.rows === rows.length, 'another number of rows than were told');
        const text = decoded(bytes, encoding);
        const readings = [',', ';', '\t'].map((separator) => rowsOf(text, separator));
        const expected = readings.find((reading) => JSON.stringify(reading?.[0]) === JSON.stringify(header));
        must(expected !== undefined && expected !== null, 'read, although a second reader finds no such header');
        const said = expected.slice(1).filter((row) => row.some((cell) => cell !== ''));
        must(said.length === rows.length, 'a row was dropped, or made up');
        must(JSON.stringify(said) === JSON.stringify(rows), 'a cell was altered');
        return ACCEPTED;
      },
    };
  },
};

export const stagingTarget: Target = {
  name: 'staging',
  about: 'mailings to chunks: each row staged or listed as bad; what is staged costs what its rows cost',
  words: ['host', 'tariff'],
  maxBytes: 8_192,
  mutations: [mutateCsv, mutateNumbers],
  open: (folder) => {
    const store = openHostStore(joinPath(folder, 'host.sqlite'));
    must(store.ok, 'the store does not open');
    const journal = new Journal(store.value);
    const file = joinPath(folder, 'list.csv');
    const [shipped] = SHIPPED_TARIFFS;
    must(shipped !== undefined, 'no tariff is shipped');
    return {
      seeds: seeds(),
      close: () => {
        store.value.close();
      },
      run: async (input) => {
        const bytes = input.subarray(1);
        writeFileSync(file, bytes);
        const run = journal.runs.begin('job', file, new Uint8Array(32));
        try {
          const staging = new Staging(journal, {
            run,
            job: 'job',
            tariff: shipped.tariff,
            customers: 'many',
            mailingDate: '2026-11-22',
            maxPiecesPerBatch: 3,
            maxCellsPerBatch: 4,
          });
          const read = await readMailing(file, undefined, {
            header: (columns) => {
              staging.header(columns);
            },
            row: (cellsOfRow, row) => {
              staging.row(cellsOfRow, row);
            },
          });
          if (!read.ok) return read.rejection.code;
          const staged = await staging.finish(() => Promise.resolve());
          const bad = new Set([...journal.runs.badRows(run)].map(({ row }) => row)).size;
          must(
            staged.pieces + bad + staged.frankedBefore === read.value.rows,
            'a row is neither staged nor listed as bad',
          );
          let postageMills = 0n;
          let pieces = 0;
          for (const { cells: cellsOfGroup } of staged.groups) {
            for (const [cell, count] of cellsOfGroup) {
              pieces += count;
              postageMills += BigInt(count) * (staged.cells[cell]?.affixedMills ?? -1n);
            }
          }
          must(pieces === staged.pieces, 'groups do not add up to the pieces');
          must(postageMills === staged.postageMills, 'the postage is not the sum of the prices');
          return bad === 0 ? ACCEPTED : 'bad rows';
        } finally {
          journal.runs.drop(run);
        }
      },
    };
  },
};
