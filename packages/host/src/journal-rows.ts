/**
 * The rows of the host's store: their types, and each made of what SQLite answers.
 *
 * Guarantees: amounts are exact (`bigint` mills), ids have their types. Checks nothing: only this host writes its store, and what
 * of it must not be believed, the PSD checks.
 */
import { parseEnvelope } from '@countermark/protocol/cose';
import type { RecordReport } from '@countermark/protocol/interfaces/host';
import { FINAL_STATEMENT } from '@countermark/protocol/messages/final-statement';
import type { CellKey } from '@countermark/protocol/cell';
import type { BatchId, CustomerId, JobId } from '@countermark/protocol/id';
import type { JobState } from '@countermark/protocol/interfaces/host';
import type { Rejection } from '@countermark/protocol/rejection';

/** A rated cell as a run's chunks refer to it. Amounts are mills of one piece. */
export type RunCell = { readonly key: CellKey; readonly affixedMills: bigint; readonly declaredMills: bigint };

export type JobRow = {
  readonly job: JobId;
  readonly state: JobState;
  readonly refusal: Rejection | null;
  readonly tariff: string;
  readonly rejectedRows: number;
  readonly errorsFile: string | null;
};

export type RunState = 'staging' | 'active' | 'superseded' | 'franked';
export type RunRow = {
  readonly run: number;
  readonly job: JobId;
  readonly ordinal: number;
  readonly file: string;
  readonly fileDigest: Uint8Array;
  readonly columns: readonly string[];
  readonly cells: readonly RunCell[];
  readonly state: RunState;
  readonly warnings: readonly string[];
  readonly keepOpen: boolean;
  readonly printed: boolean;
};

export type BatchRowState = 'planned' | 'open' | 'closed' | 'sealed' | 'dropped';
export type BatchRow = {
  readonly batch: number;
  readonly id: BatchId;
  /** Null: a batch that the host found at its PSD and knows nothing else of. */
  readonly run: number | null;
  readonly customer: CustomerId | null;
  readonly product: string;
  readonly entry: string;
  readonly mailingDate: string;
  readonly state: BatchRowState;
  readonly expected: number;
  readonly expectedCells: number;
  readonly declaration: Uint8Array | null;
  readonly franked: number;
  readonly postageMills: bigint;
  readonly firstNumber: number | null;
  readonly spoiled: readonly number[];
  readonly reprints: number;
  readonly laterReprints: number;
  readonly incomplete: boolean;
};

/** Pieces as staged. `entries`: as the PSD is asked, cell indices within `cells`; `cells`: indices into the run's cells. */
export type ChunkRow = {
  readonly firstIndex: number;
  readonly pieces: number;
  readonly entries: Uint8Array;
  readonly cells: Uint16Array;
  readonly rows: Uint32Array;
  /** A JSON list of cells per row, one a line. */
  readonly texts: Uint8Array;
};

export type FrankedRow = {
  readonly firstIndex: number;
  readonly pieces: number;
  readonly firstNumber: number;
  readonly indicia: Uint8Array;
  readonly salts: Uint8Array;
  readonly codes: Uint8Array;
};

export type RecordRow = {
  readonly sequence: number;
  readonly digest: Uint8Array;
  readonly batch: BatchId | null;
  readonly bytes: Uint8Array;
  readonly sealedMs: number;
  readonly holdUntilMs: number | null;
  readonly state: 'waiting' | 'confirmed' | 'quarantined';
  readonly reason: string | null;
  readonly attempts: number;
  readonly sent: boolean;
  readonly confirmation: Uint8Array | null;
  readonly attestation: Uint8Array | null;
};

/** A record that its device has deleted on a verified confirmation. */
export type ConfirmedRecord = {
  readonly sequence: number;
  readonly confirmation: Uint8Array;
  readonly attestation: Uint8Array | null;
};

export type BadRow = { readonly row: number; readonly field: string; readonly value: string; readonly cure: string };
export type GrantRow = { readonly cursor: number; readonly kind: 'discount' | 'credit'; readonly bytes: Uint8Array };

/** Small values kept by name. */
export type KeptName = CertificateName | 'policy' | 'device' | 'checked' | 'rotation' | 'identity' | 'identity-chain';

/** The device's certificate of an epoch; that of the first has no number. */
export type CertificateName = 'certificate' | `certificate-${number}`;

export function certificateName(epoch: number): CertificateName {
  return epoch === 1 ? 'certificate' : `certificate-${epoch}`;
}

/** A row as SQLite answers it. */
export type Raw = Record<string, unknown>;

/** A column as the blob that is stored. */
export function bytesOf(column: Uint16Array | Uint32Array): Buffer {
  return Buffer.from(column.buffer, column.byteOffset, column.byteLength);
}

/** A column of a blob; copied, because a blob's bytes may lie at any address. */
function aligned(blob: unknown): ArrayBuffer {
  const bytes = blob as Buffer;
  return bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength) as ArrayBuffer;
}

export function jobOf(row: Raw): JobRow {
  return {
    job: row.job as JobId,
    state: row.state as JobState,
    refusal: row.refusal === null ? null : (JSON.parse(row.refusal as string) as Rejection),
    tariff: row.tariff as string,
    rejectedRows: Number(row.rejected_rows),
    errorsFile: row.errors_file as string | null,
  };
}

export function runOf(row: Raw): RunRow {
  const cells = JSON.parse(row.cells as string) as [CellKey, string, string][];
  return {
    run: Number(row.run),
    job: row.job as JobId,
    ordinal: Number(row.ordinal),
    file: row.file as string,
    fileDigest: row.file_digest as Uint8Array,
    columns: JSON.parse(row.columns as string) as string[],
    cells: cells.map(([key, affixed, declared]) => ({
      key,
      affixedMills: BigInt(affixed),
      declaredMills: BigInt(declared),
    })),
    state: row.state as RunState,
    warnings: JSON.parse(row.warnings as string) as string[],
    keepOpen: row.keep_open === 1n,
    printed: row.printed === 1n,
  };
}

export function batchOf(row: Raw): BatchRow {
  return {
    batch: Number(row.batch),
    id: row.id as BatchId,
    run: row.run === null ? null : Number(row.run),
    customer: row.customer as CustomerId | null,
    product: row.product as string,
    entry: row.entry as string,
    mailingDate: row.mailing_date as string,
    state: row.state as BatchRowState,
    expected: Number(row.expected),
    expectedCells: Number(row.expected_cells),
    declaration: row.declaration as Uint8Array | null,
    franked: Number(row.franked),
    postageMills: row.postage_mills as bigint,
    firstNumber: row.first_number === null ? null : Number(row.first_number),
    spoiled: JSON.parse(row.spoiled as string) as number[],
    reprints: Number(row.reprints),
    laterReprints: Number(row.later_reprints),
    incomplete: row.incomplete === 1n,
  };
}

export function chunkOf(row: Raw): ChunkRow {
  return {
    firstIndex: Number(row.first_index),
    pieces: Number(row.pieces),
    entries: row.entries as Uint8Array,
    cells: new Uint16Array(aligned(row.cells)),
    rows: new Uint32Array(aligned(row.line_numbers)),
    texts: row.texts as Uint8Array,
  };
}

export function frankedOf(row: Raw): FrankedRow {
  return {
    firstIndex: Number(row.first_index),
    pieces: Number(row.pieces),
    firstNumber: Number(row.first_number),
    indicia: row.indicia as Uint8Array,
    salts: row.salts as Uint8Array,
    codes: row.codes as Uint8Array,
  };
}

/** What kind of record it is: what belongs to no batch says so in its own envelope. */
export function recordTypeOf({ batch, bytes }: Pick<RecordRow, 'batch' | 'bytes'>): RecordReport['type'] {
  if (batch !== null) return 'batch-statistics';
  const envelope = parseEnvelope(bytes);
  return envelope.ok && envelope.value.type === FINAL_STATEMENT.type ? 'final-statement' : 'key-rotation';
}

export function recordOf(row: Raw): RecordRow {
  return {
    sequence: Number(row.sequence),
    digest: row.digest as Uint8Array,
    batch: row.batch as BatchId | null,
    bytes: row.bytes as Uint8Array,
    sealedMs: Number(row.sealed_ms),
    holdUntilMs: row.hold_until_ms === null ? null : Number(row.hold_until_ms),
    state: row.state as RecordRow['state'],
    reason: row.reason as string | null,
    attempts: Number(row.attempts),
    sent: row.sent === 1n,
    confirmation: row.confirmation as Uint8Array | null,
    attestation: row.attestation as Uint8Array | null,
  };
}

export function grantOf(row: Raw): GrantRow {
  return { cursor: Number(row.cursor), kind: row.kind as GrantRow['kind'], bytes: row.bytes as Uint8Array };
}
