// Readers that share nothing with the writer (zxing-cpp as WebAssembly, libdmtx where it is installed) read what it made:
// symbols module by module, and whole sheets that poppler rasterised at 300 dpi.
import { spawnSync } from 'node:child_process';
import { createWriteStream, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { LAYOUTS } from '@countermark/protocol/layout';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { prepareZXingModule, type ReadResult, readBarcodes } from 'zxing-wasm/reader';
import { createPages, type Sheet } from './page.ts';
import { type DataMatrix, encodeDataMatrix } from './symbol.ts';

const require = createRequire(import.meta.url);
const has = (command: string, option: string): boolean => spawnSync(command, [option]).error === undefined;
const poppler = has('pdftoppm', '-v');
const dmtx = has('dmtxread', '-V');

type Raster = { data: Uint8ClampedArray; width: number; height: number };

let folder: string;
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'countermark-indicia-'));
  const wasm = readFileSync(require.resolve('zxing-wasm/reader/zxing_reader.wasm'));
  await prepareZXingModule({ overrides: { wasmBinary: Uint8Array.from(wasm).buffer }, fireImmediately: true });
  if (!poppler) console.warn('SKIPPED: sheets are not read back, because pdftoppm (poppler-utils) is missing.');
  if (!dmtx) console.warn('SKIPPED: no second reader, because dmtxread (dmtx-utils) is missing.');
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Four pixels a module, on white. */
function rasterOf(symbol: DataMatrix): Raster {
  const scale = 4;
  const quiet = 2;
  const width = (symbol.size + 2 * quiet) * scale;
  const data = new Uint8ClampedArray(width * width * 4).fill(255);
  for (let y = 0; y < width; y++) {
    for (let x = 0; x < width; x++) {
      const row = Math.floor(y / scale) - quiet;
      const column = Math.floor(x / scale) - quiet;
      const inside = row >= 0 && row < symbol.size && column >= 0 && column < symbol.size;
      if (inside && symbol.modules[row * symbol.size + column] === 1)
        data.fill(0, 4 * (y * width + x), 4 * (y * width + x) + 3);
    }
  }
  return { data, width, height: width };
}

/** Reads a binary portable pixmap (P6), as `pdftoppm` writes it. */
function readPixmap(file: string): Raster {
  const bytes = readFileSync(file);
  const head = /^P6\s+(\d+)\s+(\d+)\s+255\s/.exec(bytes.subarray(0, 40).toString('latin1'));
  if (head === null) throw new Error(`${file} is no pixmap.`);
  const width = Number(head[1]);
  const height = Number(head[2]);
  const data = new Uint8ClampedArray(width * height * 4).fill(255);
  for (let i = 0, at = head[0].length; i < width * height; i++, at += 3) data.set(bytes.subarray(at, at + 3), 4 * i);
  return { data, width, height };
}

const readSymbols = (raster: Raster): Promise<ReadResult[]> =>
  readBarcodes({ ...raster, colorSpace: 'srgb' } as Parameters<typeof readBarcodes>[0], {
    formats: ['DataMatrix'],
    maxNumberOfSymbols: 255,
  });

/** Share of the error correction that the reader did not need: 1 where every module is right. */
const unusedCorrection = (result: ReadResult): unknown => (JSON.parse(result.extra) as { UEC?: unknown }).UEC;

async function expectRead(payload: Uint8Array): Promise<void> {
  const [found, ...others] = await readSymbols(rasterOf(encodeDataMatrix(payload)));
  expect(others).toEqual([]);
  expect(found?.error).toBe('');
  expect(Buffer.from(found?.bytes ?? [])).toEqual(Buffer.from(payload));
  expect(unusedCorrection(found as ReadResult)).toBe(1);
}

/** An indicium's payload: layout, flags and amounts are real, all else is as given. */
function payload(
  kind: 'mac' | 'signature',
  specimen: boolean,
  piece: number,
  filler: (i: number) => number,
): Uint8Array {
  const layout = LAYOUTS[kind];
  const bytes = Uint8Array.from({ length: layout.bodyBytes + layout.authenticatorBytes }, (_, i) => filler(i));
  bytes[0] = layout.number;
  bytes[1] = specimen ? 1 : 0;
  const view = new DataView(bytes.buffer);
  view.setUint32(12, piece);
  view.setUint32(16, 740 + piece);
  view.setUint16(20, 2518);
  return bytes;
}

describe('a symbol', () => {
  test('of every length gives its bytes back without using any error correction', async () => {
    for (let length = 1; length <= 172; length++) {
      await expectRead(Uint8Array.from({ length }, (_, i) => (i * 89 + length * 7) & 0xff));
    }
  });

  test('gives back every byte value, in runs and together', async () => {
    for (let value = 0; value < 256; value++) await expectRead(new Uint8Array(92).fill(value));
    for (const start of [0, 92, 164]) await expectRead(Uint8Array.from({ length: 92 }, (_, i) => start + i));
  });

  test('gives back any payload of the two layouts', async () => {
    const sized = fc.constantFrom(60, 92).chain((n) => fc.uint8Array({ minLength: n, maxLength: n }));
    await fc.assert(fc.asyncProperty(sized, expectRead), { numRuns: 150 });
  });

  test('has a size that follows from the length alone', () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ minLength: 92, maxLength: 92 }),
        fc.uint8Array({ minLength: 60, maxLength: 60 }),
        (long, short) => {
          expect(encodeDataMatrix(long).size).toBe(40);
          expect(encodeDataMatrix(short).size).toBe(32);
        },
      ),
    );
  });

  test('is refused when it would be empty or hold more than one block', () => {
    expect(() => encodeDataMatrix(new Uint8Array(0))).toThrow(RangeError);
    expect(() => encodeDataMatrix(new Uint8Array(173))).toThrow(RangeError);
  });

  test.skipIf(!dmtx)('is read by libdmtx too (needs dmtx-utils)', () => {
    for (const length of [60, 92]) {
      const bytes = Uint8Array.from({ length }, (_, i) => (255 - i * 31) & 0xff);
      const { data, width, height } = rasterOf(encodeDataMatrix(bytes));
      const file = join(folder, `symbol-${length}.ppm`);
      const pixels = Buffer.from(data.filter((_, i) => i % 4 !== 3));
      writeFileSync(file, Buffer.concat([Buffer.from(`P6\n${width} ${height}\n255\n`), pixels]));
      const read = spawnSync('dmtxread', ['-N', '1', file]);
      expect(Buffer.from(read.stdout)).toEqual(Buffer.from(bytes));
    }
  });
});

describe.skipIf(!poppler)('sheets rasterised at 300 dpi (needs poppler-utils)', () => {
  const cases: readonly (readonly ['mac' | 'signature', boolean, Sheet, number])[] = [
    ['signature', true, 'letter', 40],
    ['mac', true, 'a4', 20],
    ['signature', false, 'a4', 20],
    ['mac', false, 'letter', 20],
  ];
  test.for(cases)(
    '%s, specimen %s, on %s, %i pieces: every symbol, in the order of the list',
    async ([kind, specimen, sheet, count]) => {
      const payloads = Array.from({ length: count }, (_, i) =>
        payload(kind, specimen, 1000 + i, (at) => (at * 151 + i * 73) & 0xff),
      );
      const name = join(folder, `${kind}-${specimen}-${sheet}`);
      const pages = createPages(createWriteStream(`${name}.pdf`), {
        title: 'Reading test',
        sheet,
        currency: { code: 'USD', exponent: 3 },
        createdAt: new Date(0),
      });
      await pages.openBatch({
        batch: `bat_${'0'.repeat(32)}`,
        customer: 'orchard-books',
        product: 'First-Class letters',
      });
      for (const [i, bytes] of payloads.entries()) {
        await pages.write({ payload: bytes, level: '5-digit', row: i + 1, addressee: `Ms. ${i} W`.repeat(20) });
      }
      await pages.end();

      const raster = spawnSync('pdftoppm', ['-r', '300', `${name}.pdf`, name]);
      expect(raster.stderr.toString()).toBe('');
      const read: Buffer[] = [];
      const files = readdirSync(folder)
        .filter((file) => join(folder, file).startsWith(name) && file.endsWith('.ppm'))
        .sort();
      for (const file of files) {
        const found = await readSymbols(readPixmap(join(folder, file)));
        // A row of labels is more than 400 pixels high.
        const placed = found.map((result) => ({ result, row: Math.round(result.position.topLeft.y / 200) }));
        placed.sort((a, b) => a.row - b.row || a.result.position.topLeft.x - b.result.position.topLeft.x);
        read.push(...placed.map(({ result }) => Buffer.from(result.bytes)));
      }
      expect(read.map((bytes) => bytes.toString('hex'))).toEqual(
        payloads.map((bytes) => Buffer.from(bytes).toString('hex')),
      );

      if (dmtx) {
        const second = spawnSync('dmtxread', ['-N', '1', join(folder, files[0] as string)]);
        const hexes = payloads.map((bytes) => Buffer.from(bytes).toString('hex'));
        expect(hexes).toContain(Buffer.from(second.stdout).toString('hex'));
      }
    },
  );
});
