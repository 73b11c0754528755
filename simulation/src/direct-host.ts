/**
 * A host without the host's program: whoever owns a PSD speaks to it over its socket, and to the server with a credential, as he likes.
 *
 * Has what such an owner has, and no more: socket, credential, and the bytes that pass through his hands. Guarantees no honesty at all;
 * what comes of it is for the other parties to judge. An answer that does not come is null: nothing is asked twice here.
 */
import { Fault } from '@countermark/node-platform/fault';
import { nodeVerification } from '@countermark/node-platform/verification';
import type { CellKey } from '@countermark/protocol/cell';
import { digestOf } from '@countermark/protocol/digest';
import type { BatchId, CustomerId, JobId } from '@countermark/protocol/id';
import type { Answer } from '@countermark/protocol/interfaces/answer';
import type { Operation } from '@countermark/protocol/interfaces/operation';
import { CHUNK_ENTRY_BYTES, PSD } from '@countermark/protocol/interfaces/psd';
import { mills } from '@countermark/protocol/money';
import type { Result } from '@countermark/protocol/result';
import { parseValue } from '@countermark/protocol/schema';
import { SHIPPED_TARIFFS } from '@countermark/tariff/shipped';
import { lazyRpc } from './machine/rpc.ts';
import { CallBroken } from './network.ts';
import { SERVER_URL } from './parties.ts';
import type { RandomStream } from './random-stream.ts';
import type { World } from './world.ts';

/** Pieces of one cell, each with the postage. */
export type DirectPieces = { readonly key: CellKey; readonly pieces: number; readonly eachMills: number };
export type DirectBatch = {
  readonly pieces: readonly DirectPieces[];
  readonly customer?: string;
  /** Declares so many of the first pieces spoiled. */
  readonly spoiled?: number;
};

/** The price of {@link LETTER}, affixed. */
export const LETTER_MILLS = 740;
/** A level of presort that no tariff has. */
export const UNKNOWN_LEVEL = 'gold';
export const LETTER: CellKey = {
  product: 'usps-fcm-letter',
  shape: 'letter',
  affixed: 'single-piece-metered',
  level: '5-digit',
  entry: 'none',
  weightStep: 10,
};
const TARIFF = digestOf(nodeVerification.sha256(SHIPPED_TARIFFS[0]?.bytes ?? new Uint8Array(0)));
const MAILING_DATE = '2026-03-03';

export class DirectHost {
  readonly #world: World;
  readonly #socket: string;
  readonly #credential: string;
  readonly #random: RandomStream;

  constructor(
    world: World,
    at: { readonly socket: string; readonly credential: string; readonly random: RandomStream },
  ) {
    this.#world = world;
    this.#socket = at.socket;
    this.#credential = at.credential;
    this.#random = at.random;
  }

  /** Asks the PSD. */
  async psd<Request, Given>(of: Operation<Request, Given>, request: Request): Promise<Result<Given> | null> {
    try {
      const answer = await lazyRpc(this.#socket).call(of.name, of.request.toCbor(request));
      return answer.ok ? parseValue(of.answer, answer.value) : answer;
    } catch (error) {
      if (!(error instanceof Fault || error instanceof CallBroken)) throw error;
      return null;
    }
  }

  /** Asks the server. */
  async server<T>(operation: string, parameters: object): Promise<Result<T> | null> {
    try {
      const answer = await this.#world.network.remote(SERVER_URL, operation, {
        credential: this.#credential,
        ...parameters,
      });
      return answer as Result<T>;
    } catch (error) {
      if (!(error instanceof CallBroken)) throw error;
      return null;
    }
  }

  submit(records: readonly Uint8Array[]): Promise<Result<readonly Answer[]> | null> {
    return this.server('submit', { records });
  }

  /** Takes a grant of the amount to the device, or of what it asked for before. */
  async refill(amountMills: bigint): Promise<boolean> {
    const asked = await this.psd(PSD.fundsRequest, { amountMills: mills(amountMills) });
    if (asked?.ok !== true) return false;
    const grant = await this.server<Uint8Array>('funds', { request: asked.value.request });
    if (grant?.ok !== true) return false;
    return (await this.psd(PSD.fundsGrant, { grant: grant.value }))?.ok === true;
  }

  /** Franks a batch and seals it; the record, or null where the device or nobody does it. */
  async frank({ pieces, customer, spoiled = 0 }: DirectBatch): Promise<Uint8Array | null> {
    const status = await this.psd(PSD.status, {});
    if (status?.ok !== true) return null;
    const { currency, customers, memory, batch: before } = status.value;
    const incomplete = memory === 'host';
    // What the copied or interrupted one left open.
    if (before !== undefined) {
      if (before.state === 'open') await this.psd(PSD.closeBatch, { batch: before.batch, reprints: 0 });
      const sealed = await this.psd(PSD.seal, { batch: before.batch, incomplete });
      return sealed?.ok === true ? sealed.value.record : null;
    }
    if (currency === undefined) return null;
    const batch = `bat_${this.#random.bytes(16).toString('hex')}` as BatchId;
    const count = pieces.reduce((sum, one) => sum + one.pieces, 0);
    const named = customer ?? (customers.length === 0 ? undefined : this.#random.pick(customers));
    const opened = await this.psd(PSD.openBatch, {
      declaration: {
        batch,
        job: 'direct' as JobId,
        ...(named === undefined ? {} : { customer: named as CustomerId }),
        submitter: 'crid-1',
        preparer: 'crid-2',
        product: pieces[0]?.key.product ?? LETTER.product,
        entry: pieces[0]?.key.entry ?? LETTER.entry,
        mailingDate: MAILING_DATE,
        expectedPieces: count,
        expectedCells: pieces.length,
        tariff: TARIFF,
        scheme: 1,
        currency,
      },
    });
    if (opened?.ok !== true) return null;
    const franked = await this.psd(PSD.frankChunk, {
      batch,
      firstIndex: 0,
      cells: pieces.map(({ key }) => key),
      pieces: entriesOf(pieces, this.#random),
    });
    if (franked?.ok === true && spoiled > 0) {
      const first = franked.value.firstPieceNumber;
      await this.psd(PSD.spoil, { batch, pieceNumbers: Array.from({ length: spoiled }, (_, i) => first + i) });
    }
    await this.psd(PSD.closeBatch, { batch, reprints: 0 });
    // Piece records that were in host memory are gone with it: the device must not seal as if it had counted them again.
    const early = incomplete ? await this.psd(PSD.seal, { batch, incomplete: false }) : null;
    if (early?.ok === true) return early.value.record;
    const sealed = await this.psd(PSD.seal, { batch, incomplete });
    return sealed?.ok === true ? sealed.value.record : null;
  }
}

/** So many letters, paid as they must be. */
export function letters(pieces: number): DirectBatch {
  return { pieces: [{ key: LETTER, pieces, eachMills: LETTER_MILLS }] };
}

function entriesOf(pieces: readonly DirectPieces[], random: RandomStream): Uint8Array {
  const entries = Buffer.alloc(pieces.reduce((sum, one) => sum + one.pieces, 0) * CHUNK_ENTRY_BYTES);
  let at = 0;
  for (const [cell, { pieces: count, eachMills }] of pieces.entries()) {
    for (let i = 0; i < count; i += 1) {
      entries.writeUInt16BE(cell, at);
      entries.writeUInt32BE(eachMills, at + 2);
      random.bytes(16).copy(entries, at + 6);
      at += CHUNK_ENTRY_BYTES;
    }
  }
  return new Uint8Array(entries);
}
