/**
 * Stands in for node-platform/rpc: calls between processes over the world's network, by the paths of their sockets, and within
 * sessions.
 *
 * Guarantees what the real one does to callers and handlers: rejections are answers, faults of handlers reach the caller as
 * `internal-fault`, a broken connection ends the call with a fault and repeats nothing. Values go across as they are: frames and their
 * bounds are node-platform's own tests.
 */
import { errorCode, errorText, Fault } from '@countermark/node-platform/fault';
import type {
  RpcCallOptions,
  RpcClient,
  RpcClientOptions,
  RpcHandlers,
  RpcListenOptions,
  RpcPeer,
  RpcServer,
  RpcServerOptions,
} from '@countermark/node-platform/rpc';
import { served } from '@countermark/node-platform/rpc';
import type { CborValue } from '@countermark/protocol/cbor';
import { type Rejection, rejection } from '@countermark/protocol/rejection';
import { type Result, refuse } from '@countermark/protocol/result';
import { CallBroken, type Service } from '../network.ts';
import { ProcessEnded } from '../process.ts';
import { machine, runningProcess } from './machine.ts';
import type { SessionStream } from './tls-ends.ts';

export { served };
export type {
  RpcCallOptions,
  RpcClient,
  RpcClientOptions,
  RpcHandlers,
  RpcListenOptions,
  RpcPeer,
  RpcServer,
  RpcServerOptions,
};

type Said =
  | { readonly result: Result<CborValue> }
  | { readonly fault: string; readonly kind: string; readonly retry: string };

const BROKEN: Readonly<Record<CallBroken['why'], string>> = {
  'not-running': 'peer-not-running',
  broken: 'connection-broken',
  'timed-out': 'call-timed-out',
};

/** A service of handlers in the process that runs now. */
export function serviceOf(handlers: RpcHandlers, options: RpcServerOptions = {}): Service {
  const process = runningProcess();
  return {
    process,
    handle: async (operation, parameters): Promise<Said> => {
      const handler = handlers[operation];
      if (handler === undefined) return { result: refuse(rejection('unknown-operation', { operation })) };
      try {
        const context = { progress: () => undefined, signal: new AbortController().signal };
        const result = await handler(parameters as CborValue, context);
        if (!result.ok) options.onRejection?.(result.rejection, operation);
        return { result };
      } catch (error) {
        if (error instanceof ProcessEnded) throw error;
        machine().onThrown(process.name, operation, error);
        options.onFault?.('simulated', operation, error);
        return {
          fault: errorText(error),
          kind: errorCode(error) ?? 'unexpected',
          retry: error instanceof Fault ? error.retry : 'never',
        };
      }
    },
  };
}

/** Serves nothing, for this reason. */
export function refusingService(refused: Rejection): Service {
  return { process: runningProcess(), handle: async (): Promise<Said> => ({ result: refuse(refused) }) };
}

export async function serveRpc(
  path: string,
  handlers: RpcHandlers,
  options: RpcListenOptions = {},
): Promise<RpcServer> {
  machine().network.serve(path, serviceOf(handlers, options));
  return { path, close: async () => undefined };
}

export function serveRpcOn(stream: unknown, handlers: RpcHandlers, options: RpcServerOptions = {}): RpcPeer {
  (stream as SessionStream).serve(serviceOf(handlers, options));
  return { ended: new Promise(() => undefined), close: async () => undefined };
}

export function rpcOver(stream: unknown, options: RpcClientOptions = {}): RpcClient & { readonly ended: boolean } {
  const session = stream as SessionStream;
  return {
    ended: false,
    call: async (operation, parameters) => answerOf(operation, session.call(operation, parameters, options.timeoutMs)),
    close: () => undefined,
  };
}

export function lazyRpc(path: string, options: RpcClientOptions = {}): RpcClient {
  return {
    call: async (operation, parameters, callOptions: RpcCallOptions = {}) =>
      answerOf(
        operation,
        machine().network.local(path, operation, parameters, callOptions.timeoutMs ?? options.timeoutMs ?? 30_000),
      ),
    close: () => undefined,
  };
}

export async function connectRpc(path: string, options: RpcClientOptions = {}): Promise<RpcClient> {
  return lazyRpc(path, options);
}

async function answerOf(operation: string, answering: Promise<unknown>): Promise<Result<CborValue>> {
  let said: Said;
  try {
    said = (await answering) as Said;
  } catch (error) {
    if (!(error instanceof CallBroken)) throw error;
    throw new Fault(BROKEN[error.why], `${operation}: ${error.message}`, { retry: 'later', cause: error });
  }
  if ('result' in said) return said.result;
  throw new Fault('internal-fault', `${operation} failed in the other process: ${said.fault}`, {
    retry: said.retry === 'now' || said.retry === 'later' ? said.retry : 'never',
    cause: said.kind,
  });
}
