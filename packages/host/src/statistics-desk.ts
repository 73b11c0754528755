/**
 * The desk of the statistics: sealed records told of, sent, and carried as files where the host reaches no server.
 *
 * Guarantees: a record whose hold has not ended is neither sent nor written out; a file has exactly the bytes that were
 * authenticated; a confirmation is stored only when the device has taken it; one bad file holds up none of the others.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { fileErrorText } from '@countermark/node-platform/fault';
import { MAX_RECORD_BYTES } from '@countermark/protocol/interfaces/answer';
import type { ExportAnswer, ImportAnswer, RecordReport, SendAnswer } from '@countermark/protocol/interfaces/host';
import { PSD } from '@countermark/protocol/interfaces/psd';
import { CONFIRMATION } from '@countermark/protocol/messages/confirmation';
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { writeOnce } from './archive.ts';
import type { HostParts } from './host-parts.ts';
import type { RecordRow } from './journal-rows.ts';
import type { News } from './news.ts';
import type { Outbox } from './outbox.ts';
import { statusOf } from './psd-client.ts';
import { isHeld, recordReport, rejectionReport } from './report.ts';
import type { SettlementFollower } from './settlement.ts';
import { readUnverified } from './unverified-message.ts';

const RECORD_ENDING = '.record.cose';
/** Record files that are brought to the server in one submission. */
const FILES_AT_ONCE = 64;

export class StatisticsDesk {
  readonly #parts: HostParts;
  readonly #outbox: Outbox;
  readonly #settlement: SettlementFollower;
  readonly #news: News;

  constructor(parts: HostParts, outbox: Outbox, settlement: SettlementFollower, news: News) {
    this.#parts = parts;
    this.#outbox = outbox;
    this.#settlement = settlement;
    this.#news = news;
  }

  list() {
    return { records: this.#reports(this.#parts.journal.records.all()) };
  }

  /** Sends what is due, and what was quarantined once more. */
  async send(): Promise<SendAnswer> {
    this.#outbox.requeue();
    const outcome = await this.#outbox.send();
    const waiting = this.#parts.journal.records.unconfirmed();
    this.#settlement.kick();
    return {
      sent: outcome.sent,
      confirmed: outcome.confirmed,
      waiting: this.#reports(waiting),
      ...(outcome.trouble === null ? {} : { reason: outcome.trouble }),
    };
  }

  /** Writes the records that wait and whose hold has ended into a folder, for another machine to bring to the server. */
  async export(directory: string): Promise<Result<ExportAnswer>> {
    const { journal, psd, config, clock } = this.#parts;
    const device = await statusOf(psd);
    const due = this.#outbox.due(1_000_000);
    const held = journal.records.unconfirmed().filter((record) => isHeld(record, clock.nowMs())).length;
    try {
      mkdirSync(directory, { recursive: true });
      const files: string[] = [];
      for (const record of due) {
        const own = config.forwarding === 'hold' ? null : await psd.call(PSD.record, { sequence: record.sequence });
        const name = `${device.device}-${String(record.sequence).padStart(10, '0')}${RECORD_ENDING}`;
        writeOnce(join(directory, name), own?.ok === true ? own.value.record : record.bytes);
        files.push(name);
      }
      return accept({ directory, files, held });
    } catch (error) {
      return refuse(rejection('file-unreadable', { file: directory, reason: fileErrorText(error) }));
    }
  }

  /** Brings record files of a folder to the server through this machine, and writes what it answers beside them. */
  async importRecords(directory: string): Promise<Result<ImportAnswer>> {
    const files = filesOf(directory, RECORD_ENDING);
    if (!files.ok) return files;
    const results: ImportAnswer['results'][number][] = [];
    for (let from = 0; from < files.value.length; from += FILES_AT_ONCE) {
      const some = files.value.slice(from, from + FILES_AT_ONCE).map((file) => ({
        file,
        record: recordIn(join(directory, file)),
      }));
      const records = some.flatMap(({ record }) => (record.ok ? [record.value] : []));
      const answers = records.length === 0 ? accept([]) : await this.#parts.server.submit(records);
      if (!answers.ok) return answers;
      const inOrder = answers.value.values();
      for (const { file, record } of some) {
        if (!record.ok) {
          results.push({ file, outcome: record.rejection.code, message: rejectionReport(record.rejection).message });
          continue;
        }
        const answer = inOrder.next().value;
        const stem = file.slice(0, -RECORD_ENDING.length);
        const written: string[] = [];
        for (const kind of ['confirmation', 'attestation'] as const) {
          const bytes = answer?.[kind];
          if (bytes === undefined) continue;
          writeOnce(join(directory, `${stem}.${kind}.cose`), bytes);
          written.push(`${stem}.${kind}.cose`);
        }
        results.push({
          file,
          outcome: answer?.rejection?.code ?? answer?.outcome ?? 'unanswered',
          ...(answer?.rejection === undefined ? {} : { message: rejectionReport(answer.rejection).message }),
          files: written,
        });
      }
    }
    return accept({ directory, read: files.value.length, results });
  }

  /** Gives confirmation files to the PSD, and archives the attestations beside them. */
  async importConfirmations(directory: string): Promise<Result<ImportAnswer>> {
    const { journal, clock } = this.#parts;
    const files = filesOf(directory, '.confirmation.cose');
    if (!files.ok) return files;
    const results: ImportAnswer['results'][number][] = [];
    for (const file of files.value) {
      const bytes = readFileSync(join(directory, file));
      const said = readUnverified(CONFIRMATION, bytes);
      const record = said.ok ? journal.records.get(said.value.sequence) : undefined;
      const given = said.ok ? await this.#outbox.confirm(bytes) : said;
      if (given.ok && record !== undefined) {
        const beside = join(directory, file.replace('.confirmation.', '.attestation.'));
        const attestation = existsSync(beside) ? this.#outbox.attestation(record, readFileSync(beside)) : null;
        journal.records.settleAttempt(
          [],
          null,
          [{ sequence: record.sequence, confirmation: bytes, attestation }],
          clock.nowMs(),
        );
      }
      results.push({
        file,
        outcome: given.ok ? 'confirmed' : given.rejection.code,
        ...(given.ok ? {} : { message: rejectionReport(given.rejection).message }),
      });
    }
    this.#settlement.kick();
    this.#news.announce();
    return accept({ directory, read: files.value.length, results });
  }

  #reports(records: readonly RecordRow[]): RecordReport[] {
    const { journal, clock } = this.#parts;
    const { nextAttemptMs } = this.#outbox;
    return records.map((record) => recordReport(journal, record, clock.nowMs(), nextAttemptMs));
  }
}

/** What could be a record; the server refuses a whole submission for anything else in it. */
function recordIn(path: string): Result<Uint8Array> {
  try {
    const { size: bytes } = statSync(path);
    if (bytes === 0) return refuse(rejection('cbor-malformed', { reason: 'the file is empty' }));
    if (bytes > MAX_RECORD_BYTES) {
      return refuse(rejection('cbor-too-large', { bytes, limitBytes: MAX_RECORD_BYTES }));
    }
    return accept(readFileSync(path));
  } catch (error) {
    return refuse(rejection('file-unreadable', { file: path, reason: fileErrorText(error) }));
  }
}

function filesOf(directory: string, ending: string): Result<readonly string[]> {
  try {
    return accept(
      readdirSync(directory)
        .filter((file) => file.endsWith(ending))
        .sort(),
    );
  } catch (error) {
    return refuse(rejection('file-unreadable', { file: directory, reason: fileErrorText(error) }));
  }
}
