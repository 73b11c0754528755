import { PassThrough, Writable } from 'node:stream';
import {
  indiciumBytes,
  indiciumFrame,
  indiciumInputBytes,
  LAYOUTS,
  MAX_INDICIUM_POSTAGE_MILLS,
  writeIndiciumInput,
} from '@countermark/protocol/layout';
import type { DeviceId } from '@countermark/protocol/id';
import { describe, expect, test } from 'vitest';
import type { LabelPiece } from './label.ts';
import { createPages, type Pages, type PagesOptions } from './page.ts';

const DEVICE = 'psd_00112233445566aa' as DeviceId;
const BATCH = { batch: `bat_${'ab'.repeat(16)}`, customer: 'orchard-books', product: 'First-Class letters' };
const OPTIONS: PagesOptions = {
  title: 'Autumn mailing',
  sheet: 'letter',
  currency: { code: 'USD', exponent: 3 },
  createdAt: new Date('2026-11-22T10:00:00Z'),
  compress: false,
};

function piece(number: number, postageMills: bigint, specimen = true, rest: Partial<LabelPiece> = {}): LabelPiece {
  const layout = LAYOUTS.signature;
  const input = new Uint8Array(indiciumInputBytes(layout));
  writeIndiciumInput(
    input,
    0,
    indiciumFrame(layout, specimen, DEVICE, 1, '2026-11-23'),
    number,
    postageMills,
    10n ** 9n,
  );
  const payload = indiciumBytes(input, new Uint8Array(layout.authenticatorBytes).fill(number));
  return { payload, level: '5-digit', row: number, ...rest };
}

/** The document that `draw` makes, as Latin-1 text. */
async function drawn(draw: (pages: Pages) => Promise<void>, options: Partial<PagesOptions> = {}): Promise<string> {
  const chunks: Buffer[] = [];
  const out = new Writable({
    write(chunk: Buffer, _encoding, done) {
      chunks.push(chunk);
      setImmediate(done);
    },
  });
  const pages = createPages(out, { ...OPTIONS, ...options });
  await draw(pages);
  await pages.end();
  expect(out.writableFinished).toBe(true);
  return Buffer.concat(chunks).toString('latin1');
}

const count = (text: string, part: string): number => text.split(part).length - 1;

async function writeAll(pages: Pages, pieces: readonly LabelPiece[]): Promise<void> {
  for (const one of pieces) await pages.write(one);
}

describe('the clear text of a label', () => {
  test('says what the indicium says', async () => {
    const text = await drawn(async (pages) => {
      await pages.openBatch(BATCH);
      await pages.write(piece(4711, 740n, true, { row: 12, addressee: 'Ms. Zoë (5) \\' }));
    });
    for (const said of [
      '(USD 0.740)',
      '(2026-11-23)',
      `(${DEVICE})`,
      '(Piece 4711)',
      `(${BATCH.batch})`,
      '(5-digit)',
    ]) {
      expect(text).toContain(said);
    }
    expect(text).toContain('(Row 12  orchard-books)');
    expect(text).toContain('(Ms. Zo\xeb \\(5\\) \\\\)');
  });

  test('cannot be left: what a list holds never becomes drawing commands', async () => {
    const text = await drawn(async (pages) => {
      await pages.openBatch({ ...BATCH, customer: ') Tj ET 0 0 9 9 re f (' });
      await pages.write(piece(1, 740n, true, { addressee: 'a) Tj\nET (', level: '\\' }));
    });
    expect(text).not.toContain('orchard-books');
    expect(text).toContain('(\\) Tj ET 0 0 9 9 re f \\()');
    expect(text).toContain('(a\\) Tj ET \\()');
    expect(text).toContain('(\\\\)');
  });

  test('never cuts an amount, however long', async () => {
    const text = await drawn(async (pages) => {
      await pages.openBatch(BATCH);
      await pages.write(piece(1, MAX_INDICIUM_POSTAGE_MILLS));
    });
    // On the label, and in the batch's totals.
    expect(count(text, '(USD 4,294,967.295)')).toBe(2);
  });

  test('says when a label is a reprint', async () => {
    const text = await drawn(async (pages) => {
      await pages.openBatch(BATCH);
      await writeAll(pages, [piece(1, 740n), piece(2, 740n, true, { reprint: true })]);
    });
    expect(text).toContain('(Piece 1)');
    expect(text).toContain('(Piece 2 \\(reprint\\))');
  });
});

describe('the specimen mark', () => {
  test('stands twice on every label whose bytes say so, and in the header', async () => {
    const text = await drawn(async (pages) => {
      await pages.openBatch(BATCH);
      await writeAll(pages, [piece(1, 740n), piece(2, 740n)]);
    });
    expect(count(text, '(SPECIMEN)')).toBe(4);
    expect(count(text, '(NOT VALID POSTAGE)')).toBe(2);
    expect(count(text, '(SPECIMEN - NOT VALID POSTAGE)')).toBe(1);
    expect(text).not.toContain('METERED POSTAGE');
  });

  test('stands on no label whose bytes say that the device is certified', async () => {
    const text = await drawn(async (pages) => {
      await pages.openBatch(BATCH);
      await writeAll(pages, [piece(1, 740n, false), piece(2, 740n, false), piece(3, 740n, true)]);
    });
    expect(count(text, '(SPECIMEN)')).toBe(2);
    expect(count(text, '(METERED POSTAGE)')).toBe(2);
  });
});

describe('sheets', () => {
  test('reckon pieces and postage by sheet, batch and document', async () => {
    const text = await drawn(async (pages) => {
      await pages.openBatch({ ...BATCH, job: 'autumn' });
      await writeAll(
        pages,
        Array.from({ length: 20 }, (_, i) => piece(i + 1, 740n)),
      );
      await pages.openBatch({ ...BATCH, customer: 'river-bank' });
      await pages.write(piece(21, 1500n));
    });
    expect(text).toContain('/Count 3');
    expect(text).toContain('(This sheet: 18 pieces, USD 13.320)');
    expect(text).toContain('(This sheet: 2 pieces, USD 1.480)');
    expect(text).toContain('(Batch so far: 20 pieces, USD 14.800)');
    expect(text).toContain('(This sheet: 1 piece, USD 1.500)');
    expect(count(text, '(End of batch)')).toBe(2);
    expect(count(text, '(End of document)')).toBe(1);
    expect(text).toContain('(USD 16.300)');
    expect(text).toContain('(Job autumn)');
    for (const sheet of [1, 2, 3]) expect(text).toContain(`(Sheet ${sheet})`);
  });

  test('add up to what end() returns, a full last sheet included', async () => {
    const pages = createPages(new PassThrough().resume(), OPTIONS);
    await pages.openBatch(BATCH);
    await writeAll(
      pages,
      Array.from({ length: 18 }, (_, i) => piece(i + 1, 10n ** 9n)),
    );
    expect(await pages.end()).toEqual({ pieces: 18, postageMills: 18n * 10n ** 9n, sheets: 2 });
  });

  test('a document without pieces is still a document', async () => {
    const text = await drawn(async () => undefined);
    expect(text).toContain('/Count 1');
    expect(text).toContain('%%EOF');
  });

  test('the same input gives the same bytes', async () => {
    const draw = async (pages: Pages): Promise<void> => {
      await pages.openBatch(BATCH);
      await writeAll(
        pages,
        Array.from({ length: 40 }, (_, i) => piece(i + 1, 740n)),
      );
    };
    expect(await drawn(draw, { compress: true })).toBe(await drawn(draw, { compress: true }));
  });
});

describe('the stream', () => {
  test('has taken all that it was given before the next piece may come', async () => {
    let largest = 0;
    const out = new Writable({
      highWaterMark: 1,
      write(_chunk, _encoding, done) {
        setImmediate(done);
      },
    });
    const pages = createPages(out, OPTIONS);
    await pages.openBatch(BATCH);
    for (let i = 1; i <= 120; i++) {
      await pages.write(piece(i, 740n));
      largest = Math.max(largest, out.writableLength);
    }
    await pages.end();
    expect(largest).toBe(0);
  });

  test('stops the writer with its own error', async () => {
    const full = Object.assign(new Error('no space left on device'), { code: 'ENOSPC' });
    const pages = createPages(new Writable({ write: (_chunk, _encoding, done) => done(full) }), OPTIONS);
    const all = async (): Promise<void> => {
      await pages.openBatch(BATCH);
      await writeAll(
        pages,
        Array.from({ length: 60 }, (_, i) => piece(i + 1, 740n)),
      );
      await pages.end();
    };
    await expect(all()).rejects.toBe(full);
    await expect(pages.end()).rejects.toBe(full);
  });

  test('that was closed early is an error and not a wait without end', async () => {
    const out = new PassThrough();
    const pages = createPages(out, OPTIONS);
    await pages.openBatch(BATCH);
    await pages.write(piece(1, 740n));
    out.destroy();
    await expect(pages.end()).rejects.toThrow('closed before');
  });
});

test('bytes that are no indicium are refused, and nothing is drawn for them', async () => {
  const pages = createPages(new PassThrough().resume(), OPTIONS);
  await pages.openBatch(BATCH);
  await expect(pages.write({ payload: new Uint8Array(92), level: '5-digit', row: 1 })).rejects.toThrow(TypeError);
  expect(await pages.end()).toEqual({ pieces: 0, postageMills: 0n, sheets: 1 });
});
