/**
 * What somebody outside of all parties saw: every indicium that left a PSD, every record that one sealed, every confirmation that
 * anybody was given. Checkers compare the parties' books with it.
 *
 * Guarantees that nothing here is taken from what a party says of itself later: it is seen when it crosses a boundary, or when it
 * is committed.
 */
import type { CborValue } from '@countermark/protocol/cbor';
import { nodeVerification } from '@countermark/node-platform/verification';
import { messageDigest, parseEnvelope } from '@countermark/protocol/cose';
import { answersSchema, type Answer } from '@countermark/protocol/interfaces/answer';
import { PSD } from '@countermark/protocol/interfaces/psd';
import { LAYOUTS, parseIndicium, type Indicium } from '@countermark/protocol/layout';
import { parsePayload } from '@countermark/protocol/message';
import { BATCH_STATISTICS, type BatchStatistics } from '@countermark/protocol/messages/batch-statistics';
import { CONFIRMATION } from '@countermark/protocol/messages/confirmation';
import { FINAL_STATEMENT } from '@countermark/protocol/messages/final-statement';
import { KEY_ROTATION } from '@countermark/protocol/messages/key-rotation';
import type { Result } from '@countermark/protocol/result';
import { parseBytes, parseValue } from '@countermark/protocol/schema';
import type { Crossing } from './network.ts';
import { LETTER, LETTER_MILLS, UNKNOWN_LEVEL } from './direct-host.ts';
import { SERVER_URL, STORE } from './parties.ts';
import type { World } from './world.ts';

/** A record as a PSD sealed it. */
export type SealedRecord = {
  readonly line: number;
  readonly device: string;
  readonly sequence: number;
  readonly digest: string;
  readonly bytes: Uint8Array;
  /** Null for a key rotation. */
  readonly statistics: BatchStatistics | null;
  readonly sealedAtMs: number;
};

/** An indicium on its way to paper. */
export type SeenPiece = { readonly content: string; readonly postageMills: bigint; readonly batch: string };

type Registers = { readonly ascending: bigint; readonly pieces: bigint };

export class Observation {
  readonly #world: World;
  /** By device and piece number. */
  readonly pieces = new Map<string, Map<number, SeenPiece>>();
  /** By digest in hex. */
  readonly sealed = new Map<string, SealedRecord>();
  /** First confirmation seen, by device and sequence. */
  readonly confirmations = new Map<string, string>();
  /** When each batch was first said to be open. */
  readonly opened = new Map<string, number>();
  /** Digests that a confirmation was given for. */
  readonly confirmed = new Set<string>();
  /** Digests that a server's log ever held durably. */
  readonly logged = new Set<string>();
  /** Digests that the authority ever had durably. */
  readonly taken = new Set<string>();
  /** Devices of which two branches exist: somebody put back their store, or copied it. */
  readonly branched = new Set<string>();
  /** Lines whose host lost its disk: what it had not yet told anybody is closed incomplete. */
  readonly hostDiskGone = new Set<number>();
  /** Lines whose PSD is gone for good. */
  readonly dead = new Set<number>();
  /** Lines that are copies of a device of which nobody is told: what they frank is no line's. */
  readonly secretCopies = new Set<number>();
  /** Digests of records that somebody made himself, with keys out of a device's store. */
  readonly madeWithStolenKeys = new Set<string>();
  /** Digests of records that somebody at the cryptographic device's socket had confirmed without logging them. */
  readonly confirmedByALie = new Set<string>();
  /** Records that a server delivered in its books only. Hex. */
  readonly withheld = new Set<string>();
  /** Records on which nothing may be granted, by digest, and why: their postage is not the tariff's. */
  readonly wronglyPaid = new Map<string, string>();
  /** The device in each line's store. */
  readonly deviceOfLine = new Map<number, string>();
  /** The server was restored from an older backup: what it had confirmed since may be confirmed anew. */
  serverWasPutBack = false;
  readonly #lastSealed = new Map<number, number>();

  constructor(world: World) {
    this.#world = world;
    world.onCommitted((path, process, written) => {
      const line = /^\/psd-(\d+)\//.exec(path)?.[1];
      if (line !== undefined && process.alive && (written.has('record') || written.has('identity')))
        this.#psdCommitted(Number(line));
    });
  }

  /** Sees an answer that leaves a process. */
  crossed(crossing: Crossing): void {
    const line = /^\/psd-(\d+)\/psd\.sock$/.exec(crossing.address)?.[1];
    if (line !== undefined && crossing.operation === PSD.frankChunk.name) this.#franked(Number(line), crossing);
    if (line !== undefined && crossing.operation === PSD.openBatch.name) this.#opened(crossing);
    if (crossing.address === SERVER_URL && (crossing.operation === 'submit' || crossing.operation === 'restore')) {
      const answer = crossing.answer as Result<readonly Answer[]>;
      if (answer.ok) for (const one of answer.value) this.#answered(one);
    }
    if (crossing.operation === 'submit' && crossing.address.startsWith('session')) {
      const said = crossing.answer as { readonly result?: Result<CborValue> };
      const answers = said.result?.ok === true ? parseValue(answersSchema, said.result.value) : null;
      if (answers?.ok === true) for (const one of answers.value.answers) this.#answered(one);
    }
    this.#countRejections(crossing.answer);
  }

  /** The store of a line was replaced by an older copy: what it seals from now on is another branch. */
  putBack(line: number): void {
    this.#lastSealed.delete(line);
    const device = this.deviceOfLine.get(line);
    if (device !== undefined) this.branched.add(device);
  }

  #opened({ parameters, answer }: Crossing): void {
    const request = parseValue(PSD.openBatch.request, parameters as CborValue);
    if (!request.ok || (answer as { readonly result?: Result<CborValue> }).result?.ok !== true) return;
    const { batch } = request.value.declaration;
    if (!this.opened.has(batch)) this.opened.set(batch, this.#world.scheduler.nowMs);
  }

  #franked(line: number, { parameters, answer }: Crossing): void {
    const said = answer as { readonly result?: Result<CborValue> };
    if (said.result?.ok !== true) return;
    const request = parseValue(PSD.frankChunk.request, parameters as CborValue);
    const franked = parseValue(PSD.frankChunk.answer, said.result.value);
    if (!request.ok || !franked.ok) {
      this.#world.violated('indicia', 'a PSD answered a chunk in another form');
      return;
    }
    const { indicia, firstPieceNumber } = franked.value;
    const authentication = indicia[0] === LAYOUTS.mac.number ? 'mac' : 'signature';
    const { bodyBytes, authenticatorBytes } = LAYOUTS[authentication];
    const each = bodyBytes + authenticatorBytes;
    const count = indicia.length / each;
    const [durable] = this.#world.disks.rows<Registers>(STORE.psd(line), 'SELECT ascending, pieces FROM device');
    for (let i = 0; i < count; i += 1) {
      const parsed = parseIndicium(indicia.subarray(i * each, (i + 1) * each));
      if (!parsed.ok) {
        this.#world.violated('indicia', 'an indicium that cannot be read left a PSD');
        return;
      }
      const { indicium } = parsed.value;
      const number = firstPieceNumber + i;
      if (this.secretCopies.has(line)) continue;
      this.#seen(indicium, number, request.value.batch, `${request.value.firstIndex + i}`, durable);
    }
  }

  #seen(indicium: Indicium, number: number, batch: string, index: string, durable: Registers | undefined): void {
    const world = this.#world;
    const { device, pieceNumber, postageMills, ascendingMills, mailingDate } = indicium;
    if (pieceNumber !== number) world.violated('indicia', `piece ${pieceNumber} came where ${number} was said`);
    if (durable === undefined || durable.pieces < BigInt(pieceNumber) || durable.ascending < ascendingMills) {
      world.violated(
        'indicium without its debit',
        `piece ${pieceNumber} of ${device} left the PSD, whose store stands at ${durable?.pieces ?? 0} pieces`,
      );
    }
    const content = `${batch} ${index} ${postageMills} ${mailingDate} ${ascendingMills}`;
    const seen = this.pieces.get(device) ?? new Map<number, SeenPiece>();
    this.pieces.set(device, seen);
    const before = seen.get(pieceNumber);
    if (before !== undefined && before.content !== content && !this.branched.has(device)) {
      world.violated('piece number used twice', `${device} ${pieceNumber}: ${before.content}; ${content}`);
    }
    seen.set(pieceNumber, { content, postageMills, batch });
  }

  #answered(answer: Answer): void {
    const { confirmation } = answer;
    if (confirmation === undefined) return;
    const envelope = parseEnvelope(confirmation);
    if (!envelope.ok) return;
    const text = Buffer.from(confirmation).toString('hex');
    const name = confirmedName(envelope.value.payload);
    this.confirmed.add(name.slice(name.lastIndexOf(' ') + 1));
    // A server that lied once may say the truth later.
    if (this.confirmedByALie.has(name.split(' ')[2] ?? '')) return;
    const before = this.confirmations.get(name);
    if (before === undefined) this.confirmations.set(name, text);
    else if (before !== text && !this.serverWasPutBack) {
      this.#world.violated('one confirmation for a record', `another confirmation was given for ${name}`);
    }
  }

  /** Every code that anybody is refused with is counted: a code that never comes was never tried. */
  #countRejections(answer: unknown): void {
    const found = (value: unknown, depth: number): void => {
      if (typeof value !== 'object' || value === null || depth > 4 || value instanceof Uint8Array) return;
      if (value instanceof Map) return;
      const refused = (value as { readonly rejection?: { readonly code?: unknown } }).rejection;
      if (typeof refused?.code === 'string') this.#world.count(`rejection: ${refused.code}`);
      for (const one of Object.values(value)) found(one, depth + 1);
    };
    found(answer, 0);
  }

  #psdCommitted(line: number): void {
    const { disks } = this.#world;
    const path = STORE.psd(line);
    if (!this.deviceOfLine.has(line)) {
      const [row] = disks.rows<{ readonly device: string }>(path, 'SELECT device FROM identity');
      if (row === undefined) return;
      this.deviceOfLine.set(line, row.device);
    }
    const device = this.deviceOfLine.get(line) ?? '';
    const rows = disks.rows<{ readonly sequence: bigint; readonly digest: Buffer; readonly bytes: Buffer | null }>(
      path,
      'SELECT sequence, digest, bytes FROM record WHERE sequence > ? ORDER BY sequence',
      BigInt(this.#lastSealed.get(line) ?? 0),
    );
    for (const { sequence, digest, bytes } of rows) {
      this.#lastSealed.set(line, Number(sequence));
      if (bytes === null) continue;
      const name = digest.toString('hex');
      if (this.sealed.has(name)) continue;
      this.sealed.set(name, {
        line,
        device,
        sequence: Number(sequence),
        digest: name,
        bytes,
        statistics: statisticsOf(bytes),
        sealedAtMs: this.#world.scheduler.nowMs,
      });
      const wrong = whyWronglyPaid(statisticsOf(bytes));
      if (wrong !== null) this.wronglyPaid.set(name, wrong);
      this.#world.count('records sealed');
    }
  }
}

/** The statistics in a record's bytes; null for a key rotation and a final statement. @throws Error for anything else. */
export function statisticsOf(bytes: Uint8Array): BatchStatistics | null {
  const envelope = parseEnvelope(bytes);
  if (!envelope.ok) throw new Error(`a record that is none: ${envelope.rejection.code}`);
  if (envelope.value.type === KEY_ROTATION.type || envelope.value.type === FINAL_STATEMENT.type) return null;
  const parsed = parsePayload(BATCH_STATISTICS, envelope.value);
  if (!parsed.ok) throw new Error(`a record that is none: ${parsed.rejection.code}`);
  return parsed.value;
}

/** Why nothing may be granted on a record: a cell whose postage is below the tariff's, or whose level it does not have; or null. */
function whyWronglyPaid(statistics: BatchStatistics | null): string | null {
  for (const { key, pieces, postageMills } of statistics?.observed.cells ?? []) {
    if (key.level === UNKNOWN_LEVEL) return 'a level that no tariff has';
    const ofLetter = key.product === LETTER.product && key.weightStep === LETTER.weightStep;
    if (ofLetter && postageMills < BigInt(pieces * LETTER_MILLS)) return 'postage below the price of its pieces';
  }
  return null;
}

/** What a confirmation is for, in words. */
function confirmedName(payload: Uint8Array): string {
  const confirmation = parseBytes(CONFIRMATION.schema, payload);
  if (!confirmation.ok) return 'no confirmation';
  const { device, sequence, digest } = confirmation.value;
  return `${device} ${sequence} ${Buffer.from(digest).toString('hex')}`;
}

/** The digest of a record in hex, or null where it is none. */
export function digestOfRecord(record: Uint8Array): string | null {
  const envelope = parseEnvelope(record);
  return envelope.ok ? Buffer.from(messageDigest(envelope.value, nodeVerification.sha256)).toString('hex') : null;
}

/** The same bytes but for one bit, so many bytes before the end: where authenticators stand. */
export function oneBitOff(bytes: Uint8Array, fromEnd: number): Uint8Array {
  const copy = Uint8Array.from(bytes);
  const at = Math.max(0, copy.length - 1 - fromEnd);
  copy[at] = (copy[at] ?? 0) ^ 1;
  return copy;
}
