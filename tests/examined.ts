/**
 * All parties of a stopped installation examined in this process, in the order in which `countermark check` does it: for tests that
 * plant damage in copies of stores, many of them, and ask what is said of it.
 */
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { checkAuthority } from '@countermark/authority/check';
import { parseConfig as parseAuthorityConfig } from '@countermark/authority/config';
import { completeSettings, readSettings } from '@countermark/cli/configuration';
import { installationPaths, type PartyName } from '@countermark/cli/installation-paths';
import {
  authorityConfig,
  cryptographicDeviceConfig,
  hostConfig,
  psdConfig,
  serverConfig,
} from '@countermark/cli/party-configs';
import { checkCryptographicDevice } from '@countermark/cryptographic-device/check';
import { checkHost } from '@countermark/host/check';
import { parseHostConfig } from '@countermark/host/config';
import { Examination } from '@countermark/node-platform/examination';
import { describeRejection } from '@countermark/protocol/rejection';
import type { Result } from '@countermark/protocol/result';
import { checkStore } from '@countermark/psd/shell/check';
import { checkServer } from '@countermark/server/check';
import { parseConfig as parseServerConfig } from '@countermark/server/config';

const CREDENTIALS = { operator: '0'.repeat(64), delivery: '0'.repeat(64) };
const PORTS = { server: 0, authority: 0 };

/** The configs of the parties as an installation in this folder would write them. */
export async function configsOf(data: string) {
  const paths = installationPaths(data, join(data, 'run'));
  const settings = unwrap(completeSettings(unwrap(await readSettings(paths.settings)), paths.settings));
  return {
    'cryptographic-device': cryptographicDeviceConfig(paths, settings),
    psd: psdConfig(paths, settings),
    authority: authorityConfig(paths, settings, PORTS, CREDENTIALS, paths.trustBundle),
    host: hostConfig(paths, settings, { url: 'http://127.0.0.1:9', credential: CREDENTIALS.operator }),
    server: serverConfig(paths, settings, PORTS, CREDENTIALS),
  };
}

/** What is wrong, each with its party before it. */
export async function examined(data: string): Promise<readonly string[]> {
  const configs = await configsOf(data);
  const folder = mkdtempSync(join(tmpdir(), 'cm-examined-'));
  const said: string[] = [];
  const problems: string[] = [];
  const examine = async (
    party: PartyName,
    check: (examination: Examination) => Promise<Result<readonly string[]>>,
  ): Promise<void> => {
    const testimony = join(folder, party);
    const examination = new Examination({ testimony, against: said });
    let found: readonly string[];
    try {
      const checked = await check(examination);
      found = checked.ok ? checked.value : [describeRejection(checked.rejection)];
    } catch (error) {
      found = [...examination.problems, `cannot be read any further: ${String(error)}`];
    }
    problems.push(...found.map((words) => `${party}: ${words}`));
    examination.flush();
    if (existsSync(testimony)) said.push(testimony);
  };
  try {
    const device = configs['cryptographic-device'] as Parameters<typeof checkCryptographicDevice>[0];
    await examine('cryptographic-device', (examination) => checkCryptographicDevice(device, examination));
    await examine('psd', (examination) =>
      Promise.resolve(checkStore(join((configs.psd as { readonly data: string }).data, 'psd.db'), examination)),
    );
    await examine('authority', (examination) =>
      checkAuthority(unwrap(parseAuthorityConfig(configs.authority)), examination),
    );
    await examine('host', (examination) => checkHost(unwrap(parseHostConfig(configs.host)), examination));
    await examine('server', (examination) => checkServer(unwrap(parseServerConfig(configs.server)), examination));
    return problems;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function unwrap<T>(result: Result<T>): T {
  if (!result.ok) throw new Error(describeRejection(result.rejection));
  return result.value;
}
