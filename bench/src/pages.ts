/**
 * `pages`: indicia a second into a PDF, through the writer that the host uses, into a file.
 *
 * The indicia are of the signature layout with random authenticators, every label with clear text and an addressee, batches of 5,000.
 * The time covers everything from the first label to the file's last byte (no fsync: pages can be drawn again).
 */
import { randomBytes } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { join } from 'node:path';
import { createPages } from '@countermark/indicia/page';
import type { DeviceId } from '@countermark/protocol/id';
import {
  indiciumBytes,
  indiciumFrame,
  indiciumInputBytes,
  LAYOUTS,
  writeIndiciumInput,
} from '@countermark/protocol/layout';
import { type BenchmarkRun, type Figure, figure } from './figure.ts';

const PIECES = { smoke: 200, standard: 20_000, full: 100_000 } as const;
const BATCH_PIECES = 5_000;
const POSTAGE_MILLS = 740n;
const MAILING_DATE = '2026-11-23';

/** Measures. */
export async function benchmark(run: BenchmarkRun): Promise<readonly Figure[]> {
  const pieces = PIECES[run.size];
  const payloads = indicia(pieces);
  const begunMs = performance.now();
  const pages = createPages(createWriteStream(join(run.folder, 'pages.pdf')), {
    title: 'Benchmark',
    sheet: 'letter',
    currency: { code: 'USD', exponent: 3 },
    createdAt: new Date(`${MAILING_DATE}T00:00:00Z`),
  });
  for (const [index, payload] of payloads.entries()) {
    if (index % BATCH_PIECES === 0) {
      const batch = `bat_${String(index / BATCH_PIECES).padStart(32, '0')}`;
      await pages.openBatch({ batch, customer: 'orchard-books', product: 'First-Class Mail letter', job: 'benchmark' });
    }
    await pages.write({ payload, level: '5-digit', row: index + 1, addressee: `Ada Brackamere ${index}` });
  }
  await pages.end();
  const seconds = (performance.now() - begunMs) / 1_000;
  return [figure('pages', pieces / seconds, 'indicia/s', { atLeast: 1_000 })];
}

function indicia(pieces: number): Uint8Array[] {
  const layout = LAYOUTS.signature;
  const frame = indiciumFrame(layout, true, 'psd_00112233445566aa' as DeviceId, 1, MAILING_DATE);
  const input = new Uint8Array(indiciumInputBytes(layout));
  return Array.from({ length: pieces }, (_, index) => {
    writeIndiciumInput(input, 0, frame, index + 1, POSTAGE_MILLS, POSTAGE_MILLS * BigInt(index + 1));
    return indiciumBytes(input, randomBytes(layout.authenticatorBytes));
  });
}
