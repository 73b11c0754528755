/**
 * Mailings that cannot be franked as they are, given to the command line as a user gives them: exit code 3, the row, the field,
 * the value and the cure in FILE.errors.csv (or the line in the message), and not one piece franked. Then the ways out: the
 * good rows alone, and the corrected file under the same job, of which only the rest is franked.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { HOST, type JobReport } from '@countermark/protocol/interfaces/host';
import { parse } from 'csv-parse/sync';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { expectAccounted } from '../accounting.ts';
import { type Line, startInstallation, type TestInstallation } from '../installation.ts';
import { countermark, type Ended } from '../line-command.ts';

const HEADER = 'piece_ref,customer,product,level,weight_oz,name,address,city,state,zip';
const GOOD = [
  'A-1,alder-press,usps-fcm-letter,5-digit,0.95,Rosa Haskvane,456 Cobalt Kettle Rd,Boston,MA,02108',
  'A-2,alder-press,usps-fcm-letter,aadc,1.4,Inés Dunthenfold,282 Lower Thimble St,Dayton,OH,45402-1234',
  'B-1,birch-mutual,usps-fcm-flat,3-digit,3.2,Jonas Ivorgarth,747 Tinderbox Ln,Reno,NV,89501',
];

let installation: TestInstallation;
let line: Line;
let files = 0;

beforeAll(async () => {
  installation = await startInstallation();
  line = await installation.line({ licensee: 'lic_bad-files', customers: 'many', pages: false });
});
afterAll(async () => {
  await installation.stop();
});

describe('A file with a bad row among good ones', () => {
  type BadRow = { readonly row: string; readonly field: string; readonly value: string; readonly cure: RegExp };
  const changed = (field: number, value: string): string => {
    const cells = (GOOD[1] as string).split(',');
    cells[field] = value;
    return cells.join(',');
  };
  const ROWS: readonly (readonly [string, BadRow])[] = [
    ['no weight', { row: changed(4, ''), field: 'weight_oz', value: '', cure: /\S/ }],
    ['a weight that is no number', { row: changed(4, 'heavy'), field: 'weight_oz', value: 'heavy', cure: /\d/ }],
    ['a weight below zero', { row: changed(4, '-1'), field: 'weight_oz', value: "'-1", cure: /\S/ }],
    ['a weight beyond the product', { row: changed(4, '40'), field: 'weight_oz', value: '40', cure: /\d/ }],
    ['a ZIP that lost its leading zero', { row: changed(9, '2108'), field: 'zip', value: '2108', cure: /02108/ }],
    ['a ZIP+4 that lost it', { row: changed(9, '2108-1234'), field: 'zip', value: '2108-1234', cure: /02108/ }],
    ['a ZIP of a prefix that is not in use', { row: changed(9, '00001'), field: 'zip', value: '00001', cure: /\S/ }],
    ['no ZIP', { row: changed(9, ''), field: 'zip', value: '', cure: /\S/ }],
    [
      'a product that no tariff has',
      { row: changed(2, 'usps-fcm-parcel'), field: 'product', value: 'usps-fcm-parcel', cure: /usps-fcm-letter/ },
    ],
    [
      'a level that the product does not have',
      { row: changed(3, '3-digit'), field: 'level', value: '3-digit', cure: /aadc/ },
    ],
    [
      'a customer that cannot be one',
      { row: changed(1, 'Alder Press & Co'), field: 'customer', value: 'Alder Press & Co', cure: /lower-case/ },
    ],
    ['a key that stood before', { row: changed(0, 'A-1'), field: 'piece_ref', value: 'A-1', cure: /twice/ }],
    ['a field too many', { row: `${GOOD[1] as string},more`, field: '(row)', value: '11 fields', cure: /quotes/ }],
    [
      'a formula where a product belongs',
      {
        row: changed(2, '=HYPERLINK("http://x")').replaceAll('"', "'"),
        field: 'product',
        value: "'=HYPERLINK('http://x')",
        cure: /\S/,
      },
    ],
  ];

  it('names row, field, value and cure of each, and franks nothing', async () => {
    const file = written([HEADER, GOOD[0] as string, ...ROWS.map(([, { row }]) => row), GOOD[2] as string].join('\n'));
    const ended = await frankCommand(file, '--job', 'all-bad');
    expect(ended.exit).toBe(3);
    expect(ended.json.error?.code).toBe('file-rows');
    expect(ended.stderr).toContain(`${file}.errors.csv`);
    const told = errorsOf(file);
    for (const [i, [what, { field, value, cure }]] of ROWS.entries()) {
      const found = told.filter((error) => error.row === String(i + 2));
      expect(found.map((error) => ({ what, field: error.field, value: error.value }))).toEqual([
        { what, field, value },
      ]);
      expect(found[0]?.cure).toMatch(cure);
    }
    expect(told.length).toBe(ROWS.length);
    await expectNothingFranked();
  });

  it('tells the first of them on the screen', async () => {
    const file = written([HEADER, GOOD[0] as string, changed(9, '2108')].join('\n'));
    const ended = await frankCommand(file);
    expect(ended.stderr).toMatch(/1 of 2 rows/);
    expect(ended.stderr).toMatch(/row 2, zip: 2108/);
    expect(ended.stderr).toMatch(/--accept-good/);
    await expectNothingFranked();
  });

  it('also where it is asked only what franking would cost', async () => {
    const file = written([HEADER, GOOD[0] as string, changed(9, '2108')].join('\n'));
    const ended = await frankCommand(file, '--dry-run');
    expect([ended.exit, ended.json.error?.code]).toEqual([3, 'file-rows']);
    await expectNothingFranked();
  });
});

describe('A file that is not a mailing at all', () => {
  const without = (column: string): string => {
    const at = HEADER.split(',').indexOf(column);
    return [HEADER, ...GOOD]
      .map((row) =>
        row
          .split(',')
          .filter((_, i) => i !== at)
          .join(','),
      )
      .join('\n');
  };
  const latin1 = Buffer.from([HEADER, ...GOOD].join('\n'), 'latin1');
  const FILES: readonly (readonly [string, string | Buffer, string, RegExp])[] = [
    ['without the column product', without('product'), 'file-columns', /product/],
    ['without the column level', without('level'), 'file-columns', /level/],
    ['without a weight', without('weight_oz'), 'file-columns', /weight_oz/],
    ['without the ZIP', without('zip'), 'file-columns', /zip/],
    [
      'with a column twice',
      [`${HEADER},zip`, ...GOOD.map((row) => `${row},02108`)].join('\n'),
      'file-structure',
      /zip/,
    ],
    ['in another encoding', latin1, 'file-encoding', new RegExp(`byte ${latin1.indexOf(0xe9)} in line 3.*--encoding`)],
    ['with no rows', `${HEADER}\n`, 'file-empty', /template/],
    ['with nothing', '', 'file-empty', /template/],
    [
      'with a line over 64 KiB',
      [HEADER, GOOD[0], `B-9,${'x'.repeat(65 * 1024)}`].join('\n'),
      'file-structure',
      /line 3.*64 KiB/,
    ],
    [
      'with a quote that is never closed',
      [HEADER, `"${GOOD[0] as string}`, ...GOOD].join('\n'),
      'file-structure',
      /line/,
    ],
  ];

  it.each(FILES)('%s: is refused with what is wrong and what to do', async (_, content, code, words) => {
    const file = written(content);
    const ended = await frankCommand(file);
    expect([ended.exit, ended.json.error?.code]).toEqual([3, code]);
    expect(ended.stderr).toMatch(words);
    expect(existsSync(`${file}.errors.csv`)).toBe(false);
    await expectNothingFranked();
  });

  it('that is not there, or a folder: is refused', async () => {
    for (const file of [join(installation.folder, 'nowhere.csv'), installation.folder]) {
      const ended = await frankCommand(file);
      expect([ended.exit, ended.json.error?.code]).toEqual([3, 'file-unreadable']);
    }
    await expectNothingFranked();
  });
});

describe('The ways out', () => {
  it('--encoding reads another encoding, ; and a byte order mark are taken as they are', async () => {
    const semicolons = [HEADER, ...GOOD].join('\r\n').replaceAll(',', ';');
    const named = written(Buffer.from(semicolons, 'latin1'));
    const ended = await frankCommand(named, '--encoding', 'windows-1252', '--dry-run');
    expect([ended.exit, ended.json.pieces]).toEqual([0, 3]);
    const marked = await frankCommand(written(`\uFEFF${semicolons}`), '--dry-run');
    expect([marked.exit, marked.json.pieces]).toEqual([0, 3]);
    await expectNothingFranked();
  });

  it('--accept-good franks the good rows, and the corrected file under the same job only the rest', async () => {
    const bad = (GOOD[1] as string).replace('45402-1234', '5402');
    const file = written([HEADER, GOOD[0], bad, GOOD[2]].join('\n'));
    const good = await frankCommand(file, '--job', 'november', '--accept-good');
    expect([good.exit, good.json.pieces, good.json.rejectedRows]).toEqual([0, 2, 1]);
    expect(good.json.files?.errors).toBe(`${file}.errors.csv`);
    expect(errorsOf(file)).toMatchObject([{ row: '2', field: 'zip', value: '5402' }]);

    writeFileSync(file, [HEADER, ...GOOD].join('\n'));
    const rest = await frankCommand(file, '--job', 'november');
    expect([rest.exit, rest.json.pieces, rest.json.rejectedRows]).toEqual([0, 3, 0]);
    expect(existsSync(`${file}.errors.csv`)).toBe(false);
    const again = await frankCommand(file, '--job', 'november');
    expect([again.exit, again.json.pieces, again.json.resumed]).toEqual([0, 3, true]);

    const settled = await line.host.call(HOST.wait, { job: 'november', timeoutMs: 60_000 });
    expect(settled.outcome).toBe('settled');
    const report = settled.report as JobReport;
    expect(report.batches.map(({ customer, pieces }) => [customer, pieces])).toEqual([
      ['alder-press', 1],
      ['birch-mutual', 1],
      ['alder-press', 1],
    ]);
    await expectAccounted(line, report);
  });
});

async function expectNothingFranked(): Promise<void> {
  const { registers, batch } = await line.device();
  expect([registers.pieces, registers.ascendingMills, batch]).toEqual([0, 0n, undefined]);
}

function written(content: string | Buffer): string {
  const file = join(installation.folder, `mailing-${files++}.csv`);
  writeFileSync(file, content);
  return file;
}

function errorsOf(file: string): Record<string, string>[] {
  return parse<Record<string, string>>(readFileSync(`${file}.errors.csv`, 'utf8'), { columns: true });
}

function frankCommand(...args: string[]): Promise<Ended> {
  return countermark(line, 'batch', 'frank', ...args);
}
