import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { MAX_RECORD_BYTES } from '@countermark/protocol/interfaces/answer';
import { accept } from '@countermark/protocol/result';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { HostParts } from './host-parts.ts';
import { StatisticsDesk } from './statistics-desk.ts';

let stick: string;
beforeEach(() => {
  stick = mkdtempSync(join(tmpdir(), 'stick-'));
});
afterEach(() => {
  rmSync(stick, { recursive: true, force: true });
});

/** A desk whose server takes all that it is brought, as the real one does: none that is empty or too large. */
function desk(brought: string[]): StatisticsDesk {
  const submit = (records: readonly Uint8Array[]) => {
    if (records.some(({ length }) => length === 0 || length > MAX_RECORD_BYTES)) throw new Error('malformed');
    brought.push(...records.map((record) => Buffer.from(record).toString()));
    return Promise.resolve(
      accept(records.map((record) => ({ outcome: 'accepted', confirmation: Buffer.from(`c${record.length}`) }))),
    );
  };
  const parts = { server: { submit } } as unknown as HostParts;
  return new StatisticsDesk(parts, ...([{}, {}, {}] as unknown as [never, never, never]));
}

test('a stick with a file that is cut to nothing, too large, or no file: each is named, and the others are brought', async () => {
  writeFileSync(join(stick, '1.record.cose'), 'one');
  writeFileSync(join(stick, '2.record.cose'), '');
  writeFileSync(join(stick, '3.record.cose'), new Uint8Array(MAX_RECORD_BYTES + 1));
  writeFileSync(join(stick, '4.record.cose'), 'four');
  const brought: string[] = [];
  const answer = await desk(brought).importRecords(stick);
  if (!answer.ok) throw new Error(answer.rejection.code);
  expect(answer.value.results.map(({ file, outcome }) => [file, outcome])).toEqual([
    ['1.record.cose', 'accepted'],
    ['2.record.cose', 'cbor-malformed'],
    ['3.record.cose', 'cbor-too-large'],
    ['4.record.cose', 'accepted'],
  ]);
  expect(brought).toEqual(['one', 'four']);
  expect(readdirSync(stick).filter((file) => file.includes('confirmation'))).toEqual([
    '1.confirmation.cose',
    '4.confirmation.cose',
  ]);
});

test('where no file can be brought, the server is not asked', async () => {
  writeFileSync(join(stick, '1.record.cose'), '');
  const answer = await desk([]).importRecords(stick);
  expect(answer).toMatchObject({ ok: true, value: { read: 1, results: [{ outcome: 'cbor-malformed' }] } });
});
