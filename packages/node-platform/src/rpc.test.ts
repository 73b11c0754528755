import { spawnSync } from 'node:child_process';
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createConnection } from 'node:net';
import { Duplex } from 'node:stream';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type CborValue, encode } from '@countermark/protocol/cbor';
import { rejection } from '@countermark/protocol/rejection';
import { accept, refuse } from '@countermark/protocol/result';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Fault } from './fault.ts';
import {
  connectRpc,
  lazyRpc,
  type RpcClient,
  type RpcHandlers,
  type RpcListenOptions,
  type RpcServer,
  serveRpc,
  serveRpcOn,
} from './rpc.ts';

let directory: string;
let path: string;
const servers: RpcServer[] = [];
const clients: RpcClient[] = [];

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'rpc-'));
  path = join(directory, 'run', 'x.sock');
});
afterEach(async () => {
  for (const client of clients.splice(0)) client.close();
  for (const server of servers.splice(0)) await server.close(50);
  rmSync(directory, { recursive: true });
});

async function serve(handlers: RpcHandlers, options?: RpcListenOptions): Promise<RpcServer> {
  const server = await serveRpc(path, handlers, { onFault: () => undefined, ...options });
  servers.push(server);
  return server;
}
async function connect(timeoutMs = 5_000): Promise<RpcClient> {
  const client = await connectRpc(path, { timeoutMs });
  clients.push(client);
  return client;
}

const echo: RpcHandlers = { echo: (parameters) => accept(parameters) };

describe('calls', () => {
  it('answer with a value, a rejection, or progress and a value', async () => {
    await serve({
      ...echo,
      refuse: () => refuse(rejection('unknown-operation', { operation: 'x' })),
      count: async (_parameters, { progress }) => {
        for (let step = 0; step < 3; step += 1) await progress(step);
        return accept('done');
      },
    });
    const client = await connect();
    const value: CborValue = new Map<CborValue, CborValue>([
      ['amount', 2n ** 63n],
      ['bytes', new Uint8Array([1, 2])],
    ]);
    expect(await client.call('echo', value)).toEqual({ ok: true, value });
    expect(await client.call('refuse', null)).toEqual({
      ok: false,
      rejection: { code: 'unknown-operation', detail: { operation: 'x' } },
    });
    const seen: CborValue[] = [];
    expect(await client.call('count', null, { onProgress: (step) => seen.push(step) })).toEqual({
      ok: true,
      value: 'done',
    });
    expect(seen).toEqual([0, 1, 2]);
  });

  it('refuse an unknown operation, also one that every object has', async () => {
    await serve(echo);
    const client = await connect();
    for (const operation of ['nothing', 'constructor', '__proto__']) {
      expect(await client.call(operation, null)).toMatchObject({ ok: false, rejection: { code: 'unknown-operation' } });
    }
  });

  it('turn a fault of a handler into a fault of the caller with its id, and serve on', async () => {
    const told: string[] = [];
    await serve(
      {
        ...echo,
        broken: () => {
          throw new Fault('store-full', 'the disk is full', { retry: 'later' });
        },
        huge: () => accept(new Uint8Array(5 * 1024 * 1024)),
      },
      { onFault: (id, operation) => told.push(`${operation} ${id}`) },
    );
    const client = await connect();
    const fault: unknown = await client.call('broken', null).catch((error: unknown) => error);
    expect(fault).toMatchObject({ code: 'internal-fault', retry: 'later' });
    expect((fault as Error).message).toContain(told[0]?.split(' ')[1]);
    expect((fault as Error).message).toContain('the disk is full');
    await expect(client.call('huge', null)).rejects.toMatchObject({ code: 'internal-fault' });
    expect(await client.call('echo', 1)).toEqual({ ok: true, value: 1 });
  });

  it('answer in any order, and hold a peer back at the bound without dropping a call', async () => {
    let inHand = 0;
    let most = 0;
    await serve(
      {
        wait: async (parameters) => {
          inHand += 1;
          most = Math.max(most, inHand);
          await new Promise((resolve) => setImmediate(resolve));
          inHand -= 1;
          return accept(parameters);
        },
      },
      { pendingMax: 4 },
    );
    const client = await connect();
    const asked = Array.from({ length: 200 }, async (_, index) => client.call('wait', index));
    expect((await Promise.all(asked)).map((answer) => (answer.ok ? answer.value : -1))).toEqual(
      asked.map((_, index) => index),
    );
    expect(most).toBe(4);
  });

  it.each([
    ['operations that do not exist', 'none'],
    ['operations that fail', 'fail'],
  ])('hold back a peer that asks for %s and reads no answer', async (_name, operation) => {
    let answers = 0;
    const stream = new Duplex({
      highWaterMark: 64,
      read: () => undefined,
      // Never done: the peer reads nothing.
      writev: (chunks) => {
        answers += chunks.length;
      },
    });
    const peer = serveRpcOn(
      stream,
      {
        fail: () => {
          throw new Error('a fault');
        },
      },
      { pendingMax: 8, onFault: () => undefined },
    );
    for (let id = 0; id < 200; id += 1) {
      const frame = encode([id, operation, null]);
      stream.push(Buffer.concat([Buffer.of(0, 0, 0, frame.length), frame]));
      await new Promise((taken) => setImmediate(taken));
    }
    expect(stream.writableLength).toBeGreaterThan(64);
    expect(stream.writableLength).toBeLessThan(20 * 200);
    expect(answers).toBeLessThan(12);
    stream.destroy();
    await peer.ended;
  });

  it('refuse a request over the frame bound without ending the connection', async () => {
    await serve(echo);
    const client = await connect();
    await expect(client.call('echo', new Uint8Array(4 * 1024 * 1024))).rejects.toMatchObject({
      code: 'frame-too-large',
    });
    const large = new Uint8Array(4 * 1024 * 1024 - 64);
    const answer = await client.call('echo', large);
    expect(answer.ok && answer.value instanceof Uint8Array ? answer.value.length : 0).toBe(large.length);
  });

  it('end with a fault that says retry when the peer goes, and go on with a lazy client', async () => {
    const arrived = deferred();
    const gone = deferred();
    await serve({
      never: (_parameters, { signal }) => {
        signal.addEventListener('abort', gone.resolve);
        arrived.resolve(undefined);
        return new Promise(() => undefined);
      },
    });
    const client = lazyRpc(path);
    clients.push(client);
    const call = client.call('never', null);
    await arrived.promise;
    await Promise.all([
      servers.pop()?.close(10),
      gone.promise,
      expect(call).rejects.toMatchObject({ code: 'connection-broken', retry: 'now' }),
    ]);
    await expect(client.call('echo', 1)).rejects.toMatchObject({ code: 'peer-not-running', retry: 'later' });
    await serve(echo);
    expect(await client.call('echo', 1)).toEqual({ ok: true, value: 1 });
  });

  it('end when no answer comes in time, and when they are given up', async () => {
    await serve({ never: () => new Promise(() => undefined), ...echo });
    const client = await connect(20);
    await expect(client.call('never', null)).rejects.toMatchObject({ code: 'call-timed-out' });
    const controller = new AbortController();
    const call = client.call('never', null, { signal: controller.signal, timeoutMs: 0 });
    controller.abort();
    await expect(call).rejects.toMatchObject({ code: 'call-abandoned' });
    expect(await client.call('echo', 1)).toEqual({ ok: true, value: 1 });
  });

  it('lets calls in hand finish at closing', async () => {
    let finish: () => void = () => undefined;
    let asked: () => void = () => undefined;
    const arrived = new Promise<void>((resolve) => {
      asked = resolve;
    });
    const server = await serve({
      slow: () =>
        new Promise((resolve) => {
          finish = () => {
            resolve(accept('finished'));
          };
          asked();
        }),
    });
    const client = await connect();
    const call = client.call('slow', null);
    await arrived;
    const closed = server.close(5_000);
    finish();
    expect(await call).toEqual({ ok: true, value: 'finished' });
    await closed;
  });
});

describe('a hostile peer', () => {
  const frame = (bytes: Uint8Array): Buffer => {
    const length = Buffer.alloc(4);
    length.writeUInt32BE(bytes.length);
    return Buffer.concat([length, bytes]);
  };
  it.each([
    ['an oversized length', Buffer.from('ffffffff00', 'hex')],
    ['bytes that are no CBOR', frame(Buffer.from('ff', 'hex'))],
    ['CBOR that is not deterministic', frame(Buffer.from('8318006161f6', 'hex'))],
    ['a request without parameters', frame(encode([1, 'echo']))],
    ['a negative id', frame(encode([-1, 'echo', null]))],
    ['an empty frame', frame(new Uint8Array())],
  ])('is cut off after %s, and others are served', async (_name, bytes) => {
    await serve(echo);
    const socket = createConnection({ path });
    socket.on('error', () => undefined);
    const closed = new Promise((resolve) => socket.once('close', resolve));
    socket.resume();
    socket.write(bytes);
    await closed;
    expect(await (await connect()).call('echo', 1)).toEqual({ ok: true, value: 1 });
  });

  it('may send a request byte by byte, and several in one write', async () => {
    await serve(echo);
    const socket = createConnection({ path });
    socket.on('error', () => undefined);
    const received: Buffer[] = [];
    const expected = Buffer.concat([1, 2, 3].map((id) => frame(encode([id, 0, 'x']))));
    const all = new Promise<void>((resolve) => {
      socket.on('data', (chunk: Buffer) => {
        received.push(chunk);
        if (Buffer.concat(received).length >= expected.length) resolve();
      });
    });
    for (const byte of frame(encode([1, 'echo', 'x']))) socket.write(Uint8Array.of(byte));
    socket.write(Buffer.concat([frame(encode([2, 'echo', 'x'])), frame(encode([3, 'echo', 'x']))]));
    await all;
    expect(Buffer.concat(received)).toEqual(expected);
    socket.destroy();
  });

  it('may leave while an answer is on its way', async () => {
    await serve({ ...echo, big: () => accept(new Uint8Array(3 * 1024 * 1024)) });
    const socket = createConnection({ path });
    socket.on('error', () => undefined);
    await new Promise<void>((resolve) =>
      socket.write(frame(encode([1, 'big', null])), () => {
        resolve();
      }),
    );
    socket.destroy();
    expect(await (await connect()).call('echo', 1)).toEqual({ ok: true, value: 1 });
  });
});

describe('the socket', () => {
  it('lies in a directory of mode 0700, and has mode 0600', async () => {
    await serve(echo);
    expect(statSync(join(directory, 'run')).mode & 0o777).toBe(0o700);
    expect(statSync(path).mode & 0o777).toBe(0o600);
  });
  it('is refused in a directory that others can enter', async () => {
    await serve(echo);
    chmodSync(directory, 0o755);
    await expect(serveRpc(join(directory, 'y.sock'), echo)).rejects.toMatchObject({ code: 'socket-directory-open' });
  });
  it('is refused with a path of more than 100 bytes', async () => {
    await expect(serveRpc(join(directory, 'é'.repeat(50), 'x.sock'), echo)).rejects.toMatchObject({
      code: 'socket-path-too-long',
    });
  });
  it('is not taken from a living process, but a stale one is replaced', async () => {
    await serve(echo);
    await expect(serveRpc(path, echo)).rejects.toMatchObject({ code: 'socket-in-use' });
    await servers.pop()?.close(50);
    // A socket file without a listener: what SIGKILL leaves behind.
    spawnSync(process.execPath, [
      '-e',
      `require('net').createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, 'SIGKILL'))`,
    ]);
    expect(existsSync(path)).toBe(true);
    await serve(echo);
    expect(await (await connect()).call('echo', 1)).toEqual({ ok: true, value: 1 });
  });
  it('never replaces a file that is no socket', async () => {
    await serve(echo);
    writeFileSync(`${path}.txt`, 'mine');
    await expect(serveRpc(`${path}.txt`, echo)).rejects.toMatchObject({ code: 'socket-failed' });
    expect(readFileSync(`${path}.txt`, 'utf8')).toBe('mine');
  });
  it('turns connections beyond its bound away', async () => {
    await serve(echo, { connectionsMax: 1 });
    const first = await connect();
    await first.call('echo', 1);
    const second = await connect();
    await expect(second.call('echo', 1)).rejects.toMatchObject({ code: 'connection-broken' });
    expect(await first.call('echo', 1)).toEqual({ ok: true, value: 1 });
  });
});

function deferred(): { promise: Promise<unknown>; resolve: (value: unknown) => void } {
  let resolve: (value: unknown) => void = () => undefined;
  const promise = new Promise((settle) => {
    resolve = settle;
  });
  return { promise, resolve };
}
