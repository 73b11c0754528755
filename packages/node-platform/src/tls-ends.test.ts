import 'reflect-metadata';
import { KeyObject, webcrypto } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createConnection, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect, createSecureContext, TLSSocket } from 'node:tls';
import { type Rejection, rejection } from '@countermark/protocol/rejection';
import { BasicConstraintsExtension, type X509Certificate, X509CertificateGenerator } from '@peculiar/x509';
import { afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { rpcOver } from './rpc.ts';
import { relay } from './stream-relay.ts';
import { certificatePem, openSession, type SessionCredentials, type SessionServer, serveSessions } from './tls-ends.ts';

const P256 = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' };
const DAY_MS = 86_400_000;
const SERVER = 'cryptographic-device';
const DEVICE = 'psd_0123456789abcdef';

interface Issuer {
  readonly certificate: X509Certificate;
  readonly keys: webcrypto.CryptoKeyPair;
}

async function issuer(name: string): Promise<Issuer> {
  const keys = await webcrypto.subtle.generateKey(P256, true, ['sign', 'verify']);
  const certificate = await X509CertificateGenerator.createSelfSigned(
    {
      name: `CN=${name}`,
      keys,
      signingAlgorithm: P256,
      notBefore: new Date(Date.now() - 100 * DAY_MS),
      notAfter: new Date(Date.now() + 100 * DAY_MS),
      extensions: [new BasicConstraintsExtension(true, 0, true)],
    },
    webcrypto,
  );
  return { certificate, keys };
}

async function issue(
  by: Issuer,
  name: string,
  believes: Issuer,
  fromDays = -1,
  toDays = 1,
): Promise<SessionCredentials> {
  const keys = await webcrypto.subtle.generateKey(P256, true, ['sign', 'verify']);
  const certificate = await X509CertificateGenerator.create(
    {
      subject: `CN=${name}`,
      issuer: by.certificate.subject,
      publicKey: keys.publicKey,
      signingKey: by.keys.privateKey,
      signingAlgorithm: P256,
      notBefore: new Date(Date.now() + fromDays * DAY_MS),
      notAfter: new Date(Date.now() + toDays * DAY_MS),
    },
    webcrypto,
  );
  return {
    privateKey: KeyObject.from(keys.privateKey),
    certificate: certificate.toString('pem'),
    issuers: [believes.certificate.toString('pem')],
  };
}

let ours: Issuer;
let theirs: Issuer;
let serverEnd: SessionCredentials;
let deviceEnd: SessionCredentials;
beforeAll(async () => {
  ours = await issuer('our issuer');
  theirs = await issuer('their issuer');
  serverEnd = await issue(ours, SERVER, ours);
  deviceEnd = await issue(ours, DEVICE, ours);
});

let directory: string;
let path: string;
let received: Buffer[];
let sessions: string[];
let refusals: Rejection[];
let refused: Promise<void>;
const closing: (() => Promise<void>)[] = [];

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'tls-'));
  path = join(directory, 's.sock');
  received = [];
  sessions = [];
  refusals = [];
});
afterEach(async () => {
  for (const close of closing.splice(0)) await close();
  rmSync(directory, { recursive: true });
});

async function serve(
  credentials = serverEnd,
  refusalOf: (device: string, certificate: Uint8Array) => Rejection | null = () => null,
): Promise<SessionServer> {
  let tell: () => void = () => undefined;
  refused = new Promise((resolve) => {
    tell = resolve;
  });
  const server = await serveSessions(path, {
    credentials,
    refusalOf,
    onSession: (stream, deviceId) => {
      sessions.push(deviceId);
      stream.on('data', (bytes: Buffer) => {
        received.push(bytes);
        stream.write(bytes);
      });
    },
    onRefused: (rejection) => {
      refusals.push(rejection);
      tell();
    },
  });
  closing.push(() => server.close());
  return server;
}

function clientOf({ privateKey, certificate }: Partial<SessionCredentials>) {
  return { key: privateKey?.export({ type: 'pkcs8', format: 'pem' }), cert: certificate };
}

/** A client of Node's own making that sends application data as early as it can, whatever the server thinks of it. */
async function pushy(at: string, credentials: Partial<SessionCredentials>): Promise<void> {
  const socket = connect({
    path: at,
    rejectUnauthorized: false,
    minVersion: 'TLSv1.3',
    ...clientOf(credentials),
  });
  socket.on('error', () => undefined);
  socket.on('secureConnect', () => socket.write('application data'));
  socket.resume();
  await new Promise((resolve) => socket.once('close', resolve));
}

describe('the session', () => {
  it('carries bytes between device and server, each knowing the other, also through a relay', async () => {
    await serve();
    const relayPath = join(directory, 'relay.sock');
    const host: Server = createServer((socket) => void relay(socket, createConnection({ path })));
    host.listen(relayPath);
    await once(host, 'listening');
    closing.push(async () => {
      host.close();
      await once(host, 'close');
    });
    const opened = await openSession(createConnection({ path: relayPath }), {
      credentials: deviceEnd,
      serverName: SERVER,
    });
    if (!opened.ok) throw new Error(JSON.stringify(opened.rejection));
    const session = opened.value;
    session.write('a record');
    const [answer] = (await once(session, 'data')) as [Buffer];
    expect(answer.toString()).toBe('a record');
    expect(sessions).toEqual([DEVICE]);
    expect(session.getProtocol()).toBe('TLSv1.3');
    expect(session.isSessionReused()).toBe(false);
    session.end();
    await once(session, 'close');
  });

  it('goes on with new credentials of the server', async () => {
    const server = await serve();
    server.renew(await issue(ours, SERVER, ours));
    const opened = await openSession(createConnection({ path }), { credentials: deviceEnd, serverName: SERVER });
    if (!opened.ok) throw new Error(JSON.stringify(opened.rejection));
    opened.value.write('a record');
    await once(opened.value, 'data');
    opened.value.end();
    await once(opened.value, 'close');
  });
});

/** Whether a second session of the same client takes the first one up again, its ticket or identifier in hand. */
async function resumes(): Promise<boolean> {
  const open = async (
    session?: Buffer,
  ): Promise<{ readonly reused: boolean; readonly session: Buffer | undefined }> => {
    let given: Buffer | undefined;
    const client = connect({
      path,
      key: deviceEnd.privateKey.export({ type: 'pkcs8', format: 'pem' }),
      cert: deviceEnd.certificate,
      ca: [...deviceEnd.issuers],
      checkServerIdentity: () => undefined,
      ...(session === undefined ? {} : { session }),
    });
    client.on('session', (ticket: Buffer) => {
      given = ticket;
    });
    await once(client, 'secureConnect');
    client.write('a record');
    await once(client, 'data');
    const reused = client.isSessionReused();
    client.end();
    await once(client, 'close');
    return { reused, session: given };
  };
  const first = await open();
  return first.session === undefined ? false : (await open(first.session)).reused;
}

describe('no session is taken up again', () => {
  it('with the first credentials of the server', async () => {
    await serve();
    expect(await resumes()).toBe(false);
  });

  it('with renewed credentials of the server', async () => {
    const server = await serve();
    server.renew(await issue(ours, SERVER, ours));
    expect(await resumes()).toBe(false);
  });
});

describe('one device', () => {
  it('cannot take all the sessions for itself', async () => {
    await serve();
    const open = async () => {
      const opened = await openSession(createConnection({ path }), { credentials: deviceEnd, serverName: SERVER });
      if (!opened.ok) throw new Error(opened.rejection.code);
      opened.value.on('data', () => undefined);
      return opened.value;
    };
    const held = await Promise.all([open(), open(), open(), open()]);
    const fifth = await open();
    await once(fifth, 'close');
    expect(sessions).toHaveLength(4);
    expect(refusals.map(({ code }) => code)).toEqual(['session-failed']);
    const [first] = held;
    first.end();
    await once(first, 'close');
    const again = await open();
    again.write('a record');
    await once(again, 'data');
    expect(sessions).toHaveLength(5);
    for (const session of [...held, again]) session.destroy();
  });
});

describe('a certificate that the server’s user does not take any more', () => {
  const why = rejection('session-refused', { device: DEVICE, reason: 'it was withdrawn' });
  const asked: [string, string][] = [];
  const refusing = (device: string, certificate: Uint8Array): Rejection => {
    asked.push([device, certificatePem(certificate)]);
    return why;
  };

  it('gets the reason, inside TLS, and not a byte in', async () => {
    await serve(serverEnd, refusing);
    const opened = await openSession(createConnection({ path }), { credentials: deviceEnd, serverName: SERVER });
    if (!opened.ok) throw new Error(opened.rejection.code);
    const client = rpcOver(opened.value);
    expect(await client.call('submit', new Uint8Array(100_000))).toEqual({ ok: false, rejection: why });
    expect(await client.call('submit', 'once more')).toEqual({ ok: false, rejection: why });
    client.close();
    await pushy(path, deviceEnd);
    expect(received).toEqual([]);
    expect(sessions).toEqual([]);
    expect(refusals).toEqual([why, why]);
    const pem = (text: string) => text.replaceAll(/\s/g, '');
    expect(asked.map(([device, certificate]) => [device, pem(certificate)])).toEqual([
      [DEVICE, pem(deviceEnd.certificate)],
      [DEVICE, pem(deviceEnd.certificate)],
    ]);
  });

  it('does not keep the device out that has another', async () => {
    const valid = await issue(ours, DEVICE, ours);
    const pem = (text: string) => text.replaceAll(/\s/g, '');
    await serve(serverEnd, (_, certificate) =>
      pem(certificatePem(certificate)) === pem(valid.certificate) ? null : why,
    );
    const stale = Array.from({ length: 8 }, () => connect({ path, rejectUnauthorized: false, ...clientOf(deviceEnd) }));
    for (const socket of stale) socket.on('error', () => undefined);
    await Promise.all(stale.map((socket) => once(socket, 'data')));
    const opened = await openSession(createConnection({ path }), { credentials: valid, serverName: SERVER });
    if (!opened.ok) throw new Error(opened.rejection.code);
    opened.value.write('a record');
    await once(opened.value, 'data');
    expect(sessions).toEqual([DEVICE]);
    for (const socket of [...stale, opened.value]) socket.destroy();
  });
});

describe('not one byte gets through', () => {
  it.each([
    ['an untrusted certificate with our device id', async () => issue(theirs, DEVICE, ours), 'session-failed'],
    ['no certificate', async () => Promise.resolve({}), 'session-failed'],
    ['an expired certificate', async () => issue(ours, DEVICE, ours, -9, -1), 'session-clock'],
    ['a certificate that is not valid yet', async () => issue(ours, DEVICE, ours, 1, 9), 'session-clock'],
  ])('from a client with %s', async (_name, credentials, code) => {
    await serve();
    await pushy(path, await credentials());
    await refused;
    expect(sessions).toEqual([]);
    expect(received).toEqual([]);
    expect(refusals.map((rejection) => rejection.code)).toEqual([code]);
  });

  it('while the same client does get through to a bare TLSSocket: this test can see the trap', async () => {
    const server = createServer((socket) => {
      const bare = new TLSSocket(socket, {
        // eslint-disable-next-line no-restricted-syntax -- the trap itself, shown to be one
        isServer: true,
        requestCert: true,
        rejectUnauthorized: true,
        secureContext: createSecureContext({
          key: serverEnd.privateKey.export({ type: 'pkcs8', format: 'pem' }),
          cert: serverEnd.certificate,
          ca: [...serverEnd.issuers],
        }),
      });
      bare.on('error', () => undefined);
      bare.on('data', (bytes) => {
        received.push(bytes);
        bare.destroy();
      });
    });
    server.listen(path);
    await once(server, 'listening');
    closing.push(async () => {
      server.close();
      await once(server, 'close');
    });
    await pushy(path, await issue(theirs, DEVICE, ours));
    expect(Buffer.concat(received).toString()).toBe('application data');
  });

  it('from a client of TLS 1.2', async () => {
    await serve();
    const socket = connect({ path, rejectUnauthorized: false, maxVersion: 'TLSv1.2' });
    socket.on('error', () => undefined);
    await new Promise((resolve) => socket.once('close', resolve));
    await refused;
    expect(sessions).toEqual([]);
  });
});

describe('the device does not speak to', () => {
  it.each([
    ['a server of another issuer', async () => issue(theirs, SERVER, ours), 'session-failed'],
    ['a server of another name, such as another device', async () => issue(ours, DEVICE, ours), 'session-failed'],
    [
      'a server whose certificate has expired by our clock',
      async () => issue(ours, SERVER, ours, -9, -1),
      'session-clock',
    ],
    [
      'a server whose certificate is not valid yet by our clock',
      async () => issue(ours, SERVER, ours, 1, 9),
      'session-clock',
    ],
  ])('%s', async (_name, credentials, code) => {
    await serve(await credentials());
    const opened = await openSession(createConnection({ path }), { credentials: deviceEnd, serverName: SERVER });
    expect(opened).toMatchObject({ ok: false, rejection: { code } });
    expect(sessions).toEqual([]);
  });

  it('one that closes, stays silent, or speaks no TLS', async () => {
    for (const behave of [
      (socket: Socket) => socket.destroy(),
      () => undefined,
      (socket: Socket) => socket.end('HTTP/1.1 400 Bad Request\r\n\r\n'),
    ]) {
      const server = createServer((socket) => {
        socket.on('error', () => undefined);
        socket.resume();
        behave(socket);
      });
      server.listen(path);
      await once(server, 'listening');
      const opened = await openSession(createConnection({ path }), {
        credentials: deviceEnd,
        serverName: SERVER,
        handshakeTimeoutMs: 100,
      });
      expect(opened).toMatchObject({ ok: false, rejection: { code: 'session-failed' } });
      server.close();
      await once(server, 'close');
    }
  });
});
