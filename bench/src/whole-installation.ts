/**
 * A whole installation for benchmarks: the five real processes with the configs and the supervision of `countermark up`, enrolled and
 * funded, with a client of its host.
 *
 * It differs from `up` in two ways: the policy lets the device hold funds for a million pieces, so that no refill stands in the
 * middle of a measurement, and a process that dies ends the benchmark.
 */
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdirSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { completeSettings, type GivenSettings } from '@countermark/cli/configuration';
import { valueOf } from '@countermark/cli/failure';
import { hostClient, type HostClient } from '@countermark/cli/host-client';
import { installationPaths, makeSocketFolder, PARTIES, type PartyName } from '@countermark/cli/installation-paths';
import {
  authorityConfig,
  cryptographicDeviceConfig,
  hostConfig,
  psdConfig,
  serverConfig,
} from '@countermark/cli/party-configs';
import { issueEnrolmentCode, payDeposit, registerLicensee } from '@countermark/cli/registration';
import { describeExit, type PartyAddresses, Supervisor } from '@countermark/node-platform/supervision';
import { connectRpc } from '@countermark/node-platform/rpc';
import { unhex } from '@countermark/protocol/id';
import { CRYPTOGRAPHIC_DEVICE } from '@countermark/protocol/interfaces/cryptographic-device';
import { HOST, type WaitAnswer } from '@countermark/protocol/interfaces/host';
import type { Mills } from '@countermark/protocol/money';
import { formatTrustBundle } from '@countermark/verify/trust-bundle';
import { peakMemoryMb } from './process-memory.ts';
import { ask } from './provisioning.ts';
import { ROOT } from './scratch-folder.ts';

/** Funds enough for any mailing here, in mills: 100 million dollars. */
const DEPOSIT_MILLS = 100_000_000_000n;
/** Funds for a million pieces come in one grant. */
const CAPS = { highestGrant: DEPOSIT_MILLS as Mills, highestDaily: DEPOSIT_MILLS as Mills };
const POLICY = {
  highestFundsMills: DEPOSIT_MILLS.toString(),
  maxUnconfirmedPostageMills: DEPOSIT_MILLS.toString(),
};
/** Longest wait for confirmations and grants after the last piece. */
const SETTLED_MS_MAX = 600_000;

/** What a mailing took. */
export type MailingTimes = {
  readonly rows: number;
  /** From the request until the last piece was franked and every batch closed. */
  readonly frankedMs: number;
  /** From the request until every record was confirmed and the grants had come. */
  readonly settledMs: number;
  /** Milliseconds in each phase that the host told. */
  readonly phasesMs: Readonly<Record<string, number>>;
};

/** An installation in operation. */
export type WholeInstallation = {
  /** Franks a file of that many rows and waits until all is confirmed. Throws where a piece is missing. */
  frank(file: string, rows: number): Promise<MailingTimes>;
  /** VmHWM of each process in megabytes; undefined where this system does not tell. */
  peaksMb(): ReadonlyMap<string, number> | undefined;
  stop(): Promise<void>;
};

/** Starts one in a folder that is not there yet. */
export async function startWholeInstallation(data: string, given: GivenSettings): Promise<WholeInstallation> {
  const settings = valueOf(completeSettings({ pages: false, ...CAPS, ...given }, 'of the benchmark'));
  mkdirSync(data, { mode: 0o700 });
  const paths = installationPaths(data, makeSocketFolder(data));
  let lose: (lost: Error) => void = () => undefined;
  const lost = new Promise<never>((_, reject) => {
    lose = reject;
  });
  lost.catch(() => undefined);
  const supervisor = new Supervisor({
    logDirectory: paths.logs,
    onExit: (name, exit) => lose(new Error(`${name} ended (${describeExit(exit)}): ${exit.lastWords.join('\n')}`)),
  });
  const begin = async (party: PartyName, config: object): Promise<PartyAddresses> => {
    const file = join(paths.run, `${party}.json`);
    writeFileSync(file, JSON.stringify(config), { mode: 0o600 });
    const main = join(ROOT, 'packages', party, 'dist', 'program', 'main.js');
    return supervisor.start({ name: party, args: [main, 'serve', '--config', file] });
  };
  try {
    const credentials = { operator: randomBytes(32).toString('hex'), delivery: randomBytes(32).toString('hex') };
    const ports = { server: await freePort(), authority: await freePort() };
    await begin('cryptographic-device', cryptographicDeviceConfig(paths, settings));
    const device = await connectRpc(paths.sockets.cryptographicDevice);
    const bundle = await ask(device, CRYPTOGRAPHIC_DEVICE.publicKeys, {});
    device.close();
    const bare = join(paths.run, 'authority-trust-bundle.json');
    writeFileSync(bare, formatTrustBundle(bundle));
    const { grantingKey } = await begin('authority', authorityConfig(paths, settings, ports, credentials, bare));
    const granting = { role: 'granting' as const, epoch: 1, publicKey: unhex(String(grantingKey)) ?? new Uint8Array() };
    writeFileSync(paths.trustBundle, formatTrustBundle({ ...bundle, keys: [...bundle.keys, granting] }));
    const server = serverConfig(paths, settings, ports, credentials);
    const { url } = await begin('server', { ...server, policy: POLICY });
    const operator = { url: String(url), credential: credentials.operator };
    const credential = await registerLicensee(operator, settings.licensee, 'bureau');
    await payDeposit(operator, settings.licensee, DEPOSIT_MILLS);
    await begin('psd', psdConfig(paths, settings));
    await begin('host', hostConfig(paths, settings, { url: operator.url, credential }));
    const host = hostClient(paths.sockets.host);
    await host.call(HOST.enrol, { code: await issueEnrolmentCode(operator, settings.licensee) });
    await host.call(HOST.refill, { amountMills: DEPOSIT_MILLS.toString() });
    return {
      frank: (file, rows) => Promise.race([frank(host, file, rows), lost]),
      peaksMb: () => peaksOf(supervisor),
      stop: async () => {
        host.close();
        await supervisor.stopAll();
      },
    };
  } catch (error) {
    await supervisor.stopAll();
    throw error;
  }
}

function peaksOf(supervisor: Supervisor): ReadonlyMap<string, number> | undefined {
  const peaks = new Map<string, number>();
  for (const party of PARTIES) {
    const pid = supervisor.pid(party);
    const peakMb = pid === undefined ? undefined : peakMemoryMb(pid);
    if (peakMb === undefined) return undefined;
    peaks.set(party, peakMb);
  }
  return peaks;
}

async function freePort(): Promise<number> {
  const probe = createServer().listen(0, '127.0.0.1');
  await once(probe, 'listening');
  const address = probe.address();
  probe.close();
  return typeof address === 'object' && address !== null ? address.port : 0;
}

async function frank(host: HostClient, file: string, rows: number): Promise<MailingTimes> {
  const phasesMs: Record<string, number> = {};
  const begunMs = performance.now();
  let sinceMs = begunMs;
  let phase = 'asked';
  const enter = (next: string): void => {
    const nowMs = performance.now();
    phasesMs[phase] = (phasesMs[phase] ?? 0) + nowMs - sinceMs;
    sinceMs = nowMs;
    phase = next;
  };
  const answer = await host.call(HOST.frank, { file }, (event) => {
    if (event.phase !== phase) enter(event.phase);
  });
  enter('waiting');
  const frankedMs = performance.now() - begunMs;
  if (answer.rejection !== undefined) throw new Error(`The mailing was not franked: ${answer.rejection.message}`);
  const waited = await host.call(HOST.wait, { job: answer.job, timeoutMs: SETTLED_MS_MAX });
  enter('');
  const settledMs = performance.now() - begunMs;
  checkSettled(waited, rows);
  return { rows, frankedMs, settledMs, phasesMs };
}

function checkSettled({ outcome, report, pending }: WaitAnswer, rows: number): void {
  const open = report?.batches.filter(({ state, deletedFromPsd }) => state !== 'confirmed' || !deletedFromPsd) ?? [];
  if (outcome !== 'settled' || report?.pieces !== rows || open.length > 0) {
    const why = pending.map(({ what, reason, message }) => `${what}: ${message ?? reason}`).join('; ');
    throw new Error(`The mailing did not settle (${outcome}; ${report?.pieces ?? 0} of ${rows} pieces; ${why})`);
  }
}
