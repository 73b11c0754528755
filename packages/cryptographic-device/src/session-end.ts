/**
 * The cryptographic device's end of the session (claim 4): mutual TLS 1.3 with the PSD, and inside it records in, answers out.
 *
 * Guarantees: nothing is read before the client's certificate is verified and found to be one that still gets a session
 * (`session-admission.ts`), and nothing more once it does not; only records of that certificate's device are
 * taken; the bytes of record, attestation and confirmation are the same as out of a session. Authenticated records go to
 * the server with their attestations on its acceptance socket; what the server cannot answer now is answered `try-again`.
 * The server end's certificate is renewed long before its 24 hours are over, and when the authority has another key.
 */
import { randomBytes } from 'node:crypto';
import type { Clock } from '@countermark/node-platform/clock';
import { errorText, Fault } from '@countermark/node-platform/fault';
import type { Log } from '@countermark/node-platform/logs';
import { lazyRpc, type RpcClient, type RpcPeer, served, serveRpcOn } from '@countermark/node-platform/rpc';
import { certificatePem, type SessionServer, serveSessions } from '@countermark/node-platform/tls-ends';
import type { DeviceId } from '@countermark/protocol/id';
import { type Answer, answersSchema, submissionSchema } from '@countermark/protocol/interfaces/answer';
import { ACCEPTANCE } from '@countermark/protocol/interfaces/cryptographic-device';
import { operation } from '@countermark/protocol/interfaces/operation';
import { type Rejection, rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { parseValue } from '@countermark/protocol/schema';
import type { Authentication } from './authentication.ts';
import type { DeviceRegister } from './device-register.ts';
import { sessionRefusal } from './session-admission.ts';
import type { SessionAuthority } from './session-authority.ts';
import { type SessionServerCredentials, sessionServerCredentials } from './session-certificates.ts';

const SUBMIT = operation('submit', submissionSchema, answersSchema);
const ACCEPTANCE_TIMEOUT_MS = 20_000;
const TRIED_AGAIN_MS = 60_000;
/** Room for heads and attestations beside the records of one frame. */
const CALL_BYTES = 3 * 1024 * 1024;

export type SessionEndOptions = {
  readonly path: string;
  readonly acceptanceSocket: string;
  readonly register: DeviceRegister;
  readonly authentication: Authentication;
  readonly sessionAuthority: SessionAuthority;
  readonly clock: Clock;
  readonly log: Log;
};

/** A record that was found authentic, on its way to the server; `index` is its place in the submission. */
type Authentic = { readonly index: number; readonly record: Uint8Array; readonly attestation: Uint8Array };

/** The serving end; `close` ends the open sessions. */
export type SessionEnd = { close(): Promise<void> };

/** Serves sessions. Faults: those of `serveSessions`. */
export async function serveSessionEnd(options: SessionEndOptions): Promise<SessionEnd> {
  const { sessionAuthority, clock, log } = options;
  const credentials = async (): Promise<SessionServerCredentials & { readonly issuers: readonly string[] }> => {
    const made = await sessionAuthority.issuing((issuer) =>
      sessionServerCredentials(issuer, sessionAuthority.chain, clock.nowMs()),
    );
    return { ...made, issuers: sessionAuthority.certificates.map(certificatePem) };
  };
  const acceptance = lazyRpc(options.acceptanceSocket, { timeoutMs: ACCEPTANCE_TIMEOUT_MS });
  const peers = new Set<RpcPeer>();
  const first = await credentials();
  const refusalOf = (device: string, certificate: Uint8Array): Rejection | null => {
    try {
      return sessionRefusal(options.register, device as DeviceId, certificate);
    } catch (error) {
      if (!(error instanceof Fault)) throw error;
      log.error('The register could not be read for a session', error);
      return rejection('try-again', { reason: 'the register of devices cannot be read' });
    }
  };
  const server: SessionServer = await serveSessions(options.path, {
    credentials: first,
    refusalOf,
    onSession: (stream, deviceId, certificate) => {
      const session = randomBytes(16).toString('hex');
      const device = deviceId as DeviceId; // verified by the handshake: the authority issues certificates to enrolled devices only
      log.info('A session began', { session, device });
      const peer = serveRpcOn(
        stream,
        Object.fromEntries([
          served(SUBMIT, async ({ records }) => {
            // Its certificate may have been revoked since.
            const refused = refusalOf(device, certificate);
            return refused === null ? submitted(options, acceptance, session, device, records) : refuse(refused);
          }),
        ]),
        {
          pendingMax: 4,
          onFault: (fault, name, error) => {
            log.error('An operation in a session failed', error, { fault, operation: name, session });
          },
        },
      );
      peers.add(peer);
      void peer.ended.then(() => {
        peers.delete(peer);
        log.info('A session ended', { session });
      });
    },
    onRefused: (refused) => {
      const { device, reason } = refused.detail;
      log.warn('A session was refused', {
        code: refused.code,
        ...(device === undefined ? {} : { device: String(device) }),
        reason: String(reason),
      });
    },
  });

  const stop = new AbortController();
  let rotated = new AbortController();
  sessionAuthority.onRotated(() => {
    rotated.abort();
  });
  const renewing = renew(first.expiresAtMs);
  async function renew(expiresAtMs: number): Promise<void> {
    let inMs = (expiresAtMs - clock.nowMs()) / 2;
    for (;;) {
      // Devices that come after a rotation know the newest authority alone: for them it is renewed at once.
      await clock.sleep(Math.max(TRIED_AGAIN_MS, inMs), AbortSignal.any([stop.signal, rotated.signal]));
      if (stop.signal.aborted) return;
      if (rotated.signal.aborted) rotated = new AbortController();
      try {
        const next = await credentials();
        server.renew(next);
        inMs = (next.expiresAtMs - clock.nowMs()) / 2;
      } catch (error) {
        if (!(error instanceof Fault)) throw error;
        inMs = TRIED_AGAIN_MS;
        log.warn('The certificate of the session’s end could not be renewed; it is tried again', {
          reason: errorText(error),
        });
      }
    }
  }
  return {
    close: async () => {
      stop.abort();
      await Promise.all([...peers].map((peer) => peer.close(1_000)));
      await server.close();
      acceptance.close();
      await renewing;
    },
  };
}

async function submitted(
  { authentication, log }: SessionEndOptions,
  acceptance: RpcClient,
  session: string,
  device: DeviceId,
  records: readonly Uint8Array[],
): Promise<Result<{ readonly answers: readonly Answer[] }>> {
  const answers: Answer[] = [];
  const authentic: Authentic[] = [];
  for (const [index, result] of (await authentication.authenticate(records, device)).entries()) {
    const record = records[index];
    if (result.ok && record !== undefined) authentic.push({ index, record, attestation: result.value });
    else if (!result.ok) answers[index] = rejected(result.rejection);
  }
  for (const call of inCalls(authentic)) {
    const given = await accepted(acceptance, session, device, call);
    if (!given.ok) log.warn('The server did not take records of a session', { session, code: given.rejection.code });
    for (const [place, { index }] of call.entries()) {
      answers[index] = given.ok ? (given.value[place] ?? rejected(lost())) : rejected(given.rejection);
    }
  }
  return accept({ answers });
}

async function accepted(
  acceptance: RpcClient,
  session: string,
  device: DeviceId,
  items: readonly Authentic[],
): Promise<Result<readonly Answer[]>> {
  const request = ACCEPTANCE.accept.request.toCbor({
    session,
    device,
    items: items.map(({ record, attestation }) => ({ record, attestation })),
  });
  try {
    const answer = await acceptance.call(ACCEPTANCE.accept.name, request);
    if (!answer.ok) return answer;
    const parsed = parseValue(ACCEPTANCE.accept.answer, answer.value);
    return parsed.ok ? accept(parsed.value.answers) : parsed;
  } catch (error) {
    if (!(error instanceof Fault)) throw error;
    return refuse(rejection('try-again', { reason: errorText(error).slice(0, 200) }));
  }
}

/** Groups that fit in one frame each. */
function inCalls(items: readonly Authentic[]): readonly (readonly Authentic[])[] {
  const calls: Authentic[][] = [];
  let bytes = CALL_BYTES;
  for (const item of items) {
    const size = item.record.length + item.attestation.length;
    if (bytes + size > CALL_BYTES) {
      calls.push([]);
      bytes = 0;
    }
    calls.at(-1)?.push(item);
    bytes += size;
  }
  return calls;
}

function rejected(refused: Rejection): Answer {
  return { outcome: 'rejected', rejection: refused };
}

function lost(): Rejection {
  return rejection('try-again', { reason: 'the server gave no answer for this record' });
}
