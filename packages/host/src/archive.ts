/**
 * The archive: records, confirmations, attestations and grants, kept in the store and laid out as files beside each job, so
 * that `countermark verify` works on the folder alone.
 *
 * Guarantees: a file has exactly the bytes that were authenticated; files are made again from the store where they are missing;
 * nobody sees half a file. Piece records and salts stay in the journal for the retention time.
 */
import { mkdirSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { JobId } from '@countermark/protocol/id';
import type { Journal } from './journal.ts';
import type { RecordRow } from './journal-rows.ts';

/** No job has this name: those begin with a letter or a digit. */
const ROTATIONS = '_key-rotations';
const END = '_final-statement';

export class Archive {
  readonly #journal: Journal;
  readonly #output: string;
  readonly #trustBundle: string;

  constructor(journal: Journal, output: string, trustBundle: string) {
    this.#journal = journal;
    this.#output = output;
    this.#trustBundle = trustBundle;
  }

  /** The folder of a job's files; ids of jobs are safe names. */
  jobFolder(job: string): string {
    return join(this.#output, job);
  }

  recordsFolder(job: string): string {
    return join(this.jobFolder(job), 'records');
  }

  /** Lays out whatever the store has of the job and the folder lacks. */
  layOut(job: JobId): void {
    const folder = this.recordsFolder(job);
    mkdirSync(folder, { recursive: true });
    for (const batch of this.#journal.batches.ofJob(job)) {
      const record = this.#journal.records.ofBatch(batch.id);
      if (record !== undefined) layOutRecord(folder, batch.id, record);
    }
    for (const grant of this.#journal.grants.ofJob(job)) {
      writeOnce(join(folder, `${grant.kind}-${String(grant.cursor)}.grant.cose`), grant.bytes);
    }
    this.#layOutTrust(folder);
    this.layOutRotations();
  }

  /** The same of the key rotations, which belong to no job. */
  layOutRotations(): void {
    const rotations = this.#journal.records.rotations();
    if (rotations.length === 0) return;
    const folder = join(this.#output, ROTATIONS);
    mkdirSync(folder, { recursive: true });
    for (const record of rotations)
      layOutRecord(folder, `rotation-${String(record.sequence).padStart(10, '0')}`, record);
    this.#layOutTrust(folder);
  }

  /** The same of the device's final statement. */
  layOutEnd(): void {
    const statement = this.#journal.records.finalStatement();
    if (statement === undefined) return;
    const folder = join(this.#output, END);
    mkdirSync(folder, { recursive: true });
    layOutRecord(folder, 'final-statement', statement);
    this.#layOutTrust(folder);
  }

  /** What the files of a folder are checked against: the certificates of all epochs, and the trust bundle. */
  #layOutTrust(folder: string): void {
    for (const { name, bytes } of this.#journal.certificates()) writeOnce(join(folder, `device-${name}.cose`), bytes);
    writeOnce(join(folder, 'trust-bundle.json'), readFileSync(this.#trustBundle));
  }
}

/** Writes a record's files where they are missing. */
function layOutRecord(folder: string, name: string, record: RecordRow): void {
  const files: [string, Uint8Array | null][] = [
    [`${name}.record.cose`, record.bytes],
    [`${name}.confirmation.cose`, record.confirmation],
    [`${name}.attestation.cose`, record.attestation],
  ];
  for (const [file, bytes] of files) if (bytes !== null) writeOnce(join(folder, file), bytes);
}

/** Writes a file whole, unless it is there with the same length (its bytes are named by a digest and never change). */
export function writeOnce(path: string, bytes: Uint8Array): void {
  try {
    if (statSync(path).size === bytes.length) return;
  } catch {
    // It is not there.
  }
  const part = `${path}.part`;
  writeFileSync(part, bytes);
  renameSync(part, path);
}
