/**
 * Starting the host: its store, its PSD, its server, its socket. A test starts it with a clock of its own.
 *
 * Guarantees: a device whose memory for records is too small for the hold is refused before anything is served; a PSD that does not
 * answer yet, or a server that is down, does not keep the host from starting.
 */
import { type Clock, systemClock } from '@countermark/node-platform/clock';
import { Fault } from '@countermark/node-platform/fault';
import type { Log } from '@countermark/node-platform/logs';
import { serveRpc } from '@countermark/node-platform/rpc';
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { hostHandlers } from './api.ts';
import { hostTailProblem } from './check.ts';
import type { HostConfig } from './config.ts';
import { Journal } from './journal.ts';
import { openHostStore, storePath } from './journal-schema.ts';
import { filePrinter, type PrintPort } from './print-port.ts';
import { type PsdClient, psdAt, statusOf } from './psd-client.ts';
import { ServerClient } from './server-client.ts';
import { HostService } from './service.ts';
import { readTrustKeys } from './trust-keys.ts';

const DAY_MS = 86_400_000;
/** How long the start waits for a PSD that is being started beside it. */
const PSD_PATIENCE_MS = 15_000;

/** What a test may put in the place of the machine's. */
export type HostInputs = {
  readonly log: Log;
  readonly clock?: Clock;
  readonly random?: () => number;
  readonly psd?: PsdClient;
  readonly printer?: PrintPort;
  /** Told once when the store takes nothing more after a failed write: the process must end. */
  readonly onBroken?: (fault: unknown) => void;
};

export type RunningHost = {
  readonly socket: string;
  readonly service: HostService;
  close(): Promise<void>;
};

/**
 * Starts the host. Rejections: `config-invalid` (the trust bundle), `memory-too-small`, `store-in-use`, `store-damaged`.
 */
export async function serveHost(config: HostConfig, inputs: HostInputs): Promise<Result<RunningHost>> {
  const { log, clock = systemClock, random = Math.random, printer = filePrinter } = inputs;
  const keys = readTrustKeys(config.trustBundle);
  if (!keys.ok) return keys;
  const ownPsd = psdAt(config.psdSocket, random);
  const psd: PsdClient = inputs.psd ?? ownPsd;
  const enough = await memoryEnough(config, psd, log);
  if (!enough.ok) {
    psd.close();
    return enough;
  }
  const store = openHostStore(storePath(config), inputs.onBroken);
  if (!store.ok) {
    psd.close();
    return store;
  }
  const journal = new Journal(store.value);
  const damage = hostTailProblem(journal, keys.value);
  if (damage !== null) {
    psd.close();
    store.value.close();
    return refuse(rejection('store-damaged', { store: storePath(config), reason: damage }));
  }
  const service = new HostService({
    config,
    journal,
    psd,
    server: new ServerClient(config.server),
    keys: keys.value,
    clock,
    random,
    printer,
    log,
  });
  const rpc = await serveRpc(config.socket, hostHandlers(service), {
    onFault: (fault, operation, error) => {
      log.error('An operation failed', error, { fault, operation });
    },
  });
  service.start();
  return accept({
    socket: config.socket,
    service,
    close: async () => {
      ownPsd.hurry();
      await service.close();
      await rpc.close();
      store.value.close();
    },
  });
}

/** Every record of a day's franking must find room in the device while it is held. */
async function memoryEnough(config: HostConfig, psd: PsdClient, log: Log): Promise<Result<null>> {
  if (config.forwarding !== 'hold') return accept(null);
  try {
    const { recordCapacity } = await statusOf(psd, PSD_PATIENCE_MS);
    const days = Math.ceil(config.holdForMs / DAY_MS);
    const needed = days * config.recordsPerDay;
    if (recordCapacity >= needed) return accept(null);
    const holdFor = `${String(days)} ${days === 1 ? 'day' : 'days'}`;
    return refuse(rejection('memory-too-small', { capacity: recordCapacity, holdFor, needed }));
  } catch (error) {
    if (!(error instanceof Fault)) throw error;
    log.warn('The PSD does not answer yet: its memory was not checked', { reason: error.message });
    return accept(null);
  }
}
