/**
 * The host's process: `serve` and `check`, with the machine's clock.
 */
import { runParty } from '@countermark/node-platform/party-main';
import { EXIT } from '@countermark/protocol/rejection';
import { accept } from '@countermark/protocol/result';
import { checkHost } from './check.ts';
import { parseHostConfig } from './config.ts';
import { serveHost } from './serve-host.ts';

await runParty({
  name: 'host',
  parseConfig: parseHostConfig,
  serve: async (config, party) => {
    const host = await serveHost(config, {
      log: party.log,
      onBroken: (fault) => {
        party.log.error('The store takes nothing more: the process ends and starts anew from it', fault);
        party.end(EXIT.fault);
      },
    });
    if (!host.ok) return host;
    party.onClose(() => host.value.close());
    return accept({ socket: host.value.socket });
  },
  check: checkHost,
});
