/**
 * A session between the PSD and the cryptographic device, of which the host only relays bytes (claim 4).
 *
 * Guarantees: nothing of the session is read or kept here; the PSD is asked to send only once the way to the server is open;
 * whatever ends one side ends the other, and the PSD's answer says what was confirmed by then.
 */
import { connectPrivately } from '@countermark/node-platform/unix-sockets';
import { relay } from '@countermark/node-platform/stream-relay';
import { type Operation } from '@countermark/protocol/interfaces/operation';
import { PSD } from '@countermark/protocol/interfaces/psd';
import { accept, type Result } from '@countermark/protocol/result';
import type { PsdClient } from './psd-client.ts';
import type { ServerClient } from './server-client.ts';

type AnswerOf<O> = O extends Operation<infer _Request, infer Answer> ? Answer : never;
type RequestOf<O> = O extends Operation<infer Request, infer _Answer> ? Request : never;
type SendItem = RequestOf<typeof PSD.send>['items'][number];
type SendResult = AnswerOf<typeof PSD.send>['results'][number];

/** A frame to the PSD holds so many bytes of supplied records at most. */
const SUPPLIED_BYTES_MAX = 3 * 1024 * 1024;
const SESSION_MS_MAX = 120_000;

export class SessionRelay {
  readonly #psd: PsdClient;
  readonly #server: Pick<ServerClient, 'openSession'>;
  readonly #psdSessionSocket: string;

  constructor(psd: PsdClient, server: Pick<ServerClient, 'openSession'>, psdSessionSocket: string) {
    this.#psd = psd;
    this.#server = server;
    this.#psdSessionSocket = psdSessionSocket;
  }

  /** Sends records in one session. Rejections: those of the server, and of the PSD's `send`. */
  async send(items: readonly SendItem[]): Promise<Result<readonly SendResult[]>> {
    let bytes = 0;
    const fitting = items.filter(({ record }) => (bytes += record?.length ?? 0) <= SUPPLIED_BYTES_MAX);
    const way = await this.#server.openSession();
    if (!way.ok) return way;
    const toServer = way.value;
    try {
      // The PSD takes the next connection to its session socket for what it is asked to send.
      const sent = this.#psd.call(PSD.send, { items: fitting }, { timeoutMs: SESSION_MS_MAX, patienceMs: 0 });
      sent.catch(() => undefined);
      const toPsd = await connectPrivately(this.#psdSessionSocket, 10_000);
      const relayed = relay(toPsd, toServer);
      const answer = await sent;
      toPsd.destroy();
      toServer.destroy();
      await relayed;
      return answer.ok ? accept(answer.value.results) : answer;
    } finally {
      toServer.destroy();
    }
  }
}
