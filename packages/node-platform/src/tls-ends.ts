/**
 * The two ends of the session: mutual TLS 1.3 over any stream, the device as client, the cryptographic device as server.
 *
 * Guarantees: the server end hands out a stream only after the client's certificate was verified against the given issuers
 * (`authorized`), with the device id from its subject; before that not one byte of application data is read. The client end
 * accepts only a certificate of the given issuers with exactly the expected subject name. There is no resumption: every session
 * verifies certificates anew. A verified certificate that the server's user does not take any more (`refusalOf`) gets the reason, inside
 * TLS, and no session. No device takes all sessions for itself. No error goes unhandled.
 * Does not know who was revoked, and does not tell truncation from an end: frames and records carry their own lengths and
 * authenticators.
 *
 * Never replaced by `new tls.TLSSocket(duplex, {isServer: true, requestCert: true, rejectUnauthorized: true})`: that admits an
 * untrusted client certificate and delivers its data. tls-ends.test.ts would notice.
 */
import { constants, type KeyObject } from 'node:crypto';
import type { Duplex } from 'node:stream';
import { connect, createServer, type SecureContextOptions, type TLSSocket } from 'node:tls';
import { type Rejection, rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { errorCode, errorText } from './fault.ts';
import { refuseRpcOn } from './rpc.ts';
import { listenPrivately } from './unix-sockets.ts';

/** Who an end is, and whom it believes. */
export interface SessionCredentials {
  readonly privateKey: KeyObject;
  /** PEM; the end's own certificate, then the chain, if any. */
  readonly certificate: string;
  /** PEM of the issuers that the other end's certificate must come from. No others are trusted, not even the system's. */
  readonly issuers: readonly string[];
}

/** How sessions are served. */
export interface SessionServerOptions {
  readonly credentials: SessionCredentials;
  /** Why a verified certificate (DER) of the device is not taken, or null; the client is told (`refuseRpcOn`). Default: each is. */
  refusalOf?(deviceId: string, certificate: Uint8Array): Rejection | null;
  /** A verified session: the stream, the subject CN of the peer's certificate (the device id), and that certificate (DER). */
  onSession(stream: TLSSocket, deviceId: string, certificate: Uint8Array): void;
  /** A handshake that failed: `session-clock` or `session-failed`; or what `refusalOf` said. */
  onRefused?(refused: Rejection): void;
  /** Longest handshake. Default 10,000. */
  readonly handshakeTimeoutMs?: number;
  /** Sessions at once. Default 64. */
  readonly connectionsMax?: number;
}

/** The serving end. */
export interface SessionServer {
  /** Takes new credentials for sessions that begin from now on. */
  renew(credentials: SessionCredentials): void;
  /** Takes no further session and ends those that are open. */
  close(): Promise<void>;
}

/** What a client end needs. */
export interface SessionClientOptions {
  readonly credentials: SessionCredentials;
  /** The subject CN that the server's certificate must have, exactly. */
  readonly serverName: string;
  /** Longest handshake. Default 10,000. */
  readonly handshakeTimeoutMs?: number;
}

/** Sessions that one device may have at once: an honest one has one, or a few while broken ones are not yet noticed. */
const SESSIONS_PER_DEVICE = 4;

const CLOCK_CODES = new Set(['CERT_NOT_YET_VALID', 'CERT_HAS_EXPIRED']);

/** A DER certificate as PEM, as TLS wants it. */
export function certificatePem(der: Uint8Array): string {
  const lines =
    Buffer.from(der)
      .toString('base64')
      .match(/.{1,64}/g) ?? [];
  return `-----BEGIN CERTIFICATE-----\n${lines.join('\n')}\n-----END CERTIFICATE-----\n`;
}

/** Serves the server end on a Unix socket in a 0700 directory. Faults: those of `listenPrivately`. */
export async function serveSessions(path: string, options: SessionServerOptions): Promise<SessionServer> {
  const open = new Map<TLSSocket, string>();
  const refused = new Set<TLSSocket>();
  const server = createServer({
    ...serverContextOf(options.credentials),
    requestCert: true,
    rejectUnauthorized: true,
    handshakeTimeout: options.handshakeTimeoutMs ?? 10_000,
  });
  server.maxConnections = options.connectionsMax ?? 64;
  server.on('secureConnection', (stream) => {
    stream.on('error', () => undefined);
    // The types promise a subject; for a client without a certificate there is none.
    const { subject, raw } = stream.getPeerCertificate() as { subject?: { readonly CN?: unknown }; raw?: Uint8Array };
    const deviceId = subject?.CN;
    if (!stream.authorized || typeof deviceId !== 'string' || deviceId === '' || raw === undefined) {
      stream.destroy();
      options.onRefused?.(rejection('session-failed', { reason: 'the certificate names no device' }));
      return;
    }
    // Before sessions are counted: who holds a key that was revoked must not keep the device itself out.
    const refusal = options.refusalOf?.(deviceId, raw) ?? null;
    if (refusal !== null) {
      refused.add(stream);
      stream.once('close', () => refused.delete(stream));
      refuseRpcOn(stream, refusal);
      options.onRefused?.(refusal);
      return;
    }
    if ([...open.values()].filter((device) => device === deviceId).length >= SESSIONS_PER_DEVICE) {
      stream.destroy();
      options.onRefused?.(rejection('session-failed', { reason: 'the device has too many sessions open' }));
      return;
    }
    open.set(stream, deviceId);
    stream.once('close', () => open.delete(stream));
    options.onSession(stream, deviceId, raw);
  });
  const told = new WeakSet<TLSSocket>();
  server.on('tlsClientError', (error, stream) => {
    if (told.has(stream)) return;
    told.add(stream);
    stream.on('error', () => undefined);
    stream.destroy();
    // Where the client's certificate was refused the error itself is a mere reset.
    options.onRefused?.(sessionRejection(judgement(stream) ?? errorCode(error), error));
  });
  await listenPrivately(server, path);
  return {
    renew: (credentials) => {
      server.setSecureContext(serverContextOf(credentials));
    },
    close: async () => {
      const closed = new Promise<void>((resolve) => {
        server.close(() => {
          resolve();
        });
      });
      for (const stream of [...open.keys(), ...refused]) stream.destroy();
      await closed;
    },
  };
}

/**
 * Opens the client end on a stream and takes the stream over. Resolves once the server's certificate is verified; whether the
 * server accepted ours shows only with its first answer. Rejections: `session-clock`, `session-failed`.
 */
export async function openSession(stream: Duplex, options: SessionClientOptions): Promise<Result<TLSSocket>> {
  return new Promise((resolve) => {
    const session = connect({
      socket: stream,
      ...contextOf(options.credentials),
      servername: options.serverName,
      rejectUnauthorized: true,
      minVersion: 'TLSv1.3',
      maxVersion: 'TLSv1.3',
      checkServerIdentity: (_host, certificate) =>
        certificate.subject.CN === options.serverName
          ? undefined
          : new Error(`the server's certificate is for ${String(certificate.subject.CN)}, not ${options.serverName}`),
    });
    const timer = setTimeout(() => {
      failed(new Error('the handshake took too long'));
    }, options.handshakeTimeoutMs ?? 10_000);
    const failed = (error: Error): void => {
      clearTimeout(timer);
      session.destroy();
      stream.destroy();
      resolve(refuse(sessionRejection(errorCode(error), error)));
    };
    // Both stay: an error after the handshake ends the streams, and whoever reads them sees the end.
    stream.on('error', failed);
    session.on('error', failed);
    session.once('close', () => {
      stream.destroy();
      failed(new Error('the other end closed the connection during the handshake'));
    });
    session.once('secureConnect', () => {
      clearTimeout(timer);
      if (session.authorized) resolve(accept(session));
      else failed(session.authorizationError);
    });
  });
}

/** All that a new context needs again: Node takes nothing over from the one before. */
function serverContextOf(credentials: SessionCredentials): SecureContextOptions {
  return {
    ...contextOf(credentials),
    minVersion: 'TLSv1.3',
    maxVersion: 'TLSv1.3',
    // Without tickets, and with no session cache in Node, nothing can be resumed.
    secureOptions: constants.SSL_OP_NO_TICKET,
  };
}

function contextOf({ privateKey, certificate, issuers }: SessionCredentials): {
  key: string;
  cert: string;
  ca: string[];
} {
  return { key: privateKey.export({ type: 'pkcs8', format: 'pem' }).toString(), cert: certificate, ca: [...issuers] };
}

/** Why Node refused the peer's certificate. Typed as an Error there, in truth the code's text. */
function judgement(stream: TLSSocket): string | undefined {
  const reason: unknown = stream.authorizationError;
  if (typeof reason === 'string') return reason;
  return errorCode(reason);
}

function sessionRejection(code: string | undefined, error: Error): Rejection {
  if (code !== undefined && CLOCK_CODES.has(code)) return rejection('session-clock', { reason: code });
  return rejection('session-failed', { reason: code ?? errorText(error) });
}
