/**
 * `GET /v1/session` with `Upgrade: countermark-session`: from then on raw bytes between the host and the cryptographic device,
 * the two ends of the TLS session being the PSD and the cryptographic device.
 *
 * Guarantees: only with a credential; a bounded number at once; errors of either side end both and are handled; what came
 * with the head is passed on. The server cannot read what it relays, and does not try.
 */
import type { IncomingMessage, Server } from 'node:http';
import type { Duplex } from 'node:stream';
import type { Log } from '@countermark/node-platform/logs';
import { relay } from '@countermark/node-platform/stream-relay';
import { connectPrivately } from '@countermark/node-platform/unix-sockets';
import { errorText } from '@countermark/node-platform/fault';
import { type Rejection, rejection } from '@countermark/protocol/rejection';
import { PROBLEM_TYPE, problemOf } from './problem.ts';

const PROTOCOL = 'countermark-session';
const SESSIONS_MAX = 64;
const CONNECT_MS = 5_000;
/** A session without a byte either way for so long is over. */
const IDLE_MS = 120_000;

export type SessionUpgradeOptions = {
  readonly cdSessionSocket: string;
  /** Why the caller gets no session, or null. */
  readonly refusalOf: (request: IncomingMessage) => Promise<Rejection | null>;
  readonly requestId: () => string;
  readonly log: Log;
};

/** Serves upgrades on the server; returns what ends the open ones. */
export function serveSessionUpgrades(server: Server, options: SessionUpgradeOptions): () => void {
  const open = new Set<Duplex>();
  server.on('upgrade', (request: IncomingMessage, stream: Duplex, head: Buffer) => {
    stream.on('error', () => undefined);
    const requestId = options.requestId();
    const refuseWith = (refused: Rejection, status?: number): void => {
      const problem = problemOf(refused, requestId, [], status);
      const body = JSON.stringify(problem);
      const wait = refused.detail['retryAfterSeconds'];
      const retry = wait === undefined ? '' : `Retry-After: ${wait}\r\n`;
      stream.end(
        `HTTP/1.1 ${problem.status} Refused\r\n${retry}Content-Type: ${PROBLEM_TYPE}\r\nContent-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\n\r\n${body}`,
      );
    };
    const begin = async (): Promise<void> => {
      if (request.url !== '/v1/session' || request.method !== 'GET') {
        refuseWith(
          rejection('unknown-operation', { operation: `${request.method ?? ''} ${request.url ?? ''}`.slice(0, 64) }),
        );
        return;
      }
      if (request.headers.upgrade?.toLowerCase() !== PROTOCOL) {
        refuseWith(
          rejection('not-available', { what: 'An upgrade to another protocol', cure: `Upgrade to ${PROTOCOL}.` }),
          400,
        );
        return;
      }
      const refused = await options.refusalOf(request);
      if (refused !== null) {
        refuseWith(refused);
        return;
      }
      if (open.size >= SESSIONS_MAX) {
        refuseWith(rejection('try-again', { reason: `${SESSIONS_MAX} sessions are open` }));
        return;
      }
      open.add(stream);
      stream.once('close', () => open.delete(stream));
      let other;
      try {
        other = await connectPrivately(options.cdSessionSocket, CONNECT_MS);
      } catch (error) {
        open.delete(stream);
        // The error names a path of this machine: it is for the log.
        options.log.warn('The cryptographic device takes no session', { requestId, reason: errorText(error) });
        refuseWith(rejection('try-again', { reason: 'the cryptographic device takes no session' }));
        return;
      }
      const socket = other;
      socket.setTimeout(IDLE_MS, () => socket.destroy());
      stream.write(`HTTP/1.1 101 Switching Protocols\r\nUpgrade: ${PROTOCOL}\r\nConnection: Upgrade\r\n\r\n`);
      if (head.length > 0) socket.write(head);
      const failure = await relay(stream, socket);
      if (failure !== undefined) options.log.debug('A relayed session broke', { requestId, reason: failure.message });
    };
    begin().catch((error: unknown) => {
      options.log.error('A session could not be relayed', error, { requestId });
      stream.destroy();
    });
  });
  return () => {
    for (const stream of open) stream.destroy();
  };
}
