/**
 * The authority's process: `serve`, `check` and `rotate-key` (see node-platform/party-main).
 */
import { existsSync } from 'node:fs';
import { systemClock } from '@countermark/node-platform/clock';
import { type PartyProgram, runParty } from '@countermark/node-platform/party-main';
import { hex } from '@countermark/protocol/id';
import { EXIT, rejection } from '@countermark/protocol/rejection';
import { accept, refuse } from '@countermark/protocol/result';
import { checkAuthority } from './check.ts';
import { type Config, parseConfig } from './config.ts';
import { rotateGrantKey, UNSAFE_AUTHORITY_KEYS } from './grant-key.ts';

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
  acts: {
    // Whoever has the folder has the key: there is nobody else to ask.
    'rotate-key': async (config) => {
      const { grantKeyPath, openParts } = await import('./authority.ts');
      if (!existsSync(grantKeyPath(config))) {
        return refuse(rejection('file-unreadable', { file: grantKeyPath(config), reason: 'there is no granting key' }));
      }
      const opened = await openParts(config);
      if (!opened.ok) return opened;
      try {
        const rotated = await rotateGrantKey(grantKeyPath(config), systemClock.nowMs());
        return rotated.ok ? accept({ epoch: rotated.value.epoch, publicKey: hex(rotated.value.publicKey) }) : rotated;
      } finally {
        await opened.value.store.close();
      }
    },
  },
};
await runParty(program);
