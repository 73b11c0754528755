/**
 * The PSD against its host: a whole device over its socket, asked what a host asks, in any order, right or altered.
 *
 * An input picks the operation, and says how its right parameters, made for the device's state at that moment, are changed. After each
 * call: registers balance; the ascending register moved by exactly the postage of an accepted chunk, and by nothing else; funds came only
 * by the very grant that was signed; a record went only by its own confirmation; and no call was answered by a fault.
 */
import { join as joinPath } from 'node:path';
import { connectRpc } from '@countermark/node-platform/rpc';
import { decode, encode, FRAME_LIMITS } from '@countermark/protocol/cbor';
import { cellKeyBytes } from '@countermark/protocol/cell';
import type { Digest } from '@countermark/protocol/digest';
import type { BatchId } from '@countermark/protocol/id';
import type { Operation } from '@countermark/protocol/interfaces/operation';
import { CHUNK_ENTRY_BYTES, type FrankChunk, type FrankedChunk, PSD } from '@countermark/protocol/interfaces/psd';
import { pieceRecordBytes, pieceRecordHead } from '@countermark/protocol/messages/piece-record';
import { mills } from '@countermark/protocol/money';
import { balanced } from '@countermark/protocol/registers';
import type { Result } from '@countermark/protocol/result';
import { parseValue } from '@countermark/protocol/schema';
import { type Device, openDevice } from '@countermark/psd/shell/device';
import { serveDevice } from '@countermark/psd/shell/socket';
import { START_MS, TestAuthority } from '../../../packages/psd/testing/authority.ts';
import { batchNumbered, chunkOf, declarationOf } from '../../../packages/psd/testing/mailing.ts';
import { mutateCbor } from '../cbor-tree.ts';
import type { Mutation } from '../mutation.ts';
import { Random } from '../random.ts';
import { ACCEPTED, must, type Opened, type Target } from '../target.ts';

function value<T>(result: Result<T>): T {
  if (!result.ok) throw new Error(JSON.stringify(result.rejection));
  return result.value;
}

/** What a host remembers. */
class Host {
  readonly authority = new TestAuthority();
  readonly device: Device;
  batches = 0;
  grants = 0;
  /** Of the open batch: the chunks as asked and answered. */
  chunks: { readonly request: FrankChunk; readonly answer: FrankedChunk }[] = [];
  grant: Uint8Array | null = null;
  timeMs = START_MS;
  policyVersion = 1;
  readonly certificate: Uint8Array;

  constructor(folder: string, onBroken: (fault: unknown) => void) {
    this.device = value(
      openDevice({
        path: joinPath(folder, 'psd.db'),
        authentication: 'mac',
        memory: 'host',
        recordCapacity: 100,
        trustBundle: this.authority.trustBundle,
        software: { version: '0', measurement: new Uint8Array(32) as Digest },
        onBroken,
      }),
    );
    const enrolling = this.authority.enrolling(value(this.device.enrolmentRequest()));
    this.certificate = this.authority.bytes.certificate(this.authority.certificate(enrolling));
    value(this.device.install(this.certificate, this.policy()));
    value(this.device.signedTime(this.time()));
  }

  policy(): Uint8Array {
    return this.authority.bytes.policy(this.authority.policy(this.device.id, { version: this.policyVersion }));
  }

  time(): Uint8Array {
    return this.authority.bytes.time(this.device.id, this.timeMs);
  }

  get batch(): BatchId {
    return batchNumbered(this.batches);
  }

  get pieces(): number {
    return this.chunks.reduce((sum, { request }) => sum + request.pieces.length / CHUNK_ENTRY_BYTES, 0);
  }

  /** Right parameters of the operation, as they are now; null where there are none. */
  parameters(name: string, random: Random): unknown {
    const { batch } = this;
    switch (name) {
      case 'open-batch':
        return {
          declaration: declarationOf(
            batchNumbered(this.device.status().batch === undefined ? this.batches + 1 : this.batches),
          ),
        };
      case 'frank-chunk': {
        const last = this.chunks.at(-1);
        if (last !== undefined && random.once(4)) return last.request;
        const pieces = Array.from({ length: 1 + random.below(4) }, () => ({
          level: random.below(3),
          postageMills: 100 + random.below(9_900),
        }));
        return chunkOf(batch, this.pieces, pieces);
      }
      case 'spoil':
        return {
          batch,
          pieceNumbers: [this.device.status().registers.pieces - random.below(3)].map((n) => Math.max(1, n)),
        };
      case 'close-batch':
        return { batch, reprints: random.below(3) };
      case 'recount':
        return this.chunks.length === 0 ? null : this.#records(batch);
      case 'seal':
        return { batch, incomplete: random.once(8) };
      case 'record':
        return { sequence: Math.max(1, this.device.status().sequence - random.below(3)) };
      case 'confirm': {
        const [oldest] = this.device.records();
        return oldest === undefined
          ? null
          : { confirmation: this.authority.bytes.confirmation(this.device.id, oldest.sequence, oldest.digest) };
      }
      case 'funds-request':
        return { amountMills: mills(BigInt(random.below(1_000_000))) };
      case 'funds-grant':
        return this.grant === null ? null : { grant: this.grant };
      case 'signed-time':
        this.timeMs += random.below(60_000);
        return { time: this.time() };
      case 'policy':
        this.policyVersion += random.below(2);
        return { policy: this.policy() };
      case 'install':
        return { certificate: this.certificate, policy: this.policy() };
      default:
        return {};
    }
  }

  /** The open batch's records as host memory has them. */
  #records(batch: BatchId) {
    const head = pieceRecordHead(this.device.id, batch);
    const records = this.chunks.flatMap(({ request, answer }) => {
      const entries = Buffer.from(request.pieces);
      return Array.from({ length: entries.length / CHUNK_ENTRY_BYTES }, (_, i) => {
        const at = i * CHUNK_ENTRY_BYTES;
        const cell = request.cells[entries.readUInt16BE(at)];
        must(cell !== undefined, 'a chunk was franked whose entry names no cell');
        return pieceRecordBytes(
          head,
          request.firstIndex + i,
          answer.firstPieceNumber + i,
          BigInt(entries.readUInt32BE(at + 2)),
          cellKeyBytes(cell),
          entries.subarray(at + 6, at + CHUNK_ENTRY_BYTES),
        );
      });
    });
    const columns = (name: 'salts' | 'codes'): Uint8Array =>
      Uint8Array.from(Buffer.concat(this.chunks.map(({ answer }) => answer[name])));
    return { batch, firstIndex: 0, records, salts: columns('salts'), codes: columns('codes') };
  }

  /** Takes what an accepted call answered. */
  took(name: string, parameters: unknown, answer: unknown): void {
    if (name === 'open-batch') {
      const opened = answer as { batch: BatchId };
      if (opened.batch !== this.batch) {
        this.batches = Number.parseInt(opened.batch.slice(-8), 16);
        this.chunks = [];
      }
    } else if (name === 'frank-chunk') {
      const request = parameters as FrankChunk;
      if (request.firstIndex >= this.pieces) this.chunks.push({ request, answer: answer as FrankedChunk });
    } else if (name === 'funds-request') {
      const { request } = answer as { request: Uint8Array };
      this.grant = this.authority.bytes.grant(this.authority.grant(request));
    }
  }
}

const OPERATIONS = Object.values(PSD as unknown as Record<string, Operation<unknown, unknown>>).filter(
  // A session needs its other end; rotation has a test of its own.
  ({ name }) => !['send', 'rotate', 'rotate-begin'].includes(name),
);

/** Postage of a chunk's entries, by this file's own reading. */
function postageOf(request: FrankChunk): bigint {
  const entries = Buffer.from(request.pieces);
  let sum = 0n;
  for (let at = 0; at < entries.length; at += CHUNK_ENTRY_BYTES) sum += BigInt(entries.readUInt32BE(at + 2));
  return sum;
}

/** Another operation, or the same with other changes. */
export const mutateCall: Mutation = (input, { random }) => {
  const next = Uint8Array.from({ length: 4 }, (_, i) => input[i] ?? 0);
  next[random.below(4)] = random.below(256);
  return next;
};

export const psdTarget: Target = {
  name: 'psd',
  about:
    'a device asked in any order, rightly or not: registers move by accepted chunks only, funds by signed grants, records go by confirmations',
  words: ['protocol'],
  maxBytes: 4,
  mutations: [mutateCall],
  open: openPsd,
};

async function openPsd(folder: string): Promise<Opened> {
  const faults: unknown[] = [];
  const host = new Host(folder, (fault) => faults.push(fault));
  const { device } = host;
  const path = joinPath(folder, 'psd.sock');
  const server = await serveDevice(path, device, { next: () => Promise.resolve(null), close: () => Promise.resolve() });
  const client = await connectRpc(path);
  const call = async (name: string, changes: number, seed: string): Promise<string> => {
    const operation = OPERATIONS.find((one) => one.name === name);
    must(operation !== undefined, 'an operation that there is not');
    const random = new Random(seed);
    const right = host.parameters(name, random);
    if (right === null) return 'nothing to ask';
    const exact = encode(operation.request.toCbor(right));
    let bytes = exact;
    for (let i = 0; i < changes; i++) {
      bytes = mutateCbor(bytes, {
        random,
        words: ['acme', 'zenith', 'origin', host.batch],
        other: () => exact,
        maxBytes: 8_192,
      });
    }
    // A frame's list takes one level; one that is too deep ends the connection, which is for the target `rpc` to see.
    const wire = decode(bytes, { ...FRAME_LIMITS, maxDepth: FRAME_LIMITS.maxDepth - 1 });
    if (!wire.ok) return wire.rejection.code;
    const before = device.status();
    const answer = await client.call(name, wire.value);
    const after = device.status();
    must(faults.length === 0, 'the device broke');
    must(balanced(after.registers, after.funds), 'the registers do not balance');
    must(after.registers.pieces >= before.registers.pieces, 'pieces were uncounted');
    const parsed = parseValue(operation.request, wire.value);
    const asked = parsed.ok ? parsed.value : null;
    const moved = after.registers.ascendingMills - before.registers.ascendingMills;
    if (name === 'frank-chunk' && answer.ok)
      must(moved === 0n || moved === postageOf(asked as FrankChunk), 'another postage was debited');
    else must(moved === 0n, 'the ascending register moved without a chunk');
    const isExact = Buffer.compare(bytes, exact) === 0;
    must(
      after.funds.receivedMills === before.funds.receivedMills || (name === 'funds-grant' && isExact),
      'funds came without their grant',
    );
    must(
      after.unconfirmedRecords >= before.unconfirmedRecords || (name === 'confirm' && isExact),
      'a record went without its confirmation',
    );
    if (!answer.ok) return `${name}: ${answer.rejection.code}`;
    const told = parseValue(operation.answer, answer.value);
    must(told.ok, 'an answer of another form than the interface says');
    host.took(name, asked, told.value);
    return ACCEPTED;
  };
  // Two batches from their opening to the confirmation.
  const life = [
    'funds-request',
    'funds-grant',
    'open-batch',
    'frank-chunk',
    'frank-chunk',
    'spoil',
    'close-batch',
    'recount',
    'seal',
    'record',
    'confirm',
  ];
  const number = (name: string): number => OPERATIONS.findIndex((one) => one.name === name);
  return {
    seeds: [...life, 'policy', 'signed-time', 'install', 'status', 'records', ...life].map((name, i) =>
      Uint8Array.of(number(name), 0, i, 0),
    ),
    run: (input) => {
      const [operation = 0, changes = 0, one = 0, other = 0] = input;
      const { name } = OPERATIONS[operation % OPERATIONS.length] as Operation<unknown, unknown>;
      // Half of the calls are right, so that the device gets somewhere.
      return call(name, Math.max(0, (changes % 6) - 2), `${one} ${other}`);
    },
    close: async () => {
      client.close();
      await server.close();
      await device.close();
    },
  };
}
