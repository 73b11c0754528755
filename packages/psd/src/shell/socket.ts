/**
 * The operations of the device on its local socket (protocol, `interfaces/psd.ts`).
 *
 * Guarantees that everything that comes in is parsed by its schema before it is looked at, and that what goes out is
 * encoded by its schema. Whoever reaches the socket may ask: only signed messages change what matters.
 */
import {
  type RpcHandler,
  type RpcHandlers,
  type RpcListenOptions,
  type RpcServer,
  serveRpc,
} from '@countermark/node-platform/rpc';
import { type CborValue } from '@countermark/protocol/cbor';
import type { Operation } from '@countermark/protocol/interfaces/operation';
import { CHUNK_ENTRY_BYTES, MAX_CHUNK, PSD } from '@countermark/protocol/interfaces/psd';
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { parseValue } from '@countermark/protocol/schema';
import type { Device } from './device.ts';
import { sendInSession, type SessionSocket } from './session.ts';

/** Serves the device. Faults: those of `listenPrivately`. */
export async function serveDevice(
  path: string,
  device: Device,
  sessions: SessionSocket,
  options: RpcListenOptions = {},
): Promise<RpcServer> {
  return serveRpc(path, handlersOf(device, sessions), options);
}

function handlersOf(device: Device, sessions: SessionSocket): RpcHandlers {
  return Object.fromEntries([
    on(PSD.status, () => accept(device.status())),
    on(PSD.enrolmentRequest, () => accept({ request: device.enrolmentRequest() })),
    on(PSD.install, ({ certificate, policy }) => device.install(certificate, policy)),
    on(PSD.policy, ({ policy }) => device.policy(policy)),
    on(PSD.signedTime, ({ time }) => device.signedTime(time)),
    on(PSD.openBatch, ({ declaration }) => device.openBatch(declaration)),
    chunkHandler(device),
    on(PSD.spoil, ({ batch, pieceNumbers }) => device.spoil(batch, pieceNumbers)),
    on(PSD.closeBatch, ({ batch, reprints }) => device.closeBatch(batch, reprints)),
    on(PSD.recount, (records) => device.recount(records)),
    on(PSD.seal, ({ batch, incomplete }) => device.seal(batch, incomplete)),
    on(PSD.records, () =>
      accept({
        records: device.records().map(({ sequence, digest, batch, bytes }) => ({ sequence, digest, batch, bytes })),
      }),
    ),
    on(PSD.record, ({ sequence }) => {
      const record = device.record(sequence);
      return record.ok ? accept({ record: record.value }) : record;
    }),
    on(PSD.confirm, ({ confirmation }) => device.confirm(confirmation)),
    on(PSD.fundsRequest, ({ amountMills }) => device.fundsRequest(amountMills)),
    on(PSD.fundsGrant, ({ grant }) => device.fundsGrant(grant)),
    on(PSD.send, async ({ items }) => {
      const results = await sendInSession(device, sessions, items);
      return results.ok ? accept({ results: results.value }) : results;
    }),
  ]);
}

/** Parses, asks, encodes. */
function on<Request, Answer>(
  operation: Operation<Request, Answer>,
  answer: (request: Request) => Promise<Result<Answer>> | Result<Answer>,
): [string, RpcHandler] {
  return [
    operation.name,
    async (parameters) => {
      const request = parseValue(operation.request, parameters);
      if (!request.ok) return request;
      const answered = await answer(request.value);
      return answered.ok ? accept(operation.answer.toCbor(answered.value)) : answered;
    },
  ];
}

/** A chunk beyond the bound is told so, with the number of its pieces, before its schema would call it malformed. */
function chunkHandler(device: Device): [string, RpcHandler] {
  const [name, handler] = on(PSD.frankChunk, (request) => device.frankChunk(request));
  return [
    name,
    (parameters, context) => {
      const pieces = piecesIn(parameters);
      return pieces > MAX_CHUNK
        ? refuse(rejection('chunk-too-large', { pieces, limit: MAX_CHUNK }))
        : handler(parameters, context);
    },
  ];
}

/** The wire key of `pieces` in a chunk request. */
const PIECES_KEY = 4;

function piecesIn(parameters: CborValue): number {
  const pieces = parameters instanceof Map ? (parameters.get(PIECES_KEY) as CborValue | undefined) : undefined;
  return pieces instanceof Uint8Array ? Math.ceil(pieces.length / CHUNK_ENTRY_BYTES) : 0;
}
