/**
 * The `check` of each party in a folder, run as that party's own program, and the parties held against each other.
 *
 * Guarantees: configs are made from the folder itself, never from those of a running installation, so that a copy of a folder is
 * checked and not its original; what the parties testify lies in a private temporary folder that is removed again. Device and
 * cryptographic device and authority are examined first, then the host against its device, then the server against all.
 */
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { tmpdir } from 'node:os';
import { createInterface } from 'node:readline';
import { Fault } from '@countermark/node-platform/fault';
import { writePrivateFile } from '@countermark/node-platform/private-file';
import { CATALOGUE } from '@countermark/protocol/rejection-catalogue';
import { describeFinding, EXIT, type Rejection } from '@countermark/protocol/rejection';
import { NEVER_BACK_UP } from './backup-list.ts';
import { completeSettings, readSettings, type Settings } from './configuration.ts';
import { Refused, refuseUsage, valueOf } from './failure.ts';
import { installationPaths, type InstallationPaths, PARTIES, partyMain, type PartyName } from './installation-paths.ts';
import { authorityConfig, cryptographicDeviceConfig, hostConfig, psdConfig, serverConfig } from './party-configs.ts';

/** The stores found in a folder. */
export type Stores = {
  readonly paths: InstallationPaths;
  readonly settings: Settings;
  readonly trustBundle: string;
  readonly parties: readonly PartyName[];
};

/** What was found at one party; `store` is its folder. */
export type PartyFinding = { readonly party: PartyName; readonly store: string; readonly problems: readonly string[] };

/** Where a device's money is, in mills: in it, on the way to it, franked and not booked; together what its account holds. */
export type DeviceMoney = {
  readonly device: string;
  readonly currency: string;
  readonly exponent: number;
  readonly accountMills: string;
  readonly holdsMills: string;
  readonly inFlightMills: string;
  readonly unbookedMills: string;
};

export type CheckEvent = {
  readonly party: PartyName;
  readonly what: string;
  readonly done: number;
  readonly total: number;
};

/** By these files a party's own folder is known. */
const STORE_FILES: Readonly<Record<PartyName, readonly string[]>> = {
  'cryptographic-device': ['cryptographic-device.sqlite', 'keys'],
  authority: ['authority.db', 'grant-key.pkcs8'],
  server: ['server.sqlite'],
  psd: ['psd.db'],
  host: ['host.sqlite'],
};

const STAGES: readonly (readonly PartyName[])[] = [['cryptographic-device', 'psd', 'authority'], ['host'], ['server']];
/** What a check does not need and a config must have. */
const UNUSED_CREDENTIALS = { operator: '0'.repeat(64), delivery: '0'.repeat(64) };
const UNUSED_PORTS = { server: 0, authority: 0 };

/** The stores in an installation's folder, in a backup of it (without a device), or in one party's folder. @throws Refused `usage`, `config-invalid` */
export async function findStores(folder: string, trust: string | undefined, backup: boolean): Promise<Stores> {
  const single = PARTIES.find((party) => STORE_FILES[party].some((file) => existsSync(join(folder, file))));
  const data = single === undefined ? folder : dirname(folder);
  const paths = installationPaths(data, join(data, 'run'));
  const given = existsSync(paths.settings) ? valueOf(await readSettings(paths.settings)) : {};
  const settings = valueOf(completeSettings(given, paths.settings));
  const trustBundle =
    trust ?? [paths.trustBundle, join(dirname(data), basename(paths.trustBundle))].find((file) => existsSync(file));
  // An installation of ours has all five, and one that is gone is a finding; other folders have what they have.
  const whole = existsSync(paths.marker);
  const parties = PARTIES.filter((party) => !backup || party !== 'psd' || hasStore(paths, party)).filter(
    (party) => (whole && single === undefined) || party === single || (single === undefined && hasStore(paths, party)),
  );
  if (trustBundle === undefined && parties.some((party) => party !== 'psd' && party !== 'cryptographic-device')) {
    refuseUsage(`${data} has no trust bundle (trust-bundle.json): name it with --trust.`);
  }
  if (backup && parties.includes('psd')) refuseUsage(`${data} has a device in it: ${NEVER_BACK_UP}`);
  const own = single === undefined ? paths : { ...paths, parties: { ...paths.parties, [single]: folder } };
  return { paths: own, settings, trustBundle: trustBundle ?? paths.trustBundle, parties };
}

function hasStore(paths: InstallationPaths, party: PartyName): boolean {
  return STORE_FILES[party].some((file) => existsSync(join(paths.parties[party], file)));
}

/** Checks every party. @throws Refused `store-in-use`; Fault `check-failed` */
export async function checkParties(
  stores: Stores,
  onProgress: (event: CheckEvent) => void,
): Promise<{ readonly findings: readonly PartyFinding[]; readonly money: readonly DeviceMoney[] }> {
  const folder = mkdtempSync(join(tmpdir(), 'countermark-check-'));
  try {
    const findings: PartyFinding[] = [];
    for (const stage of STAGES) {
      const testified = stores.parties.map((party) => testimonyOf(folder, party)).filter((file) => existsSync(file));
      const present = stage.filter((party) => stores.parties.includes(party));
      findings.push(
        ...(await Promise.all(present.map((party) => checkParty(party, stores, folder, testified, onProgress)))),
      );
    }
    return {
      findings: PARTIES.flatMap((party) => findings.filter((found) => found.party === party)),
      money: moneyIn(folder),
    };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function testimonyOf(folder: string, party: PartyName): string {
  return join(folder, `${party}.ndjson`);
}

function moneyIn(folder: string): readonly DeviceMoney[] {
  const file = testimonyOf(folder, 'server');
  if (!existsSync(file)) return [];
  return readFileSync(file, 'utf8')
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as DeviceMoney & { party: string; kind: string })
    .filter(({ kind }) => kind === 'money')
    .map(({ device, currency, exponent, accountMills, holdsMills, inFlightMills, unbookedMills }) => ({
      device,
      currency,
      exponent,
      accountMills,
      holdsMills,
      inFlightMills,
      unbookedMills,
    }));
}

type Line = {
  readonly progress?: { readonly what: string; readonly done: number; readonly total: number };
  readonly problems?: readonly string[];
  readonly rejection?: Rejection;
};

async function checkParty(
  party: PartyName,
  stores: Stores,
  folder: string,
  testified: readonly string[],
  onProgress: (event: CheckEvent) => void,
): Promise<PartyFinding> {
  const config = join(folder, `${party}.json`);
  await writePrivateFile(config, JSON.stringify(configOf(party, stores)));
  const against = testified.flatMap((file) => ['--against', file]);
  const testimony = ['--testimony', testimonyOf(folder, party)];
  const child = spawn(
    process.execPath,
    [partyMain(party), 'check', '--config', config, '--json', ...testimony, ...against],
    {
      stdio: ['ignore', 'pipe', 'pipe'],
    },
  );
  onProgress({ party, what: 'records', done: 0, total: 0 });
  let problems: readonly string[] | undefined;
  let words = '';
  child.stderr.on('data', (bytes: Buffer) => {
    words = (words + bytes.toString()).slice(-2_000);
  });
  const ended = new Promise<number | null>((resolve) => {
    child.once('close', (code) => resolve(code));
  });
  let refused: Rejection | undefined;
  for await (const text of createInterface({ input: child.stdout })) {
    const line = JSON.parse(text) as Line;
    if (line.progress !== undefined) onProgress({ party, ...line.progress });
    problems = line.problems ?? problems;
    refused = line.rejection ?? refused;
  }
  const code = await ended;
  const store = stores.paths.parties[party];
  if (refused !== undefined) {
    // A store that cannot be opened is a finding like any other; one that is in use cannot be looked at.
    if (CATALOGUE[refused.code].exit !== EXIT.locked || refused.code === 'store-in-use') throw new Refused(refused);
    return { party, store, problems: [describeFinding(refused)] };
  }
  if (problems === undefined) {
    throw new Fault('check-failed', `the check of ${party} ended with exit code ${code ?? '?'}: ${words.trim()}`, {
      retry: 'never',
    });
  }
  return { party, store, problems };
}

/** The config of a party that serves nobody: of its own folder and trust bundle. */
export function configOf(party: PartyName, { paths, settings, trustBundle }: Stores): object {
  const bundled = { ...paths, trustBundle };
  switch (party) {
    case 'cryptographic-device':
      return cryptographicDeviceConfig(bundled, settings);
    case 'authority':
      return authorityConfig(bundled, settings, UNUSED_PORTS, UNUSED_CREDENTIALS, trustBundle);
    case 'server':
      return serverConfig(bundled, settings, UNUSED_PORTS, UNUSED_CREDENTIALS);
    case 'psd':
      return psdConfig(bundled, settings);
    case 'host':
      return hostConfig(bundled, settings, { url: 'http://127.0.0.1:9', credential: UNUSED_CREDENTIALS.operator });
  }
}
