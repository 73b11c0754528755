/**
 * TLS at the server: it answers by TLS 1.3 with the certificate of its configuration, sessions too, and nothing without it; what would leave
 * the machine unprotected does not start, at no party.
 */
import { webcrypto } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { type IncomingMessage, request as plainRequest } from 'node:http';
import { request } from 'node:https';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { TLSSocket } from 'node:tls';
import 'reflect-metadata';
import { parseConfig as parseAuthorityConfig } from '@countermark/authority/config';
import { completeSettings } from '@countermark/cli/configuration';
import { askServer } from '@countermark/cli/registration';
import { parseHostConfig } from '@countermark/host/config';
import { parseConfig as parseServerConfig } from '@countermark/server/config';
import { SubjectAlternativeNameExtension, X509CertificateGenerator } from '@peculiar/x509';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { licensee, type Parties, startParties } from './server-parties.ts';

const folder = mkdtempSync(join(tmpdir(), 'cms-tls-'));
const certFile = join(folder, 'cert.pem');
const keyFile = join(folder, 'key.pem');
let pem: string;
let parties: Parties;
let host: string;

beforeAll(async () => {
  const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' };
  const keys = await webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify']);
  const certificate = await X509CertificateGenerator.createSelfSigned(
    {
      name: 'CN=localhost',
      notBefore: new Date(Date.now() - 86_400_000),
      notAfter: new Date(Date.now() + 86_400_000),
      keys,
      signingAlgorithm: algorithm,
      extensions: [new SubjectAlternativeNameExtension([{ type: 'ip', value: '127.0.0.1' }])],
    },
    webcrypto,
  );
  pem = certificate.toString('pem');
  const key = Buffer.from(await webcrypto.subtle.exportKey('pkcs8', keys.privateKey)).toString('base64');
  writeFileSync(certFile, pem);
  writeFileSync(keyFile, `-----BEGIN PRIVATE KEY-----\n${key}\n-----END PRIVATE KEY-----\n`, { mode: 0o600 });
  // The shared helpers ask by fetch, which knows no certificate of ours: the credential is made before TLS is on.
  parties = await startParties({ settings: {} });
  host = await licensee(parties, 'lic_tls');
  await parties.restart(undefined, { listen: { host: '127.0.0.1', port: 0, tls: { certFile, keyFile } } });
});
afterAll(async () => {
  await parties.stop();
  rmSync(folder, { recursive: true });
});

const authorization = (): string => `Bearer ${host}`;
const answered = (path: string, options: object): Promise<IncomingMessage> =>
  new Promise((resolve, reject) => {
    const asked = request(new URL(path, parties.service.url), { agent: false, ca: pem, ...options });
    asked.on('response', (response) => {
      response.resume();
      resolve(response);
    });
    asked.on('upgrade', resolve);
    asked.on('error', reject);
    asked.end();
  });

describe('With a certificate, the server', () => {
  it('says so in its URL, and speaks TLS 1.3 and nothing older', async () => {
    expect(parties.service.url).toMatch(/^https:/);
    const response = await answered('/v1/licensees/lic_tls/accounts', { headers: { authorization: authorization() } });
    expect(response.statusCode).toBe(200);
    const { socket } = response;
    expect(socket instanceof TLSSocket && socket.getProtocol()).toBe('TLSv1.3');
    await expect(answered('/health', { maxVersion: 'TLSv1.2' })).rejects.toThrow();
    await expect(answered('/health', { ca: undefined })).rejects.toThrow(/self-signed/);
  });

  it('relays sessions within it', async () => {
    const headers = { connection: 'Upgrade', upgrade: 'countermark-session', authorization: authorization() };
    const upgraded = await answered('/v1/session', { headers });
    expect(upgraded.statusCode).toBe(101);
    upgraded.socket.destroy();
  });

  it('does not answer who comes without', async () => {
    const asked = new Promise((resolve, reject) => {
      const url = new URL('/health', parties.service.url.replace('https:', 'http:'));
      plainRequest(url, { agent: false }, resolve).on('error', reject).end();
    });
    await expect(asked).rejects.toThrow();
  });
});

describe('What would leave the machine without TLS', () => {
  const credential = 'ab'.repeat(32);
  const server = {
    data: '/d',
    listen: { host: '127.0.0.1', port: 0 },
    trustBundle: '/t',
    cdSocket: '/a',
    cdSessionSocket: '/b',
    acceptanceSocket: '/c',
    authority: { url: 'http://127.0.0.1/', credential },
    operatorCredential: credential,
  };
  const authority = { data: '/d', listen: { host: '127.0.0.1', port: 0 }, trustBundle: '/t', credential };
  const hostConfig = {
    data: '/d',
    socket: '/s',
    psdSocket: '/p',
    psdSessionSocket: '/q',
    server: { url: 'http://127.0.0.1:1', credential },
    trustBundle: '/t',
    licensee: 'lic_a',
    submitter: 'S',
    preparer: 'P',
  };
  const far = { host: '10.0.0.1', port: 1 };
  const database = 'postgres://u:secret@10.0.0.2/n';
  const refused = { rejection: { code: 'insecure-address' } };

  it('does not start: server, authority and host refuse the configuration, the command line its settings', () => {
    expect([parseServerConfig(server), parseAuthorityConfig(authority), parseHostConfig(hostConfig)]).toMatchObject([
      { ok: true },
      { ok: true },
      { ok: true },
    ]);
    expect(parseServerConfig({ ...server, listen: far })).toMatchObject(refused);
    expect(parseServerConfig({ ...server, authority: { url: 'http://10.0.0.1/', credential } })).toMatchObject(refused);
    expect(parseServerConfig({ ...server, database })).toMatchObject(refused);
    expect(parseServerConfig({ ...server, database: `${database}?sslmode=verify-full` })).toMatchObject({ ok: true });
    expect(parseServerConfig({ ...server, listen: { ...far, tls: { certFile, keyFile } } })).toMatchObject({
      ok: true,
    });
    expect(parseAuthorityConfig({ ...authority, listen: far })).toMatchObject(refused);
    expect(parseAuthorityConfig({ ...authority, database })).toMatchObject(refused);
    expect(parseHostConfig({ ...hostConfig, server: { url: 'http://10.0.0.1', credential } })).toMatchObject(refused);
    expect(completeSettings({ listen: '0.0.0.0' }, 'f')).toMatchObject(refused);
    expect(completeSettings({ database }, 'f')).toMatchObject(refused);
    expect(completeSettings({ certificate: '/c' }, 'f')).toMatchObject({ rejection: { code: 'config-invalid' } });
    expect(completeSettings({ listen: 'a.example', certificate: '/c', certificateKey: '/k' }, 'f')).toMatchObject({
      ok: true,
    });
  });

  it('is not sent: no credential leaves by the command line', async () => {
    await expect(askServer({ url: 'http://10.0.0.1:9/', credential }, 'GET', '/v1/people')).rejects.toMatchObject(
      refused,
    );
  });
});
