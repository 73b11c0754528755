import { type DeviceId, unhex } from '@countermark/protocol/id';
import {
  indiciumBytes,
  indiciumFrame,
  indiciumInputBytes,
  LAYOUTS,
  writeIndiciumInput,
} from '@countermark/protocol/layout';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { createMergeFile } from './merge-file.ts';

const USD = { code: 'USD', exponent: 3 };

function payload(specimen: boolean): Uint8Array {
  const layout = LAYOUTS.mac;
  const input = new Uint8Array(indiciumInputBytes(layout));
  const frame = indiciumFrame(layout, specimen, 'psd_00112233445566aa' as DeviceId, 1, '2026-11-23');
  writeIndiciumInput(input, 0, frame, 4711, 740n, 10n ** 9n);
  return indiciumBytes(input, new Uint8Array(layout.authenticatorBytes).fill(7));
}

/** Reads RFC 4180 back, character by character. */
function parse(text: string): string[][] {
  const rows: string[][] = [[]];
  let cell = '';
  let quoted = false;
  for (let i = 0; i < text.length; i++) {
    const c = text[i] as string;
    if (quoted) {
      if (c !== '"') cell += c;
      else if (text[i + 1] === '"') cell += text[++i] as string;
      else quoted = false;
    } else if (c === '"') quoted = true;
    else if (c === ',' || (c === '\r' && text[i + 1] === '\n')) {
      rows.at(-1)?.push(cell);
      cell = '';
      if (c === '\r') {
        i++;
        rows.push([]);
      }
    } else cell += c;
  }
  rows.pop();
  return rows;
}

const cells = fc.array(
  fc.oneof(
    fc.string(),
    fc.string({ unit: fc.constantFrom('"', ',', '\r', '\n', '=', '+', '-', '@', '\t', ';', 'é', "'", 'a') }),
  ),
  { minLength: 1, maxLength: 6 },
);

describe('a merge file', () => {
  test("names our columns behind the mailer's, and says what the indicium says", () => {
    const merge = createMergeFile(['name', 'zip'], USD);
    expect(merge.header()).toBe('name,zip,piece_number,postage,currency,mark,payload\r\n');
    const [row] = parse(merge.row(['Zoë "Z", Ltd.', '01234'], payload(true)));
    expect(row?.slice(0, 6)).toEqual([
      'Zoë "Z", Ltd.',
      '01234',
      '4711',
      '0.740',
      'USD',
      'SPECIMEN - NOT VALID POSTAGE',
    ]);
    expect(unhex(row?.[6] ?? '')).toEqual(payload(true));
  });

  test('marks nothing where the device is certified', () => {
    expect(parse(createMergeFile(['a'], USD).row(['x'], payload(false)))[0]?.[4]).toBe('');
  });

  test('gives every cell back, with an apostrophe exactly where a spreadsheet would run it', () => {
    fc.assert(
      fc.property(cells, (row) => {
        const merge = createMergeFile(
          row.map((_, i) => `c${i}`),
          USD,
        );
        const [read, ...others] = parse(merge.row(row, payload(true)));
        expect(others).toEqual([]);
        expect(read).toHaveLength(row.length + 5);
        for (const [i, cell] of row.entries()) {
          const dangerous = ['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠'].includes(cell[0] ?? '');
          expect(read?.[i]).toBe(dangerous ? `'${cell}` : cell);
        }
      }),
    );
  });

  test('guards column names too', () => {
    expect(createMergeFile(['=cmd', 'a,b'], USD).header().startsWith(`'=cmd,"a,b",piece_number`)).toBe(true);
  });

  test("keeps the mailer's columns where names meet, also in a merge of a merge", () => {
    const columns = ['payload', 'countermark_payload', 'postage'];
    expect(parse(createMergeFile(columns, USD).header())[0]).toEqual([
      ...columns,
      'piece_number',
      'countermark_postage',
      'currency',
      'mark',
      'countermark_countermark_payload',
    ]);
  });

  test('refuses a row of another width and bytes that are no indicium', () => {
    const merge = createMergeFile(['a', 'b'], USD);
    expect(() => merge.row(['x'], payload(true))).toThrow(TypeError);
    expect(() => merge.row(['x', 'y'], new Uint8Array(60))).toThrow(TypeError);
  });
});
