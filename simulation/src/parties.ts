/**
 * The five parties as the world starts them: each by the very function that its process starts with, on simulated sockets, disks
 * and clocks.
 *
 * Guarantees that nothing of a party is written anew here: only paths, settings and clocks are said.
 */
import { startAuthority } from '@countermark/authority/authority';
import { openAuthorityStore } from '@countermark/authority/store/sql-store';
import { openDeviceRegister } from '@countermark/cryptographic-device/device-register';
import { startService as startCryptographicDevice } from '@countermark/cryptographic-device/service';
import { parseHostConfig } from '@countermark/host/config';
import { openHostStore } from '@countermark/host/journal-schema';
import type { PrintPort } from '@countermark/host/print-port';
import { serveHost } from '@countermark/host/serve-host';
import type { Clock } from '@countermark/node-platform/clock';
import type { Log } from '@countermark/node-platform/logs';
import type { Authentication } from '@countermark/protocol/cose';
import { digestOf } from '@countermark/protocol/digest';
import type { Memory } from '@countermark/protocol/messages/batch-statistics';
import { describeRejection } from '@countermark/protocol/rejection';
import type { Result } from '@countermark/protocol/result';
import { type Device, openDevice } from '@countermark/psd/shell/device';
import { serveDevice } from '@countermark/psd/shell/socket';
import { openStore as openPsdStore } from '@countermark/psd/shell/store';
import { parseConfig as parseServerConfig } from '@countermark/server/config';
import { openStore as openServerStore, startService as startServer } from '@countermark/server/service';
import { machine, runningProcess } from './machine/machine.ts';
import type { SessionStream } from './machine/tls-ends.ts';
import type { SimulatedProcess } from './process.ts';

export const TRUST_BUNDLE = '/trust-bundle.json';
export const SERVER_URL = 'http://127.0.0.1:1';
export const AUTHORITY_URL = 'http://127.0.0.2:1';
export const OPERATOR = 'ab'.repeat(32);
/** Another person: what needs two is not done by one. */
export const SECOND_OPERATOR = 'ba'.repeat(32);
/** The balance of a dead device is not paid back before. */
export const SCAN_WINDOW_DAYS = 2;
const DELIVERY = 'cd'.repeat(32);
export const DAY_MS = 86_400_000;

/** What a party is started with. */
export type Setting = {
  readonly process: SimulatedProcess;
  readonly clock: Clock;
  readonly log: Log;
  /** The process has to end: its store takes nothing more. */
  readonly onBroken: (fault: unknown) => void;
};

/** How a line (a PSD with its host) works. */
export type LineSetting = {
  readonly line: number;
  readonly licensee: string;
  readonly authentication: Authentication;
  readonly memory: Memory;
  readonly transport: 'session' | 'sessionless';
  readonly forwarding: 'at-once' | 'hold';
  readonly holdForMs: number;
  readonly recordCapacity: number;
  readonly firstRefillMills: bigint;
};

export const CD_SOCKET = '/cryptographic-device/cd.sock';
const CD_SESSION_SOCKET = '/cryptographic-device/session.sock';
export const ACCEPTANCE_SOCKET = '/server/acceptance.sock';

export function psdSocket(line: number): string {
  return `/psd-${line}/psd.sock`;
}

export function hostSocket(line: number): string {
  return `/host-${line}/host.sock`;
}

/** The databases of each party by path. */
export const STORE = {
  psd: (line: number) => `/psd-${line}/psd.db`,
  host: (line: number) => `/host-${line}/host.sqlite`,
  cryptographicDevice: '/cryptographic-device/cryptographic-device.sqlite',
  server: '/server/server.sqlite',
  authority: '/authority/authority.sqlite',
} as const;

/** A start that did not succeed: its words. */
class NotStarted extends Error {}

export async function startTheCryptographicDevice({ clock, log, onBroken }: Setting): Promise<void> {
  const config = {
    data: '/cryptographic-device',
    socket: CD_SOCKET,
    sessionSocket: CD_SESSION_SOCKET,
    acceptanceSocket: ACCEPTANCE_SOCKET,
  };
  const service = started(await startCryptographicDevice(config, { clock, log, onClose: () => undefined, onBroken }));
  await service.sessions();
}

/** Answers its granting key. */
export async function startTheAuthority({ clock, log, onBroken }: Setting): Promise<Uint8Array> {
  const config = {
    data: '/authority',
    database: `sqlite://${STORE.authority}`,
    listen: listenAt(AUTHORITY_URL),
    trustBundle: TRUST_BUNDLE,
    credential: DELIVERY,
    programmes: machine()
      .files.list('/programmes')
      .map((name) => `/programmes/${name}`),
  };
  return started(await startAuthority(config, () => clock.nowMs(), log, onBroken)).grantingKey;
}

/** `policy`: what differs from the default, as in the configuration file. */
export async function startTheServer(
  { clock, log, onBroken }: Setting,
  policy: Readonly<Record<string, unknown>>,
): Promise<void> {
  const config = started(
    parseServerConfig({
      data: '/server',
      listen: listenAt(SERVER_URL),
      trustBundle: TRUST_BUNDLE,
      cdSocket: CD_SOCKET,
      cdSessionSocket: CD_SESSION_SOCKET,
      acceptanceSocket: ACCEPTANCE_SOCKET,
      authority: { url: AUTHORITY_URL, credential: DELIVERY },
      operatorCredential: OPERATOR,
      operators: [{ name: 'second-operator', credential: SECOND_OPERATOR }],
      scanWindowDays: SCAN_WINDOW_DAYS,
      policy,
    }),
  );
  started(await startServer(config, { clock, log, onClose: () => undefined, onBroken }));
}

/** Answers the device. `socketOf`: where it listens; another place for a clone. */
export async function startThePsd({ onBroken }: Setting, line: LineSetting): Promise<Device> {
  const device = started(
    openDevice({
      path: STORE.psd(line.line),
      authentication: line.authentication,
      memory: line.memory,
      recordCapacity: line.recordCapacity,
      trustBundle: machine().files.read(TRUST_BUNDLE).toString('utf8'),
      software: { version: '0.1.0', measurement: digestOf(new Uint8Array(32).fill(7)) },
      onBroken,
    }),
  );
  await serveDevice(psdSocket(line.line), device, sessionsOf(line.line) as never);
  return device;
}

export async function startTheHost(
  { clock, log, onBroken }: Setting,
  line: LineSetting,
  credential: string,
  printer: PrintPort,
): Promise<void> {
  const data = `/host-${line.line}`;
  const config = started(
    parseHostConfig({
      data,
      socket: hostSocket(line.line),
      psdSocket: psdSocket(line.line),
      psdSessionSocket: sessionSocket(line.line),
      server: { url: SERVER_URL, credential },
      trustBundle: TRUST_BUNDLE,
      licensee: line.licensee,
      customers: 'many',
      transport: line.transport,
      forwarding: line.forwarding,
      holdForMs: line.holdForMs,
      submitter: 'crid-1',
      preparer: 'crid-2',
      sheet: 'letter',
      pages: false,
      output: `${data}/out`,
      registerCustomers: true,
      firstRefillMills: String(line.firstRefillMills),
      automaticRefill: true,
      recordsPerDay: 1,
    }),
  );
  const random = () => machine().jitter.fraction();
  started(await serveHost(config, { log, clock, random, printer, onBroken }));
}

function sessionSocket(line: number): string {
  return `/psd-${line}/session.sock`;
}

/** The PSD's session socket: gives each relayed connection to the send that waits longest, or to the next one. */
function sessionsOf(line: number) {
  const { network, scheduler } = machine();
  const waiting: SessionStream[] = [];
  const sends: ((connection: SessionStream | null) => void)[] = [];
  network.serve(sessionSocket(line), {
    process: runningProcess(),
    handle: async (_operation, stream) => {
      const send = sends.shift();
      if (send === undefined) waiting.push(stream as SessionStream);
      else send(stream as SessionStream);
    },
  });
  return {
    next: (waitMs: number): Promise<SessionStream | null> => {
      const connection = waiting.shift();
      if (connection !== undefined) return Promise.resolve(connection);
      return new Promise((resolve) => {
        const cancel = scheduler.after(waitMs, scheduler.running, 'no connection', () => {
          give(null);
        });
        const give = (given: SessionStream | null): void => {
          cancel();
          const at = sends.indexOf(give);
          if (at !== -1) sends.splice(at, 1);
          resolve(given);
        };
        sends.push(give);
      });
    },
    close: async () => undefined,
  };
}

/** Opens every store once, so that those of later worlds start as copies: their tables are made already. */
export async function makeTemplates(process: SimulatedProcess): Promise<void> {
  const { disks, files } = machine();
  started(openPsdStore({ path: STORE.psd(1) }));
  started(openHostStore(STORE.host(1)));
  started(
    openDeviceRegister(
      '/cryptographic-device',
      () => null,
      () => undefined,
    ),
  );
  files.write(TRUST_BUNDLE, EMPTY_BUNDLE);
  started(await openServerStore({ trustBundle: TRUST_BUNDLE, database: `sqlite://${STORE.server}` } as never));
  await openAuthorityStore(`sqlite://${STORE.authority}`);
  for (const path of [STORE.psd(1), STORE.host(1), STORE.cryptographicDevice, STORE.server, STORE.authority]) {
    disks.keepTemplate(path);
  }
  process.end('templates are made');
}

const EMPTY_BUNDLE = JSON.stringify({
  schema: 1,
  keys: [],
  agreementKey: `04${'00'.repeat(64)}`,
  sessionAuthority: '00',
});

function listenAt(url: string): { readonly host: string; readonly port: number } {
  const { hostname } = new URL(url);
  return { host: hostname, port: 1 };
}

function started<T>(result: Result<T>): T {
  if (!result.ok) throw new NotStarted(`${result.rejection.code}: ${describeRejection(result.rejection)}`);
  return result.value;
}
