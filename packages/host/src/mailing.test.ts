import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { describeRejection } from '@countermark/protocol/rejection';
import { LINE_BYTES_MAX, type MailingColumns, readMailing } from './mailing.ts';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'mailing-'));
});
afterAll(() => {
  rmSync(folder, { recursive: true, force: true });
});

const HEADER = 'piece_ref,customer,product,level,weight_oz,zip';
const ROW = 'a-1,alder,usps-fcm-letter,5-digit,0.95,02108';

async function read(content: string | Buffer, encoding?: string) {
  const file = join(folder, 'list.csv');
  writeFileSync(file, content);
  const rows: (readonly string[])[] = [];
  let columns: MailingColumns | undefined;
  const result = await readMailing(file, encoding, {
    header: (header) => {
      columns = header;
    },
    row: (cells, row) => {
      expect(row).toBe(rows.length + 1);
      rows.push(cells);
    },
  });
  return { file, result, rows, columns };
}

/** Code, and the sentences that a person reads. */
async function refusal(content: string | Buffer, encoding?: string) {
  const { result, file } = await read(content, encoding);
  if (result.ok) throw new Error('It was read.');
  return { ...result.rejection, said: describeRejection(result.rejection).replaceAll(file, 'FILE') };
}

describe('a mailing is read', () => {
  test.each([
    ['commas', ','],
    ['semicolons', ';'],
    ['tabs', '\t'],
  ])('with %s, a byte order mark, and quotes', async (_name, separator) => {
    const line = (cells: readonly string[]) => cells.join(separator);
    const header = line(HEADER.split(','));
    const quoted = line(['"a;1"', 'alder', '"x ""y"" , z"', '5-digit', '0.95', '02108']);
    const { result, rows, columns } = await read(`\uFEFF${header}\r\n${quoted}\r\n\r\n${separator.repeat(5)}\r\n`);
    expect(result.ok && result.value.rows).toBe(1);
    expect(rows).toEqual([['a;1', 'alder', 'x "y" , z', '5-digit', '0.95', '02108']]);
    expect(columns).toMatchObject({
      pieceRef: 0,
      customer: 1,
      product: 2,
      level: 3,
      weight: 4,
      weightUnit: 'oz',
      zip: 5,
    });
  });

  test('under other names of its columns, in any order, with columns that it does not know', async () => {
    const { columns } = await read(`Name,Zip Code,Weight (lb),Presort Level,Product,Reference\nx,1,2,3,4,5\n`);
    expect(columns).toMatchObject({
      zip: 1,
      weight: 2,
      weightUnit: 'lb',
      level: 3,
      product: 4,
      pieceRef: 5,
      customer: null,
    });
  });

  test('in another encoding that was named', async () => {
    const content = Buffer.from(`${HEADER},name\n${ROW},M\xfcller\n`, 'latin1');
    const { rows } = await read(content, 'windows-1252');
    expect(rows[0]?.[6]).toBe('Müller');
  });

  test('whatever pieces the disk gives it in: the same rows, the same digest', async () => {
    const names = fc.array(fc.string({ unit: 'grapheme', maxLength: 40 }), { minLength: 1, maxLength: 40 });
    await fc.assert(
      fc.asyncProperty(names, async (texts) => {
        const cell = (text: string) => `"${text.replaceAll('"', '""')}"`;
        const { rows } = await read(`${HEADER},name\n${texts.map((text) => `${ROW},${cell(text)}\n`).join('')}`);
        expect(rows.map((row) => row[6])).toEqual(texts);
      }),
      { numRuns: 40 },
    );
  });
});

describe('a file that cannot be read is refused with its reason', () => {
  test('that is not there', async () => {
    const result = await readMailing(join(folder, 'none.csv'), undefined, {
      header: () => undefined,
      row: () => undefined,
    });
    expect(!result.ok && result.rejection).toMatchObject({
      code: 'file-unreadable',
      detail: { reason: 'there is no such file' },
    });
  });

  test('without rows, or empty', async () => {
    expect(await refusal(`${HEADER}\n`)).toMatchObject({ code: 'file-empty' });
    expect((await refusal('')).said).toMatch(/has no rows/);
  });

  test.each(['product', 'level', 'weight_oz', 'zip'])('without the column %s', async (column) => {
    const header = HEADER.split(',')
      .filter((name) => name !== column)
      .join(',');
    const { code, detail } = await refusal(`${header}\n${ROW}\n`);
    expect(code).toBe('file-columns');
    expect(detail.column).toContain(column);
  });

  test('whose weight has no unit', async () => {
    const { said } = await refusal(`${HEADER.replace('weight_oz', 'weight')}\n${ROW}\n`);
    expect(said).toContain('the unit stands in the header');
  });

  test('in a wrong encoding, with the byte and the line', async () => {
    const good = `${HEADER},name\n${ROW},Zoë\n`;
    const bad = Buffer.concat([Buffer.from(good), Buffer.from(`${ROW},M\xfcller\n`, 'latin1')]);
    const at = Buffer.byteLength(good) + Buffer.byteLength(`${ROW},M`);
    const { code, detail, said } = await refusal(bad);
    expect([code, detail.offset, detail.line]).toEqual(['file-encoding', at, 3]);
    expect(said).toMatch(/--encoding/);
  });

  test('in a wrong encoding far behind, where the disk gives it in pieces', async () => {
    const good = `${HEADER},name\n${`${ROW},Zoë\n`.repeat(9_000)}`;
    const { detail } = await refusal(Buffer.concat([Buffer.from(good), Buffer.from([0xff])]));
    expect([detail.offset, detail.line]).toEqual([Buffer.byteLength(good), 9_002]);
  });

  test('that ends within a character', async () => {
    const good = `${HEADER}\n`;
    expect(await refusal(Buffer.concat([Buffer.from(good), Buffer.from([0xc3])]))).toMatchObject({
      code: 'file-encoding',
      detail: { offset: good.length },
    });
  });

  test('in an encoding that nobody knows, which is no fault of the file', async () => {
    expect(await refusal(`${HEADER}\n${ROW}\n`, 'klingon')).toMatchObject({
      code: 'usage',
      said: expect.stringContaining('klingon is no encoding that is known here'),
    });
  });

  test('in UTF-16, which is the first byte', async () => {
    expect(await refusal(Buffer.from(`\uFEFF${HEADER}\n${ROW}\n`, 'utf16le'))).toMatchObject({
      code: 'file-encoding',
      detail: { offset: 0, line: 1 },
    });
  });

  test('with half a surrogate pair in UTF-16', async () => {
    const bytes = Buffer.concat([Buffer.from(`${HEADER}\na-`, 'utf16le'), Buffer.of(0x30, 0xdf)]);
    const { code, detail } = await refusal(bytes, 'utf-16le');
    expect([code, detail.line]).toEqual(['file-encoding', 2]);
  });

  test('with a line over 64 KiB', async () => {
    const { code, detail } = await refusal(`${HEADER}\n${ROW}\n${'x'.repeat(LINE_BYTES_MAX + 1)}\n`);
    expect([code, detail.line]).toEqual(['file-structure', 3]);
  });

  test('with a quote that is never closed', async () => {
    expect(await refusal(`${HEADER}\n"a-1,alder\n${ROW}\n`)).toMatchObject({ code: 'file-structure' });
    const { said } = await refusal(`${HEADER}\n"a-1,alder\n${`${ROW}\n`.repeat(3_000)}`);
    expect(said).toMatch(/longer than 64 KiB|never closed/);
  });

  test('with a quote in the middle of a field', async () => {
    const { code, detail, said } = await refusal(`${HEADER}\n${ROW}\na-2,alder 12" x,p,l,1,02108\n`);
    expect([code, detail.line]).toEqual(['file-structure', 3]);
    expect(said).toContain('a quote stands in the middle of a field');
  });

  test('with a zero byte, also behind a closing quote', async () => {
    const { code, detail, said } = await refusal(`${HEADER}\n"a-1"\0${ROW}\n`);
    expect([code, detail.line]).toEqual(['file-structure', 2]);
    expect(said).toContain('UTF-16');
    expect(await refusal(`${HEADER}\n${ROW}\n\0`)).toMatchObject({ code: 'file-structure', detail: { line: 3 } });
  });

  test('with a column twice', async () => {
    expect(await refusal(`${HEADER},zip_code\n${ROW},1\n`)).toMatchObject({
      code: 'file-structure',
      detail: { line: 1 },
    });
  });
});
