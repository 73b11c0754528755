/**
 * Real processes for tests: one cryptographic device, authority and server, and any number of lines (a PSD and its
 * host), each with its own device, licensee and settings.
 *
 * Everything runs the built programs, but for a host whose clock a test moves: that one is started by
 * tests/host-with-clock.mjs. Each process can be killed (it comes back by its supervisor), or ended and started by itself.
 * A line's folder is a data folder for the command line: its host's socket lies where `countermark --data` looks for it.
 */
import { randomBytes } from 'node:crypto';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { hostClient, type HostClient } from '@countermark/cli/host-client';
import { installationPaths, type InstallationPaths, type PartyName } from '@countermark/cli/installation-paths';
import {
  authorityConfig,
  cryptographicDeviceConfig,
  hostConfig,
  psdConfig,
  serverConfig,
} from '@countermark/cli/party-configs';
import { issueEnrolmentCode, payDeposit, registerLicensee, type ServerAccess } from '@countermark/cli/registration';
import { completeSettings, type GivenSettings, type Settings } from '@countermark/cli/configuration';
import { lazyRpc } from '@countermark/node-platform/rpc';
import { type PartyAddresses, type PartySpec, Supervisor } from '@countermark/node-platform/supervision';
import { CRYPTOGRAPHIC_DEVICE } from '@countermark/protocol/interfaces/cryptographic-device';
import { HOST } from '@countermark/protocol/interfaces/host';
import { type DeviceStatus, PSD } from '@countermark/protocol/interfaces/psd';
import type { Operation } from '@countermark/protocol/interfaces/operation';
import { unhex } from '@countermark/protocol/id';
import type { Result } from '@countermark/protocol/result';
import { describeRejection } from '@countermark/protocol/rejection';
import { parseValue } from '@countermark/protocol/schema';
import { formatTrustBundle } from '@countermark/verify/trust-bundle';
import { freePort } from '@countermark/cli/free-port';
import { type SoftHsm, softHsm } from '../bench/src/soft-hsm.ts';

export const root = join(import.meta.dirname, '..');
const DEPOSIT_MILLS = 1_000_000_000n;

/** With COUNTERMARK_TEST_HSM every cryptographic device of a test has its keys on a token of its own. */
let hsm: SoftHsm | undefined;
let tokens = 0;

function testToken(): GivenSettings {
  if (process.env.COUNTERMARK_TEST_HSM === undefined) return {};
  if (hsm === undefined) {
    const made = softHsm();
    // Asked for, and not there, is a failure, not a reason to skip.
    if (typeof made === 'string') throw new Error(made);
    hsm = made;
    process.once('exit', () => hsm?.stop());
  }
  tokens += 1;
  const { module, token, pinFile } = hsm.add(`token-${tokens}`);
  return { pkcs11Module: module, pkcs11Token: token, pkcs11PinFile: pinFile };
}

export type LineSettings = GivenSettings & { readonly licensee: string };

/** One process under its own supervisor. */
export type TestProcess = {
  /** Undefined while none runs. */
  pid(): number | undefined;
  /** SIGKILL, and resolves when the supervisor has it back. */
  kill(): Promise<void>;
  /** Resolves with its next ready line. */
  back(): Promise<void>;
  /** Ends it cleanly; it stays away until `start`. */
  stop(): Promise<void>;
  start(): Promise<PartyAddresses>;
};

/** A PSD and its host, running. */
export type Line = {
  readonly paths: InstallationPaths;
  readonly processes: Readonly<Record<'psd' | 'host', TestProcess>>;
  /** The licensee's credential, as the host has it. */
  readonly server: ServerAccess;
  readonly host: HostClient;
  device(): Promise<DeviceStatus>;
  /** Moves the host's clock; only for a line with a clock. */
  moveClock(ms: number): void;
  stop(): Promise<void>;
};

export type LineOptions = {
  /** The test moves the host's clock. */
  readonly clock?: boolean;
  /** Funds of the device; 0: none are asked for. */
  readonly refillMills?: bigint;
  /**
   * Processes whose files may be no longer than stands in DIR/run/PARTY.limit, in blocks of 512 bytes (`ulimit -f`, read at each
   * start): a write beyond fails as one on a broken disk does.
   */
  readonly limited?: readonly ('psd' | 'host')[];
  /** Stands between host and PSD: given the PSD's socket, answers the one that the host is told of. */
  readonly tap?: (psdSocket: string) => Promise<string>;
};

/** What a test changes about how processes are started. */
export type Starting = {
  /** The process that is started for a party, from the one that would be. */
  readonly wrap: (spec: PartySpec, paths: InstallationPaths) => PartySpec;
  /** Longest wait before a restart. */
  readonly restartMsMax: number;
};

export type TestInstallation = {
  readonly folder: string;
  readonly trustBundle: string;
  /** Calls to the server with the operator's credential. */
  readonly operator: ServerAccess;
  /** The same of another person: what needs two is not done by one. */
  readonly second: ServerAccess;
  readonly processes: Readonly<Record<'cryptographic-device' | 'authority' | 'server', TestProcess>>;
  readonly paths: InstallationPaths;
  readonly sockets: InstallationPaths['sockets'];
  line(settings: LineSettings, options?: LineOptions): Promise<Line>;
  stop(): Promise<void>;
};

/** Starts the shared parties in a new temporary folder; `limited` as for a line; `starting` for every process. */
export async function startInstallation(
  options: { readonly limited?: readonly PartyName[]; readonly starting?: Starting } = {},
): Promise<TestInstallation> {
  const folder = mkdtempSync(join(tmpdir(), 'cm-'));
  const paths = pathsIn(folder);
  const credentials = {
    operator: randomBytes(32).toString('hex'),
    secondOperator: randomBytes(32).toString('hex'),
    delivery: randomBytes(32).toString('hex'),
  };
  const ports = { server: await freePort(), authority: await freePort() };
  const settings = settingsOf(testToken());
  const { starting } = options;
  const begin = async (party: PartyName, config: object): Promise<[TestProcess, PartyAddresses]> => {
    const limited = options.limited?.includes(party) === true;
    const started = testProcess(paths, partySpec(party, paths, config), limited, starting);
    return [started, await started.start()];
  };

  const [cryptographicDevice] = await begin('cryptographic-device', cryptographicDeviceConfig(paths, settings));
  const keys = await ask(paths.sockets.cryptographicDevice, CRYPTOGRAPHIC_DEVICE.publicKeys, {});
  const bare = join(folder, 'bare-bundle.json');
  writeFileSync(bare, formatTrustBundle({ ...keys, keys: keys.keys }));
  const [authority, { grantingKey }] = await begin(
    'authority',
    authorityConfig(paths, settings, ports, credentials, bare),
  );
  const granting = { role: 'granting' as const, epoch: 1, publicKey: unhex(String(grantingKey)) ?? new Uint8Array() };
  writeFileSync(paths.trustBundle, formatTrustBundle({ ...keys, keys: [...keys.keys, granting] }));
  const [server, { url }] = await begin('server', serverConfig(paths, settings, ports, credentials));
  const operator = { url: String(url), credential: credentials.operator };

  const lines: Line[] = [];
  let lineNumber = 0;
  return {
    folder,
    trustBundle: paths.trustBundle,
    operator,
    second: { url: operator.url, credential: credentials.secondOperator },
    processes: { 'cryptographic-device': cryptographicDevice, authority, server },
    paths,
    sockets: paths.sockets,
    line: async (given, options = {}) => {
      const own = settingsOf(given);
      const linePaths = { ...pathsIn(join(folder, `l${lineNumber++}`)), trustBundle: paths.trustBundle };
      const clock = join(linePaths.data, 'clock');
      const limited = (party: 'psd' | 'host'): boolean => options.limited?.includes(party) === true;
      const credential = await registerLicensee(operator, own.licensee, own.customers === 'many' ? 'bureau' : 'mailer');
      await payDeposit(operator, own.licensee, DEPOSIT_MILLS);
      const access = { url: operator.url, credential };
      const psd = testProcess(
        linePaths,
        partySpec('psd', linePaths, psdConfig(linePaths, own)),
        limited('psd'),
        starting,
      );
      const psdSocket = (await options.tap?.(linePaths.sockets.psd)) ?? linePaths.sockets.psd;
      const hostSettings = { ...hostConfig(linePaths, own, access), psdSocket };
      const hostProcess = testProcess(
        linePaths,
        partySpec('host', linePaths, hostSettings, options.clock === true ? clock : undefined),
        limited('host'),
        starting,
      );
      await Promise.all([psd.start(), hostProcess.start()]);
      const host = hostClient(linePaths.sockets.host);
      await host.call(HOST.enrol, { code: await issueEnrolmentCode(operator, own.licensee) });
      const refillMills = options.refillMills ?? 10_000_000n;
      if (refillMills > 0n) await host.call(HOST.refill, { amountMills: String(refillMills) });
      const line: Line = {
        paths: linePaths,
        processes: { psd, host: hostProcess },
        server: access,
        host,
        device: () => ask(linePaths.sockets.psd, PSD.status, {}),
        moveClock: (ms) => {
          writeFileSync(clock, String(ms));
        },
        stop: async () => {
          host.close();
          await hostProcess.stop();
          await psd.stop();
        },
      };
      lines.push(line);
      return line;
    },
    stop: async () => {
      await Promise.all(lines.map((line) => line.stop()));
      for (const party of [server, authority, cryptographicDevice]) await party.stop();
      if (process.env['COUNTERMARK_KEEP'] === undefined) rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** Calls an operation of a local interface; throws where it is refused. */
export async function ask<Request, Answer>(
  socket: string,
  operation: Operation<Request, Answer>,
  request: Request,
): Promise<Answer> {
  const rpc = lazyRpc(socket);
  try {
    const answer = unwrapped(await rpc.call(operation.name, operation.request.toCbor(request)));
    return unwrapped(parseValue(operation.answer, answer));
  } finally {
    rpc.close();
  }
}

function unwrapped<T>(result: Result<T>): T {
  if (!result.ok) throw new Error(describeRejection(result.rejection), { cause: result.rejection });
  return result.value;
}

function settingsOf(given: GivenSettings): Settings {
  return unwrapped(completeSettings(given, 'of the test'));
}

function pathsIn(folder: string): InstallationPaths {
  const run = join(folder, 'run');
  mkdirSync(run, { recursive: true, mode: 0o700 });
  return installationPaths(folder, run);
}

/** A party's built program, or the tests' own main of the host. */
function partySpec(party: PartyName, paths: InstallationPaths, config: object, clock?: string): PartySpec {
  const file = join(paths.run, `${party}.json`);
  writeFileSync(file, JSON.stringify(config), { mode: 0o600 });
  const program =
    clock === undefined
      ? join(root, 'packages', party, 'dist', 'program', 'main.js')
      : join(root, 'tests', 'host-with-clock.mjs');
  return {
    name: party,
    args: [program, 'serve', '--config', file],
    ...(clock === undefined ? {} : { env: { COUNTERMARK_TEST_CLOCK_FILE: clock } }),
  };
}

/** The process of a party, not started. It comes back quickly: tests wait for that. */
function testProcess(
  paths: InstallationPaths,
  spec: PartySpec,
  limited = false,
  starting: Starting = { wrap: (own) => own, restartMsMax: 500 },
): TestProcess {
  const waiting: (() => void)[] = [];
  const back = (): Promise<void> =>
    new Promise((resolve) => {
      waiting.push(resolve);
    });
  const supervisor = new Supervisor({
    logDirectory: paths.logs,
    restartMs: { first: 20, most: starting.restartMsMax },
    onReady: () => {
      for (const tell of waiting.splice(0)) tell();
    },
  });
  const limit = join(paths.run, `${spec.name}.limit`);
  const script = 'if [ -f "$0" ]; then ulimit -f "$(cat "$0")"; fi; exec "$@"';
  const whole: PartySpec = limited
    ? { ...spec, command: '/bin/sh', args: ['-c', script, limit, process.execPath, ...spec.args] }
    : starting.wrap(spec, paths);
  return {
    pid: () => supervisor.pid(spec.name),
    kill: async () => {
      const pid = supervisor.pid(spec.name);
      if (pid === undefined) throw new Error(`${spec.name} does not run`);
      const again = back();
      process.kill(pid, 'SIGKILL');
      await again;
    },
    back,
    stop: () => supervisor.stopAll(),
    start: () => supervisor.start(whole),
  };
}

/** The sample mailing. */
export function readSample(): string {
  return readFileSync(join(root, 'samples', 'bureau-mailing.csv'), 'utf8');
}
