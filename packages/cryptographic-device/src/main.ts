/**
 * The cryptographic device's process: `serve` and `check` (see node-platform/party-main).
 *
 * Its local socket serves the server, its session socket ends the sessions of PSDs. Ready when the local socket is served;
 * the session's end follows at once (its certificate library takes a while to load and would only delay the others' start).
 */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { systemClock } from '@countermark/node-platform/clock';
import { errorText } from '@countermark/node-platform/fault';
import {
  type PartyContext,
  type PartyProgram,
  type PublishedAddresses,
  runParty,
} from '@countermark/node-platform/party-main';
import { serveRpc } from '@countermark/node-platform/rpc';
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import type { KeySource } from '@countermark/verify/verified';
import { Authentication } from './authentication.ts';
import { type DeviceRegister, openDeviceRegister } from './device-register.ts';
import { Issuing } from './issuing.ts';
import { KEY_ROLES, type KeyStore } from './key-store.ts';
import { deviceOperations } from './operations.ts';
import { sessionAuthorityCertificate } from './session-certificates.ts';
import { serveSessionEnd } from './session-end.ts';
import { openSoftwareKeys, UNSAFE_SERVER_KEYS } from './software-keys.ts';

const SETTINGS = ['data', 'socket', 'sessionSocket', 'acceptanceSocket'] as const;
type Config = Readonly<Record<(typeof SETTINGS)[number], string>>;

const SESSION_AUTHORITY = 'session-authority';

function parseConfig(json: unknown): Result<Config> {
  const invalid = (reason: string) =>
    refuse(rejection('config-invalid', { file: 'of the cryptographic device', reason }));
  if (typeof json !== 'object' || json === null || Array.isArray(json)) return invalid('it is not an object');
  const given = json as Readonly<Record<string, unknown>>;
  const unknown = Object.keys(given).find((name) => !SETTINGS.some((setting) => setting === name));
  if (unknown !== undefined) return invalid(`the setting ${unknown} is unknown`);
  const missing = SETTINGS.find((name) => typeof given[name] !== 'string' || given[name] === '');
  return missing === undefined ? accept(given as Config) : invalid(`the setting ${missing} is missing or no text`);
}

type Opened = { readonly keys: KeyStore; readonly register: DeviceRegister };

function open(config: Config): Result<Opened> {
  mkdirSync(config.data, { recursive: true, mode: 0o700 });
  const keys = openSoftwareKeys(join(config.data, 'keys'));
  if (!keys.ok) return keys;
  const store = keys.value;
  const roleKeys: KeySource = ({ holder, epoch }) => {
    const role = KEY_ROLES.find((known) => known === holder);
    return role !== undefined && epoch === store.epoch
      ? { publicKey: store.publicKey(role), authentication: 'signature' }
      : null;
  };
  const register = openDeviceRegister(config.data, roleKeys);
  return register.ok ? accept({ keys: store, register: register.value }) : register;
}

async function serve(config: Config, party: PartyContext): Promise<Result<PublishedAddresses>> {
  process.stderr.write(`${UNSAFE_SERVER_KEYS}\n`);
  const opened = open(config);
  if (!opened.ok) return opened;
  const { keys, register } = opened.value;
  party.onClose(() => {
    register.close();
  });
  party.onClose(() => keys.close());
  const clock = systemClock;
  const sessionAuthority =
    register.ownCertificate(SESSION_AUTHORITY) ??
    register.addOwnCertificate(SESSION_AUTHORITY, await sessionAuthorityCertificate(keys, clock.nowMs()));
  const authentication = new Authentication(keys, register, clock);
  const issuing = new Issuing(keys, register, sessionAuthority, clock);
  const operations = await serveRpc(
    config.socket,
    deviceOperations({ keys, authentication, issuing, sessionAuthority }),
    {
      onFault: (fault, operation, error) => {
        party.log.error('An operation failed', error, { fault, operation });
      },
    },
  );
  party.onClose(() => operations.close());
  setImmediate(() => {
    const { sessionSocket: path, acceptanceSocket } = config;
    const end = serveSessionEnd({
      path,
      acceptanceSocket,
      keys,
      authentication,
      sessionAuthority,
      clock,
      log: party.log,
    });
    party.onClose(async () => (await end).close());
    end.catch((error: unknown) => {
      party.log.error(`Sessions cannot be served: ${errorText(error)}`, error);
      party.end(70);
    });
  });
  return accept({ socket: config.socket, session: config.sessionSocket });
}

async function check(config: Config): Promise<Result<readonly string[]>> {
  const opened = open(config);
  if (!opened.ok) return opened;
  const problems = opened.value.register.problems();
  opened.value.register.close();
  await opened.value.keys.close();
  return accept(problems);
}

const program: PartyProgram<Config> = { name: 'cryptographic-device', parseConfig, serve, check };
await runParty(program);
