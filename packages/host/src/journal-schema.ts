/**
 * The tables of the host's store.
 *
 * A mailing is staged as chunks of at most 256 pieces, each with its batch, its first index and the very bytes that the PSD is
 * asked with. A chunk's answer is a row of its own beside it. Migrations are only ever appended to.
 */
import { join } from 'node:path';
import { type EmbeddedStore, openEmbeddedStore } from '@countermark/node-platform/embedded-store';
import type { Result } from '@countermark/protocol/result';

/** "CMho" in the file's header. */
const HOST_APPLICATION_ID = 0x434d686f;

const HOST_MIGRATIONS: readonly string[] = [
  `CREATE TABLE job (
    job TEXT PRIMARY KEY, state TEXT NOT NULL, refusal TEXT, tariff TEXT NOT NULL, created_ms INTEGER NOT NULL,
    rejected_rows INTEGER NOT NULL DEFAULT 0, errors_file TEXT, started_sequence INTEGER NOT NULL DEFAULT 0
  ) STRICT;
  -- One reading of a file for a job. state: staging, active, superseded, franked.
  CREATE TABLE run (
    run INTEGER PRIMARY KEY, job TEXT NOT NULL, ordinal INTEGER NOT NULL, file TEXT NOT NULL, file_digest BLOB NOT NULL,
    columns TEXT NOT NULL, cells TEXT NOT NULL, state TEXT NOT NULL, warnings TEXT NOT NULL DEFAULT '[]',
    keep_open INTEGER NOT NULL DEFAULT 0, printed INTEGER NOT NULL DEFAULT 0
  ) STRICT;
  CREATE INDEX run_job ON run (job);
  -- state: planned, open, closed, sealed, dropped.
  CREATE TABLE batch (
    batch INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, run INTEGER, customer TEXT, product TEXT NOT NULL,
    entry TEXT NOT NULL, mailing_date TEXT NOT NULL, state TEXT NOT NULL, expected INTEGER NOT NULL,
    expected_cells INTEGER NOT NULL, declaration BLOB, franked INTEGER NOT NULL DEFAULT 0,
    postage_mills INTEGER NOT NULL DEFAULT 0, first_number INTEGER, spoiled TEXT NOT NULL DEFAULT '[]',
    reprints INTEGER NOT NULL DEFAULT 0, later_reprints INTEGER NOT NULL DEFAULT 0, incomplete INTEGER NOT NULL DEFAULT 0
  ) STRICT;
  CREATE INDEX batch_run ON batch (run);
  CREATE TABLE chunk (
    batch INTEGER NOT NULL, first_index INTEGER NOT NULL, pieces INTEGER NOT NULL, entries BLOB NOT NULL, cells BLOB NOT NULL,
    line_numbers BLOB NOT NULL, texts BLOB NOT NULL, UNIQUE (batch, first_index)
  ) STRICT;
  CREATE TABLE franked (
    batch INTEGER NOT NULL, first_index INTEGER NOT NULL, pieces INTEGER NOT NULL, first_number INTEGER NOT NULL,
    indicia BLOB NOT NULL, salts BLOB NOT NULL, codes BLOB NOT NULL, UNIQUE (batch, first_index)
  ) STRICT;
  CREATE INDEX franked_number ON franked (first_number);
  CREATE TABLE bad_row (run INTEGER NOT NULL, row INTEGER NOT NULL, field TEXT NOT NULL, value TEXT NOT NULL, cure TEXT NOT NULL) STRICT;
  CREATE INDEX bad_row_run ON bad_row (run, row);
  -- state: waiting, confirmed, quarantined. supply: bytes handed out to host memory, from which they are sent (hold).
  CREATE TABLE record (
    sequence INTEGER PRIMARY KEY, digest BLOB NOT NULL, batch TEXT, bytes BLOB NOT NULL, sealed_ms INTEGER NOT NULL,
    hold_until_ms INTEGER, state TEXT NOT NULL, reason TEXT, attempts INTEGER NOT NULL DEFAULT 0, sent INTEGER NOT NULL DEFAULT 0,
    confirmation BLOB, attestation BLOB, confirmed_ms INTEGER
  ) STRICT;
  CREATE INDEX record_state ON record (state);
  CREATE TABLE piece_grant (
    cursor INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, kind TEXT NOT NULL, bytes BLOB NOT NULL
  ) STRICT;
  CREATE TABLE grant_evidence (digest BLOB NOT NULL, cursor INTEGER NOT NULL, PRIMARY KEY (digest, cursor)) STRICT, WITHOUT ROWID;
  CREATE TABLE funds_grant (number INTEGER PRIMARY KEY, job TEXT, bytes BLOB NOT NULL, applied INTEGER NOT NULL) STRICT;
  CREATE TABLE kept (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;`,
  'CREATE INDEX record_batch ON record (batch);',
];

/** The path of the host's store. */
export function storePath(config: { readonly data: string }): string {
  return join(config.data, 'host.sqlite');
}

/**
 * Opens the host's store. Rejections and faults: those of `openEmbeddedStore`.
 * @param onBroken told once when the store takes nothing more
 */
export function openHostStore(path: string, onBroken?: (fault: unknown) => void): Result<EmbeddedStore> {
  return openEmbeddedStore({
    path,
    applicationId: HOST_APPLICATION_ID,
    migrations: HOST_MIGRATIONS,
    ...(onBroken === undefined ? {} : { onBroken }),
  });
}
