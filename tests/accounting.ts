/**
 * Whether every piece of a job is accounted for, and every mill: what any trouble must leave behind when it is over.
 *
 * `unaccounted` compares what different parties say in different places (merge file, indicia, host's report, sealed
 * records, the device's registers) and says each contradiction in words.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { messageDigest, parseEnvelope } from '@countermark/protocol/cose';
import { digestText, NO_DIGEST } from '@countermark/protocol/digest';
import { unhex } from '@countermark/protocol/id';
import { type BatchReport, HOST, type JobReport } from '@countermark/protocol/interfaces/host';
import type { DeviceStatus } from '@countermark/protocol/interfaces/psd';
import { type Indicium, parseIndicium } from '@countermark/protocol/layout';
import { parsePayload } from '@countermark/protocol/message';
import { BATCH_STATISTICS, type BatchStatistics } from '@countermark/protocol/messages/batch-statistics';
import { parseDecimalMills } from '@countermark/protocol/money';
import { sha256 } from '@countermark/node-platform/verification';
import { parse } from 'csv-parse/sync';
import { expect } from 'vitest';
import { type Line, root } from './installation.ts';

/** A line of a merge file, and the indicium in it. */
type MergedPiece = {
  readonly key: string;
  readonly pieceNumber: number;
  readonly postageMills: bigint;
  readonly indicium: Indicium;
};
type SealedRecord = { readonly statistics: BatchStatistics; readonly digest: string };

/** What is known of a job after all is over. */
export type Evidence = {
  readonly report: JobReport;
  /** All lines of all merge files of the job. */
  readonly pieces: readonly MergedPiece[];
  /** Sealed records of the job, from its files. */
  readonly records: readonly SealedRecord[];
  /** Every batch that the device ever franked. */
  readonly batches: readonly BatchReport[];
  readonly device: DeviceStatus;
};

/** Expects that nothing of a settled job is missing, counted twice, or left in the device. */
export async function expectAccounted(line: Line, report: JobReport): Promise<void> {
  const { batches } = await line.host.call(HOST.batches, {});
  const device = await line.device();
  const evidence = { report, pieces: mergedPieces(report), records: sealedRecords(report), batches, device };
  expect(unaccounted(evidence)).toEqual([]);
  expect(report.pending).toEqual([]);
  expect(device).toMatchObject({ unconfirmedRecords: 0, unconfirmedPostageMills: 0n, piecesInMemory: 0, alarms: 0 });
}

/** What is not as it should be, in words; nothing when every piece and every mill is where it belongs. */
export function unaccounted({ report, pieces, records, batches, device }: Evidence): string[] {
  const wrong: string[] = [];
  const same = (what: string, one: unknown, other: unknown): void => {
    if (String(one) !== String(other)) wrong.push(`${what}: ${String(one)} and ${String(other)}`);
  };

  // Pieces once each, as the report and the batches have them.
  same('pieces in the merge file and in the report', pieces.length, report.pieces);
  same(
    'piece numbers in the merge file that differ',
    new Set(pieces.map((piece) => piece.pieceNumber)).size,
    pieces.length,
  );
  same('keys in the merge file that differ', new Set(pieces.map(({ key }) => key)).size, pieces.length);
  same(
    'postage of the merge file and of the report',
    sum(pieces.map((piece) => piece.postageMills)),
    report.postageMills,
  );
  for (const { pieceNumber, postageMills, indicium } of pieces) {
    same(`number of piece ${pieceNumber} and in its indicium`, pieceNumber, indicium.pieceNumber);
    same(`postage of piece ${pieceNumber} and in its indicium`, postageMills, indicium.postageMills);
    same(`device of piece ${pieceNumber}`, indicium.device, device.device);
  }
  same('pieces of the batches and of the report', count(report.batches), report.pieces);
  same('postage of the batches and of the report', postage(report.batches), report.postageMills);
  const byNumber = new Map(pieces.map((piece) => [piece.pieceNumber, piece]));
  for (const batch of report.batches) {
    const first = batch.firstPieceNumber ?? 0;
    const own = Array.from({ length: batch.pieces }, (_, i) => byNumber.get(first + i));
    same(`pieces of ${batch.id} in the merge file`, own.filter((piece) => piece !== undefined).length, batch.pieces);
    same(
      `postage of ${batch.id} in the merge file`,
      sum(own.map((piece) => piece?.postageMills ?? 0n)),
      batch.postageMills,
    );
    same(`state of ${batch.id}`, `${batch.state}, ${String(batch.deletedFromPsd)}`, 'confirmed, true');
  }

  // Each record by itself, and as the report has it.
  same('records and batches', records.length, report.batches.length);
  for (const { statistics, digest } of records) {
    const { observed, sequence } = statistics;
    const batch = report.batches.find((one) => one.sequence === sequence);
    const name = `record ${sequence}`;
    same(`${name} and its digest in the report`, digest, batch?.digest);
    const debited = observed.closed.ascendingMills - observed.opened.ascendingMills;
    const counted = observed.closed.pieces - observed.opened.pieces;
    same(`${name}: pieces counted and in the report`, counted, batch?.pieces);
    same(`${name}: postage debited and in the report`, debited, batch?.postageMills);
    if (observed.incomplete) continue;
    const { cells, spoiledPieces, spoiledPostageMills } = observed;
    same(
      `${name}: cells and spoiled, pieces`,
      sum(cells.map((cell) => BigInt(cell.pieces))) + BigInt(spoiledPieces),
      counted,
    );
    same(
      `${name}: cells and spoiled, postage`,
      sum(cells.map((cell) => cell.postageMills)) + spoiledPostageMills,
      debited,
    );
  }

  // The device's whole life: numbers without gap, registers that add up.
  let next = 1;
  const life = batches.filter((batch) => batch.pieces > 0 && batch.firstPieceNumber !== null);
  for (const batch of life.toSorted((a, b) => (a.firstPieceNumber ?? 0) - (b.firstPieceNumber ?? 0))) {
    same(`first number of ${batch.id}`, batch.firstPieceNumber, next);
    next += batch.pieces;
  }
  const { registers, funds } = device;
  same('last number and the piece counter', next - 1, registers.pieces);
  same('postage of all batches and the ascending register', postage(batches), registers.ascendingMills);
  same(
    'registers and funds',
    registers.ascendingMills + registers.descendingMills,
    funds.receivedMills - funds.returnedMills,
  );
  same('control total', registers.ascendingMills + registers.descendingMills, report.registers.controlTotalMills);
  same('ascending register', registers.ascendingMills, report.registers.ascendingMills);
  same('descending register', registers.descendingMills, report.registers.descendingMills);
  const sequences = batches.map((batch) => batch.sequence ?? 0).sort((a, b) => a - b);
  same('sequences', sequences.join(), Array.from({ length: device.sequence }, (_, i) => i + 1).join());
  return wrong;
}

/** Whether records from any job are one chain from the first one on: each names the digest of the one before. */
export function chainGaps(records: readonly SealedRecord[]): string[] {
  let previous = digestText(NO_DIGEST);
  return records
    .toSorted((a, b) => a.statistics.sequence - b.statistics.sequence)
    .flatMap(({ statistics, digest }, i) => {
      const follows = statistics.sequence === i + 1 && digestText(statistics.previous) === previous;
      previous = digest;
      return follows ? [] : [`record ${statistics.sequence} does not follow its predecessor`];
    });
}

/** The pieces of all merge files of a job. */
function mergedPieces(report: JobReport): MergedPiece[] {
  const folder = dirname(report.files.merge ?? '');
  return readdirSync(folder)
    .filter((name) => /^merge.*\.csv$/.test(name))
    .flatMap((name) => parse<Record<string, string>>(readFileSync(join(folder, name), 'utf8'), { columns: true }))
    .map((row) => {
      const parsed = parseIndicium(unhex(row['payload'] ?? '') ?? new Uint8Array());
      if (!parsed.ok) throw new Error(`row ${row['piece_ref'] ?? '?'}: ${parsed.rejection.code}`);
      return {
        key: row['piece_ref'] ?? JSON.stringify(row),
        pieceNumber: Number(row['piece_number']),
        postageMills: parseDecimalMills(row['postage'] ?? '', 3) ?? -1n,
        indicium: parsed.value.indicium,
      };
    });
}

/** The sealed records among a job's files. */
export function sealedRecords(report: JobReport): SealedRecord[] {
  return readdirSync(report.files.records)
    .filter((name) => name.endsWith('.record.cose'))
    .map((name) => {
      const envelope = parseEnvelope(Uint8Array.from(readFileSync(join(report.files.records, name))));
      const statistics = envelope.ok ? parsePayload(BATCH_STATISTICS, envelope.value) : envelope;
      if (!envelope.ok || !statistics.ok) throw new Error(name);
      return { statistics: statistics.value, digest: digestText(messageDigest(envelope.value, sha256)) };
    });
}

function sum(amounts: readonly bigint[]): bigint {
  return amounts.reduce((total, amount) => total + amount, 0n);
}

function count(batches: readonly BatchReport[]): number {
  return batches.reduce((total, batch) => total + batch.pieces, 0);
}

function postage(batches: readonly BatchReport[]): bigint {
  return sum(batches.map((batch) => BigInt(batch.postageMills)));
}

/** Expects the pieces, postage and grants of the whole sample mailing, as an independent script reckons them (samples/expected.py). */
export function expectSampleResult(report: JobReport): void {
  const { totals, grants } = sampleResult();
  expect({ pieces: report.pieces, postageMills: report.postageMills }).toEqual(totals);
  expect(grantsOf(report)).toEqual(grants);
}

function grantsOf(report: JobReport): Record<string, Record<string, bigint>> {
  const totals = (grants: JobReport['discounts']): Record<string, bigint> => {
    const byCustomer: Record<string, bigint> = {};
    for (const { customer, amountMills } of grants) {
      byCustomer[customer ?? ''] = (byCustomer[customer ?? ''] ?? 0n) + BigInt(amountMills);
    }
    return byCustomer;
  };
  return { discounts: totals(report.discounts), credits: totals(report.credits) };
}

type Expected = {
  readonly pieces: number;
  readonly postageMills: string;
  readonly customers: readonly {
    readonly customer: string;
    readonly discountMills: string;
    readonly growthCreditMills: string;
  }[];
};

function sampleResult(): { totals: object; grants: object } {
  const expected = JSON.parse(readFileSync(join(root, 'samples', 'expected.json'), 'utf8')) as Expected;
  const amounts = (of: 'discountMills' | 'growthCreditMills'): Record<string, bigint> =>
    Object.fromEntries(
      expected.customers
        .filter((customer) => BigInt(customer[of]) > 0n)
        .map((customer) => [customer.customer, BigInt(customer[of])]),
    );
  return {
    totals: { pieces: expected.pieces, postageMills: expected.postageMills },
    grants: { discounts: amounts('discountMills'), credits: amounts('growthCreditMills') },
  };
}
