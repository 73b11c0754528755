/**
 * Calls of the host's operations over its local socket, and of the supervisor's one.
 *
 * Guarantees that a rejection becomes `Refused`, and that a data folder on which nothing runs is told as `not-running`. Faults of
 * the connection are passed on: the caller knows whether to ask again.
 */
import { errorCode } from '@countermark/node-platform/fault';
import { lazyRpc, type RpcClient } from '@countermark/node-platform/rpc';
import { type HostOperation, jsonFromCbor, jsonToCbor } from '@countermark/protocol/interfaces/host';
import { refuseCommand, valueOf } from './failure.ts';
import { findSocketFolder, type InstallationPaths, installationPaths } from './installation-paths.ts';

/** A process, as the supervisor sees it. */
export type ProcessReport = {
  readonly name: string;
  readonly state: 'starting' | 'running' | 'restarting' | 'ended';
  readonly pid: number | null;
  readonly restarts: number;
  readonly sinceMs: number;
  readonly addresses: Readonly<Record<string, unknown>>;
};

export type SupervisorReport = { readonly pid: number; readonly processes: readonly ProcessReport[] };

/** The supervisor's only operation. */
export const PROCESSES_OPERATION = 'processes';

/** The host's operations. */
export type HostClient = {
  call<P, A, E>(operation: HostOperation<P, A, E>, parameters: P, onProgress?: (event: E) => void): Promise<A>;
  close(): void;
};

/** A client of the host at that socket; it connects at the first call. Calls have no time limit: jobs are long. */
export function hostClient(socket: string): HostClient {
  const rpc: RpcClient = lazyRpc(socket, { timeoutMs: 0 });
  return {
    call: async <P, A, E>(operation: HostOperation<P, A, E>, parameters: P, onProgress?: (event: E) => void) => {
      const result = await rpc.call(
        operation.name,
        jsonToCbor(parameters),
        onProgress === undefined
          ? {}
          : {
              onProgress: (event) => {
                onProgress(valueOf(jsonFromCbor(event)) as E);
              },
            },
      );
      return valueOf(jsonFromCbor(valueOf(result))) as A;
    },
    close: () => {
      rpc.close();
    },
  };
}

/** The paths of a data folder on which something may run. @throws Refused `not-running` */
export function runningPaths(data: string): InstallationPaths {
  const sockets = findSocketFolder(data);
  if (sockets === undefined) refuseCommand('not-running', { data });
  return installationPaths(data, sockets);
}

/** Does something with the host that runs on this data folder. @throws Refused `not-running`, and the host's rejections */
export async function withHost<T>(data: string, work: (host: HostClient) => Promise<T>): Promise<T> {
  const host = hostClient(runningPaths(data).sockets.host);
  try {
    return await work(host);
  } catch (error) {
    if (errorCode(error) === 'peer-not-running') refuseCommand('not-running', { data });
    throw error;
  } finally {
    host.close();
  }
}

/** What the supervisor of this data folder says of its processes; undefined where none runs. */
export async function askSupervisor(data: string): Promise<SupervisorReport | undefined> {
  const sockets = findSocketFolder(data);
  if (sockets === undefined) return undefined;
  const rpc = lazyRpc(installationPaths(data, sockets).sockets.supervisor, { timeoutMs: 5_000 });
  try {
    return valueOf(jsonFromCbor(valueOf(await rpc.call(PROCESSES_OPERATION, jsonToCbor({}))))) as SupervisorReport;
  } catch (error) {
    if (errorCode(error) === 'peer-not-running') return undefined;
    throw error;
  } finally {
    rpc.close();
  }
}
