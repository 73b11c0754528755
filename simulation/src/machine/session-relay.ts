/**
 * Stands in for the host's relay of a session's bytes: it opens the way and hands its end to the PSD, as the real one does; the
 * bytes are the session's own (`tls-ends.ts`).
 */
import { Fault } from '@countermark/node-platform/fault';
import type { PsdClient } from '@countermark/host/psd-client';
import type { SessionRelay as RealSessionRelay } from '@countermark/host/session-relay';
import { PSD } from '@countermark/protocol/interfaces/psd';
import { accept } from '@countermark/protocol/result';
import { CallBroken } from '../network.ts';
import { machine } from './machine.ts';
import type { ServerClient } from './server-client.ts';

type Send = RealSessionRelay['send'];

export class SessionRelay {
  readonly #psd: PsdClient;
  readonly #server: Pick<ServerClient, 'openSession'>;
  readonly #psdSessionSocket: string;

  constructor(psd: PsdClient, server: Pick<ServerClient, 'openSession'>, psdSessionSocket: string) {
    this.#psd = psd;
    this.#server = server;
    this.#psdSessionSocket = psdSessionSocket;
  }

  async send(items: Parameters<Send>[0]): ReturnType<Send> {
    const way = await this.#server.openSession();
    if (!way.ok) return way;
    const sent = this.#psd.call(PSD.send, { items }, { timeoutMs: 120_000, patienceMs: 0 });
    sent.catch(() => undefined);
    try {
      await machine().network.local(this.#psdSessionSocket, 'connect', way.value, 10_000);
    } catch (error) {
      if (!(error instanceof CallBroken)) throw error;
      throw new Fault('connection-broken', error.message, { retry: 'later', cause: error });
    }
    const answer = await sent;
    return answer.ok ? accept(answer.value.results) : answer;
  }
}
