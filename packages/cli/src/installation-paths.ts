/**
 * Where everything of an installation lies in its data folder, and where its sockets are.
 *
 * Guarantees: the socket folder is one whose paths a system can hold (100 bytes): DIR/run, or a private folder under the system's
 * temporary one, named in DIR/run/sockets.json and used again only while it is this user's alone.
 */
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const PARTIES = ['cryptographic-device', 'authority', 'server', 'psd', 'host'] as const;
export type PartyName = (typeof PARTIES)[number];

export type InstallationPaths = {
  readonly data: string;
  /** Configs, published addresses; sockets where they fit. */
  readonly run: string;
  readonly logs: string;
  readonly settings: string;
  readonly trustBundle: string;
  readonly credentials: string;
  /** Says that this is a data folder of ours, of which kind, and since when. */
  readonly marker: string;
  readonly processes: string;
  /** Pages, merge files and records, by job. */
  readonly output: string;
  readonly parties: Readonly<Record<PartyName, string>>;
  readonly sockets: {
    readonly supervisor: string;
    readonly host: string;
    readonly psd: string;
    readonly psdSession: string;
    readonly cryptographicDevice: string;
    readonly cryptographicDeviceSession: string;
    readonly serverAcceptance: string;
  };
};

/** The longest name of a socket is server-acceptance.sock. */
const LONGEST_SOCKET_NAME = 22;
const SOCKET_PATH_BYTES_MAX = 100;
/** In a temporary socket folder: the data folder that it belongs to. */
const OWNER_FILE = 'data-folder';

/** The paths of the data folder; `sockets` is the folder of the sockets. */
export function installationPaths(data: string, sockets: string): InstallationPaths {
  const run = join(data, 'run');
  return {
    data,
    run,
    logs: join(data, 'logs'),
    settings: join(data, 'countermark.toml'),
    trustBundle: join(data, 'trust-bundle.json'),
    credentials: join(data, 'credentials.json'),
    marker: join(data, 'installation.json'),
    processes: join(run, 'processes.json'),
    output: join(data, 'output'),
    parties: {
      'cryptographic-device': join(data, 'cryptographic-device'),
      authority: join(data, 'authority'),
      server: join(data, 'server'),
      psd: join(data, 'psd'),
      host: join(data, 'host'),
    },
    sockets: {
      supervisor: join(sockets, 'up.sock'),
      host: join(sockets, 'host.sock'),
      psd: join(sockets, 'psd.sock'),
      psdSession: join(sockets, 'psd-session.sock'),
      cryptographicDevice: join(sockets, 'cd.sock'),
      cryptographicDeviceSession: join(sockets, 'cd-session.sock'),
      serverAcceptance: join(sockets, 'server-acceptance.sock'),
    },
  };
}

/** The built program of a party. */
export function partyMain(party: PartyName): string {
  return fileURLToPath(new URL(`../../${party}/dist/program/main.js`, import.meta.url));
}

/** The socket folder of a data folder; undefined where none was ever made. Changes nothing. */
export function findSocketFolder(data: string): string | undefined {
  const run = join(data, 'run');
  if (fits(run)) return isPrivate(run) ? run : undefined;
  try {
    const { folder } = JSON.parse(readFileSync(join(run, 'sockets.json'), 'utf8')) as { folder?: unknown };
    if (typeof folder !== 'string' || !isPrivate(folder)) return undefined;
    // A copy of the data folder names the sockets of its original.
    return readFileSync(join(folder, OWNER_FILE), 'utf8') === data ? folder : undefined;
  } catch {
    return undefined;
  }
}

/** The socket folder of a data folder, made where it is missing. */
export function makeSocketFolder(data: string): string {
  const run = join(data, 'run');
  mkdirSync(run, { recursive: true, mode: 0o700 });
  // A folder that others could enter is closed to them: it is ours alone by its purpose.
  chmodSync(run, 0o700);
  const found = findSocketFolder(data);
  if (found !== undefined) return found;
  const folder = mkdtempSync(join(tmpdir(), 'countermark-'));
  writeFileSync(join(folder, OWNER_FILE), data, { mode: 0o600 });
  writeFileSync(join(run, 'sockets.json'), `${JSON.stringify({ folder })}\n`, { mode: 0o600 });
  return folder;
}

function fits(folder: string): boolean {
  return Buffer.byteLength(folder) + 1 + LONGEST_SOCKET_NAME <= SOCKET_PATH_BYTES_MAX;
}

/** A folder that only this user can enter. A folder under /tmp could be made by anyone. */
function isPrivate(folder: string): boolean {
  try {
    const found = statSync(folder);
    return found.isDirectory() && (found.mode & 0o077) === 0 && found.uid === (process.getuid?.() ?? found.uid);
  } catch {
    return false;
  }
}
