/**
 * Reading a mailing's file: bytes to rows of cells, with the header understood.
 *
 * Guarantees: memory does not grow with the file; bytes that are not of the encoding are named by offset and line; a line over
 * 64 KiB is refused before it is parsed; the separator (`,`, `;` or tab) is taken from the header; a byte order mark is
 * skipped; the digest is of exactly the bytes that were read.
 * Does not judge what stands in the cells (`staging.ts`).
 */
import { isUtf8 } from 'node:buffer';
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { fileErrorText } from '@countermark/node-platform/fault';
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { type WeightUnit, weightUnitOf } from '@countermark/tariff/weight';
import { parse, type Parser } from 'csv-parse';

/** The longest line, without its end. */
export const LINE_BYTES_MAX = 64 * 1024;
const READ_BYTES = 128 * 1024;

/** Where the columns that we read stand; null where the file has none. */
export type MailingColumns = {
  readonly names: readonly string[];
  readonly pieceRef: number | null;
  readonly customer: number | null;
  readonly product: number;
  readonly level: number;
  readonly weight: number;
  readonly weightUnit: WeightUnit;
  readonly zip: number;
  readonly entry: number | null;
  readonly mailingDate: number | null;
};

/** Takes what is read. A row's number counts rows below the header from 1, as labels do. */
export type MailingReader = {
  header(columns: MailingColumns): void;
  row(cells: readonly string[], row: number): void;
  /** Called between two pieces of the file; work that takes long belongs here. */
  pause?(): Promise<void> | void;
};

const ALIASES: Readonly<Record<string, readonly string[]>> = {
  piece_ref: ['piece_ref', 'piece_reference', 'reference', 'ref', 'piece_id'],
  customer: ['customer', 'customer_id', 'client'],
  product: ['product', 'mail_product'],
  level: ['level', 'presort_level', 'presort'],
  zip: ['zip', 'zip_code', 'zipcode', 'postal_code', 'postcode'],
  entry: ['entry', 'entry_point'],
  mailing_date: ['mailing_date', 'date_of_mailing'],
};

/**
 * Reads the file, telling header and rows as they come.
 * Rejections: `file-unreadable`, `file-encoding`, `file-empty`, `file-columns`, `file-structure`; `usage` for an unknown encoding.
 * @returns rows read, and SHA-256 of the file.
 */
export async function readMailing(
  file: string,
  encoding: string | undefined,
  reader: MailingReader,
): Promise<Result<{ readonly rows: number; readonly digest: Uint8Array }>> {
  const decoder = await decoderFor(encoding);
  if (decoder === null) {
    const reason = `${encoding ?? ''} is no encoding that is known here; windows-1252 and utf-16le are, for example.`;
    return refuse(rejection('usage', { reason }));
  }
  const hash = createHash('sha256');
  const lines = new LineLengths();
  const parsing = new RowParser(file, reader);
  try {
    for await (const chunk of createReadStream(file, { highWaterMark: READ_BYTES }) as AsyncIterable<Buffer>) {
      hash.update(chunk);
      const decoded = decoder.push(chunk);
      if (!decoded.ok) return refuse(wrongEncoding(file, encoding, decoded));
      const wrong = lines.push(decoded.bytes);
      if (wrong !== null) return refuse(wrong.zero ? zeroByte(file, wrong.line) : tooLong(file, wrong.line));
      const stopped = await parsing.push(decoded.bytes);
      if (stopped !== null) return stopped;
      await reader.pause?.();
    }
    const last = decoder.end();
    if (!last.ok) return refuse(wrongEncoding(file, encoding, last));
    const stopped = (await parsing.push(last.bytes)) ?? (await parsing.end());
    if (stopped !== null) return stopped;
  } catch (error) {
    const code = (error as { code?: unknown }).code;
    if (typeof code !== 'string' || !/^E[A-Z]+$/.test(code)) throw error;
    return refuse(rejection('file-unreadable', { file, reason: fileErrorText(error) }));
  } finally {
    parsing.destroy();
  }
  if (parsing.rows === 0) return refuse(rejection('file-empty', { file }));
  return accept({ rows: parsing.rows, digest: hash.digest() });
}

/** SHA-256 of a file. Rejection: `file-unreadable`. */
export async function fileDigest(file: string): Promise<Result<Uint8Array>> {
  const hash = createHash('sha256');
  try {
    for await (const chunk of createReadStream(file, { highWaterMark: 1 << 20 })) hash.update(chunk as Buffer);
  } catch (error) {
    return refuse(rejection('file-unreadable', { file, reason: fileErrorText(error) }));
  }
  return accept(hash.digest());
}

function wrongEncoding(file: string, encoding: string | undefined, wrong: { offset: number; line: number }) {
  return rejection('file-encoding', { file, encoding: encoding ?? 'UTF-8', offset: wrong.offset, line: wrong.line });
}

function tooLong(file: string, line: number) {
  return rejection('file-structure', {
    file,
    line,
    reason: `it is longer than ${LINE_BYTES_MAX / 1024} KiB (perhaps a quote is not closed)`,
  });
}

/** No text holds one; the CSV library takes it for the end of what it reads. */
function zeroByte(file: string, line: number) {
  return rejection('file-structure', { file, line, reason: 'it holds a zero byte (perhaps the file is UTF-16)' });
}

/** Feeds the CSV parser and turns its errors into rejections. */
class RowParser {
  rows = 0;
  readonly #file: string;
  readonly #reader: MailingReader;
  #parser: Parser | undefined;
  #failure: Error | undefined;
  #columns: MailingColumns | undefined;
  #refused: { readonly ok: false; readonly rejection: ReturnType<typeof rejection> } | null = null;

  constructor(file: string, reader: MailingReader) {
    this.#file = file;
    this.#reader = reader;
  }

  /** Takes bytes in UTF-8; returns why it cannot go on, or null. */
  async push(bytes: Buffer) {
    if (bytes.length === 0) return null;
    const parser = (this.#parser ??= this.#open(bytes));
    await new Promise<void>((resolve) => {
      parser.write(bytes, () => {
        resolve();
      });
    });
    return this.#outcome();
  }

  async end() {
    const parser = this.#parser;
    if (parser === undefined) return null;
    await new Promise<void>((resolve) => {
      parser.once('close', resolve);
      parser.end();
    });
    return this.#outcome();
  }

  destroy(): void {
    this.#parser?.destroy();
  }

  #open(first: Buffer): Parser {
    const parser = parse({
      delimiter: delimiterOf(first),
      bom: true,
      max_record_size: LINE_BYTES_MAX,
      skip_empty_lines: true,
      relax_column_count: true,
      on_record: (cells: unknown) => {
        this.#record(cells as string[]);
        return null;
      },
    });
    parser.on('error', (error) => {
      this.#failure = error;
    });
    parser.resume();
    return parser;
  }

  #record(cells: string[]): void {
    if (this.#refused !== null) return;
    if (this.#columns === undefined) {
      const columns = columnsOf(this.#file, cells);
      if (columns.ok) {
        this.#columns = columns.value;
        this.#reader.header(columns.value);
      } else {
        this.#refused = columns;
      }
      return;
    }
    // A line of separators only, as spreadsheets leave them at the end.
    if (cells.every((cell) => cell === '')) return;
    this.rows += 1;
    this.#reader.row(cells, this.rows);
  }

  #outcome() {
    if (this.#refused !== null) return this.#refused;
    if (this.#failure === undefined) return null;
    const { code, lines } = this.#failure as Error & { readonly code?: unknown; readonly lines?: unknown };
    if (typeof code !== 'string' || !/^(CSV_|INVALID_OPENING_QUOTE$)/.test(code)) throw this.#failure;
    const line = typeof lines === 'number' ? lines : 0;
    if (code === 'CSV_MAX_RECORD_SIZE') return refuse(tooLong(this.#file, line));
    return refuse(rejection('file-structure', { file: this.#file, line, reason: structureReason(code) }));
  }
}

function structureReason(code: string): string {
  if (code === 'CSV_QUOTE_NOT_CLOSED') return 'a quote is opened and never closed';
  if (code === 'CSV_INVALID_CLOSING_QUOTE') return 'something follows a closing quote';
  if (code === 'INVALID_OPENING_QUOTE') return 'a quote stands in the middle of a field';
  return code.replace(/^CSV_/, '').toLowerCase().replaceAll('_', ' ');
}

/** The separator that stands most often, outside quotes, in the first line. */
function delimiterOf(bytes: Buffer): ',' | ';' | '\t' {
  const counts = { ',': 0, ';': 0, '\t': 0 };
  let quoted = false;
  for (const byte of bytes) {
    const character = String.fromCharCode(byte);
    if (character === '"') quoted = !quoted;
    else if (!quoted && (character === '\n' || character === '\r')) break;
    else if (!quoted && character in counts) counts[character as ',']++;
  }
  if (counts[';'] > counts[','] && counts[';'] >= counts['\t']) return ';';
  return counts['\t'] > counts[','] ? '\t' : ',';
}

/** Finds our columns in the header. Rejection: `file-columns`. */
function columnsOf(file: string, names: readonly string[]): Result<MailingColumns> {
  const plain = names.map((name) =>
    name
      .trim()
      .toLowerCase()
      .replaceAll(/[()[\].]/g, ' ')
      .trim()
      .replaceAll(/[\s-]+/g, '_'),
  );
  const twice: string[] = [];
  const find = (column: string): number | null => {
    const found = plain.flatMap((name, i) => (ALIASES[column]?.includes(name) === true ? [i] : []));
    if (found.length > 1) twice.push(column);
    return found[0] ?? null;
  };
  const lacks = (column: string): Result<never> => refuse(rejection('file-columns', { file, column }));
  const weights = plain.flatMap((name, i) => {
    const unit = weightUnitOf(name);
    return unit === null ? [] : [{ i, unit }];
  });
  const product = find('product');
  const level = find('level');
  const zip = find('zip');
  const optional = {
    pieceRef: find('piece_ref'),
    customer: find('customer'),
    entry: find('entry'),
    mailingDate: find('mailing_date'),
  };
  if (weights.length > 1) twice.push('weight');
  if (twice.length > 0) {
    return refuse(
      rejection('file-structure', { file, line: 1, reason: `the column ${twice[0] ?? ''} stands there twice` }),
    );
  }
  if (product === null) return lacks('product');
  if (level === null) return lacks('level');
  const [weight] = weights;
  if (weight === undefined) {
    return lacks('weight_oz (or weight_lb, weight_g, weight_mg: the unit stands in the header)');
  }
  if (zip === null) return lacks('zip');
  return accept({ names, product, level, weight: weight.i, weightUnit: weight.unit, zip, ...optional });
}

type Decoded = { readonly ok: true; readonly bytes: Buffer } | { readonly ok: false; offset: number; line: number };
type Decoder = { push(chunk: Buffer): Decoded; end(): Decoded };

async function decoderFor(encoding: string | undefined): Promise<Decoder | null> {
  if (encoding === undefined || /^utf-?8$/i.test(encoding)) return new Utf8Check();
  const iconv = (await import('iconv-lite')).default;
  if (!iconv.encodingExists(encoding)) return null;
  const decoder = iconv.getDecoder(encoding);
  let offset = 0;
  let line = 1;
  const checked = (text: string): Decoded => {
    // Half a surrogate pair would become a replacement character in UTF-8.
    const bad = text.search(/[\ufffd\p{Surrogate}]/u);
    const before = bad < 0 ? text : text.slice(0, bad);
    line += before.split('\n').length - 1;
    if (bad >= 0) return { ok: false, offset: offset + iconv.encode(before, encoding).length, line };
    return { ok: true, bytes: Buffer.from(text, 'utf8') };
  };
  return {
    push: (chunk) => {
      const decoded = checked(decoder.write(chunk));
      offset += chunk.length;
      return decoded;
    },
    end: () => checked(decoder.end() ?? ''),
  };
}

/** Lets UTF-8 through unchanged, a character that two chunks share included, and finds the first byte that is none. */
class Utf8Check implements Decoder {
  #rest: Buffer = Buffer.alloc(0);
  #offset = 0;
  #line = 1;

  push(chunk: Buffer): Decoded {
    const joined = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk]);
    const whole = joined.length - unfinished(joined);
    const bytes = joined.subarray(0, whole);
    if (!isUtf8(bytes)) return this.#first(bytes);
    this.#rest = Buffer.from(joined.subarray(whole));
    this.#count(bytes);
    return { ok: true, bytes };
  }

  end(): Decoded {
    return this.#rest.length === 0 ? { ok: true, bytes: this.#rest } : this.#first(this.#rest);
  }

  #first(bytes: Buffer): Decoded {
    let good = 0;
    while (good < bytes.length) {
      const next = good + characterBytes(bytes[good] as number);
      if (next === good || next > bytes.length || !isUtf8(bytes.subarray(good, next))) break;
      good = next;
    }
    this.#count(bytes.subarray(0, good));
    return { ok: false, offset: this.#offset, line: this.#line };
  }

  #count(bytes: Buffer): void {
    this.#offset += bytes.length;
    for (let at = bytes.indexOf(10); at >= 0; at = bytes.indexOf(10, at + 1)) this.#line += 1;
  }
}

function characterBytes(lead: number): number {
  if (lead < 0x80) return 1;
  if (lead < 0xc2) return 0;
  if (lead < 0xe0) return 2;
  return lead < 0xf0 ? 3 : lead < 0xf5 ? 4 : 0;
}

/** How many bytes at the end begin a character without ending it. */
function unfinished(bytes: Buffer): number {
  for (let back = 1; back <= Math.min(3, bytes.length); back++) {
    const byte = bytes[bytes.length - back] as number;
    if (byte < 0x80) return 0;
    if (byte >= 0xc0) return characterBytes(byte) > back ? back : 0;
  }
  return 0;
}

/** Finds the first line that is too long or holds a zero byte, across chunks. */
class LineLengths {
  #line = 1;
  #length = 0;

  push(bytes: Buffer): { readonly line: number; readonly zero: boolean } | null {
    const zero = bytes.indexOf(0);
    let start = 0;
    for (let at = bytes.indexOf(10); at >= 0; at = bytes.indexOf(10, start)) {
      if (zero >= 0 && zero < at) return { line: this.#line, zero: true };
      if (this.#length + at - start > LINE_BYTES_MAX) return { line: this.#line, zero: false };
      this.#length = 0;
      this.#line += 1;
      start = at + 1;
    }
    if (zero >= 0) return { line: this.#line, zero: true };
    this.#length += bytes.length - start;
    return this.#length > LINE_BYTES_MAX ? { line: this.#line, zero: false } : null;
  }
}
