/**
 * Whoever is not an enrolled device gets not one byte into a session with the real cryptographic device.
 *
 * Each client here sends a genuine record as soon as it believes itself connected, whatever the other end thinks of it: with
 * the certificate that the device was issued the record is taken, with any other it must leave no trace. A bare `TLSSocket` at
 * the server's end would let it through (the trap is told in node-platform/src/tls-ends.ts).
 */
import 'reflect-metadata';
import { type KeyObject, webcrypto } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createConnection } from 'node:net';
import { join } from 'node:path';
import { connect, type SecureVersion } from 'node:tls';
import { askServer, issueEnrolmentCode, registerLicensee, type ServerAccess } from '@countermark/cli/registration';
import { rpcOver } from '@countermark/node-platform/rpc';
import { nodeVerification } from '@countermark/node-platform/verification';
import type { DeviceId } from '@countermark/protocol/id';
import { answersSchema, submissionSchema } from '@countermark/protocol/interfaces/answer';
import { BATCH_STATISTICS } from '@countermark/protocol/messages/batch-statistics';
import { DEVICE_CERTIFICATE, ENROLMENT_REQUEST } from '@countermark/protocol/messages/enrolment';
import { encode } from '@countermark/protocol/cbor';
import { parseValue } from '@countermark/protocol/schema';
import { parseTrustBundle, trustedKeys } from '@countermark/verify/trust-bundle';
import { verifyMessage } from '@countermark/verify/verified';
import { BasicConstraintsExtension, X509CertificateGenerator } from '@peculiar/x509';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startInstallation, type TestInstallation } from '../installation.ts';
import { buildWorld, LICENSEE, SIGNING_DEVICE, testKey, testPublicKey } from '../vectors/world.ts';

const P256 = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' };
const OTHER_DEVICE = 'psd_0707070707070707' as DeviceId;
const world = buildWorld(() => []);

let installation: TestInstallation;
let bureau: ServerAccess;
let issued: string;

beforeAll(async () => {
  installation = await startInstallation();
  bureau = { ...installation.operator, credential: await registerLicensee(installation.operator, LICENSEE, 'bureau') };
  issued = await enrolled(world.enrolmentRequest);
  await enrolled(
    world.byDevice(
      ENROLMENT_REQUEST,
      {
        device: OTHER_DEVICE,
        epoch: 1,
        authentication: 'signature',
        memory: 'host',
        publicKey: testPublicKey(`${OTHER_DEVICE}#1`),
        agreementKey: testPublicKey(`${OTHER_DEVICE} agreement`),
        sessionKey: testPublicKey(`${OTHER_DEVICE} session`),
        software: world.first.observed.software,
        nonce: new Uint8Array(16).fill(3),
      },
      'signature',
    ).bytes,
  );
});
afterAll(async () => {
  await installation.stop();
});

describe('A client of the session', () => {
  type Client = { readonly key?: string; readonly cert?: string; readonly maxVersion?: SecureVersion };

  it.each<readonly [string, () => Promise<Client>]>([
    ['without a certificate', async () => ({})],
    ['with a certificate that it made itself, of the device’s name and key', async () => selfIssued(SIGNING_DEVICE)],
    ['with one of an authority of the same name', async () => issuedBySomebody(SIGNING_DEVICE)],
    ['with the right certificate, by an older TLS', async () => ({ ...genuine(), maxVersion: 'TLSv1.2' })],
  ])('%s: gets nothing in and nothing out', async (_, client) => {
    const sessionsBefore = sessionsBegun();
    expect(await pushed(await client())).toEqual({ received: 0, closed: true });
    expect(sessionsBegun()).toBe(sessionsBefore);
    expect(await logged(SIGNING_DEVICE)).toBe(0);
  });

  it('that speaks no TLS gets nothing in and nothing out', async () => {
    const submission = encode([0, 'submit', submissionSchema.toCbor({ records: [world.records.first.bytes] })]);
    const frame = Buffer.concat([Buffer.alloc(4), submission]);
    frame.writeUInt32BE(submission.length);
    const socket = createConnection(installation.sockets.cryptographicDeviceSession);
    socket.on('error', () => undefined);
    socket.write(frame);
    const received: Buffer[] = [];
    socket.on('data', (bytes: Buffer) => received.push(bytes));
    await new Promise((resolve) => socket.once('close', resolve));
    // At most an alert of TLS; none of our answers, which name the device or a code.
    expect(Buffer.concat(received).length).toBeLessThan(16);
    expect(await logged(SIGNING_DEVICE)).toBe(0);
  });

  it('with the certificate of one device is not believed the records of another', async () => {
    const others = world.byDevice(BATCH_STATISTICS, { ...world.first, device: OTHER_DEVICE }, 'signature').bytes;
    expect(await submitted([others])).toEqual(['wrong-device']);
    expect(await logged(OTHER_DEVICE)).toBe(0);
  });

  it('with the certificate that the device was issued is answered', async () => {
    const altered = world.records.first.bytes.slice();
    altered[altered.length - 1] = (altered.at(-1) ?? 0) ^ 1;
    expect(await submitted([altered, world.records.first.bytes])).toEqual(['bad-authenticator', 'accepted']);
    expect(await logged(SIGNING_DEVICE)).toBe(1);
    expect(sessionsBegun()).toBeGreaterThan(0);
  });
});

/** Sends a genuine record as early as TLS lets it, and counts what comes back until the other end closes. */
async function pushed(client: object): Promise<{ received: number; closed: boolean }> {
  const socket = connect({
    path: installation.sockets.cryptographicDeviceSession,
    rejectUnauthorized: false,
    ...client,
  });
  let received = 0;
  socket.on('error', () => undefined);
  socket.on('secureConnect', () => {
    const submission = encode([0, 'submit', submissionSchema.toCbor({ records: [world.records.first.bytes] })]);
    const length = Buffer.alloc(4);
    length.writeUInt32BE(submission.length);
    socket.write(Buffer.concat([length, submission]));
  });
  socket.on('data', (bytes: Buffer) => {
    received += bytes.length;
  });
  await new Promise((resolve) => socket.once('close', resolve));
  return { received, closed: socket.destroyed };
}

/** Submits in a session with the certificate that the device was issued. */
async function submitted(records: readonly Uint8Array[]): Promise<string[]> {
  const socket = connect({
    path: installation.sockets.cryptographicDeviceSession,
    rejectUnauthorized: false,
    ...genuine(),
  });
  const rpc = rpcOver(socket);
  try {
    const answer = await rpc.call('submit', submissionSchema.toCbor({ records }));
    const answers = answer.ok ? parseValue(answersSchema, answer.value) : answer;
    if (!answers.ok) throw new Error(answers.rejection.code);
    return answers.value.answers.map(({ outcome, rejection }) => rejection?.code ?? outcome);
  } finally {
    rpc.close();
  }
}

function genuine(): { key: string; cert: string } {
  return { key: pemOf(testKey(`${SIGNING_DEVICE} session`)), cert: issued };
}

async function selfIssued(device: DeviceId): Promise<{ key: string; cert: string }> {
  const key = testKey(`${device} session`);
  const keys = await cryptoKeys(key);
  const certificate = await X509CertificateGenerator.createSelfSigned(
    { name: `CN=${device}`, keys, signingAlgorithm: P256, ...DATES },
    webcrypto,
  );
  return { key: pemOf(key), cert: certificate.toString('pem') };
}

async function issuedBySomebody(device: DeviceId): Promise<{ key: string; cert: string }> {
  const authority = await webcrypto.subtle.generateKey(P256, true, ['sign', 'verify']);
  const issuer = await X509CertificateGenerator.createSelfSigned(
    {
      name: 'CN=countermark session authority',
      keys: authority,
      signingAlgorithm: P256,
      extensions: [new BasicConstraintsExtension(true, 0, true)],
      ...DATES,
    },
    webcrypto,
  );
  const key = testKey(`${device} session`);
  const { publicKey } = await cryptoKeys(key);
  const certificate = await X509CertificateGenerator.create(
    {
      subject: `CN=${device}`,
      issuer: issuer.subject,
      publicKey,
      signingKey: authority.privateKey,
      signingAlgorithm: P256,
      ...DATES,
    },
    webcrypto,
  );
  return { key: pemOf(key), cert: `${certificate.toString('pem')}\n${issuer.toString('pem')}` };
}

const DATES = { notBefore: new Date(Date.now() - 86_400_000), notAfter: new Date(Date.now() + 86_400_000) };

async function cryptoKeys(key: KeyObject): Promise<webcrypto.CryptoKeyPair> {
  const jwk = key.export({ format: 'jwk' });
  const { d: _, ...open } = jwk;
  return {
    privateKey: await webcrypto.subtle.importKey('jwk', jwk, P256, true, ['sign']),
    publicKey: await webcrypto.subtle.importKey('jwk', open, P256, true, ['verify']),
  };
}

function pemOf(key: KeyObject): string {
  return key.export({ format: 'pem', type: 'pkcs8' }).toString();
}

/** Enrols a device and returns its session certificate (PEM). */
async function enrolled(request: Uint8Array): Promise<string> {
  const { certificate } = (await askServer(bureau, 'POST', '/v1/devices', {
    licensee: LICENSEE,
    request: Buffer.from(request).toString('base64url'),
    code: await issueEnrolmentCode(installation.operator, LICENSEE),
  })) as { certificate: string };
  const bundle = parseTrustBundle(readFileSync(installation.trustBundle, 'utf8'));
  if (!bundle.ok) throw new Error('trust bundle');
  const trust = { port: nodeVerification, keys: trustedKeys(bundle.value) };
  const verified = verifyMessage(DEVICE_CERTIFICATE, new Uint8Array(Buffer.from(certificate, 'base64url')), trust);
  if (!verified.ok) throw new Error(verified.rejection.code);
  const der = Buffer.from(verified.value.message.sessionCertificate).toString('base64');
  return `-----BEGIN CERTIFICATE-----\n${der.replace(/.{64}(?=.)/g, '$&\n')}\n-----END CERTIFICATE-----\n`;
}

async function logged(device: DeviceId): Promise<number> {
  const settlement = (await askServer(bureau, 'GET', `/v1/devices/${device}/settlement`)) as { logged: number };
  return settlement.logged;
}

function sessionsBegun(): number {
  const log = readFileSync(join(installation.folder, 'logs', 'cryptographic-device.log'), 'utf8');
  return log.split('A session began').length - 1;
}
