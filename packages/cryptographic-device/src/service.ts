/**
 * The cryptographic device put together from its parts: keys, register, operations, the session's end.
 *
 * Guarantees that what was started is closed in the reverse order when the process ends. Time and log are inputs, so that
 * tests start the same device as `main.ts` does.
 */
import { existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Clock } from '@countermark/node-platform/clock';
import type { Fault } from '@countermark/node-platform/fault';
import type { HsmConfig } from '@countermark/node-platform/hsm-access';
import type { Log } from '@countermark/node-platform/logs';
import { serveRpc } from '@countermark/node-platform/rpc';
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { Authentication } from './authentication.ts';
import { type DeviceRegister, openDeviceRegister, registerPath } from './device-register.ts';
import { Issuing } from './issuing.ts';
import type { KeyStore } from './key-store.ts';
import { deviceOperations } from './operations.ts';
import { openSessionAuthority } from './session-authority.ts';
import { type SessionEnd, serveSessionEnd } from './session-end.ts';
import type { FundsCaps } from './funds-caps.ts';
import { openHsmKeys } from './hsm-keys.ts';
import { openRoleKeys, publicKeysOf, type RoleKeys } from './role-keys.ts';
import { openSoftwareKeys } from './software-keys.ts';

/** Where the device keeps its store, and the paths of its sockets and of the server's. */
export type Config = {
  readonly data: string;
  readonly socket: string;
  readonly sessionSocket: string;
  readonly acceptanceSocket: string;
  /** Caps on funds; without them there are none but what each request asks. */
  readonly funds?: FundsCaps;
  /** The token that holds the keys; without it they lie in files. */
  readonly hsm?: HsmConfig;
};

export type ServiceContext = {
  readonly clock: Clock;
  readonly log: Log;
  readonly onClose: (hook: () => Promise<void> | void) => void;
  /** Told once when the store takes nothing more after a failed write: the process must end. */
  readonly onBroken?: (fault: Fault) => void;
};

export type OpenedDevice = {
  readonly keys: KeyStore;
  readonly roleKeys: RoleKeys;
  readonly register: DeviceRegister;
};

/** Where the keys lie. */
export function keysFolder(data: string): string {
  return join(data, 'keys');
}

/** Opens keys and register. Rejections: `store-damaged`, `store-in-use`, `hsm-unavailable`, `hsm-refused`, `config-invalid`. */
export async function openDevice(
  config: Config,
  clock: Clock,
  onBroken: (fault: Fault) => void = () => undefined,
): Promise<Result<OpenedDevice>> {
  mkdirSync(config.data, { recursive: true, mode: 0o700 });
  const keys = await openKeys(config);
  if (!keys.ok) return keys;
  const store = keys.value;
  const register = openDeviceRegister(config.data, publicKeysOf(store), onBroken);
  if (!register.ok) {
    await store.close();
    return register;
  }
  const roleKeys = openRoleKeys(store, register.value, clock);
  if (roleKeys.ok) return accept({ keys: store, roleKeys: roleKeys.value, register: register.value });
  register.value.close();
  await store.close();
  return roleKeys;
}

/** Keys come first: with a register and without them this is not a first start, and new ones would be another identity. */
async function openKeys({ data, hsm }: Config): Promise<Result<KeyStore>> {
  const folder = keysFolder(data);
  const first = !existsSync(registerPath(data));
  if (hsm === undefined) {
    if (first || existsSync(folder)) return openSoftwareKeys(folder);
    return refuse(rejection('store-damaged', { store: folder, reason: 'the keys of the enrolled devices are gone' }));
  }
  if (existsSync(folder)) {
    const reason = 'keys lie in files there: devices were enrolled under them, and the token has others';
    return refuse(rejection('store-damaged', { store: folder, reason }));
  }
  return openHsmKeys(hsm, first);
}

/**
 * Starts the device. Its operations are served when this resolves; `sessions` starts its other end, whose certificate library
 * takes a while to load. Rejections: those of {@link openDevice}.
 */
export async function startService(
  config: Config,
  { clock, log, onClose, onBroken }: ServiceContext,
): Promise<Result<{ readonly sessions: () => Promise<void> }>> {
  const opened = await openDevice(config, clock, onBroken);
  if (!opened.ok) return opened;
  const { keys, roleKeys, register } = opened.value;
  const problem = register.tailProblem();
  if (problem !== null) {
    register.close();
    await keys.close();
    return refuse(rejection('store-damaged', { store: registerPath(config.data), reason: problem }));
  }
  onClose(() => {
    register.close();
  });
  onClose(() => keys.close());
  await roleKeys.retireOld();
  const opening = await openSessionAuthority({ keys, roleKeys, register, clock });
  if (!opening.ok) return opening;
  const sessionAuthority = opening.value;
  const authentication = new Authentication(keys, roleKeys, register, clock);
  const issuing = new Issuing(roleKeys, register, sessionAuthority, clock, config.funds);
  const operations = await serveRpc(
    config.socket,
    deviceOperations({ roleKeys, authentication, issuing, sessionAuthority }),
    {
      onFault: (fault, operation, error) => {
        log.error('An operation failed', error, { fault, operation });
      },
    },
  );
  onClose(() => operations.close());
  const sessions = async (): Promise<void> => {
    const { sessionSocket: path, acceptanceSocket } = config;
    const end: SessionEnd = await serveSessionEnd({
      path,
      acceptanceSocket,
      register,
      authentication,
      sessionAuthority,
      clock,
      log,
    });
    onClose(() => end.close());
  };
  return accept({ sessions });
}
