/**
 * Calls between the processes: frames of deterministic CBOR over a local socket, or over a session.
 *
 * On the wire: request [id, operation, parameters]; answer [id, 0, value]; rejection [id, 1, {"code", "detail"}]; progress
 * [id, 2, value]; [0, 3, {"code", "detail"}]: no call on this connection is served, for this reason. A fault in a handler is answered as
 * a rejection with the code `internal-fault`, and thrown at the caller.
 *
 * Guarantees: calls may be in flight side by side, answers come in any order; handlers start in the order of arrival; connections,
 * frames and calls in hand are bounded (the peer is held back, nothing is dropped); a handler's fault never ends the process; when
 * a connection breaks, every call in flight ends with a fault and no call is repeated by itself: whether it took effect is for the
 * operation to tell when asked again.
 * Does not check parameters: handlers parse them with protocol schemas (`served`).
 */
import { randomBytes } from 'node:crypto';
import { createServer, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { type CborValue, decode, encode, FRAME_LIMITS } from '@countermark/protocol/cbor';
import type { Operation } from '@countermark/protocol/interfaces/operation';
import { isRejectionCode, type Rejection, type RejectionDetail, rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { parseValue } from '@countermark/protocol/schema';
import { errorText, Fault, type Retry } from './fault.ts';
import { FrameChannel } from './socket-frames.ts';
import { connectPrivately, listenPrivately } from './unix-sockets.ts';

const ANSWER = 0;
const REJECTION = 1;
const PROGRESS = 2;
const REFUSAL = 3;
const INTERNAL_FAULT = 'internal-fault';

/** What a handler may use besides its parameters. */
export interface RpcContext {
  /** Sends a progress event of this call. The promise, if any, resolves when more may be sent. */
  readonly progress: (value: CborValue) => Promise<void> | undefined;
  /** Aborted when the caller's connection is gone: nobody will read the answer. */
  readonly signal: AbortSignal;
}

/** One operation. A rejection is returned, a fault is thrown. */
export type RpcHandler = (parameters: CborValue, context: RpcContext) => Promise<Result<CborValue>> | Result<CborValue>;

/** Operations by name. */
export type RpcHandlers = Readonly<Record<string, RpcHandler>>;

/** How calls are served. */
export interface RpcServerOptions {
  /** Calls in hand on one connection before it is held back. Default 64. */
  readonly pendingMax?: number;
  /** Told of each rejection answered, and of each connection ended for what it sent (`operation` undefined). */
  onRejection?(rejection: Rejection, operation: string | undefined): void;
  /** Whether callers are told a Fault in its words, which may name files. Default: on local sockets only. */
  readonly tellFaults?: boolean;
  /** Told of each fault in a handler with the id that the caller was given. Default: one line on stderr. */
  onFault?(faultId: string, operation: string, error: unknown): void;
}

/** How a local socket is served. */
export interface RpcListenOptions extends RpcServerOptions {
  /** Connections at once; further ones are closed on arrival. Default 64. */
  readonly connectionsMax?: number;
}

/** A served local socket. */
export interface RpcServer {
  readonly path: string;
  /** Accepts nothing more, lets the calls in hand finish for up to `graceMs` (default 2,000), then ends the connections. */
  close(graceMs?: number): Promise<void>;
}

/** One served connection. */
export interface RpcPeer {
  /** Resolves when the connection is gone. */
  readonly ended: Promise<void>;
  /** Takes no further call, answers those in hand for up to `graceMs`, then ends the connection. */
  close(graceMs: number): Promise<void>;
}

/** How a client calls. */
export interface RpcClientOptions {
  /** Longest wait for the connection, and for each answer since the call or its last progress event. Default 30,000; 0: no limit. */
  readonly timeoutMs?: number;
}

/** One call's options. */
export interface RpcCallOptions {
  onProgress?(value: CborValue): void;
  /** Gives the call up on this side; the peer may still carry it out. */
  readonly signal?: AbortSignal;
  /** Instead of the client's own. */
  readonly timeoutMs?: number;
}

/** The calling side. */
export interface RpcClient {
  /**
   * Calls the operation. Resolves to its value or rejection. Throws a Fault where the peer failed (`internal-fault`, with the
   * peer's `retry`), the connection broke (`connection-broken`), nobody listens (`peer-not-running`), no answer came in time
   * (`call-timed-out`) or the call was given up (`call-abandoned`).
   */
  call(operation: string, parameters: CborValue, options?: RpcCallOptions): Promise<Result<CborValue>>;
  /** Ends the connection; calls in flight end with a fault. */
  close(): void;
}

/** An operation of an interface with its handler: parameters parsed and the answer encoded by its own schemas. */
export function served<Request, Answer>(
  operation: Operation<Request, Answer>,
  handle: (request: Request) => Promise<Result<Answer>> | Result<Answer>,
): readonly [string, RpcHandler] {
  return [
    operation.name,
    async (parameters) => {
      const request = parseValue(operation.request, parameters);
      if (!request.ok) return request;
      const answer = await handle(request.value);
      return answer.ok ? accept(operation.answer.toCbor(answer.value)) : answer;
    },
  ];
}

/**
 * Serves the operations on a Unix socket in a 0700 directory. Faults: those of `listenPrivately`.
 */
export async function serveRpc(
  path: string,
  handlers: RpcHandlers,
  options: RpcListenOptions = {},
): Promise<RpcServer> {
  const peers = new Set<RpcPeer>();
  const server = createServer((socket) => {
    const peer = serveRpcOn(socket, handlers, { tellFaults: true, ...options });
    peers.add(peer);
    void peer.ended.then(() => peers.delete(peer));
  });
  server.maxConnections = options.connectionsMax ?? 64;
  await listenPrivately(server, path);
  return {
    path,
    close: async (graceMs = 2_000) => {
      const closed = new Promise<void>((resolve) => {
        server.close(() => {
          resolve();
        });
      });
      await Promise.all([...peers].map((peer) => peer.close(graceMs)));
      await closed;
    },
  };
}

/** Serves the operations on one stream, for instance a session's. */
export function serveRpcOn(stream: Duplex, handlers: RpcHandlers, options: RpcServerOptions = {}): RpcPeer {
  return new ServedConnection(stream, handlers, options);
}

/** Ends the stream with the words that nothing is served on it, and why. What the peer sends is thrown away unread. */
export function refuseRpcOn(stream: Duplex, refused: Rejection): void {
  const channel = new FrameChannel(stream, { onFrame: () => undefined, onEnd: () => undefined });
  channel.pause();
  void channel.send(encode([0, REFUSAL, rejectionToCbor(refused)]));
  channel.close();
}

/** Connects to a Unix socket. Faults: those of `connectPrivately`. */
export async function connectRpc(path: string, options: RpcClientOptions = {}): Promise<RpcClient> {
  const socket = await connectPrivately(
    path,
    options.timeoutMs === undefined || options.timeoutMs === 0 ? 30_000 : options.timeoutMs,
  );
  return rpcOver(socket, options);
}

/** Calls over a stream that is connected already, for instance a session's. Takes the stream over. */
export function rpcOver(stream: Duplex, options: RpcClientOptions = {}): RpcClient & { readonly ended: boolean } {
  return new Caller(stream, options.timeoutMs ?? 30_000);
}

/**
 * A client that connects at the first call, and again at the next call after the connection broke. A call in flight is never
 * repeated: it ends with the fault `connection-broken`, whose caller asks again where the operation allows it.
 */
export function lazyRpc(path: string, options: RpcClientOptions = {}): RpcClient {
  let connected: Promise<RpcClient & { readonly ended: boolean }> | undefined;
  let current: (RpcClient & { readonly ended: boolean }) | undefined;
  let closed = false;
  const connect = (): Promise<RpcClient & { readonly ended: boolean }> => {
    connected ??= connectPrivately(
      path,
      options.timeoutMs === undefined || options.timeoutMs === 0 ? 30_000 : options.timeoutMs,
    ).then((socket: Socket) => {
      current = rpcOver(socket, options);
      if (closed) current.close();
      return current;
    });
    const attempt = connected;
    attempt.catch(() => {
      if (connected === attempt) connected = undefined;
    });
    return attempt;
  };
  return {
    call: async (operation, parameters, callOptions) => {
      if (closed) throw new Fault('connection-broken', `the client of ${path} was closed`, { retry: 'never' });
      if (current?.ended === true) {
        current = undefined;
        connected = undefined;
      }
      return (current ?? (await connect())).call(operation, parameters, callOptions);
    },
    close: () => {
      closed = true;
      current?.close();
    },
  };
}

class ServedConnection implements RpcPeer {
  readonly ended: Promise<void>;
  readonly #channel: FrameChannel;
  readonly #handlers: ReadonlyMap<string, RpcHandler>;
  readonly #options: RpcServerOptions;
  readonly #pendingMax: number;
  readonly #gone = new AbortController();
  #pending = 0;
  #closing = false;
  #idle: (() => void) | undefined;

  constructor(stream: Duplex, handlers: RpcHandlers, options: RpcServerOptions) {
    this.#handlers = new Map(Object.entries(handlers));
    this.#options = options;
    this.#pendingMax = options.pendingMax ?? 64;
    let markEnded: () => void;
    this.ended = new Promise((resolve) => {
      markEnded = resolve;
    });
    this.#channel = new FrameChannel(stream, {
      onFrame: (frame) => {
        this.#request(frame);
      },
      onEnd: () => {
        this.#gone.abort();
        markEnded();
      },
    });
  }

  async close(graceMs: number): Promise<void> {
    this.#closing = true;
    this.#channel.pause();
    if (this.#pending > 0) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, graceMs);
        this.#idle = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
    this.#channel.close(graceMs);
    await this.ended;
  }

  #request(frame: Uint8Array): void {
    const decoded = decode(frame, FRAME_LIMITS);
    if (!decoded.ok) {
      this.#drop(decoded.rejection);
      return;
    }
    const request = decoded.value;
    if (!Array.isArray(request) || request.length !== 3) {
      this.#drop(rejection('cbor-malformed', { reason: 'not a request' }));
      return;
    }
    const [id, operation, parameters] = request as readonly CborValue[];
    if (typeof id !== 'number' || id < 0 || typeof operation !== 'string' || parameters === undefined) {
      this.#drop(rejection('cbor-malformed', { reason: 'not a request' }));
      return;
    }
    // Counted like any other call: a peer that reads no answers would fill this process's memory with them.
    const handler = this.#handlers.get(operation) ?? unknownOperation(operation);
    this.#pending += 1;
    if (this.#pending >= this.#pendingMax) this.#channel.pause();
    void this.#handle(id, operation, handler, parameters);
  }

  async #handle(id: number, operation: string, handler: RpcHandler, parameters: CborValue): Promise<void> {
    try {
      const result = await handler(parameters, {
        progress: (value) => this.#channel.send(encode([id, PROGRESS, value])),
        signal: this.#gone.signal,
      });
      await this.#send(id, operation, result);
    } catch (error) {
      await this.#fault(id, operation, error);
    } finally {
      this.#pending -= 1;
      if (this.#pending === 0) this.#idle?.();
      if (!this.#closing && this.#pending < this.#pendingMax) this.#channel.resume();
    }
  }

  #send(id: number, operation: string, result: Result<CborValue>): Promise<void> | undefined {
    if (result.ok) return this.#channel.send(encode([id, ANSWER, result.value]));
    this.#options.onRejection?.(result.rejection, operation);
    return this.#channel.send(encode([id, REJECTION, rejectionToCbor(result.rejection)]));
  }

  #fault(id: number, operation: string, error: unknown): Promise<void> | undefined {
    const faultId = randomBytes(6).toString('hex');
    if (this.#options.onFault !== undefined) this.#options.onFault(faultId, operation, error);
    else
      process.stderr.write(
        `fault ${faultId} in ${operation}: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`,
      );
    const fault = error instanceof Fault ? error : undefined;
    const detail = new Map<CborValue, CborValue>([
      ['fault', faultId],
      ['where', operation],
      ['kind', fault?.code ?? 'unexpected'],
      ['retry', fault?.retry ?? 'never'],
    ]);
    if (fault !== undefined && this.#options.tellFaults === true) detail.set('reason', fault.message);
    return this.#channel.send(
      encode([
        id,
        REJECTION,
        new Map<CborValue, CborValue>([
          ['code', INTERNAL_FAULT],
          ['detail', detail],
        ]),
      ]),
    );
  }

  /** Ends a connection whose frame cannot be answered: its id is not known. */
  #drop(refused: Rejection): void {
    this.#options.onRejection?.(refused, undefined);
    this.#channel.destroy();
  }
}

function unknownOperation(operation: string): RpcHandler {
  return () => refuse(rejection('unknown-operation', { operation: operation.slice(0, 64) }));
}

/** Who waits for an answer. */
interface Asker {
  readonly operation: string;
  resolve(result: Result<CborValue>): void;
  reject(error: Error): void;
}

interface PendingCall extends Asker {
  readonly timeoutMs: number;
  timer: NodeJS.Timeout | undefined;
  onProgress: ((value: CborValue) => void) | undefined;
}

class Caller implements RpcClient {
  readonly #channel: FrameChannel;
  readonly #timeoutMs: number;
  readonly #pending = new Map<number, PendingCall>();
  #nextId = 0;
  #broken: Fault | undefined;
  /** Why the peer serves no call at all. */
  #refusal: CborValue | undefined;

  constructor(stream: Duplex, timeoutMs: number) {
    this.#timeoutMs = timeoutMs;
    this.#channel = new FrameChannel(stream, {
      onFrame: (frame) => {
        this.#event(frame);
      },
      onEnd: (fault) => {
        this.#end(fault ?? new Fault('connection-broken', 'the peer ended the connection', { retry: 'now' }));
      },
    });
  }

  get ended(): boolean {
    return this.#broken !== undefined;
  }

  async call(operation: string, parameters: CborValue, options: RpcCallOptions = {}): Promise<Result<CborValue>> {
    const refusal = this.#refusal;
    if (refusal !== undefined) {
      return new Promise((resolve, reject) => {
        settleRejection({ operation, resolve, reject }, refusal);
      });
    }
    if (this.#broken !== undefined) throw this.#broken;
    if (options.signal?.aborted === true) throw abandoned(operation);
    const id = this.#nextId;
    this.#nextId += 1;
    const frame = encode([id, operation, parameters]);
    return new Promise((resolve, reject) => {
      const { signal } = options;
      const call: PendingCall = {
        operation,
        timeoutMs: options.timeoutMs ?? this.#timeoutMs,
        timer: undefined,
        onProgress: options.onProgress?.bind(options),
        resolve,
        reject,
      };
      if (signal !== undefined) {
        const give = (): void => {
          this.#take(id)?.reject(abandoned(operation));
        };
        signal.addEventListener('abort', give, { once: true });
        const settled = (): void => {
          signal.removeEventListener('abort', give);
        };
        call.resolve = (result) => {
          settled();
          resolve(result);
        };
        call.reject = (error) => {
          settled();
          reject(error);
        };
      }
      this.#pending.set(id, call);
      this.#arm(id, call);
      try {
        void this.#channel.send(frame);
      } catch (error) {
        this.#take(id)?.reject(error as Error);
      }
    });
  }

  close(): void {
    this.#channel.close();
    this.#end(new Fault('connection-broken', 'the connection was closed on this side', { retry: 'never' }));
  }

  #event(frame: Uint8Array): void {
    const decoded = decode(frame, FRAME_LIMITS);
    if (!decoded.ok || !Array.isArray(decoded.value) || decoded.value.length !== 3) {
      this.#channel.destroy();
      this.#end(new Fault('peer-malformed', 'the peer answered with something that is no answer', { retry: 'never' }));
      return;
    }
    const [id, kind, value] = decoded.value as readonly CborValue[];
    if (typeof id !== 'number' || value === undefined) return;
    if (kind === PROGRESS) {
      const call = this.#pending.get(id);
      if (call === undefined) return;
      this.#arm(id, call);
      call.onProgress?.(value);
      return;
    }
    if (kind === REFUSAL) {
      this.#refusal = value;
      for (const waiting of [...this.#pending.keys()]) {
        const call = this.#take(waiting);
        if (call !== undefined) settleRejection(call, value);
      }
      return;
    }
    const call = this.#take(id);
    // An answer to a call that was given up.
    if (call === undefined) return;
    if (kind === ANSWER) call.resolve(accept(value));
    else settleRejection(call, value);
  }

  #arm(id: number, call: PendingCall): void {
    if (call.timeoutMs === 0) return;
    if (call.timer !== undefined) {
      call.timer.refresh();
      return;
    }
    call.timer = setTimeout(() => {
      this.#take(id)?.reject(
        new Fault('call-timed-out', `no answer to ${call.operation} within ${String(call.timeoutMs)} ms`, {
          retry: 'later',
        }),
      );
    }, call.timeoutMs);
  }

  #take(id: number): PendingCall | undefined {
    const call = this.#pending.get(id);
    if (call === undefined) return undefined;
    this.#pending.delete(id);
    clearTimeout(call.timer);
    return call;
  }

  #end(fault: Fault): void {
    if (this.#broken !== undefined) return;
    this.#broken = fault;
    for (const id of [...this.#pending.keys()]) {
      const call = this.#take(id);
      call?.reject(new Fault(fault.code, `${call.operation}: ${fault.message}`, { retry: fault.retry, cause: fault }));
    }
  }
}

function abandoned(operation: string): Fault {
  return new Fault('call-abandoned', `the call of ${operation} was given up`, { retry: 'later' });
}

function rejectionToCbor(refused: Rejection): CborValue {
  return new Map<CborValue, CborValue>([
    ['code', refused.code],
    ['detail', new Map<CborValue, CborValue>(Object.entries(refused.detail))],
  ]);
}

function settleRejection(call: Asker, value: CborValue): void {
  const code = value instanceof Map ? (value.get('code') as CborValue | undefined) : undefined;
  const entries = value instanceof Map ? (value.get('detail') as CborValue | undefined) : undefined;
  const detail = entries instanceof Map ? (Object.fromEntries(entries) as RejectionDetail) : {};
  if (code === INTERNAL_FAULT) {
    call.reject(
      new Fault(
        INTERNAL_FAULT,
        `${call.operation} failed in the other process${detail.reason === undefined ? '' : `: ${String(detail.reason)}`} (fault ${String(detail.fault)}, ${String(detail.kind)}: see its log)`,
        {
          retry: retryOf(detail.retry),
          cause: detail.kind,
        },
      ),
    );
  } else if (typeof code === 'string' && isRejectionCode(code)) {
    call.resolve(refuse({ code, detail }));
  } else {
    call.reject(
      new Fault(
        'peer-malformed',
        `${call.operation} was refused with a code that is not known here: ${errorText(code)}`,
        { retry: 'never' },
      ),
    );
  }
}

function retryOf(value: string | number | undefined): Retry {
  return value === 'now' || value === 'later' ? value : 'never';
}
