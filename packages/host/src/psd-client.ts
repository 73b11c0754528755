/**
 * Asking the PSD over its socket.
 *
 * Every operation of the PSD can be asked again without a second effect. So a call whose connection broke (the PSD was killed,
 * or is being started again) is asked again with the same content until it is answered or the patience ends.
 * Guarantees that answers have the form of their schema. Rejections are the PSD's; faults: `psd-unreachable`, and those of the
 * PSD itself.
 */
import { Backoff } from '@countermark/node-platform/backoff';
import { type Clock, systemClock } from '@countermark/node-platform/clock';
import { Fault } from '@countermark/node-platform/fault';
import { lazyRpc, type RpcClient } from '@countermark/node-platform/rpc';
import type { Operation } from '@countermark/protocol/interfaces/operation';
import { type DeviceStatus, PSD } from '@countermark/protocol/interfaces/psd';
import type { Result } from '@countermark/protocol/result';
import { parseValue } from '@countermark/protocol/schema';

export type CallOptions = {
  /** How long broken connections are tried again. */
  readonly patienceMs?: number;
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
};

/** What the host needs of a PSD; a test may put its own in this place. */
export interface PsdClient {
  call<Request, Answer>(
    of: Operation<Request, Answer>,
    request: Request,
    options?: CallOptions,
  ): Promise<Result<Answer>>;
  close(): void;
}

const PATIENCE_MS = 60_000;
/** A recount, a seal of many cells, or a session may take long; a chunk does not. */
const TIMEOUT_MS = 60_000;

/** The PSD at this socket. */
export function psdAt(socket: string, random: () => number = Math.random): SocketPsd {
  return new SocketPsd(socket, random);
}

class SocketPsd implements PsdClient {
  readonly #hurried = new AbortController();
  readonly #rpc: RpcClient;
  readonly #random: () => number;
  // Reconnecting is in real time, whatever clock a hold is tested with.
  readonly #clock: Clock = systemClock;

  constructor(socket: string, random: () => number) {
    this.#rpc = lazyRpc(socket, { timeoutMs: TIMEOUT_MS });
    this.#random = random;
  }

  async call<Request, Answer>(
    of: Operation<Request, Answer>,
    request: Request,
    options: CallOptions = {},
  ): Promise<Result<Answer>> {
    const parameters = of.request.toCbor(request);
    const backoff = new Backoff({ firstMs: 50, mostMs: 1_000, random: this.#random });
    const endMs = this.#clock.nowMs() + (options.patienceMs ?? PATIENCE_MS);
    for (;;) {
      try {
        const answer = await this.#rpc.call(of.name, parameters, {
          ...(options.signal === undefined ? {} : { signal: options.signal }),
          ...(options.timeoutMs === undefined ? {} : { timeoutMs: options.timeoutMs }),
        });
        if (!answer.ok) return answer;
        const parsed = parseValue(of.answer, answer.value);
        if (!parsed.ok) {
          throw new Fault('psd-malformed', `the PSD answered ${of.name} in another form than its interface says`, {
            retry: 'never',
            cause: parsed.rejection,
          });
        }
        return parsed;
      } catch (error) {
        if (!isBroken(error) || options.signal?.aborted === true) throw error;
        if (this.#clock.nowMs() >= endMs || this.#hurried.signal.aborted) {
          throw new Fault('psd-unreachable', `the PSD does not answer (${(error as Fault).message})`, {
            retry: 'later',
            cause: error,
          });
        }
        const { signal } = this.#hurried;
        const given = options.signal === undefined ? signal : AbortSignal.any([signal, options.signal]);
        await this.#clock.sleep(backoff.nextMs() + 10, given);
      }
    }
  }

  /** From now on a broken connection is not waited out: the host ends, and perhaps the PSD has ended before it. */
  hurry(): void {
    this.#hurried.abort();
  }

  close(): void {
    this.#rpc.close();
  }
}

/** The PSD's status, or a fault where it does not answer. */
export async function statusOf(psd: PsdClient, patienceMs?: number): Promise<DeviceStatus> {
  const status = await psd.call(PSD.status, {}, patienceMs === undefined ? {} : { patienceMs });
  if (!status.ok) {
    throw new Fault('psd-refused', `the PSD refused to say its status (${status.rejection.code})`, { retry: 'later' });
  }
  return status.value;
}

function isBroken(error: unknown): boolean {
  return (
    error instanceof Fault &&
    ['connection-broken', 'peer-not-running', 'connection-timed-out', 'frame-broken'].includes(error.code)
  );
}
