/**
 * A running installation: one supervisor, five processes, one data folder.
 *
 * Guarantees: one supervisor per data folder (its socket is the lock); what a killed one left over has ended before anything
 * starts; the trust bundle is written once, whole, before anything that pins it starts; credentials are random, stored with mode
 * 0600; a process that dies is started again by the supervision, and one that must not be ends the command with its reason.
 * The demonstration's operator is played here too: it registers the licensee and pays the deposit at the first start.
 */
import { randomBytes } from 'node:crypto';
import { existsSync, readFileSync, rmSync } from 'node:fs';
import { mkdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { errorCode, errorText, Fault } from '@countermark/node-platform/fault';
import { writePrivateFile } from '@countermark/node-platform/private-file';
import { lazyRpc, type RpcServer, serveRpc } from '@countermark/node-platform/rpc';
import { describeExit, type PartyAddresses, type PartyExit, Supervisor } from '@countermark/node-platform/supervision';
import { WIDE_YOUNG_GENERATION } from '@countermark/node-platform/young-generation';
import { CRYPTOGRAPHIC_DEVICE } from '@countermark/protocol/interfaces/cryptographic-device';
import { jsonToCbor } from '@countermark/protocol/interfaces/host';
import { unhex } from '@countermark/protocol/id';
import { describeRejection } from '@countermark/protocol/rejection';
import { accept } from '@countermark/protocol/result';
import { parseValue } from '@countermark/protocol/schema';
import { formatTrustBundle, type TrustBundle } from '@countermark/verify/trust-bundle';
import type { Settings } from './configuration.ts';
import { refuseCommand, valueOf } from './failure.ts';
import { freePort } from './free-port.ts';
import { hostClient, type HostClient, type ProcessReport, PROCESSES_OPERATION } from './host-client.ts';
import {
  installationPaths,
  type InstallationPaths,
  makeSocketFolder,
  PARTIES,
  partyMain,
  type PartyName,
} from './installation-paths.ts';
import {
  authorityConfig,
  type Credentials,
  cryptographicDeviceConfig,
  hostConfig,
  type Ports,
  psdConfig,
  serverConfig,
  urlOf,
} from './party-configs.ts';
import { payDeposit, registerLicensee, type ServerAccess } from './registration.ts';

/** Who has hundreds of records in hand. */
const TAKERS: ReadonlySet<PartyName> = new Set(['server', 'cryptographic-device']);

/** What the command is told while an installation runs. */
export type InstallationEvents = {
  /** A line for people: a process died, comes back. */
  onNote(line: string): void;
  /** A process said that its keys are unsafe. */
  onUnsafe(line: string): void;
  /** A process ended and will not be started again. */
  onLost(fault: Fault): void;
};

/** How long what a killed supervisor left over may take to end: a party cuts itself off after 10 s. */
const LEFTOVER_MS_MAX = 15_000;

type ProcessState = { -readonly [K in keyof ProcessReport]: ProcessReport[K] };

/** An installation in operation. */
export class Installation {
  readonly paths: InstallationPaths;
  readonly host: HostClient;
  readonly #lock: RpcServer;
  readonly #supervisor: Supervisor;
  readonly #processes = new Map<string, ProcessState>();
  readonly #events: InstallationEvents;
  #operator: ServerAccess | null = null;
  #stopping = false;
  #recorded: Promise<void> = Promise.resolve();

  /** Use `lockInstallation`. */
  constructor(
    paths: InstallationPaths,
    lock: RpcServer,
    processes: Map<string, ProcessState>,
    events: InstallationEvents,
  ) {
    this.paths = paths;
    this.host = hostClient(paths.sockets.host);
    this.#lock = lock;
    this.#processes = processes;
    this.#events = events;
    this.#supervisor = new Supervisor({
      logDirectory: paths.logs,
      onReady: (name, addresses, pid) => {
        this.#ready(name, addresses, pid);
      },
      onExit: (name, exit, restartInMs) => {
        this.#exited(name, exit, restartInMs);
      },
      onLine: (_, line) => {
        const warning = /UNSAFE_[A-Z]+_KEYS.*/.exec(line)?.[0];
        if (warning !== undefined) events.onUnsafe(warning.replace(/"[,}].*$/, ''));
      },
    });
  }

  /** The server, as its operator asks it; once it was started. */
  get operator(): ServerAccess {
    if (this.#operator === null) throw new TypeError('the server was not started');
    return this.#operator;
  }

  /** Starts the five processes; at the first start it also makes credentials and trust bundle and registers the licensee. */
  async start(settings: Settings): Promise<void> {
    await waitForLeftovers(this.paths);
    const credentials = await this.#credentials();
    const ports = await choosePorts(settings);
    const server = urlOf(settings, ports.server);
    this.#operator = { url: server, credential: credentials.operator };
    const known = existsSync(this.paths.trustBundle);
    await this.#configure('cryptographic-device', cryptographicDeviceConfig(this.paths, settings));
    await this.#configure('authority', authorityConfig(this.paths, settings, ports, credentials, this.#bareBundle));
    await this.#configure('server', serverConfig(this.paths, settings, ports, credentials));
    await this.#configure('psd', psdConfig(this.paths, settings));
    const configureHost = (credential: string): Promise<void> =>
      this.#configure('host', hostConfig(this.paths, settings, { url: server, credential }));

    if (known && credentials.licensee !== undefined) {
      await configureHost(credentials.licensee);
      await this.#begin(...PARTIES);
      return;
    }
    if (!known) {
      await this.#begin('cryptographic-device');
      const bundle = await this.#publicKeys();
      await writePrivateFile(this.#bareBundle, formatTrustBundle(bundle));
      const [{ grantingKey } = {}] = await this.#begin('authority');
      const publicKey = typeof grantingKey === 'string' ? unhex(grantingKey) : null;
      if (publicKey === null) {
        throw new Fault('party-not-ready', 'the authority published no granting key', { retry: 'never' });
      }
      const keys = [...bundle.keys, { role: 'granting' as const, epoch: 1, publicKey }];
      await writePrivateFile(this.paths.trustBundle, formatTrustBundle({ ...bundle, keys }));
      await this.#begin('server', 'psd');
    } else {
      // A first start that broke off.
      await this.#begin('cryptographic-device', 'authority', 'server', 'psd');
    }
    const { operator } = this;
    const kind = settings.customers === 'many' ? 'bureau' : 'mailer';
    const credential = await registerLicensee(operator, settings.licensee, kind);
    await writePrivateFile(
      this.paths.credentials,
      `${JSON.stringify({ ...credentials, licensee: credential }, null, 2)}\n`,
    );
    await configureHost(credential);
    await all<unknown>([payDeposit(operator, settings.licensee, settings.deposit), this.#begin('host')]);
  }

  /** Stops every process, the host first, and gives the data folder up. */
  async stop(): Promise<void> {
    this.#stopping = true;
    this.host.close();
    await this.#supervisor.stopAll();
    await this.#recorded;
    await rm(this.paths.processes, { force: true });
    await this.#lock.close(0);
  }

  /** Kills every process at once. Nothing is lost: what was answered is durable. */
  kill(): void {
    this.#stopping = true;
    for (const party of PARTIES) {
      const pid = this.#supervisor.pid(party);
      if (pid !== undefined) process.kill(pid, 'SIGKILL');
    }
    rmSync(this.paths.processes, { force: true });
  }

  get #bareBundle(): string {
    return join(this.paths.run, 'authority-trust-bundle.json');
  }

  #configFile(party: PartyName): string {
    return join(this.paths.run, `${party}.json`);
  }

  #configure(party: PartyName, config: object): Promise<void> {
    return writePrivateFile(this.#configFile(party), `${JSON.stringify(config, null, 2)}\n`);
  }

  /** Starts parties side by side. They are stopped in the reverse order of this one. */
  #begin(...parties: readonly PartyName[]): Promise<PartyAddresses[]> {
    return all(
      parties.map((name) => {
        const sinceMs = Date.now();
        this.#processes.set(name, { name, state: 'starting', pid: null, restarts: 0, sinceMs, addresses: {} });
        return this.#supervisor.start({
          name,
          args: [
            ...(TAKERS.has(name) ? WIDE_YOUNG_GENERATION : []),
            partyMain(name),
            'serve',
            '--config',
            this.#configFile(name),
          ],
        });
      }),
    );
  }

  async #publicKeys(): Promise<TrustBundle> {
    const rpc = lazyRpc(this.paths.sockets.cryptographicDevice);
    try {
      const { publicKeys } = CRYPTOGRAPHIC_DEVICE;
      const answer = await rpc.call(publicKeys.name, publicKeys.request.toCbor({}));
      return valueOf(parseValue(publicKeys.answer, valueOf(answer)));
    } finally {
      rpc.close();
    }
  }

  async #credentials(): Promise<Credentials> {
    const { credentials: file } = this.paths;
    const known = existsSync(file) ? (JSON.parse(await readFile(file, 'utf8')) as Credentials) : undefined;
    if (known?.secondOperator !== undefined) return known;
    const credential = (): string => randomBytes(32).toString('hex');
    const made = { operator: credential(), delivery: credential(), ...known, secondOperator: credential() };
    await writePrivateFile(file, `${JSON.stringify(made, null, 2)}\n`);
    return made;
  }

  #ready(name: string, addresses: PartyAddresses, pid: number): void {
    const known = this.#processes.get(name);
    if (known === undefined) return;
    if (known.state === 'restarting') {
      known.restarts += 1;
      this.#events.onNote(`${name} is back (process ${pid}).`);
    }
    Object.assign(known, { state: 'running', pid, sinceMs: Date.now(), addresses });
    this.#record();
  }

  #exited(name: string, exit: PartyExit, restartInMs: number | undefined): void {
    const known = this.#processes.get(name);
    if (known === undefined || this.#stopping) return;
    Object.assign(known, { state: restartInMs === undefined ? 'ended' : 'restarting', pid: null, sinceMs: Date.now() });
    const log = join(this.paths.logs, `${name}.log`);
    if (restartInMs === undefined) {
      const words =
        exit.rejection === undefined ? exit.lastWords.slice(-3).join(' ') : describeRejection(exit.rejection);
      this.#events.onLost(
        new Fault('party-not-ready', `${name} ended (${describeExit(exit)}) and is not started again: ${words}`, {
          retry: 'never',
          cause: exit,
        }),
      );
    } else {
      this.#events.onNote(`${name} ended (${describeExit(exit)}; its log: ${log}); it is started again.`);
    }
  }

  /** Which processes there are, for the next supervisor, in case that this one is killed. */
  #record(): void {
    const running = [...this.#processes.values()].flatMap(({ name, pid }) => (pid === null ? [] : [{ name, pid }]));
    this.#recorded = this.#recorded
      .then(() => writePrivateFile(this.paths.processes, `${JSON.stringify(running)}\n`))
      .catch((error: unknown) => {
        this.#events.onNote(errorText(error));
      });
  }
}

/** Takes the data folder for this process. @throws Refused `store-in-use` */
export async function lockInstallation(data: string, events: InstallationEvents): Promise<Installation> {
  await mkdir(data, { recursive: true, mode: 0o700 });
  const paths = installationPaths(data, makeSocketFolder(data));
  const processes = new Map<string, ProcessState>();
  try {
    const lock = await serveRpc(paths.sockets.supervisor, {
      [PROCESSES_OPERATION]: () => accept(jsonToCbor({ pid: process.pid, processes: [...processes.values()] })),
    });
    return new Installation(paths, lock, processes, events);
  } catch (error) {
    if (errorCode(error) === 'socket-in-use') refuseCommand('store-in-use', { store: data });
    throw error;
  }
}

/** Waits for all, so that a failure leaves nothing half started behind; then tells the first one. */
async function all<T>(started: readonly Promise<T>[]): Promise<T[]> {
  await Promise.allSettled(started);
  return Promise.all(started);
}

async function choosePorts({ serverPort, authorityPort, listen }: Settings): Promise<Ports> {
  const server = serverPort === 0 ? await freePort(listen) : serverPort;
  for (;;) {
    const authority = authorityPort === 0 ? await freePort(listen) : authorityPort;
    if (authority !== server || authorityPort !== 0) return { server, authority };
  }
}

/** Children of a killed supervisor end by themselves, because their stdin closes; two of a kind must never run at once. */
async function waitForLeftovers(paths: InstallationPaths): Promise<void> {
  if (!existsSync(paths.processes)) return;
  const recorded = JSON.parse(await readFile(paths.processes, 'utf8')) as readonly { name: string; pid: number }[];
  const deadlineMs = Date.now() + LEFTOVER_MS_MAX;
  for (const { name, pid } of recorded) {
    while (isOurs(pid, paths.data)) {
      if (Date.now() > deadlineMs) {
        throw new Fault(
          'party-left-over',
          `the process ${pid} (${name}) of an earlier start still runs on ${paths.data} and does not end: end it, then start again`,
          { retry: 'later' },
        );
      }
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
}

function isOurs(pid: number, data: string): boolean {
  try {
    process.kill(pid, 0);
  } catch {
    return false;
  }
  try {
    // A process id may have gone to another program since.
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(data);
  } catch {
    return existsSync('/proc/self/cmdline') ? false : true;
  }
}
