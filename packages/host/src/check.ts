/**
 * Reads the host's store from its first record and says in words what is wrong; changes nothing.
 *
 * Guarantees, where it finds nothing: SQLite's own structures are whole; every record has its digest, continues the one before
 * it, agrees with itself, and is authentic as far as that can be seen here (signature by the device's certificate; a MAC by its
 * attestation); every confirmation is authentic and of its record; every batch has its pieces from index 0 on, and those of a
 * sealed one have the root and the rate cells of its record; grants are authentic. Against the device's testimony: both have the
 * same records, and neither is older than the other. A start asks the same of the last records only (`hostTailProblem`).
 * Pieces whose retention has ended, and batches that were found at the device, have no piece records here.
 */
import { existsSync } from 'node:fs';
import type { EmbeddedStore } from '@countermark/node-platform/embedded-store';
import { Examination, type Testimony } from '@countermark/node-platform/examination';
import { nodeVerification, sha256 } from '@countermark/node-platform/verification';
import { cellKeyBytes } from '@countermark/protocol/cell';
import { CellTally } from '@countermark/protocol/cell-tally';
import { messageDigest, parseEnvelope } from '@countermark/protocol/cose';
import { digestText, sameBytes } from '@countermark/protocol/digest';
import type { DeviceId } from '@countermark/protocol/id';
import { MAX_CHUNK } from '@countermark/protocol/interfaces/psd';
import { append, EMPTY_FRONTIER, leafDigest, root, SALT_BYTES } from '@countermark/protocol/merkle';
import { parsePayload } from '@countermark/protocol/message';
import { ATTESTATION } from '@countermark/protocol/messages/attestation';
import { BATCH_STATISTICS, type BatchStatistics } from '@countermark/protocol/messages/batch-statistics';
import { CONFIRMATION } from '@countermark/protocol/messages/confirmation';
import { FUNDS_GRANT } from '@countermark/protocol/messages/funds';
import { CREDIT_GRANT, DISCOUNT_GRANT } from '@countermark/protocol/messages/grant';
import { FINAL_STATEMENT } from '@countermark/protocol/messages/final-statement';
import { KEY_ROTATION } from '@countermark/protocol/messages/key-rotation';
import { describeFinding } from '@countermark/protocol/rejection';
import { accept, type Result } from '@countermark/protocol/result';
import { contradiction } from '@countermark/verify/statistics';
import { type KeySource, type Trust, verifyMessage } from '@countermark/verify/verified';
import { verifyRecord } from '@countermark/verify/record';
import type { HostConfig } from './config.ts';
import { deviceKeys, verifiedCertificate } from './device-trust.ts';
import { Journal } from './journal.ts';
import type { BatchRow, RecordRow } from './journal-rows.ts';
import { openHostStore, storePath } from './journal-schema.ts';
import { frankedChunks, pieceRecords } from './piece-archive.ts';
import { readIndex, readPostage } from './staging.ts';
import { readTrustKeys } from './trust-keys.ts';

const PAGE = 200;
/** Records that a start reads again: at least, whatever was checked before, and at most. */
const TAIL_MIN = 16;
const TAIL_MAX = 128;

/**
 * What is wrong with the host's store, in words. Rejections: `store-in-use`, `store-damaged`, `config-invalid`.
 * Testimony: `record`, `funds-grant` and `grant` of each.
 */
export async function checkHost(
  config: HostConfig,
  examination = new Examination(),
): Promise<Result<readonly string[]>> {
  const path = storePath(config);
  if (!existsSync(path)) {
    examination.problem(`There is no store at ${path}.`);
    return accept(examination.problems);
  }
  const keys = readTrustKeys(config.trustBundle);
  if (!keys.ok) return keys;
  const store = openHostStore(path);
  if (!store.ok) return store;
  try {
    store.value.database.pragma('query_only = ON');
    for (const problem of store.value.integrityProblems()) examination.problem(problem);
    if (examination.problems.length > 0) return accept(examination.problems);
    const journal = new Journal(store.value, { asFound: true });
    const checked = new HostCheck(journal, keys.value, examination);
    checked.records(1);
    checked.batches();
    checked.grants(store.value);
    await checked.againstDevice();
    return accept(examination.problems);
  } finally {
    store.value.close();
  }
}

/**
 * What is wrong with the end of the store that a start has opened, or null. Looks at what came since the last start that found
 * nothing, the last 16 records at least and 128 at most, and remembers how far it came.
 */
export function hostTailProblem(journal: Journal, keys: KeySource): string | null {
  const { sealed, confirmed } = journal.records.lastSequences();
  const before = Number(new TextDecoder().decode(journal.kept('checked') ?? new Uint8Array(0)));
  const examination = new Examination();
  const checked = new HostCheck(journal, keys, examination);
  checked.archived(Math.max(1, Math.min(Math.max(before + 1, sealed - TAIL_MAX + 1), sealed - TAIL_MIN + 1)));
  const [problem] = examination.problems;
  if (problem !== undefined) return problem;
  if (confirmed !== before) journal.keep('checked', new TextEncoder().encode(String(confirmed)));
  return null;
}

class HostCheck {
  readonly #journal: Journal;
  readonly #examination: Examination;
  readonly #trust: Trust;
  readonly #device: DeviceId | null;

  constructor(journal: Journal, keys: KeySource, examination: Examination) {
    this.#journal = journal;
    this.#examination = examination;
    let device: DeviceId | null = null;
    for (const { bytes } of journal.certificates()) {
      const certificate = verifiedCertificate(bytes, keys);
      if (certificate.ok) ({ device } = certificate.value);
      else examination.problem(`the device's certificate: ${describeFinding(certificate.rejection)}`);
    }
    this.#device = device;
    this.#trust = { port: nodeVerification, keys: deviceKeys(journal, keys) };
  }

  /** Every record from a sequence on. */
  records(from: number): void {
    this.#records(from, () => true);
  }

  /** As {@link records}, but for those that wait: the device has them still, and what is wrong here is taken from there. */
  archived(from: number): void {
    this.#records(from, ({ state }) => state !== 'waiting');
  }

  #records(from: number, wanted: (row: RecordRow) => boolean): void {
    let before: RecordRow | undefined = this.#journal.records.get(from - 1);
    const { sealed } = this.#journal.records.lastSequences();
    for (let next = from; ; ) {
      const page = this.#journal.records.from(next, PAGE);
      for (const row of page) {
        const words = wanted(row) ? this.#recordProblem(row, before) : null;
        if (words !== null) this.#examination.problem(`record ${row.sequence}: ${words}`);
        this.#examination.testify({
          party: 'host',
          kind: 'record',
          device: this.#device,
          sequence: row.sequence,
          digest: digestText(row.digest),
          state: row.state,
          batch: row.batch,
        });
        before = row;
      }
      const last = page.at(-1);
      if (last === undefined) return;
      next = last.sequence + 1;
      this.#examination.progress('records', last.sequence, sealed);
    }
  }

  #recordProblem(row: RecordRow, before: RecordRow | undefined): string | null {
    const envelope = parseEnvelope(row.bytes);
    if (!envelope.ok) return describeFinding(envelope.rejection);
    if (!sameBytes(messageDigest(envelope.value, sha256), row.digest)) return 'its bytes are not those of its digest';
    const { type } = envelope.value;
    const parsed =
      type === KEY_ROTATION.type
        ? parsePayload(KEY_ROTATION, envelope.value)
        : type === FINAL_STATEMENT.type
          ? parsePayload(FINAL_STATEMENT, envelope.value)
          : parsePayload(BATCH_STATISTICS, envelope.value);
    if (!parsed.ok) return describeFinding(parsed.rejection);
    const { sequence, previous } = parsed.value;
    if (sequence !== row.sequence) return `it says that it is record ${sequence}`;
    if (before?.sequence === sequence - 1 && !sameBytes(before.digest, previous)) {
      return 'it does not continue the record before it';
    }
    const wrong = 'observed' in parsed.value ? contradiction(parsed.value) : null;
    if (wrong !== null) return describeFinding(wrong);
    // The certificate of an epoch may have gone with an older journal: what it signed is checked by its attestation.
    if (envelope.value.authentication === 'signature' && this.#trust.keys(envelope.value.key) !== null) {
      const verified = verifyRecord(row.bytes, this.#trust);
      if (!verified.ok) return describeFinding(verified.rejection);
    }
    return this.#answerProblem(row);
  }

  #answerProblem({ attestation, confirmation, digest, state }: RecordRow): string | null {
    if (attestation !== null) {
      const attested = verifyMessage(ATTESTATION, attestation, this.#trust);
      if (!attested.ok) return `its attestation: ${describeFinding(attested.rejection)}`;
      if (!sameBytes(attested.value.message.digest, digest)) return 'its attestation is of another record';
    }
    if (state === 'confirmed' && confirmation === null) return 'its confirmation is missing';
    if (confirmation === null) return null;
    const confirmed = verifyMessage(CONFIRMATION, confirmation, this.#trust);
    if (!confirmed.ok) return `its confirmation: ${describeFinding(confirmed.rejection)}`;
    return sameBytes(confirmed.value.message.digest, digest) ? null : 'its confirmation is of another record';
  }

  /** Pieces of every batch, and what its record says of them. */
  batches(): void {
    for (let last = 0; ; ) {
      const page = this.#journal.batches.after(last, PAGE);
      for (const batch of page) {
        last = batch.batch;
        const row = this.#journal.records.ofBatch(batch.id);
        const statistics = row === undefined ? null : statisticsOf(row.bytes);
        if (batch.state === 'sealed' && row === undefined) {
          this.#examination.problem(`the record of the batch ${batch.id} is missing`);
        }
        const words = this.#piecesProblem(batch, statistics);
        if (words !== null) this.#examination.problem(`the batch ${batch.id}: ${words}`);
      }
      if (page.length === 0) return;
    }
  }

  #piecesProblem(batch: BatchRow, statistics: BatchStatistics | null): string | null {
    const { chunks, runs } = this.#journal;
    // At the end of the retention time chunks and answers go together.
    const forgotten =
      batch.state === 'sealed' &&
      chunks.frankedIndices(batch.batch).length === 0 &&
      chunks.indices(batch.batch).length === 0;
    if (batch.run === null || batch.franked === 0) return null;
    const observed = statistics?.observed;
    const incomplete = observed?.incomplete === true;
    if (observed !== undefined && !incomplete) {
      const postageMills = observed.closed.ascendingMills - observed.opened.ascendingMills;
      if (batch.franked !== observed.pieces || batch.postageMills !== postageMills) {
        return `it has ${batch.franked} pieces for ${batch.postageMills} mills; its record says ${observed.pieces} for ${postageMills}`;
      }
    }
    if (forgotten || incomplete) return null;
    const cells = runs.get(batch.run)?.cells ?? [];
    const keys = cells.map(({ key }) => cellKeyBytes(key));
    const tally = new CellTally(statistics?.closing.spoiled ?? []);
    let frontier = EMPTY_FRONTIER;
    let postageMills = 0n;
    // With the memory inside the device there are no codes; with it here every piece has one.
    const codes = (chunks.franked(batch.batch, 0)?.codes.length ?? 0) > 0;
    for (const part of frankedChunks(this.#journal, batch, codes)) {
      if (!part.ok) return describeFinding(part.rejection);
      const { chunk, franked } = part.value;
      const pieces = pieceRecords(this.#device ?? ('' as DeviceId), batch.id, cells, part.value);
      for (let i = 0; i < chunk.pieces; i++) {
        const index = chunk.cells[readIndex(chunk.entries, i)];
        const key = index === undefined ? undefined : keys[index];
        if (key === undefined) return `piece ${franked.firstNumber + i} is of no rate cell`;
        const postage = BigInt(readPostage(chunk.entries, i));
        postageMills += postage;
        tally.count(key, franked.firstNumber + i, postage);
      }
      const salts = (i: number): Uint8Array => franked.salts.subarray(i * SALT_BYTES, (i + 1) * SALT_BYTES);
      const leaves = pieces.map((piece, i) => leafDigest(salts(i), piece, sha256));
      frontier = append(frontier, leaves, sha256);
      this.#examination.progress(`pieces of the batch ${batch.id}`, frontier.leaves, batch.franked);
    }
    if (postageMills !== batch.postageMills) {
      return `its pieces carry ${postageMills} mills; ${batch.postageMills} were noted`;
    }
    if (observed === undefined) return null;
    if (this.#device !== null && !sameBytes(root(frontier, sha256), observed.root)) {
      return 'its piece records do not have the root that its record names: one of them was altered';
    }
    return tally.difference(observed.cells);
  }

  /** Grants, and funds grants. */
  grants(store: EmbeddedStore): void {
    for (let last = 0; ; ) {
      const page = this.#journal.grants.after(last, PAGE);
      for (const { cursor, kind, bytes } of page) {
        last = cursor;
        const verified = verifyMessage(kind === 'credit' ? CREDIT_GRANT : DISCOUNT_GRANT, bytes, this.#trust);
        if (!verified.ok) this.#examination.problem(`grant ${cursor}: ${describeFinding(verified.rejection)}`);
        else {
          const digest = digestText(verified.value.digest);
          this.#examination.testify({ party: 'host', kind: 'grant', cursor, digest });
        }
      }
      if (page.length === 0) break;
    }
    const rows = store.database
      .prepare<[], { number: bigint; bytes: Uint8Array; applied: bigint }>('SELECT * FROM funds_grant ORDER BY number')
      .iterate();
    for (const { number, bytes, applied } of rows) {
      const verified = verifyMessage(FUNDS_GRANT, bytes, this.#trust);
      if (!verified.ok) {
        this.#examination.problem(`funds grant ${number}: ${describeFinding(verified.rejection)}`);
        continue;
      }
      const { device, amountMills } = verified.value.message;
      if (BigInt(verified.value.message.number) !== number) {
        this.#examination.problem(`funds grant ${number} is the grant ${verified.value.message.number}`);
      }
      this.#examination.testify({
        party: 'host',
        kind: 'funds-grant',
        device,
        number: Number(number),
        digest: digestText(verified.value.digest),
        amountMills: String(amountMills),
        applied: applied === 1n,
      });
    }
  }

  /** What the device of this host says of itself, where it was examined before. */
  async againstDevice(): Promise<void> {
    let device: Testimony | undefined;
    const lacking: number[] = [];
    for await (const said of this.#examination.others()) {
      if (said.party !== 'psd') continue;
      if (said.kind === 'device') device = said;
      if (said.kind !== 'record') continue;
      const sequence = Number(said.sequence);
      const own = this.#journal.records.get(sequence);
      // What the device still holds is taken from it at the next start.
      if (own === undefined && said.held === false) lacking.push(sequence);
      if (own !== undefined && digestText(own.digest) !== said.digest) {
        this.#examination.problem(`record ${sequence} here is another than the one of the device`);
      }
    }
    if (device === undefined) return;
    if (lacking.length > 0) {
      this.#examination.problem(
        `the archive lacks ${lacking.length} records that the device has had confirmed and deleted, from ${lacking[0] ?? 0} to ${lacking.at(-1) ?? 0}: the server has them`,
      );
    }
    const sequence = Number(device.sequence);
    const { sealed } = this.#journal.records.lastSequences();
    if (sealed > sequence) {
      this.#examination.problem(
        `the device stands at record ${sequence}, this archive has record ${sealed} of it: the device's store is an older copy. Do not frank with it; withdraw it`,
      );
    }
    for (const batch of this.#journal.batches.unsealed()) {
      if (batch.id !== device.batch) {
        if (sealed >= sequence) {
          this.#examination.problem(`the batch ${batch.id} is ${batch.state} here, and the device does not know it`);
        }
        continue;
      }
      const franked = Number(device.batchPieces);
      if (batch.franked > franked || franked - batch.franked > MAX_CHUNK) {
        this.#examination.problem(
          `the batch ${batch.id} has ${batch.franked} pieces here and ${franked} at the device: more than one chunk apart`,
        );
      }
    }
  }
}

function statisticsOf(bytes: Uint8Array): BatchStatistics | null {
  const envelope = parseEnvelope(bytes);
  const statistics =
    envelope.ok && envelope.value.type === BATCH_STATISTICS.type
      ? parsePayload(BATCH_STATISTICS, envelope.value)
      : null;
  return statistics?.ok === true ? statistics.value : null;
}
