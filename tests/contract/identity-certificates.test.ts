/**
 * X.509 certificates of signature keys: only for the device's own certified key, on its own request, and readable by others' programs.
 */
import { execFileSync } from 'node:child_process';
import { X509Certificate } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { generateSigningKey, publicKeyBytes } from '@countermark/node-platform/signing';
import type { LicenseeId } from '@countermark/protocol/id';
import { CRYPTOGRAPHIC_DEVICE } from '@countermark/protocol/interfaces/cryptographic-device';
import { certificateRequest } from '@countermark/psd/shell/certificate-request';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { SimulatedDevice } from '../../bench/src/simulated-device.ts';
import { ask, enrolled, licensee, type Parties, startParties, value } from './server-parties.ts';

const ID = 'lic_named';
let parties: Parties;
let credential: string;
let device: SimulatedDevice;
const folder = mkdtempSync(join(tmpdir(), 'identity-'));
const hasOpenssl = (() => {
  try {
    return execFileSync('openssl', ['version']).toString().startsWith('OpenSSL');
  } catch {
    return false;
  }
})();

beforeAll(async () => {
  parties = await startParties();
  credential = await licensee(parties, ID);
  device = await enrolled(parties, credential, ID);
});
afterAll(async () => {
  await parties.stop();
  rmSync(folder, { recursive: true });
});

const identify = (request: Uint8Array) => parties.call(CRYPTOGRAPHIC_DEVICE.identify, { request });
const request = () => certificateRequest(device.device, device.signatureKey);

describe('The X.509 certificate of a device', () => {
  it('names device, licensee, epoch, procedure, and whether it is certified; its key is the signature key', async () => {
    const { certificate, authority } = value(await identify(request()));
    const x509 = new X509Certificate(certificate);
    expect(x509.subject).toBe(`CN=${device.device}\nO=${ID}`);
    expect(publicKeyBytes(x509.publicKey)).toEqual(publicKeyBytes(device.signatureKey));
    const said = { device: device.device, licensee: ID, epoch: 1, authentication: 'signature', certified: false };
    expect(x509.subjectAltName?.split(', ')).toEqual(
      Object.entries(said).map(([name, what]) => `URI:urn:countermark:${name}:${what}`),
    );
    expect(x509.ca).toBe(false);
    // Not for sessions: 1.3.6.1.5.5.7.3.2 would be a client's.
    expect(x509.keyUsage).toEqual(['1.3.6.1.5.5.7.3.36']);
    expect(x509.verify(new X509Certificate(authority).publicKey)).toBe(true);
    expect(Buffer.from(authority).equals(Buffer.from(parties.bundle.sessionAuthority))).toBe(true);
  });

  it('is issued on the word of its own certified key only', async () => {
    const strange = certificateRequest(device.device, generateSigningKey().privateKey);
    expect(await identify(strange)).toMatchObject({ rejection: { code: 'unknown-device' } });
    const nobody = new SimulatedDevice(ID as LicenseeId);
    expect(await identify(certificateRequest(nobody.device, nobody.signatureKey))).toMatchObject({
      rejection: { code: 'unknown-device' },
    });
    const altered = request();
    altered.set([(altered.at(-1) ?? 0) ^ 1], altered.length - 1);
    expect(await identify(altered)).toMatchObject({ ok: false });
    const renamed = Buffer.from(request());
    renamed.write(nobody.device, renamed.indexOf(device.device));
    expect(await identify(new Uint8Array(renamed))).toMatchObject({ rejection: { code: 'bad-authenticator' } });
    expect(await identify(new Uint8Array([0x30, 0]))).toMatchObject({ rejection: { code: 'malformed' } });
    const unnamed = certificateRequest('somebody', device.signatureKey);
    expect(await identify(unnamed)).toMatchObject({ rejection: { code: 'malformed' } });
  });

  it('is to be had by the licensee of the device, and by none for a withdrawn one', async () => {
    const path = `/v1/devices/${device.device}/identity-certificate`;
    const body = { request: Buffer.from(request()).toString('base64url') };
    expect((await ask(parties, credential, path, body)).status).toBe(201);
    const other = await licensee(parties, 'lic_named-other');
    expect((await ask(parties, other, path, body)).status).toBe(401);
    const gone = await enrolled(parties, credential, ID);
    const withdrawal = `/v1/devices/${gone.device}/withdrawal`;
    expect((await ask(parties, parties.operator, withdrawal, { reason: 'sold' })).status).toBe(200);
    expect(await identify(certificateRequest(gone.device, gone.signatureKey))).toMatchObject({
      rejection: { code: 'device-withdrawn' },
    });
  });

  it.skipIf(!hasOpenssl)('and its request are what openssl takes them for', async () => {
    const at = (name: string): string => join(folder, name);
    const openssl = (...args: string[]): string =>
      execFileSync('openssl', args, { stdio: ['ignore', 'pipe', 'pipe'] }).toString();
    const { certificate, authority } = value(await identify(request()));
    writeFileSync(at('request.der'), request());
    writeFileSync(at('device.pem'), new X509Certificate(certificate).toString());
    writeFileSync(at('authority.pem'), new X509Certificate(authority).toString());
    expect(openssl('verify', '-CAfile', at('authority.pem'), at('device.pem'))).toContain('device.pem: OK');
    const text = openssl('x509', '-in', at('device.pem'), '-noout', '-text');
    expect(text).toContain(`Subject: CN = ${device.device}, O = ${ID}`);
    expect(text).toContain(`URI:urn:countermark:epoch:1`);
    expect(() =>
      openssl('verify', '-purpose', 'sslclient', '-CAfile', at('authority.pem'), at('device.pem')),
    ).toThrow();
    const asked = openssl('req', '-inform', 'DER', '-in', at('request.der'), '-noout', '-verify', '-text');
    expect(asked).toContain(`CN = ${device.device}`);
  });
});
