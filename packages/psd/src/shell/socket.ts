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
  served,
  serveRpc,
} from '@countermark/node-platform/rpc';
import { hsmRejection } from '@countermark/node-platform/hsm-access';
import { type CborValue } from '@countermark/protocol/cbor';
import { CHUNK_ENTRY_BYTES, MAX_CHUNK, PSD } from '@countermark/protocol/interfaces/psd';
import { rejection } from '@countermark/protocol/rejection';
import { accept, refuse } from '@countermark/protocol/result';
import type { HeldRecord } from '../core/state.ts';
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
  return {
    ...Object.fromEntries([
      served(PSD.status, () => accept(device.status())),
      served(PSD.records, () => accept({ records: device.records().map(recordState) })),
    ]),
    ...Object.fromEntries(
      signingHandlers(device, sessions).map(([name, handler]) => [name, onceReady(device, handler)]),
    ),
  };
}

function recordState({ sequence, digest, batch, bytes }: HeldRecord) {
  return { sequence, digest, ...(batch === null ? {} : { batch }), bytes };
}

/** Where a token has the keys: nothing is begun while it is away, and what it refuses is a rejection, after which the device goes on. */
function onceReady(device: Device, handler: RpcHandler): RpcHandler {
  const { token } = device;
  if (token === null) return handler;
  return async (parameters, context) => {
    try {
      await device.ready();
      return await handler(parameters, context);
    } catch (error) {
      const refused = hsmRejection(error, token);
      if (refused === null) throw error;
      return refuse(refused);
    }
  };
}

/** Those that sign, commit, or give away what was signed. */
function signingHandlers(device: Device, sessions: SessionSocket): readonly (readonly [string, RpcHandler])[] {
  return [
    served(PSD.enrolmentRequest, ({ codeDigest }) => {
      const request = device.enrolmentRequest();
      if (!request.ok) return request;
      const certificateRequest = device.certificateRequest(codeDigest);
      return certificateRequest.ok
        ? accept({ request: request.value, certificateRequest: certificateRequest.value })
        : certificateRequest;
    }),
    served(PSD.certificateRequest, () => {
      const request = device.certificateRequest();
      return request.ok ? accept({ request: request.value }) : request;
    }),
    served(PSD.rotateBegin, () => device.rotateBegin()),
    served(PSD.rotate, ({ certificate }) => device.rotate(certificate)),
    served(PSD.install, ({ certificate, policy }) => device.install(certificate, policy)),
    served(PSD.policy, ({ policy }) => device.policy(policy)),
    served(PSD.signedTime, ({ time }) => device.signedTime(time)),
    served(PSD.openBatch, ({ declaration }) => device.openBatch(declaration)),
    chunkHandler(device),
    served(PSD.spoil, ({ batch, pieceNumbers }) => device.spoil(batch, pieceNumbers)),
    served(PSD.closeBatch, ({ batch, reprints }) => device.closeBatch(batch, reprints)),
    served(PSD.recount, (records) => device.recount(records)),
    served(PSD.seal, ({ batch, incomplete }) => device.seal(batch, incomplete)),
    served(PSD.finalStatement, () => device.finalStatement()),
    served(PSD.record, ({ sequence }) => {
      const record = device.record(sequence);
      return record.ok ? accept({ record: record.value }) : record;
    }),
    served(PSD.confirm, ({ confirmation }) => device.confirm(confirmation)),
    served(PSD.fundsRequest, ({ amountMills }) => device.fundsRequest(amountMills)),
    served(PSD.fundsGrant, ({ grant }) => device.fundsGrant(grant)),
    served(PSD.send, async ({ items }) => {
      const results = await sendInSession(device, sessions, items);
      return results.ok ? accept({ results: results.value }) : results;
    }),
  ];
}

/** A chunk beyond the bound is told so, with the number of its pieces, before its schema would call it malformed. */
function chunkHandler(device: Device): [string, RpcHandler] {
  const [name, handler] = served(PSD.frankChunk, (request) => device.frankChunk(request));
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
