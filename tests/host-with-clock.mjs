/**
 * The host's process with a clock that a test moves (tests/file-clock.mjs). Only tests start it: no shipped program has an
 * option or variable that sets the time. Plain JavaScript on the compiled modules: from the sources a start takes four times as long.
 */
import { parseHostConfig } from '@countermark/host/config';
import { checkHost } from '@countermark/host/check';
import { serveHost } from '@countermark/host/serve-host';
import { runParty } from '@countermark/node-platform/party-main';
import { accept } from '@countermark/protocol/result';
import { fileClock } from './file-clock.mjs';

await runParty({
  name: 'host',
  parseConfig: parseHostConfig,
  serve: async (config, party) => {
    const clock = fileClock(process.env['COUNTERMARK_TEST_CLOCK_FILE'] ?? '');
    const host = await serveHost(config, { log: party.log, clock });
    if (!host.ok) return host;
    party.onClose(() => host.value.close());
    return accept({ socket: host.value.socket });
  },
  check: checkHost,
});
