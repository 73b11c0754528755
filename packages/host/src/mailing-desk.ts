/**
 * Taking a mailing in: the file read, checked and staged, and what is wrong with it listed.
 *
 * Guarantees: the whole file is checked before anything of it can be franked; every bad row is in `FILE.errors.csv`, guarded
 * against being run as a formula; a file that changed while it was read is refused; a refused staging leaves nothing.
 */
import { createWriteStream, mkdirSync, rmSync } from 'node:fs';
import { basename, join } from 'node:path';
import { finished } from 'node:stream/promises';
import { setImmediate } from 'node:timers/promises';
import type { Clock } from '@countermark/node-platform/clock';
import { errorCode } from '@countermark/node-platform/fault';
import { sameBytes } from '@countermark/protocol/digest';
import type { MailingOptions } from '@countermark/protocol/interfaces/host';
import { MAX_CELLS } from '@countermark/protocol/messages/batch-statistics';
import type { Policy } from '@countermark/protocol/messages/policy';
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { describeShortfall } from '@countermark/tariff/minimums';
import { isInEffect, type Tariff } from '@countermark/tariff/tariff';
import type { Journal } from './journal.ts';
import { readMailing } from './mailing.ts';
import { isMailingDate, type StagedRun, Staging } from './staging.ts';

export type DeskOptions = {
  readonly journal: Journal;
  readonly clock: Clock;
  readonly customers: 'one' | 'many';
  /** Takes the list of errors where the file's own folder cannot be written. */
  readonly output: string;
};

export type Taken = {
  readonly run: number;
  readonly staged: StagedRun;
  readonly rows: number;
  readonly errorsFile: string | null;
  readonly warnings: readonly string[];
};

/** One warning of many stands for them, so that an answer stays readable. */
const WARNINGS_MAX = 20;

/**
 * Reads and stages a file as a run that nobody sees yet. Rejections: those of `readMailing`, `file-rows` (unless good rows are
 * accepted), `usage`.
 * @param progress told how many rows were read
 */
export async function takeMailing(
  { journal, clock, customers, output }: DeskOptions,
  mailing: MailingOptions & { readonly job: string },
  digest: Uint8Array,
  tariff: Tariff,
  policy: Policy | null,
  memory: 'psd' | 'host' | null,
  progress: (rows: number) => void,
): Promise<Result<Taken>> {
  const today = new Date(clock.nowMs()).toISOString().slice(0, 10);
  const mailingDate = mailing.mailingDate ?? today;
  if (!isMailingDate(mailingDate)) {
    return refuse(rejection('usage', { reason: `The mailing date ${mailingDate} is no day such as ${today}.` }));
  }
  const run = journal.runs.begin(mailing.job, mailing.file, digest);
  try {
    const most = policy?.maxPiecesPerBatch ?? 100_000_000;
    const staging = new Staging(journal, {
      run,
      job: mailing.job,
      tariff,
      customers,
      mailingDate,
      maxPiecesPerBatch: memory === 'psd' && policy !== null ? Math.min(most, policy.memoryPieces) : most,
      maxCellsPerBatch: policy?.maxCellsPerBatch ?? MAX_CELLS,
    });
    const taken = await stage({ journal, output, tariff }, staging, run, mailing, digest, progress);
    if (!taken.ok) journal.runs.drop(run);
    return taken;
  } catch (error) {
    journal.runs.drop(run);
    throw error;
  }
}

async function stage(
  { journal, output, tariff }: Pick<DeskOptions, 'journal' | 'output'> & { readonly tariff: Tariff },
  staging: Staging,
  run: number,
  mailing: MailingOptions,
  digest: Uint8Array,
  progress: (rows: number) => void,
): Promise<Result<Taken>> {
  const { file } = mailing;
  let columns: readonly string[] = [];
  const read = await readMailing(file, mailing.encoding, {
    header: (header) => {
      columns = header.names;
      staging.header(header);
    },
    row: (cells, row) => {
      staging.row(cells, row);
    },
    pause: () => {
      progress(staging.rows);
    },
  });
  if (!read.ok) return read;
  if (!sameBytes(read.value.digest, digest)) {
    return refuse(rejection('file-unreadable', { file, reason: 'it changed while it was being read' }));
  }
  let pauses = 0;
  const staged = await staging.finish(async () => {
    pauses += 1;
    if (pauses % 32 === 0) await setImmediate();
  });
  const { rows } = read.value;
  let errorsFile = `${file}.errors.csv`;
  if (staged.badRows > 0) {
    const [first] = journal.runs.badRows(run);
    errorsFile = await writeErrors(errorsFile, output, journal, run);
    if (mailing.acceptGood !== true) {
      return refuse(
        rejection('file-rows', {
          bad: staged.badRows,
          rows,
          file,
          row: first?.row ?? 0,
          field: first?.field ?? '',
          reason: first === undefined ? '' : `${first.value === '' ? '(empty)' : first.value}: ${first.cure}`,
          errorsFile,
        }),
      );
    }
  } else removeStale(errorsFile);
  const all = [...outdatedPrices(tariff, staged.mailingDate), ...staged.warnings.map(describeShortfall)];
  const more = all.length - WARNINGS_MAX;
  const warnings = more > 0 ? [...all.slice(0, WARNINGS_MAX), `And ${String(more)} more of the same kind.`] : all;
  journal.runs.describe(run, columns, staged.cells, warnings);
  return accept({ run, staged, rows, errorsFile: staged.badRows > 0 ? errorsFile : null, warnings });
}

/** A warning where the mailing's day is outside the tariff's time. Never a refusal: which tariff is right, the post decides. */
function outdatedPrices(tariff: Tariff, mailingDate: string): string[] {
  if (isInEffect(tariff, mailingDate)) return [];
  const time =
    tariff.effectiveTo === null
      ? `those from ${tariff.effectiveFrom} on`
      : `those of ${tariff.effectiveFrom} to ${tariff.effectiveTo}`;
  return [
    `The prices of ${tariff.id} are ${time}, and this mailing is of ${mailingDate}. It is franked at them: ask for the present tariff.`,
  ];
}

/** Each bad row: its number below the header, the field, the value as it stands, and what to write. */
async function writeErrors(beside: string, output: string, journal: Journal, run: number): Promise<string> {
  try {
    await writeErrorsTo(beside, journal, run);
    return beside;
  } catch (error) {
    if (!isUnwritable(error)) throw error;
    mkdirSync(output, { recursive: true });
    const elsewhere = join(output, basename(beside));
    await writeErrorsTo(elsewhere, journal, run);
    return elsewhere;
  }
}

/** The list of a file that was wrong before and is right now. */
function removeStale(path: string): void {
  try {
    rmSync(path, { force: true });
  } catch (error) {
    if (!isUnwritable(error)) throw error;
  }
}

function isUnwritable(error: unknown): boolean {
  return ['EACCES', 'EPERM', 'EROFS'].includes(errorCode(error) ?? '');
}

async function writeErrorsTo(path: string, journal: Journal, run: number): Promise<void> {
  const out = createWriteStream(path);
  const failed = finished(out);
  failed.catch(() => undefined);
  out.write('row,field,value,cure\r\n');
  for (const { row, field, value, cure } of journal.runs.badRows(run)) {
    const line = [String(row), field, value, cure].map(guarded).join(',');
    if (!out.write(`${line}\r\n`)) {
      await Promise.race([new Promise<void>((resolve) => out.once('drain', resolve)), failed]);
    }
  }
  out.end();
  await failed;
}

/** A spreadsheet runs a cell that begins like a formula: an apostrophe keeps it text. */
function guarded(value: string): string {
  const safe = /^[=+\-@\t\r\n＝＋－＠]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

/** An example of a mailing's file. */
export function template(withCustomers: boolean): string {
  const rows = [
    ['piece_ref', 'customer', 'product', 'level', 'weight_oz', 'name', 'address', 'city', 'state', 'zip'],
    [
      'A-0001',
      'alder-press',
      'usps-fcm-letter',
      '5-digit',
      '0.95',
      'Rosa Example',
      '12 Sample St',
      'Boston',
      'MA',
      '02108',
    ],
    [
      'A-0002',
      'alder-press',
      'usps-fcm-letter',
      'aadc',
      '1.4',
      'Ivo Example',
      '7 Model Ave',
      'Dayton',
      'OH',
      '45402-1234',
    ],
    ['B-0001', 'birch-mutual', 'usps-fcm-flat', '3-digit', '3.2', 'Ann Example', '3 Pattern Rd', 'Reno', 'NV', '89501'],
  ];
  const shown = withCustomers ? rows : rows.map((row) => row.filter((_, i) => i !== 1));
  return `${shown.map((row) => row.join(',')).join('\n')}\n`;
}
