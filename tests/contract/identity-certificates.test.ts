/**
 * X.509 certificates of signature keys: only for the device's own certified key, on its own request, and readable by others' programs.
 */
import { execFileSync } from 'node:child_process';
import { X509Certificate } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { identityProblem } from '@countermark/host/identity-certificate';
import { ManualClock } from '@countermark/node-platform/manual-clock';
import { generateSigningKey, publicKeyBytes } from '@countermark/node-platform/signing';
import { sha256 } from '@countermark/node-platform/verification';
import { type CeremonyId, hex, type LicenseeId } from '@countermark/protocol/id';
import { enrolmentCodeDigest } from '@countermark/protocol/identity-name';
import { CRYPTOGRAPHIC_DEVICE } from '@countermark/protocol/interfaces/cryptographic-device';
import type { DeviceStatus } from '@countermark/protocol/interfaces/psd';
import type { DeviceCertificate } from '@countermark/protocol/messages/enrolment';
import { policySchema } from '@countermark/protocol/messages/policy';
import { encodeWith } from '@countermark/protocol/schema';
import { certificateRequest } from '@countermark/psd/shell/certificate-request';
import { signingKey } from '@countermark/psd/shell/keys';
import { DEFAULT_POLICY } from '@countermark/server/policies';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { SimulatedDevice } from '../../bench/src/simulated-device.ts';
import { ask, enrolled, invited, licensee, type Parties, startParties, value } from './server-parties.ts';

const ID = 'lic_named';
const HOUR_MS = 3_600_000;
/** Behind, so that two rotations, an hour apart at least, are over by now. */
const deviceClock = new ManualClock(Date.now() - 3 * HOUR_MS);
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
  parties = await startParties({ deviceClock });
  credential = await licensee(parties, ID);
  device = await enrolled(parties, credential, ID);
});
afterAll(async () => {
  await parties.stop();
  rmSync(folder, { recursive: true });
});

const signing = (of: SimulatedDevice) => signingKey(of.signatureKey);
const request = () => certificateRequest(device.device, signing(device));
/** A policy as the server has it signed. */
const policy = async (products?: readonly string[], of = device.device): Promise<Uint8Array> => {
  const said = { ...DEFAULT_POLICY, device: of, licensee: ID as LicenseeId, version: 1, customers: [] };
  const unsigned = encodeWith(policySchema, {
    ...said,
    ...(products === undefined ? {} : { products: [...products] }),
  });
  return value(await parties.call(CRYPTOGRAPHIC_DEVICE.signPolicy, { policy: unsigned })).policy;
};
const identify = async (request: Uint8Array, products?: readonly string[]) =>
  parties.call(CRYPTOGRAPHIC_DEVICE.identify, { request, policy: await policy(products) });

describe('The X.509 certificate of a device', () => {
  it('names device, licensee, epoch, procedure, and whether it is certified; its key is the signature key', async () => {
    const { certificate, authority } = value(await identify(request()));
    const x509 = new X509Certificate(certificate);
    expect(x509.subject).toBe(`CN=${device.device}\nO=${ID}`);
    expect(publicKeyBytes(x509.publicKey)).toEqual(publicKeyBytes(device.signatureKey));
    const said = [
      `device:${device.device}`,
      `licensee:${ID}`,
      'epoch:1',
      'authentication:signature',
      'certified:false',
    ];
    const names = (products: string[]) => [...said, ...products].map((what) => `URI:urn:countermark:${what}`);
    expect(x509.subjectAltName?.split(', ')).toEqual(names(['products:all']));
    const bound = value(await identify(request(), ['first-class', 'marketing'])).certificate;
    expect(new X509Certificate(bound).subjectAltName?.split(', ')).toEqual(
      names(['product:first-class', 'product:marketing']),
    );
    expect(x509.ca).toBe(false);
    // Not for sessions: 1.3.6.1.5.5.7.3.2 would be a client's.
    expect(x509.keyUsage).toEqual(['1.3.6.1.5.5.7.3.36']);
    expect(x509.verify(new X509Certificate(authority).publicKey)).toBe(true);
    expect(Buffer.from(authority).equals(Buffer.from(parties.bundle.sessionAuthority))).toBe(true);
  });

  it('names the products of a policy that was signed for that device, and of no other', async () => {
    const signed = await policy(['first-class']);
    const asked = (given: Uint8Array) =>
      parties.call(CRYPTOGRAPHIC_DEVICE.identify, { request: request(), policy: given });
    const altered = signed.slice();
    altered.set([(altered.at(-1) ?? 0) ^ 1], altered.length - 1);
    expect(await asked(altered)).toMatchObject({ rejection: { code: 'bad-authenticator' } });
    const other = await enrolled(parties, credential, ID);
    expect(await asked(await policy(undefined, other.device))).toMatchObject({
      rejection: { code: 'enrolment-mismatch', detail: { what: 'device' } },
    });
    // As many as a policy may name, each as long as may be.
    const many = Array.from({ length: 256 }, (_, i) => `p-${i}-`.padEnd(32, 'x'));
    const { certificate } = value(await identify(request(), many));
    expect(new X509Certificate(certificate).subjectAltName?.match(/product:/g)).toHaveLength(256);
  });

  it('comes with the enrolment, where the request for it is of the same key and bears the code', async () => {
    const fresh = new SimulatedDevice(ID as LicenseeId);
    const enrol = async (asked: Uint8Array, code: string) =>
      (
        await ask(parties, credential, '/v1/devices', {
          licensee: ID,
          request: Buffer.from(fresh.enrolmentRequest()).toString('base64url'),
          certificateRequest: Buffer.from(asked).toString('base64url'),
          code,
        })
      ).json<{ identityCertificate?: string; code?: string }>();
    const [code, other] = [await invited(parties, ID), await invited(parties, ID)];
    const bearing = (of: string | undefined, key = signing(fresh), name: string = fresh.device) =>
      certificateRequest(name, key, of === undefined ? undefined : enrolmentCodeDigest(of, sha256));
    const refused = {
      'of another code': [bearing(other), 'enrolment-code-refused'],
      'without it': [bearing(undefined), 'enrolment-code-refused'],
      'of another key': [bearing(code, signing(device)), 'enrolment-mismatch'],
      'of another name': [bearing(code, signing(fresh), device.device), 'enrolment-mismatch'],
      'that is none': [new Uint8Array([0x30, 0]), 'malformed'],
    } as const;
    for (const [which, [asked, why]] of Object.entries(refused)) {
      expect((await enrol(asked, code)).code, which).toBe(why);
    }
    // Nothing of it took the code, or certified the key.
    const unknown = await ask(parties, credential, `/v1/devices/${fresh.device}/policy`);
    expect(unknown.json()).toMatchObject({ code: 'unknown-device' });
    const { identityCertificate = '' } = await enrol(bearing(code), code);
    const x509 = new X509Certificate(Buffer.from(identityCertificate, 'base64url'));
    expect(publicKeyBytes(x509.publicKey)).toEqual(publicKeyBytes(fresh.signatureKey));
    expect(x509.subjectAltName).toContain(`URI:urn:countermark:licensee:${ID}, URI:urn:countermark:epoch:1,`);
    // After a lost answer, with the code or without it.
    expect((await enrol(bearing(code), code)).identityCertificate).toBeDefined();
  });

  it('is issued on the word of its own certified key only', async () => {
    const strange = certificateRequest(device.device, signingKey(generateSigningKey().privateKey));
    expect(await identify(strange)).toMatchObject({ rejection: { code: 'unknown-device' } });
    const nobody = new SimulatedDevice(ID as LicenseeId);
    expect(await identify(certificateRequest(nobody.device, signing(nobody)))).toMatchObject({
      rejection: { code: 'unknown-device' },
    });
    const altered = request();
    altered.set([(altered.at(-1) ?? 0) ^ 1], altered.length - 1);
    expect(await identify(altered)).toMatchObject({ ok: false });
    const renamed = Buffer.from(request());
    renamed.write(nobody.device, renamed.indexOf(device.device));
    expect(await identify(new Uint8Array(renamed))).toMatchObject({ rejection: { code: 'bad-authenticator' } });
    expect(await identify(new Uint8Array([0x30, 0]))).toMatchObject({ rejection: { code: 'malformed' } });
    const unnamed = certificateRequest('somebody', signing(device));
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
    expect(await identify(certificateRequest(gone.device, signing(gone)))).toMatchObject({
      rejection: { code: 'device-withdrawn' },
    });
    // What its records are verified by, its host gets again all the same (simulation, seed 12197).
    const again = await ask(parties, credential, '/v1/devices', {
      licensee: ID,
      request: Buffer.from(gone.enrolmentRequest()).toString('base64url'),
      certificateRequest: Buffer.from(certificateRequest(gone.device, signing(gone))).toString('base64url'),
    });
    expect([again.status, Object.keys(again.json<object>()).sort()]).toEqual([201, ['certificate', 'policy']]);
  });

  it.skipIf(!hasOpenssl)(
    'is led to from the authority that the device knows, when that has another key by now',
    async () => {
      const role = 'session-authority' as const;
      for (const n of [1, 2]) {
        const ceremony = `cer_${String(n).repeat(32)}` as CeremonyId;
        deviceClock.advance(HOUR_MS);
        value(await parties.call(CRYPTOGRAPHIC_DEVICE.rotateRoleKey, { role, ceremony }));
      }
      const { certificate, authority, chain } = value(await identify(request()));
      expect(chain).toHaveLength(2);
      const pinned = Buffer.from(parties.bundle.sessionAuthority);
      expect(pinned.equals(Buffer.from(authority))).toBe(false);
      const pem = (der: Uint8Array): string => new X509Certificate(der).toString();
      const at = (name: string): string => join(folder, name);
      writeFileSync(at('led.pem'), pem(certificate));
      writeFileSync(at('newest.pem'), pem(authority));
      writeFileSync(at('pinned.pem'), [pinned, ...chain].map(pem).join(''));
      for (const trusted of ['newest.pem', 'pinned.pem']) {
        const said = execFileSync('openssl', ['verify', '-CAfile', at(trusted), at('led.pem')]).toString();
        expect(said).toContain('led.pem: OK');
      }
      const known = {
        device: device.device,
        licensee: ID,
        epoch: 1,
        authentication: 'signature',
        certified: false,
        publicKey: publicKeyBytes(device.signatureKey),
        sessionAuthority: pinned,
      } as unknown as DeviceCertificate;
      const judged = (given: readonly Uint8Array[]) =>
        identityProblem({ certificate, chain: given }, known, { products: undefined } as unknown as DeviceStatus);
      expect(judged(chain)).toBeNull();
      expect(judged([...chain].reverse())).toBeNull();
      for (const broken of [[], chain.slice(1), chain.slice(0, 1), [certificate, ...chain.slice(1)], [authority]]) {
        expect(judged(broken)).toBe('another authority issued it');
      }
    },
  );

  it.skipIf(!hasOpenssl)('and its request are what openssl takes them for', async () => {
    const at = (name: string): string => join(folder, name);
    const openssl = (...args: string[]): string =>
      execFileSync('openssl', args, { stdio: ['ignore', 'pipe', 'pipe'] }).toString();
    const { certificate, authority } = value(await identify(request(), ['first-class']));
    writeFileSync(at('request.der'), request());
    writeFileSync(at('device.pem'), new X509Certificate(certificate).toString());
    writeFileSync(at('authority.pem'), new X509Certificate(authority).toString());
    expect(openssl('verify', '-CAfile', at('authority.pem'), at('device.pem'))).toContain('device.pem: OK');
    const text = openssl('x509', '-in', at('device.pem'), '-noout', '-text');
    expect(text).toContain(`Subject: CN = ${device.device}, O = ${ID}`);
    for (const what of [`device:${device.device}`, `licensee:${ID}`, 'epoch:1', 'product:first-class']) {
      expect(text).toContain(`URI:urn:countermark:${what}`);
    }
    expect(() =>
      openssl('verify', '-purpose', 'sslclient', '-CAfile', at('authority.pem'), at('device.pem')),
    ).toThrow();
    const asked = openssl('req', '-inform', 'DER', '-in', at('request.der'), '-noout', '-verify', '-text');
    expect(asked).toContain(`CN = ${device.device}`);
    const digest = enrolmentCodeDigest('0'.repeat(40), sha256);
    writeFileSync(at('with-code.der'), certificateRequest(device.device, signing(device), digest));
    const withCode = openssl('req', '-inform', 'DER', '-in', at('with-code.der'), '-noout', '-verify', '-text');
    expect(withCode).toMatch(new RegExp(`challengePassword\\s*:${hex(digest)}`));
  });
});
