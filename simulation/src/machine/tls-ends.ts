/**
 * Stands in for node-platform/tls-ends: sessions whose two ends know each other, and whose bytes nobody between them can read or
 * alter.
 *
 * Guarantees what mutual TLS does: the serving end is told the device only if the client holds the private key of a session
 * certificate that an authority of sessions signed, and that its user still takes; the client has a session only where the end shows a path from the
 * authority that it trusts; what is lost or cut on the way breaks the session. Certificates are those of
 * `session-certificates.ts`.
 */
import type { SessionClientOptions, SessionServer, SessionServerOptions } from '@countermark/node-platform/tls-ends';
import { publicKeyBytes } from '@countermark/node-platform/signing';
import { type Result, accept, refuse } from '@countermark/protocol/result';
import { rejection } from '@countermark/protocol/rejection';
import { CallBroken, type Service } from '../network.ts';
import { machine, runningProcess } from './machine.ts';
import { refusingService } from './rpc.ts';
import { authenticServer, authenticSession, type SessionName } from './session-certificates.ts';

export type { SessionClientOptions, SessionServer, SessionServerOptions };

type Handshake = { readonly stream: SessionStream; readonly certificate: string; readonly publicKey: Uint8Array };

/** One session's way from a PSD to the cryptographic device, relayed by a host. */
export class SessionStream {
  readonly path: string;
  #service: Service | undefined;
  #broken = false;

  /** `path`: the session socket of the cryptographic device. */
  constructor(path: string) {
    this.path = path;
  }

  serve(service: Service): void {
    this.#service = service;
  }

  async call(operation: string, parameters: unknown, timeoutMs?: number): Promise<unknown> {
    const address = `session over ${this.path}`;
    if (this.#broken || this.#service === undefined) throw new CallBroken('broken', address);
    try {
      return await machine().network.session(this.#service, address, operation, parameters, timeoutMs);
    } catch (error) {
      this.#broken = true;
      throw error;
    }
  }
}

/** Certificates are texts already. */
export function certificatePem(der: Uint8Array): string {
  return Buffer.from(der).toString('latin1');
}

export async function serveSessions(path: string, options: SessionServerOptions): Promise<SessionServer> {
  let { credentials } = options;
  machine().network.serve(path, {
    process: runningProcess(),
    handle: async (_operation, parameters): Promise<string | null> => {
      const { stream, certificate, publicKey } = parameters as Handshake;
      const name: SessionName | null = authenticSession(certificate, credentials.issuers, publicKey);
      if (name === null) {
        options.onRefused?.(rejection('session-failed', { reason: 'the certificate is not of this authority' }));
        return null;
      }
      const issued = Buffer.from(certificate, 'latin1');
      const refusal = options.refusalOf?.(name.device, issued) ?? null;
      if (refusal !== null) {
        // The client's first call is answered so, as its first frame is.
        stream.serve(refusingService(refusal));
        options.onRefused?.(refusal);
        return credentials.certificate;
      }
      options.onSession(stream as never, name.device, issued);
      return credentials.certificate;
    },
  });
  return {
    renew: (renewed) => {
      credentials = renewed;
    },
    close: async () => undefined,
  };
}

export async function openSession(stream: unknown, options: SessionClientOptions): Promise<Result<never>> {
  const session = stream as SessionStream;
  const { certificate, privateKey } = options.credentials;
  const handshake: Handshake = {
    stream: session,
    certificate: certificate,
    publicKey: publicKeyBytes(privateKey),
  };
  try {
    const welcome = await machine().network.wire(session.path, 'handshake', handshake);
    if (typeof welcome === 'string') {
      if (authenticServer(welcome, options.credentials.issuers)) return accept(session as never);
      // Nobody else is at that socket: whatever was rotated, its end must find a path from the device's authority.
      machine().onThrown(runningProcess().name, 'handshake', new Error('the end of a session shows no path to it'));
    }
  } catch (error) {
    if (!(error instanceof CallBroken)) throw error;
  }
  return refuse(rejection('session-failed', { reason: 'the handshake failed' }));
}
