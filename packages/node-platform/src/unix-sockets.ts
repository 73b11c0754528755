/**
 * Local sockets: listening on, and connecting to, Unix sockets that only this user can reach.
 *
 * Guarantees: the socket lies in a directory of mode 0700; a path over 100 bytes is refused (the system would cut it silently and
 * listen elsewhere); a stale socket is removed only after a connection to it was refused, a live one never; anything else that
 * lies at the path is left alone. The directory's mode is the only access control: peers are not authenticated here.
 */
import { chmod, lstat, mkdir, stat, unlink } from 'node:fs/promises';
import { createConnection, type Server, type Socket } from 'node:net';
import { dirname } from 'node:path';
import { errorCode, errorText, Fault } from './fault.ts';

/** The longest path of a local socket, in bytes of UTF-8 (sun_path holds 104 bytes on macOS, 108 on Linux). */
const SOCKET_PATH_BYTES_MAX = 100;

/**
 * Makes the server listen on the path, with its directory created where it is missing.
 * Faults: `socket-path-too-long`, `socket-directory-open` (others can enter it), `socket-in-use`, `socket-failed`.
 */
export async function listenPrivately(server: Server, path: string): Promise<void> {
  checkPath(path);
  const directory = dirname(path);
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const { mode } = await stat(directory);
  if ((mode & 0o077) !== 0) {
    throw new Fault(
      'socket-directory-open',
      `other users can enter ${directory} (mode ${(mode & 0o777).toString(8)}): run chmod 700 on it, or choose another`,
      { retry: 'never' },
    );
  }
  await removeStale(path);
  await new Promise<void>((resolve, reject) => {
    const failed = (error: Error): void => {
      reject(
        errorCode(error) === 'EADDRINUSE'
          ? inUse(path)
          : new Fault('socket-failed', `cannot listen on ${path}: ${error.message}`, { retry: 'never', cause: error }),
      );
    };
    server.once('error', failed);
    server.listen(path, () => {
      server.off('error', failed);
      resolve();
    });
  });
  await chmod(path, 0o600);
}

/**
 * Connects to a local socket. The stream has an error handler only once its user adds one: do so at once.
 * Faults: `socket-path-too-long`, `peer-not-running` (retry later), `connection-broken`, `connection-timed-out`.
 */
export async function connectPrivately(path: string, timeoutMs: number): Promise<Socket> {
  checkPath(path);
  const socket = createConnection({ path });
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => {
      socket.destroy();
      reject(
        new Fault('connection-timed-out', `no answer at ${path} within ${String(timeoutMs)} ms`, { retry: 'later' }),
      );
    }, timeoutMs);
    const failed = (error: Error): void => {
      clearTimeout(timer);
      const code = errorCode(error);
      reject(
        code === 'ENOENT' || code === 'ECONNREFUSED'
          ? new Fault('peer-not-running', `nobody listens at ${path}: is its process running?`, {
              retry: 'later',
              cause: error,
            })
          : new Fault('connection-broken', `cannot connect to ${path}: ${error.message}`, {
              retry: 'later',
              cause: error,
            }),
      );
    };
    socket.once('error', failed);
    socket.once('connect', () => {
      clearTimeout(timer);
      socket.off('error', failed);
      resolve(socket);
    });
  });
}

function checkPath(path: string): void {
  const bytes = Buffer.byteLength(path);
  if (bytes > SOCKET_PATH_BYTES_MAX) {
    throw new Fault(
      'socket-path-too-long',
      `the socket path ${path} has ${String(bytes)} bytes; at most ${String(SOCKET_PATH_BYTES_MAX)} are safe: use a shorter folder`,
      { retry: 'never' },
    );
  }
}

async function removeStale(path: string): Promise<void> {
  try {
    const found = await lstat(path);
    if (!found.isSocket()) {
      throw new Fault('socket-failed', `${path} exists and is no socket: move it away`, { retry: 'never' });
    }
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return;
    throw error;
  }
  const alive = await new Promise<boolean>((resolve, reject) => {
    const probe = createConnection({ path });
    probe.once('connect', () => {
      probe.destroy();
      resolve(true);
    });
    probe.once('error', (error) => {
      const code = errorCode(error);
      if (code === 'ECONNREFUSED' || code === 'ENOENT') resolve(false);
      else
        reject(
          new Fault('socket-failed', `cannot tell who listens at ${path}: ${errorText(error)}`, {
            retry: 'later',
            cause: error,
          }),
        );
    });
  });
  if (alive) throw inUse(path);
  try {
    await unlink(path);
  } catch (error) {
    if (errorCode(error) !== 'ENOENT') throw error;
  }
}

function inUse(path: string): Fault {
  return new Fault('socket-in-use', `another process listens at ${path}: stop it first`, { retry: 'later' });
}
