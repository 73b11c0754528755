/**
 * The authority's tables, and their history as migrations; the same on SQLite and PostgreSQL.
 *
 * `record` is the authority's log: only ever appended to, the truth that everything else but grants and programmes can
 * be rebuilt from. `total` and `cell` follow it by the position `rolled`, grants by each programme's own. Absent texts
 * are empty, so that they stand in keys; integers are 64 bits.
 */
import type { Migration } from '@countermark/sql/migrations';
import type { Generated } from 'kysely';

export type Tables = {
  position: { name: string; value: bigint };
  certificate: {
    device: string;
    epoch: bigint;
    licensee: string;
    authentication: string;
    public_key: Uint8Array;
    digest: Uint8Array;
    bytes: Uint8Array;
  };
  device: {
    device: string;
    sequence: bigint;
    digest: Uint8Array;
    epoch: bigint;
    ascending_mills: bigint;
    descending_mills: bigint;
    pieces: bigint;
    received_mills: bigint;
    returned_mills: bigint;
    last_grant: bigint;
    /** Why it is suspended, or empty. */
    suspended: string;
    /** Of a suspended device: the last record that stands. */
    suspended_after: bigint;
    /** Of the last suspension message that was heeded, 0 before the first. */
    suspension_ms: bigint;
  };
  record: {
    cursor: bigint;
    device: string;
    sequence: bigint;
    digest: Uint8Array;
    type: string;
    licensee: string;
    customer: string;
    mailing_date: string;
    /** 1: it is after the last one that stands of a suspended device. */
    suspended: bigint;
    bytes: Uint8Array;
    attestation: Uint8Array;
    received_ms: bigint;
    /** Over the digests of all records up to it; null stands for none, before there was one. */
    history: Uint8Array | null;
  };
  quarantine: {
    device: string;
    sequence: bigint;
    digest: Uint8Array;
    code: string;
    detail: string;
    bytes: Uint8Array;
    attestation: Uint8Array;
    received_ms: bigint;
  };
  total: {
    id: Generated<bigint>;
    /** The dimensions below as one text. */
    key: string;
    licensee: string;
    customer: string;
    device: string;
    mailing_date: string;
    product: string;
    shape: string;
    affixed: string;
    level: string;
    entry: string;
    weight_step: bigint;
    submitter: string;
    preparer: string;
    tariff: string;
    currency: string;
    exponent: bigint;
    authentication: string;
    specimen: bigint;
    standing: string;
    pieces: bigint;
    postage_mills: bigint;
    declared_mills: bigint;
  };
  cell: {
    cursor: bigint;
    ordinal: bigint;
    total: bigint;
    pieces: bigint;
    postage_mills: bigint;
    reason: string;
  };
  programme: { id: string; version: bigint; canonical: string; evaluated: bigint };
  issued_grant: {
    cursor: bigint;
    programme: string;
    version: bigint;
    licensee: string;
    customer: string;
    period: string;
    revision: bigint;
    amount_mills: bigint;
    entitlement_mills: bigint;
    /** The intake cursor that it rests on. */
    through: bigint;
    digest: Uint8Array;
    bytes: Uint8Array;
  };
};

export const MIGRATIONS: readonly Migration[] = [
  {
    name: 'intake, totals and grants',
    statements: [
      `CREATE TABLE position (name {text} PRIMARY KEY, value {integer} NOT NULL){strict}`,
      `INSERT INTO position (name, value) VALUES ('intake', 0), ('rolled', 0), ('grants', 0)`,
      `CREATE TABLE certificate (
        device {text} NOT NULL, epoch {integer} NOT NULL, licensee {text} NOT NULL, authentication {text} NOT NULL,
        public_key {bytes} NOT NULL, digest {bytes} NOT NULL, bytes {bytes} NOT NULL,
        PRIMARY KEY (device, epoch)){strict}`,
      `CREATE TABLE device (
        device {text} PRIMARY KEY, sequence {integer} NOT NULL, digest {bytes} NOT NULL, epoch {integer} NOT NULL,
        ascending_mills {integer} NOT NULL, descending_mills {integer} NOT NULL, pieces {integer} NOT NULL,
        received_mills {integer} NOT NULL, returned_mills {integer} NOT NULL, last_grant {integer} NOT NULL,
        suspended {text} NOT NULL, suspension_ms {integer} NOT NULL){strict}`,
      `CREATE TABLE record (
        cursor {integer} PRIMARY KEY, device {text} NOT NULL, sequence {integer} NOT NULL, digest {bytes} NOT NULL UNIQUE,
        type {text} NOT NULL, licensee {text} NOT NULL, customer {text} NOT NULL, mailing_date {text} NOT NULL,
        suspended {integer} NOT NULL, bytes {bytes} NOT NULL, attestation {bytes} NOT NULL, received_ms {integer} NOT NULL,
        UNIQUE (device, sequence)){strict}`,
      `CREATE TABLE quarantine (
        device {text} NOT NULL, sequence {integer} NOT NULL, digest {bytes} NOT NULL, code {text} NOT NULL,
        detail {text} NOT NULL, bytes {bytes} NOT NULL, attestation {bytes} NOT NULL, received_ms {integer} NOT NULL,
        PRIMARY KEY (device, sequence, digest)){strict}`,
      `CREATE TABLE total (
        id {sequence}, key {text} NOT NULL UNIQUE, licensee {text} NOT NULL, customer {text} NOT NULL,
        device {text} NOT NULL, mailing_date {text} NOT NULL, product {text} NOT NULL, shape {text} NOT NULL,
        affixed {text} NOT NULL, level {text} NOT NULL, entry {text} NOT NULL, weight_step {integer} NOT NULL,
        submitter {text} NOT NULL, preparer {text} NOT NULL, tariff {text} NOT NULL, currency {text} NOT NULL,
        exponent {integer} NOT NULL, authentication {text} NOT NULL, specimen {integer} NOT NULL, standing {text} NOT NULL,
        pieces {integer} NOT NULL, postage_mills {integer} NOT NULL, declared_mills {integer} NOT NULL){strict}`,
      `CREATE INDEX total_beneficiary ON total (licensee, customer, mailing_date)`,
      `CREATE TABLE cell (
        cursor {integer} NOT NULL REFERENCES record (cursor), ordinal {integer} NOT NULL,
        total {integer} NOT NULL REFERENCES total (id), pieces {integer} NOT NULL, postage_mills {integer} NOT NULL,
        reason {text} NOT NULL, PRIMARY KEY (cursor, ordinal)){strict}`,
      `CREATE INDEX cell_total ON cell (total, cursor)`,
      `CREATE TABLE programme (
        id {text} NOT NULL, version {integer} NOT NULL, canonical {text} NOT NULL, evaluated {integer} NOT NULL,
        PRIMARY KEY (id, version)){strict}`,
      `CREATE TABLE issued_grant (
        cursor {integer} PRIMARY KEY, programme {text} NOT NULL, version {integer} NOT NULL, licensee {text} NOT NULL,
        customer {text} NOT NULL, period {text} NOT NULL, revision {integer} NOT NULL, amount_mills {integer} NOT NULL,
        entitlement_mills {integer} NOT NULL, through {integer} NOT NULL, digest {bytes} NOT NULL UNIQUE,
        bytes {bytes} NOT NULL,
        UNIQUE (programme, version, licensee, customer, period, revision),
        FOREIGN KEY (programme, version) REFERENCES programme (id, version)){strict}`,
    ],
  },
  { name: 'history of the log', statements: ['ALTER TABLE record ADD COLUMN history {bytes}'] },
  {
    name: 'records that stand before a suspension',
    statements: [
      'ALTER TABLE device ADD COLUMN suspended_after {integer} NOT NULL DEFAULT 0',
      `UPDATE device SET suspended_after = coalesce(
        (SELECT max(record.sequence) FROM record WHERE record.device = device.device AND record.suspended = 0), 0)
        WHERE suspended <> ''`,
    ],
  },
];
