/**
 * The parent's own journal of what left a PSD: it stands between host and PSD, passes every byte on, and writes down
 * what it saw: indicia, piece numbers, registers, records, confirmations.
 *
 * Guarantees: what is written down here really left the device, whatever became of host or device afterwards. `contradictions` are
 * told in words: a piece number given twice, a piece franked under two numbers, other salts or another indicium for a piece asked
 * again, another record for a sequence, registers that go back.
 * Sees nothing of a session but what the PSD answers about it.
 */
import { createServer, connect, type Server, type Socket } from 'node:net';
import { type CborValue, decode, FRAME_LIMITS } from '@countermark/protocol/cbor';
import { type Digest, digestText } from '@countermark/protocol/digest';
import { hex } from '@countermark/protocol/id';
import type { Operation } from '@countermark/protocol/interfaces/operation';
import {
  CHUNK_ENTRY_BYTES,
  type DeviceStatus,
  type FrankChunk,
  type FrankedChunk,
  PSD,
} from '@countermark/protocol/interfaces/psd';
import { LAYOUTS } from '@countermark/protocol/layout';
import { SALT_BYTES } from '@countermark/protocol/merkle';
import type { Authentication } from '@countermark/protocol/cose';
import { parseValue } from '@countermark/protocol/schema';

const LENGTH_BYTES = 4;
const ANSWER = 0;

/** A piece as it left the device. */
export type SeenPiece = {
  readonly batch: string;
  readonly index: number;
  /** The part of its indicium that is authenticated; signatures are made again when a chunk is asked again. */
  readonly body: string;
  readonly salt: string;
};

/** How far the device had come by what was seen of it. */
export type Seen = { readonly pieces: number; readonly ascendingMills: bigint; readonly sequence: number };

export class Witness {
  readonly pieces = new Map<number, SeenPiece>();
  /** Record bytes in hex, by sequence. */
  readonly records = new Map<number, string>();
  /** Digests of the records, by sequence. */
  readonly digests = new Map<number, string>();
  /** Confirmations that the PSD was given or told of, by the digest that they name; in hex. */
  readonly confirmations = new Map<string, string>();
  readonly contradictions: string[] = [];
  readonly #layout;
  readonly #numbers = new Map<string, number>();
  readonly #open = new Set<Socket>();
  #highestNumber = 0;
  #ascendingMills = 0n;
  #sequence = 0;
  #server: Server | undefined;

  constructor(authentication: Authentication) {
    this.#layout = LAYOUTS[authentication];
  }

  /** Listens at `own` and passes on to the PSD's socket, which may come and go. */
  async listen(own: string, psdSocket: string): Promise<void> {
    const server = createServer((host) => {
      const psd = connect(psdSocket);
      const asked = new Map<number, Asked>();
      const ends = [host, psd] as const;
      for (const end of ends) {
        this.#open.add(end);
        end.on('error', () => undefined);
        end.on('close', () => {
          this.#open.delete(end);
          for (const each of ends) each.destroy();
        });
      }
      readFrames(host, (frame) => {
        const [id, name, parameters] = frame;
        if (typeof name === 'string') asked.set(Number(id), { name, parameters: parameters ?? null });
      });
      readFrames(psd, (frame) => {
        const [id, kind, value] = frame;
        const call = asked.get(Number(id));
        if (call === undefined || kind !== ANSWER || value === undefined) return;
        asked.delete(Number(id));
        this.#saw(call, value);
      });
      host.pipe(psd);
      psd.pipe(host);
    });
    this.#server = server;
    await new Promise<void>((resolve) => server.listen(own, resolve));
  }

  async close(): Promise<void> {
    for (const socket of this.#open) socket.destroy();
    await new Promise<void>((resolve) => {
      if (this.#server === undefined) resolve();
      else this.#server.close(() => resolve());
    });
  }

  /** What was seen up to now; a status that is asked for after this must have room for all of it. */
  seen(): Seen {
    return {
      pieces: Math.max(0, this.#highestNumber),
      ascendingMills: this.#ascendingMills,
      sequence: this.#sequence,
    };
  }

  /** Whether what the device says of itself has room for everything that was seen of it before it was asked. */
  compare(status: DeviceStatus, before: Seen): void {
    const { pieces, ascendingMills } = status.registers;
    if (pieces < before.pieces) {
      this.contradictions.push(`piece ${before.pieces} was seen, and the device has counted ${pieces}`);
    }
    if (ascendingMills < before.ascendingMills) {
      this.contradictions.push(
        `the ascending register stands at ${ascendingMills}, and ${before.ascendingMills} was seen`,
      );
    }
    if (status.sequence < before.sequence) {
      this.contradictions.push(`record ${before.sequence} was seen, and the device stands at ${status.sequence}`);
    }
    this.#note(pieces, ascendingMills, status.sequence);
  }

  #note(pieces: number, ascendingMills: bigint, sequence: number): void {
    this.#highestNumber = Math.max(this.#highestNumber, pieces);
    if (ascendingMills > this.#ascendingMills) this.#ascendingMills = ascendingMills;
    this.#sequence = Math.max(this.#sequence, sequence);
  }

  #saw({ name, parameters }: Asked, value: CborValue): void {
    switch (name) {
      case PSD.status.name:
        this.compare(answerOf(PSD.status, value), this.seen());
        break;
      case PSD.frankChunk.name: {
        const request = parseValue(PSD.frankChunk.request, parameters);
        if (!request.ok) throw new Error('The PSD answered a request that cannot be parsed.');
        this.#sawChunk(request.value, answerOf(PSD.frankChunk, value));
        break;
      }
      case PSD.seal.name: {
        const { sequence, digest, record } = answerOf(PSD.seal, value);
        this.#sawDigest(sequence, digest);
        this.#once(this.records, sequence, hex(record), `record ${sequence}`);
        break;
      }
      case PSD.records.name:
        for (const { sequence, digest } of answerOf(PSD.records, value).records) this.#sawDigest(sequence, digest);
        break;
      case PSD.confirm.name: {
        const { digest } = answerOf(PSD.confirm, value);
        const request = parseValue(PSD.confirm.request, parameters);
        if (!request.ok) throw new Error('The PSD answered a request that cannot be parsed.');
        this.#once(this.confirmations, digestText(digest), hex(request.value.confirmation), 'confirmation');
        break;
      }
      case PSD.send.name:
        for (const { sequence, confirmation } of answerOf(PSD.send, value).results) {
          const digest = this.digests.get(sequence);
          if (confirmation === undefined || digest === undefined) continue;
          this.#once(this.confirmations, digest, hex(confirmation), `confirmation of record ${sequence}`);
        }
    }
  }

  #sawDigest(sequence: number, digest: Digest): void {
    this.#once(this.digests, sequence, digestText(digest), `digest of record ${sequence}`);
    this.#note(0, 0n, sequence);
  }

  #sawChunk({ batch, firstIndex, pieces }: FrankChunk, answer: FrankedChunk): void {
    const { bodyBytes, authenticatorBytes } = this.#layout;
    const each = bodyBytes + authenticatorBytes;
    for (let i = 0; i < pieces.length / CHUNK_ENTRY_BYTES; i++) {
      const number = answer.firstPieceNumber + i;
      const seen: SeenPiece = {
        batch,
        index: firstIndex + i,
        body: hex(answer.indicia.subarray(i * each, i * each + bodyBytes)),
        salt: hex(answer.salts.subarray(i * SALT_BYTES, (i + 1) * SALT_BYTES)),
      };
      const before = this.pieces.get(number);
      if (before !== undefined && JSON.stringify(before) !== JSON.stringify(seen)) {
        this.contradictions.push(`piece number ${number} was given twice`);
      }
      this.pieces.set(number, seen);
      this.#once(this.#numbers, `${batch} ${firstIndex + i}`, number, `number of piece ${firstIndex + i} of ${batch}`);
    }
    this.#note(answer.firstPieceNumber + pieces.length / CHUNK_ENTRY_BYTES - 1, answer.registers.ascendingMills, 0);
  }

  #once<Key, Value>(seen: Map<Key, Value>, key: Key, value: Value, what: string): void {
    const before = seen.get(key);
    if (before !== undefined && before !== value) {
      this.contradictions.push(`${what}: another one was seen before (${String(before)}, ${String(value)})`);
    }
    seen.set(key, value);
  }
}

type Asked = { readonly name: string; readonly parameters: CborValue };

/** Reads a stream's frames without keeping them from whoever else reads it. */
function readFrames(socket: Socket, saw: (frame: readonly CborValue[]) => void): void {
  let held: Buffer = Buffer.alloc(0);
  socket.on('data', (bytes: Buffer) => {
    held = held.length === 0 ? bytes : Buffer.concat([held, bytes]);
    while (held.length >= LENGTH_BYTES) {
      const end = LENGTH_BYTES + held.readUInt32BE(0);
      if (held.length < end) return;
      const frame = decode(Uint8Array.from(held.subarray(LENGTH_BYTES, end)), FRAME_LIMITS);
      held = held.subarray(end);
      if (frame.ok && Array.isArray(frame.value)) saw(frame.value as readonly CborValue[]);
    }
  });
}

function answerOf<Request, Answer>(of: Operation<Request, Answer>, value: CborValue): Answer {
  const answer = parseValue(of.answer, value);
  if (!answer.ok) throw new Error(`The PSD answered ${of.name} in another form than its interface says.`);
  return answer.value;
}
