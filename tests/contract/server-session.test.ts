/**
 * The session through the server's relay: mutual TLS between device and cryptographic device, and not one byte for anyone else.
 */
import { once } from 'node:events';
import { request } from 'node:http';
import type { Duplex } from 'node:stream';
import { connect as connectTls } from 'node:tls';
import { rpcOver } from '@countermark/node-platform/rpc';
import { generateSigningKey } from '@countermark/node-platform/signing';
import { nodeVerification } from '@countermark/node-platform/verification';
import { openSession } from '@countermark/node-platform/tls-ends';
import type { LicenseeId } from '@countermark/protocol/id';
import { type Answer, answersSchema, submissionSchema } from '@countermark/protocol/interfaces/answer';
import { ACCEPTANCE } from '@countermark/protocol/interfaces/cryptographic-device';
import { DEVICE_CERTIFICATE } from '@countermark/protocol/messages/enrolment';
import { connectRpc } from '@countermark/node-platform/rpc';
import { parseValue } from '@countermark/protocol/schema';
import { trustedKeys } from '@countermark/verify/trust-bundle';
import { verifyMessage } from '@countermark/verify/verified';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { SimulatedDevice } from '../../bench/src/simulated-device.ts';
import { ask, type Certified, invited, licensee, type Parties, startParties, submit, value } from './server-parties.ts';

const ID = 'lic_session';
let parties: Parties;
let credential: string;

beforeAll(async () => {
  parties = await startParties();
  credential = await licensee(parties, ID, '1000000');
});
afterAll(async () => {
  await parties.stop();
});

type Enrolled = { readonly device: SimulatedDevice; readonly certificate: string; readonly authority: string };

function pem(der: Uint8Array): string {
  const lines = Buffer.from(der)
    .toString('base64')
    .match(/.{1,64}/g)!;
  return `-----BEGIN CERTIFICATE-----\n${lines.join('\n')}\n-----END CERTIFICATE-----\n`;
}

async function enrol(authentication: 'signature' | 'mac' = 'signature'): Promise<Enrolled> {
  const device = new SimulatedDevice(ID as LicenseeId, authentication);
  const request = Buffer.from(device.enrolmentRequest()).toString('base64url');
  const body = { licensee: ID, request, code: await invited(parties, ID) };
  const answer = (await ask(parties, credential, '/v1/devices', body)).json<Certified>();
  const trust = { port: nodeVerification, keys: trustedKeys(parties.bundle) };
  const { message } = value(verifyMessage(DEVICE_CERTIFICATE, Buffer.from(answer.certificate, 'base64url'), trust));
  device.agree(message.agreementPeer);
  device.receive(100_000n);
  return { device, certificate: pem(message.sessionCertificate), authority: pem(message.sessionAuthority) };
}

/** The upgraded stream, or the status that it was refused with. */
async function upgrade(headers: Record<string, string> = {}): Promise<Duplex | number> {
  const asked = request(new URL('/v1/session', parties.service.url), {
    headers: {
      connection: 'Upgrade',
      upgrade: 'countermark-session',
      authorization: `Bearer ${credential}`,
      ...headers,
    },
  });
  asked.end();
  return new Promise((resolve, reject) => {
    asked.once('error', reject);
    asked.once('upgrade', (_response, socket) => {
      resolve(socket);
    });
    asked.once('response', (response) => {
      response.resume();
      resolve(response.statusCode ?? 0);
    });
  });
}

async function session(of: Enrolled): Promise<Duplex> {
  const stream = await upgrade();
  if (typeof stream === 'number') throw new Error(String(stream));
  return value(
    await openSession(stream, {
      credentials: { privateKey: of.device.session.privateKey, certificate: of.certificate, issuers: [of.authority] },
      serverName: 'cryptographic-device',
    }),
  );
}

async function send(stream: Duplex, records: readonly Uint8Array[]): Promise<readonly Answer[]> {
  const rpc = rpcOver(stream);
  const answer = value(await rpc.call('submit', submissionSchema.toCbor({ records })));
  rpc.close();
  return value(parseValue(answersSchema, answer)).answers;
}

describe.each(['signature', 'mac'] as const)('In a session, by %s', (authentication) => {
  it('records are accepted, and the bytes are those that the way without one answers', async () => {
    const enrolled = await enrol(authentication);
    const { device } = enrolled;
    const records = [device.record(), device.record(), device.record()];
    const answers = await send(await session(enrolled), records);
    expect(answers.map((answer) => answer.outcome)).toEqual(['accepted', 'accepted', 'accepted']);
    const outside = await submit(parties, credential, records);
    for (const [i, answer] of outside.entries()) {
      expect(answer.outcome).toBe('already-accepted');
      expect(Buffer.from(answer.confirmation!)).toEqual(Buffer.from(answers[i]!.confirmation!));
      expect(Buffer.from(answer.attestation!)).toEqual(Buffer.from(answers[i]!.attestation!));
    }
  });

  it('only the records of its own device are taken', async () => {
    const [one, other] = [await enrol(authentication), await enrol(authentication)];
    const answers = await send(await session(one), [other.device.record(), one.device.record()]);
    expect(answers.map((answer) => answer.rejection?.code ?? answer.outcome)).toEqual(['wrong-device', 'accepted']);
  });
});

describe('Not one byte gets through', () => {
  it.each(['an untrusted certificate', 'no certificate'])('from a client with %s', async (which) => {
    const enrolled = await enrol();
    const { device } = enrolled;
    const record = device.record();
    const stream = await upgrade();
    if (typeof stream === 'number') throw new Error(String(stream));
    // Another authority, of the same name even, signs a certificate for our device id.
    const foreign = await foreignCertificate(device.device);
    const socket = connectTls({
      socket: stream,
      servername: 'cryptographic-device',
      rejectUnauthorized: false,
      minVersion: 'TLSv1.3',
      ...(which === 'no certificate' ? {} : foreign),
    });
    socket.on('error', () => undefined);
    let received = 0;
    socket.on('data', (bytes: Buffer) => (received += bytes.length));
    socket.on('secureConnect', () => {
      // As early as possible, whatever the server thinks: a whole submission, framed.
      const rpc = rpcOver(socket);
      rpc.call('submit', submissionSchema.toCbor({ records: [record] })).catch(() => undefined);
    });
    await new Promise((resolve) => socket.once('close', resolve));
    expect(received).toBe(0);
    const settlement = (await ask(parties, credential, `/v1/devices/${device.device}/settlement`)).json();
    expect(settlement.logged).toBe(0);
  });

  it('without a credential, or to another protocol', async () => {
    expect(await upgrade({ authorization: 'Bearer no' })).toBe(401);
    expect(await upgrade({ upgrade: 'websocket' })).toBe(400);
  });

  it('and garbage ends the session without harm', async () => {
    const stream = await upgrade();
    if (typeof stream === 'number') throw new Error(String(stream));
    stream.on('error', () => undefined);
    stream.resume();
    stream.write('GET / HTTP/1.1\r\n\r\n');
    await once(stream, 'close');
    expect((await ask(parties, null, '/health')).status).toBe(200);
  });
});

describe('The acceptance socket', () => {
  it('believes no attestation that it has not verified', async () => {
    const { device } = await enrol();
    const record = device.record();
    const [attested] = await submit(parties, credential, [record]);
    const next = device.record();
    const rpc = await connectRpc(parties.acceptanceSocket);
    const accept = async (attestation: Uint8Array, of = device.device) => {
      const { accept: operation } = ACCEPTANCE;
      const items = [{ record: next, attestation }];
      const parameters = operation.request.toCbor({ session: 's', device: of, items });
      const answer = value(await rpc.call(operation.name, parameters));
      return value(parseValue(operation.answer, answer)).answers[0]!.rejection?.code;
    };
    expect(await accept(attested!.attestation!)).toBe('attestation-mismatch');
    expect(await accept(Uint8Array.of(1))).toBe('envelope-malformed');
    const altered = attested!.attestation!.map((byte, i, all) => (i === all.length - 1 ? byte ^ 1 : byte));
    expect(await accept(altered)).toBe('bad-authenticator');
    rpc.close();
  });
});

/** A certificate for the device from an authority that nobody trusts. */
async function foreignCertificate(device: string): Promise<{ key: string; cert: string }> {
  const { deviceSessionCertificate } = await import('../../packages/cryptographic-device/src/session-certificates.ts');
  const { openSoftwareKeys } = await import('../../packages/cryptographic-device/src/software-keys.ts');
  const { publicKeyBytes } = await import('@countermark/node-platform/signing');
  const keys = value(openSoftwareKeys(`${parties.folder}/foreign-keys`, 1));
  const { privateKey, publicKey } = generateSigningKey();
  const der = await deviceSessionCertificate(keys, device, publicKeyBytes(publicKey), Date.now());
  await keys.close();
  return { key: privateKey.export({ type: 'pkcs8', format: 'pem' }).toString(), cert: pem(der) };
}
