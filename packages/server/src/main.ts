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
import { type Config, parseConfig } from './config.ts';
import { Ledger } from './ledger.ts';
import { logProblems } from './log-check.ts';
import { Registry } from './registry.ts';
import { openStore, startService } from './service.ts';
import { SqlStatisticsLog } from './statistics-log.ts';

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

async function check(config: Config): Promise<Result<readonly string[]>> {
  const opened = await openStore(config);
  if (!opened.ok) return opened;
  const { database, roleKeys } = opened.value;
  try {
    const registry = new Registry(database, roleKeys);
    const problems = await logProblems(new SqlStatisticsLog(database), registry, roleKeys);
    return accept([...problems, ...(await new Ledger(database).problems())]);
  } finally {
    await database.close();
  }
}

const program: PartyProgram<Config> = { name: 'server', parseConfig, serve, check };
await runParty(program);
