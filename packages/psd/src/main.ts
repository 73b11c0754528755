/**
 * The postal security device as a process: `serve --config FILE`, `check --config FILE` (see node-platform, party-main).
 *
 * Guarantees: it has no network, only two local sockets; when a write to its store fails it ends with exit code 70 and
 * has released nothing of what was not durable.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { errorText } from '@countermark/node-platform/fault';
import { type PartyProgram, runParty } from '@countermark/node-platform/party-main';
import { EXIT, rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { checkStore } from './shell/check.ts';
import { parsePsdConfig, type PsdConfig } from './shell/config.ts';
import { openDevice } from './shell/device.ts';
import type { KeyHolder } from './shell/key-holder.ts';
import { STORE_KEYS } from './shell/keys.ts';
import { runningSoftware } from './shell/measurement.ts';
import { listenForSessions } from './shell/session.ts';
import { serveDevice } from './shell/socket.ts';
import { openTokenKeys } from './shell/token-keys.ts';

const STORE_FILE = 'psd.db';
/** The line that the process prints on stderr at every start with keys in its store. */
const UNSAFE_PSD_KEYS =
  'UNSAFE_PSD_KEYS: the keys of this device lie in its store; whoever copies the store copies the device.';

const PSD_PROGRAM: PartyProgram<PsdConfig> = {
  name: 'psd',
  parseConfig: parsePsdConfig,
  serve: async (config, party) => {
    if (config.hsm === undefined) process.stderr.write(`${UNSAFE_PSD_KEYS}\n`);
    let trustBundle: string;
    try {
      trustBundle = await readFile(config.trustBundle, 'utf8');
    } catch (error) {
      return refuse(rejection('config-invalid', { file: config.trustBundle, reason: errorText(error) }));
    }
    const holder = await keyHolderOf(config);
    if (!holder.ok) return holder;
    party.onClose(() => holder.value.close());
    const opened = openDevice({
      path: join(config.data, STORE_FILE),
      authentication: config.authentication,
      memory: config.memory,
      recordCapacity: config.recordCapacity,
      keyHolder: holder.value,
      trustBundle,
      software: runningSoftware(import.meta.url),
      onBroken: (fault) => {
        party.log.error('The device stopped: it starts anew from its store', fault);
        party.end(EXIT.fault);
      },
    });
    if (!opened.ok) return opened;
    const device = opened.value;
    party.onClose(() => device.close());
    const sessions = await listenForSessions(config.sessionSocket);
    const server = await serveDevice(config.socket, device, sessions, {
      onFault: (fault, operation, error) => {
        party.log.error('An operation failed', error, { fault, operation });
      },
      onRejection: ({ code }, operation) => {
        party.log.debug('An operation was refused', { code, operation: operation ?? '' });
      },
    });
    party.onClose(() => server.close());
    // Before the calls in hand are waited for: a send that waits for a connection ends with it.
    party.onClose(() => sessions.close());
    return accept({ socket: config.socket, session: config.sessionSocket, device: device.id });
  },
  check: async (config, examination) => {
    const holder = await keyHolderOf(config);
    if (!holder.ok) return holder;
    try {
      return checkStore(join(config.data, STORE_FILE), examination, holder.value);
    } finally {
      await holder.value.close();
    }
  },
};

/** Where the keys are. Rejections: those of `openTokenKeys`. */
async function keyHolderOf({ hsm }: PsdConfig): Promise<Result<KeyHolder>> {
  return hsm === undefined ? accept(STORE_KEYS) : openTokenKeys(hsm);
}

await runParty(PSD_PROGRAM);
