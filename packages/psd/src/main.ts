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
import { accept, refuse } from '@countermark/protocol/result';
import { checkStore } from './shell/check.ts';
import { parsePsdConfig, type PsdConfig } from './shell/config.ts';
import { openDevice } from './shell/device.ts';
import { runningSoftware } from './shell/measurement.ts';
import { listenForSessions } from './shell/session.ts';
import { serveDevice } from './shell/socket.ts';

const STORE_FILE = 'psd.db';

const PSD_PROGRAM: PartyProgram<PsdConfig> = {
  name: 'psd',
  parseConfig: parsePsdConfig,
  serve: async (config, party) => {
    process.stderr.write(
      'UNSAFE_PSD_KEYS: the keys of this device lie in its store; whoever copies the store copies the device.\n',
    );
    let trustBundle: string;
    try {
      trustBundle = await readFile(config.trustBundle, 'utf8');
    } catch (error) {
      return refuse(rejection('config-invalid', { file: config.trustBundle, reason: errorText(error) }));
    }
    const opened = openDevice({
      path: join(config.data, STORE_FILE),
      authentication: config.authentication,
      memory: config.memory,
      recordCapacity: config.recordCapacity,
      trustBundle,
      software: runningSoftware(),
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
  check: async (config, examination) => checkStore(join(config.data, STORE_FILE), examination),
};

await runParty(PSD_PROGRAM);
