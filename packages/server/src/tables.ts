/**
 * The server's tables, for SQLite and PostgreSQL alike, and their migrations.
 *
 * Three truths lie here: the statistics log (`log_position`, `head`, `record`, `confirmation`, `evidence`), the registry
 * (`licensee` to `policy`, `role_certificate`), with people and what they did (`person`, `withdrawal`, `death`, `closure`, `device_setting`, `key_ceremony`, `audit_entry`, `operator_act`), and the ledger's own
 * entries (`entry`, `entry_line`, `funds`, `booked_grant`, `entitled`). What derives from the log follows it by `follower`. Times are milliseconds, amounts mills, flags 0 and 1.
 */
import type { Migration } from '@countermark/sql/migrations';

export interface ServerTables {
  licensee: { licensee: string; name: string; kind: string; created_at_ms: bigint };
  /** `hash`: SHA-256 of a credential, hex. */
  credential: { hash: string; licensee: string };
  customer: { licensee: string; customer: string };
  device: { device: string; licensee: string; suspension: Uint8Array | null };
  certificate: { device: string; epoch: bigint; request: Uint8Array; certificate: Uint8Array; digest: Uint8Array };
  policy: { device: string; version: bigint; policy: Uint8Array };
  log_position: { id: bigint; cursor: bigint };
  head: {
    device: string;
    sequence: bigint;
    digest: Uint8Array;
    ascending_mills: bigint;
    descending_mills: bigint;
    pieces: bigint;
    received_mills: bigint;
    returned_mills: bigint;
    last_grant: bigint;
    epoch: bigint;
    suspended: bigint;
    /** Of a suspended device: the last record that stands. */
    suspended_after: bigint;
    reason: string;
  };
  record: {
    device: string;
    sequence: bigint;
    cursor: bigint;
    digest: Uint8Array;
    record: Uint8Array;
    attestation: Uint8Array;
    certificate: Uint8Array;
    suspended: bigint;
    accepted_at_ms: bigint;
  };
  confirmation: { device: string; sequence: bigint; confirmation: Uint8Array };
  evidence: {
    device: string;
    digest: Uint8Array;
    sequence: bigint;
    code: string;
    record: Uint8Array;
    attestation: Uint8Array;
    at_ms: bigint;
  };
  entry: { number: bigint; ref: string; kind: string; note: string; at_ms: bigint };
  entry_line: { entry: bigint; account: string; amount_mills: bigint };
  balance: { account: string; balance_mills: bigint };
  funds: {
    device: string;
    number: bigint;
    licensee: string;
    request_digest: Uint8Array;
    request: Uint8Array;
    deposit_mills: bigint;
    draws: Uint8Array;
    amount_mills: bigint;
    refusal: string | null;
    funds_grant: Uint8Array | null;
  };
  credit: {
    grant_digest: Uint8Array;
    licensee: string;
    customer: string;
    remaining_mills: bigint;
    booked_at_ms: bigint;
    booked_at_cursor: bigint;
    place: bigint;
  };
  draw: {
    ref: string;
    licensee: string;
    customer: string;
    amount_mills: bigint;
    device: string | null;
    number: bigint | null;
  };
  booked_grant: {
    cursor: bigint;
    digest: Uint8Array;
    licensee: string;
    customer: string;
    kind: string;
    grant_bytes: Uint8Array;
    booked_at_ms: bigint;
  };
  entitled: {
    licensee: string;
    customer: string;
    programme: string;
    version: bigint;
    period: string;
    entitlement_mills: bigint;
  };
  /** Devices that were withdrawn for good; `suspension` is the signed word, null until it was signed. */
  withdrawal: { device: string; reason: string; suspension: Uint8Array | null; at_ms: bigint };
  /** Devices declared dead: by one, confirmed by another, then settled: '', 'refunded' or 'withheld'. */
  death: {
    device: string;
    reason: string;
    declared_by: string;
    declared_at_ms: bigint;
    confirmed_by: string | null;
    confirmed_at_ms: bigint | null;
    /** Not before then is the balance refunded. */
    refund_after_ms: bigint | null;
    settled: string;
    settled_at_ms: bigint | null;
    refunded_mills: bigint | null;
  };
  /** What operators did to devices before there was an audit trail; nothing is added, and the trail's first entry covers it. */
  operator_act: { number: bigint; device: string; act: string; operator: string; words: string; at_ms: bigint };
  /** What operators chose for a device; `profile` is empty for the server's own, `inspected_at_ms` null before its first inspection here. */
  device_setting: { device: string; profile: string; inspected_at_ms: bigint | null };
  /** Devices that are closed on their owner's wish; `sequence` and `returned_mills` are of the final statement, null before it. */
  closure: {
    device: string;
    reason: string;
    operator: string;
    at_ms: bigint;
    sequence: bigint | null;
    returned_mills: bigint | null;
    /** '', 'refunded' or 'withheld'. */
    settled: string;
    settled_at_ms: bigint | null;
  };
  /** One-time codes for new devices; `hash`: SHA-256 of a code, hex. `device` has used it. */
  enrolment_code: {
    hash: string;
    licensee: string;
    issued_by: string;
    issued_at_ms: bigint;
    ends_at_ms: bigint;
    revoked_by: string | null;
    device: string | null;
  };
  /** Spoiled postage of a record: settled: '', 'refunded' or 'withheld', with the reason. */
  spoilage: {
    digest: Uint8Array;
    device: string;
    sequence: bigint;
    licensee: string;
    customer: string;
    amount_mills: bigint;
    /** Not before then is it paid back. */
    refund_after_ms: bigint;
    settled: string;
    settled_at_ms: bigint | null;
    reason: string;
  };
  /** People with their role; `hash`: of the secret in their credential, argon2id. Rows are never removed. */
  person: {
    name: string;
    role: string;
    licensee: string | null;
    customer: string | null;
    hash: string;
    added_by: string;
    added_at_ms: bigint;
    revoked_by: string | null;
    revoked_at_ms: bigint | null;
  };
  /** What people did; append-only. `digest` covers the entry and the digest before it. */
  audit_entry: {
    number: bigint;
    at_ms: bigint;
    actor_kind: string;
    actor: string;
    act: string;
    subject: string;
    words: string;
    digest: Uint8Array;
  };
  /** Orders to rotate a role's key: by one, confirmed by another, or cancelled before; `epoch` of the key is null before the cryptographic device made it. */
  key_ceremony: {
    ceremony: string;
    role: string;
    reason: string;
    ordered_by: string;
    ordered_at_ms: bigint;
    confirmed_by: string | null;
    confirmed_at_ms: bigint | null;
    cancelled_by: string | null;
    cancelled_at_ms: bigint | null;
    epoch: bigint | null;
  };
  /** Certificates of roles' keys, as the cryptographic device signed them. */
  role_certificate: { role: string; epoch: bigint; certificate: Uint8Array };
  /** How far a follower has come; `digest` is of the message that it has under this cursor, where that is another party's. */
  follower: { name: string; cursor: bigint; digest: Uint8Array | null };
  /** Where the authority's history stood when it had the log up to a cursor; the history's digest is null where it was not said. */
  delivery_mark: { log_cursor: bigint; intake_cursor: bigint; history: Uint8Array | null };
}

export const MIGRATIONS: readonly Migration[] = [
  {
    name: 'registry, statistics log, ledger',
    statements: [
      'CREATE TABLE licensee (licensee {text} PRIMARY KEY, name {text} NOT NULL, kind {text} NOT NULL, created_at_ms {integer} NOT NULL){strict}',
      'CREATE TABLE credential (hash {text} PRIMARY KEY, licensee {text} NOT NULL REFERENCES licensee (licensee)){strict}',
      'CREATE TABLE customer (licensee {text} NOT NULL REFERENCES licensee (licensee), customer {text} NOT NULL, PRIMARY KEY (licensee, customer)){strict}',
      'CREATE TABLE device (device {text} PRIMARY KEY, licensee {text} NOT NULL REFERENCES licensee (licensee), suspension {bytes}){strict}',
      'CREATE TABLE certificate (device {text} NOT NULL REFERENCES device (device), epoch {integer} NOT NULL, request {bytes} NOT NULL, certificate {bytes} NOT NULL, digest {bytes} NOT NULL, PRIMARY KEY (device, epoch)){strict}',
      'CREATE UNIQUE INDEX certificate_digest ON certificate (digest)',
      'CREATE TABLE policy (device {text} NOT NULL REFERENCES device (device), version {integer} NOT NULL, policy {bytes} NOT NULL, PRIMARY KEY (device, version)){strict}',
      'CREATE TABLE log_position (id {integer} PRIMARY KEY, cursor {integer} NOT NULL){strict}',
      'INSERT INTO log_position (id, cursor) VALUES (1, 0)',
      'CREATE TABLE head (device {text} PRIMARY KEY, sequence {integer} NOT NULL, digest {bytes} NOT NULL, ascending_mills {integer} NOT NULL, descending_mills {integer} NOT NULL, pieces {integer} NOT NULL, received_mills {integer} NOT NULL, returned_mills {integer} NOT NULL, last_grant {integer} NOT NULL, epoch {integer} NOT NULL, suspended {integer} NOT NULL, reason {text} NOT NULL){strict}',
      'CREATE TABLE record (device {text} NOT NULL, sequence {integer} NOT NULL, cursor {integer} NOT NULL, digest {bytes} NOT NULL, record {bytes} NOT NULL, attestation {bytes} NOT NULL, certificate {bytes} NOT NULL, suspended {integer} NOT NULL, accepted_at_ms {integer} NOT NULL, PRIMARY KEY (device, sequence)){strict}',
      'CREATE UNIQUE INDEX record_cursor ON record (cursor)',
      'CREATE TABLE confirmation (device {text} NOT NULL, sequence {integer} NOT NULL, confirmation {bytes} NOT NULL, PRIMARY KEY (device, sequence)){strict}',
      'CREATE TABLE evidence (device {text} NOT NULL, digest {bytes} NOT NULL, sequence {integer} NOT NULL, code {text} NOT NULL, record {bytes} NOT NULL, attestation {bytes} NOT NULL, at_ms {integer} NOT NULL, PRIMARY KEY (device, digest)){strict}',
      'CREATE TABLE entry (number {integer} PRIMARY KEY, ref {text} NOT NULL UNIQUE, kind {text} NOT NULL, note {text} NOT NULL, at_ms {integer} NOT NULL){strict}',
      'CREATE TABLE entry_line (entry {integer} NOT NULL REFERENCES entry (number), account {text} NOT NULL, amount_mills {integer} NOT NULL, PRIMARY KEY (entry, account)){strict}',
      'CREATE INDEX entry_line_account ON entry_line (account, entry)',
      'CREATE TABLE balance (account {text} PRIMARY KEY, balance_mills {integer} NOT NULL){strict}',
      'CREATE TABLE funds (device {text} NOT NULL, number {integer} NOT NULL, licensee {text} NOT NULL, request_digest {bytes} NOT NULL, request {bytes} NOT NULL, deposit_mills {integer} NOT NULL, draws {bytes} NOT NULL, amount_mills {integer} NOT NULL, refusal {text}, funds_grant {bytes}, PRIMARY KEY (device, number)){strict}',
      'CREATE TABLE credit (grant_digest {bytes} PRIMARY KEY, licensee {text} NOT NULL, customer {text} NOT NULL, remaining_mills {integer} NOT NULL, booked_at_ms {integer} NOT NULL, booked_at_cursor {integer} NOT NULL, place {integer} NOT NULL){strict}',
      'CREATE INDEX credit_beneficiary ON credit (licensee, customer, place)',
      'CREATE TABLE draw (ref {text} PRIMARY KEY, licensee {text} NOT NULL, customer {text} NOT NULL, amount_mills {integer} NOT NULL, device {text}, number {integer}){strict}',
      'CREATE INDEX draw_open ON draw (licensee, device)',
      'CREATE TABLE booked_grant (cursor {integer} PRIMARY KEY, digest {bytes} NOT NULL UNIQUE, licensee {text} NOT NULL, customer {text} NOT NULL, kind {text} NOT NULL, grant_bytes {bytes} NOT NULL, booked_at_ms {integer} NOT NULL){strict}',
      'CREATE INDEX booked_grant_licensee ON booked_grant (licensee, cursor)',
      'CREATE TABLE follower (name {text} PRIMARY KEY, cursor {integer} NOT NULL){strict}',
      'CREATE TABLE delivery_mark (log_cursor {integer} PRIMARY KEY, intake_cursor {integer} NOT NULL){strict}',
    ],
  },
  {
    name: 'entitlements that are booked',
    statements: [
      'CREATE TABLE entitled (licensee {text} NOT NULL, customer {text} NOT NULL, programme {text} NOT NULL, version {integer} NOT NULL, period {text} NOT NULL, entitlement_mills {integer} NOT NULL, PRIMARY KEY (licensee, customer, programme, version, period)){strict}',
    ],
  },
  {
    name: 'withdrawn and dead devices',
    statements: [
      'CREATE TABLE withdrawal (device {text} PRIMARY KEY REFERENCES device (device), reason {text} NOT NULL, suspension {bytes}, at_ms {integer} NOT NULL){strict}',
      'CREATE TABLE death (device {text} PRIMARY KEY REFERENCES device (device), reason {text} NOT NULL, declared_by {text} NOT NULL, declared_at_ms {integer} NOT NULL, confirmed_by {text}, confirmed_at_ms {integer}, refund_after_ms {integer}, settled {text} NOT NULL, settled_at_ms {integer}, refunded_mills {integer}, CHECK (confirmed_by <> declared_by)){strict}',
      'CREATE TABLE operator_act (number {integer} PRIMARY KEY, device {text} NOT NULL, act {text} NOT NULL, operator {text} NOT NULL, words {text} NOT NULL, at_ms {integer} NOT NULL){strict}',
      'CREATE INDEX operator_act_device ON operator_act (device, number)',
      // Suspended devices are few among many.
      'CREATE INDEX head_suspended ON head (device) WHERE suspended = 1',
    ],
  },
  { name: 'history of the authority', statements: ['ALTER TABLE delivery_mark ADD COLUMN history {bytes}'] },
  { name: 'history of grants', statements: ['ALTER TABLE follower ADD COLUMN digest {bytes}'] },
  {
    name: 'settings and closures of devices',
    statements: [
      'CREATE TABLE device_setting (device {text} PRIMARY KEY REFERENCES device (device), profile {text} NOT NULL, inspected_at_ms {integer}){strict}',
      'CREATE TABLE closure (device {text} PRIMARY KEY, reason {text} NOT NULL, operator {text} NOT NULL, at_ms {integer} NOT NULL, sequence {integer}, returned_mills {integer}, settled {text} NOT NULL, settled_at_ms {integer}){strict}',
    ],
  },
  {
    name: 'spoiled postage, enrolment codes',
    statements: [
      'CREATE TABLE spoilage (digest {bytes} PRIMARY KEY, device {text} NOT NULL, sequence {integer} NOT NULL, licensee {text} NOT NULL, customer {text} NOT NULL, amount_mills {integer} NOT NULL, refund_after_ms {integer} NOT NULL, settled {text} NOT NULL, settled_at_ms {integer}, reason {text} NOT NULL){strict}',
      'CREATE UNIQUE INDEX spoilage_record ON spoilage (device, sequence)',
      'CREATE INDEX spoilage_due ON spoilage (settled, refund_after_ms)',
      'CREATE INDEX spoilage_licensee ON spoilage (licensee, refund_after_ms)',
      'CREATE TABLE enrolment_code (hash {text} PRIMARY KEY, licensee {text} NOT NULL REFERENCES licensee (licensee), issued_by {text} NOT NULL, issued_at_ms {integer} NOT NULL, ends_at_ms {integer} NOT NULL, revoked_by {text}, device {text}){strict}',
      'CREATE INDEX enrolment_code_licensee ON enrolment_code (licensee, issued_at_ms)',
    ],
  },
  {
    name: 'people and the audit trail',
    statements: [
      'CREATE TABLE person (name {text} PRIMARY KEY, role {text} NOT NULL, licensee {text} REFERENCES licensee (licensee), customer {text}, hash {text} NOT NULL, added_by {text} NOT NULL, added_at_ms {integer} NOT NULL, revoked_by {text}, revoked_at_ms {integer}){strict}',
      'CREATE TABLE audit_entry (number {integer} PRIMARY KEY, at_ms {integer} NOT NULL, actor_kind {text} NOT NULL, actor {text} NOT NULL, act {text} NOT NULL, subject {text} NOT NULL, words {text} NOT NULL, digest {bytes} NOT NULL){strict}',
      'CREATE INDEX audit_entry_subject ON audit_entry (subject, number)',
    ],
  },
  {
    name: 'keys of roles',
    statements: [
      'CREATE TABLE key_ceremony (ceremony {text} PRIMARY KEY, role {text} NOT NULL, reason {text} NOT NULL, ordered_by {text} NOT NULL, ordered_at_ms {integer} NOT NULL, confirmed_by {text}, confirmed_at_ms {integer}, epoch {integer}, CHECK (confirmed_by <> ordered_by)){strict}',
      'CREATE TABLE role_certificate (role {text} NOT NULL, epoch {integer} NOT NULL, certificate {bytes} NOT NULL, PRIMARY KEY (role, epoch)){strict}',
    ],
  },
  {
    name: 'cancelled ceremonies',
    statements: [
      'ALTER TABLE key_ceremony ADD COLUMN cancelled_by {text}',
      'ALTER TABLE key_ceremony ADD COLUMN cancelled_at_ms {integer}',
    ],
  },
  {
    name: 'records that stand before a suspension',
    statements: [
      'ALTER TABLE head ADD COLUMN suspended_after {integer} NOT NULL DEFAULT 0',
      'UPDATE head SET suspended_after = coalesce((SELECT max(record.sequence) FROM record WHERE record.device = head.device AND record.suspended = 0), 0) WHERE suspended = 1',
    ],
  },
];
