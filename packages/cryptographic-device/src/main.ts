/**
 * The cryptographic device's process: `serve` and `check` (see node-platform/party-main).
 *
 * Its local socket serves the server, its session socket ends the sessions of PSDs. Ready when the local socket is served;
 * the session's end follows at once (its certificate library takes a while to load and would only delay the others' start).
 */
import { systemClock } from '@countermark/node-platform/clock';
import { isHsmConfig } from '@countermark/node-platform/hsm-access';
import {
  type PartyContext,
  type PartyProgram,
  type PublishedAddresses,
  runParty,
} from '@countermark/node-platform/party-main';
import { EXIT, rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { checkCryptographicDevice } from './check.ts';
import type { FundsCaps } from './funds-caps.ts';
import { type Config, startService } from './service.ts';
import { UNSAFE_SERVER_KEYS } from './software-keys.ts';

const SETTINGS = ['data', 'socket', 'sessionSocket', 'acceptanceSocket'] as const;
const MILLS = /^\d{1,18}$/;

function parseConfig(json: unknown): Result<Config> {
  const invalid = (reason: string) =>
    refuse(rejection('config-invalid', { file: 'of the cryptographic device', reason }));
  if (typeof json !== 'object' || json === null || Array.isArray(json)) return invalid('it is not an object');
  const given = json as Readonly<Record<string, unknown>>;
  const { hsm, funds, ...texts } = given;
  const unknown = Object.keys(texts).find((name) => !SETTINGS.some((setting) => setting === name));
  if (unknown !== undefined) return invalid(`the setting ${unknown} is unknown`);
  const missing = SETTINGS.find((name) => !isText(texts[name]));
  if (missing !== undefined) return invalid(`the setting ${missing} is missing or no text`);
  if (hsm !== undefined && !isHsmConfig(hsm))
    return invalid('the setting hsm is not {module, token, pinFile}, each a text');
  const caps = funds === undefined ? undefined : capsOf(funds);
  if (caps === null)
    return invalid('the setting funds is not {highestGrantMills, highestDailyMills}, each digits as a text');
  return accept({ ...(given as Config), ...(caps === undefined ? {} : { funds: caps }) });
}

function capsOf(value: unknown): FundsCaps | null {
  if (typeof value !== 'object' || value === null || Object.keys(value).length !== 2) return null;
  const { highestGrantMills: grant, highestDailyMills: daily } = value as Record<string, unknown>;
  if (typeof grant !== 'string' || typeof daily !== 'string' || !MILLS.test(grant) || !MILLS.test(daily)) return null;
  return { highestGrantMills: BigInt(grant), highestDailyMills: BigInt(daily) };
}

function isText(value: unknown): boolean {
  return typeof value === 'string' && value !== '';
}

async function serve(config: Config, party: PartyContext): Promise<Result<PublishedAddresses>> {
  if (config.hsm === undefined) process.stderr.write(`${UNSAFE_SERVER_KEYS}\n`);
  const { log } = party;
  const service = await startService(config, {
    clock: systemClock,
    log,
    onClose: (hook) => {
      party.onClose(hook);
    },
    onBroken: (fault) => {
      log.error('The store takes nothing more: the process ends and starts anew from it', fault);
      party.end(EXIT.fault);
    },
  });
  if (!service.ok) return service;
  setImmediate(() => {
    service.value.sessions().catch((error: unknown) => {
      log.error('Sessions cannot be served', error);
      party.end(EXIT.fault);
    });
  });
  return accept({ socket: config.socket, session: config.sessionSocket });
}

const program: PartyProgram<Config> = {
  name: 'cryptographic-device',
  parseConfig,
  serve,
  check: checkCryptographicDevice,
};
await runParty(program);
