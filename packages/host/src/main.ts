/**
 * The host's process: `serve` and `check`, with the machine's clock.
 */
import { runParty } from '@countermark/node-platform/party-main';
import { accept } from '@countermark/protocol/result';
import { parseHostConfig } from './config.ts';
import { checkHost, serveHost } from './serve-host.ts';

await runParty({
  name: 'host',
  parseConfig: parseHostConfig,
  serve: async (config, party) => {
    const host = await serveHost(config, { log: party.log });
    if (!host.ok) return host;
    party.onClose(() => host.value.close());
    return accept({ socket: host.value.socket });
  },
  check: (config) => Promise.resolve(checkHost(config)),
});
