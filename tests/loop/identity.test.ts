/**
 * The X.509 certificate of a device in the whole loop: it comes with the enrolment, with each rotation, and again where the products that the
 * policy allows are others; the host shows it without the server, and openssl takes it.
 */
import { spawnSync } from 'node:child_process';
import { X509Certificate } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type CertificateAnswer, HOST } from '@countermark/protocol/interfaces/host';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Line, startInstallation, type TestInstallation } from '../installation.ts';
import { countermark } from '../line-command.ts';

const LICENSEE = 'lic_named';
const folder = mkdtempSync(join(tmpdir(), 'identity-'));
const withoutOpenssl = spawnSync('openssl', ['version']).error !== undefined;
let installation: TestInstallation;
let line: Line;

beforeAll(async () => {
  installation = await startInstallation();
  line = await installation.line({ licensee: LICENSEE, pages: false });
});
afterAll(async () => {
  await installation.stop();
  rmSync(folder, { recursive: true, force: true });
});

const shown = async (): Promise<CertificateAnswer> => {
  const asked = await countermark(line, 'device', 'certificate');
  expect(asked.exit, asked.stderr).toBe(0);
  return asked.json as unknown as CertificateAnswer;
};

/** Whether it says exactly this besides device, licensee, procedure and certification. */
const expectSays = ({ certificate, device }: CertificateAnswer, epoch: number, ...products: string[]): void => {
  const said = [`device:${device}`, `licensee:${LICENSEE}`, `epoch:${epoch}`, 'authentication:signature'];
  const names = [...said, 'certified:false', ...products].map((what) => `URI:urn:countermark:${what}`);
  expect(new X509Certificate(certificate).subjectAltName).toBe(names.join(', '));
};

test('is there after the enrolment and after a rotation, server or no server, and follows the products of the policy', async () => {
  const { server } = installation.processes;
  await server.stop();
  const first = await shown();
  expectSays(first, 1, 'products:all');
  expect((await shown()).certificate).toBe(first.certificate);
  await server.start();
  expect((await line.host.call(HOST.rotate, {})).epoch).toBe(2);
  await server.stop();
  const second = await shown();
  expectSays(second, 2, 'products:all');
  expect(second.certificate).not.toBe(first.certificate);

  const config = join(installation.paths.run, 'server.json');
  const settings = JSON.parse(readFileSync(config, 'utf8')) as object;
  writeFileSync(config, JSON.stringify({ ...settings, policy: { products: ['first-class'] } }));
  await server.start();
  // The device has the old policy yet: the server's newest names other products than it.
  expectSays(await shown(), 2, 'products:all');
  await line.host.call(HOST.enrol, {});
  expect((await line.device()).products).toEqual(['first-class']);
  await server.stop();
  expectSays(await shown(), 2, 'product:first-class');
  await server.start();
});

test.skipIf(withoutOpenssl)('is what openssl verifies under the authority that the device has pinned', async () => {
  const at = (name: string): string => join(folder, name);
  const { certificate, authority } = await shown();
  const { sessionAuthority } = JSON.parse(readFileSync(installation.trustBundle, 'utf8')) as Record<string, string>;
  const pinned = new X509Certificate(Buffer.from(String(sessionAuthority), 'hex'));
  expect(new X509Certificate(authority).fingerprint256).toBe(pinned.fingerprint256);
  writeFileSync(at('device.pem'), certificate);
  writeFileSync(at('authority.pem'), authority);
  const openssl = (...args: string[]) => spawnSync('openssl', args, { encoding: 'utf8' });
  expect(openssl('verify', '-CAfile', at('authority.pem'), at('device.pem')).stdout).toContain('device.pem: OK');
  const { stdout } = openssl('x509', '-in', at('device.pem'), '-noout', '-text');
  expect(stdout).toContain(`O = ${LICENSEE}`);
  for (const what of ['epoch:2', `licensee:${LICENSEE}`, 'product:first-class']) {
    expect(stdout).toContain(`URI:urn:countermark:${what}`);
  }
  // Another authority of the same name.
  const other = ['-x509', '-nodes', '-subj', '/CN=countermark session authority', '-keyout', at('k'), '-out', at('o')];
  openssl('req', '-newkey', 'rsa:2048', ...other);
  expect(openssl('verify', '-CAfile', at('o'), at('device.pem')).status).not.toBe(0);
});
