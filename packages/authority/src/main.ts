/**
 * The authority's process: `serve` and `check` (see node-platform/party-main).
 */
import { systemClock } from '@countermark/node-platform/clock';
import { type PartyProgram, runParty } from '@countermark/node-platform/party-main';
import { hex } from '@countermark/protocol/id';
import { EXIT } from '@countermark/protocol/rejection';
import { accept } from '@countermark/protocol/result';
import { checkAuthority } from './check.ts';
import { type Config, parseConfig } from './config.ts';
import { UNSAFE_AUTHORITY_KEYS } from './grant-key.ts';

const program: PartyProgram<Config> = {
  name: 'authority',
  parseConfig,
  serve: async (config, party) => {
    process.stderr.write(`${UNSAFE_AUTHORITY_KEYS}\n`);
    const { startAuthority } = await import('./authority.ts');
    const nowMs = (): number => systemClock.nowMs();
    const authority = await startAuthority(config, nowMs, party.log, (fault) => {
      party.log.error('The store takes nothing more: the process ends and starts anew from it', fault);
      party.end(EXIT.fault);
    });
    if (!authority.ok) return authority;
    const { url, grantingKey, close } = authority.value;
    party.onClose(close);
    return accept({ url, grantingKey: hex(grantingKey) });
  },
  check: checkAuthority,
};
await runParty(program);
