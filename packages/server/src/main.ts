/**
 * The server's process: `serve` and `check` (see node-platform/party-main).
 */
import { systemClock } from '@countermark/node-platform/clock';
import {
  type PartyContext,
  type PartyProgram,
  type PublishedAddresses,
  runParty,
} from '@countermark/node-platform/party-main';
import { EXIT } from '@countermark/protocol/rejection';
import { accept, type Result } from '@countermark/protocol/result';
import { checkServer } from './check.ts';
import { type Config, parseConfig } from './config.ts';
import { startService } from './service.ts';

async function serve(config: Config, party: PartyContext): Promise<Result<PublishedAddresses>> {
  const { log } = party;
  const service = await startService(config, {
    clock: systemClock,
    log,
    onClose: (hook) => {
      party.onClose(hook);
    },
    onBroken: (fault) => {
      log.error('The database takes nothing more: the process ends and starts anew from it', fault);
      party.end(EXIT.fault);
    },
  });
  return service.ok ? accept({ url: service.value.url }) : service;
}

const program: PartyProgram<Config> = { name: 'server', parseConfig, serve, check: checkServer };
await runParty(program);
