/**
 * The session through the server's relay: mutual TLS between device and cryptographic device, and not one byte for anyone else.
 */
import { once } from 'node:events';
import { request } from 'node:http';
import type { Duplex } from 'node:stream';
import { connect as connectTls } from 'node:tls';
import type { KeyStore } from '@countermark/cryptographic-device/key-store';
import { keysFolder } from '@countermark/cryptographic-device/service';
import { deviceSessionCertificate } from '@countermark/cryptographic-device/session-certificates';
import { openSoftwareKeys } from '@countermark/cryptographic-device/software-keys';
import type { Issuer } from '@countermark/cryptographic-device/x509-authority';
import { rpcOver } from '@countermark/node-platform/rpc';
import { generateSigningKey, publicKeyBytes } from '@countermark/node-platform/signing';
import { nodeVerification } from '@countermark/node-platform/verification';
import { openSession } from '@countermark/node-platform/tls-ends';
import type { Digest } from '@countermark/protocol/digest';
import type { CeremonyId, LicenseeId } from '@countermark/protocol/id';
import { type Answer, answersSchema, submissionSchema } from '@countermark/protocol/interfaces/answer';
import { ACCEPTANCE, CRYPTOGRAPHIC_DEVICE } from '@countermark/protocol/interfaces/cryptographic-device';
import { DEVICE_CERTIFICATE } from '@countermark/protocol/messages/enrolment';
import { connectRpc } from '@countermark/node-platform/rpc';
import { parseValue } from '@countermark/protocol/schema';
import { trustedKeys } from '@countermark/verify/trust-bundle';
import { verifyMessage } from '@countermark/verify/verified';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { SimulatedDevice } from '../../bench/src/simulated-device.ts';
import { ask, type Certified, invited, licensee, type Parties, startParties, submit, value } from './server-parties.ts';

const ID = 'lic_session';
const YEAR_MS = 365 * 86_400_000;
let parties: Parties;
let credential: string;
/** Of the log of the server and the cryptographic device. */
const lines: string[] = [];

beforeAll(async () => {
  parties = await startParties({ write: (line) => lines.push(line) });
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

/** The certificate of the device's next keys, which the server knows from then on. */
async function nextKeys(device: SimulatedDevice): Promise<{ readonly digest: Digest; readonly session: string }> {
  const request = Buffer.from(device.rotationRequest()).toString('base64url');
  const answer = (await ask(parties, credential, '/v1/devices', { licensee: ID, request })).json<Certified>();
  const trust = { port: nodeVerification, keys: trustedKeys(parties.bundle) };
  const next = value(verifyMessage(DEVICE_CERTIFICATE, Buffer.from(answer.certificate, 'base64url'), trust));
  return { digest: next.digest, session: pem(next.message.sessionCertificate) };
}

async function logged(device: string): Promise<number> {
  return (await ask(parties, credential, `/v1/devices/${device}/settlement`)).json<{ logged: number }>().logged;
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
  /** What a client comes with, and the code and words with which the cryptographic device's log refuses it. */
  type Visitor = { readonly client: object; readonly code: string; readonly reason: RegExp };
  const own = (of: Enrolled, certificate = of.certificate): object => ({
    key: of.device.session.privateKey.export({ type: 'pkcs8', format: 'pem' }).toString(),
    cert: certificate,
  });
  const byOperator = async (of: Enrolled, act: string): Promise<void> => {
    const path = `/v1/devices/${of.device.device}/${act}`;
    expect((await ask(parties, parties.operator, path, { reason: 'a disk was sold' })).status).toBe(200);
  };

  it.each<readonly [string, (of: Enrolled) => Promise<Visitor>]>([
    // Another authority, of the same name even, signs a certificate for our device id.
    [
      'a certificate of a foreign authority',
      async ({ device }) => ({
        client: await foreignCertificate(device.device),
        code: 'session-failed',
        reason: /SIGNATURE|ISSUER|LEAF/,
      }),
    ],
    ['no certificate', async () => ({ client: {}, code: 'session-failed', reason: /CERTIFICATE/ })],
    [
      'a certificate of ours that has expired',
      async (of) => ({
        client: own(of, await ourCertificate(of.device, Date.now() - 11 * YEAR_MS)),
        code: 'session-clock',
        reason: /EXPIRED/,
      }),
    ],
    [
      'a certificate of ours that no device was given',
      async (of) => ({
        client: own(of, await ourCertificate(of.device, Date.now())),
        code: 'session-refused',
        reason: /not one that was issued here/,
      }),
    ],
    [
      'the certificate of a key epoch that is over',
      async (of) => {
        // The copy keeps what was in use: its own next record would be evidence of the copy.
        const { device } = of;
        const copy = device.copy();
        const { digest } = await nextKeys(device);
        await submit(parties, credential, [device.rotation(digest)]);
        return {
          client: own({ ...of, device: copy }),
          code: 'session-refused',
          reason: /epoch 1, which gave way to 2/,
        };
      },
    ],
    [
      'the certificate of a device that was closed',
      async (of) => {
        await submit(parties, credential, [of.device.copy().finalStatement()]);
        return { client: own(of), code: 'session-refused', reason: /closed/ };
      },
    ],
    [
      'the certificate of a device that was withdrawn',
      async (of) => {
        await byOperator(of, 'withdrawal');
        return { client: own(of), code: 'session-refused', reason: /withdrawn/ };
      },
    ],
    [
      'a certificate that an operator revoked',
      async (of) => {
        await byOperator(of, 'session-revocation');
        return { client: own(of), code: 'session-refused', reason: /epoch 1 was revoked/ };
      },
    ],
  ])('from a client with %s', async (_, prepare) => {
    const enrolled = await enrol();
    const { device } = enrolled;
    const record = device.copy().record();
    const { client, code, reason } = await prepare(enrolled);
    const before = await logged(device.device);
    lines.length = 0;
    const stream = await upgrade();
    if (typeof stream === 'number') throw new Error(String(stream));
    const socket = connectTls({
      socket: stream,
      servername: 'cryptographic-device',
      rejectUnauthorized: false,
      minVersion: 'TLSv1.3',
      ...client,
    });
    socket.on('error', () => undefined);
    let heard: Promise<string> | undefined;
    socket.on('secureConnect', () => {
      // As early as possible, whatever the other end thinks: a whole submission, framed.
      heard = rpcOver(socket)
        .call('submit', submissionSchema.toCbor({ records: [record] }))
        .then((answer) => (answer.ok ? 'answered' : answer.rejection.code))
        .catch(() => 'nothing');
    });
    await new Promise((resolve) => socket.once('close', resolve));
    // What TLS itself refuses hears nothing of ours.
    expect(await heard).toBe(code === 'session-refused' ? code : 'nothing');
    const said = lines.map((line) => JSON.parse(line) as Readonly<Record<string, string>>);
    expect(said.filter(({ msg }) => msg === 'A session was refused')).toMatchObject([{ code }]);
    expect(said.find(({ msg }) => msg === 'A session was refused')!['reason']).toMatch(reason);
    expect(said.filter(({ msg }) => msg === 'A session began')).toEqual([]);
    expect(await logged(device.device)).toBe(before);
  });

  it('from a session that is open when its key is revoked, and that ends with the next question', async () => {
    const enrolled = await enrol();
    const { device } = enrolled;
    const rpc = rpcOver(await session(enrolled));
    const [first, second] = [device.record(), device.record()];
    expect((await rpc.call('submit', submissionSchema.toCbor({ records: [first] }))).ok).toBe(true);
    await byOperator(enrolled, 'session-revocation');
    expect(await rpc.call('submit', submissionSchema.toCbor({ records: [second] }))).toMatchObject({
      ok: false,
      rejection: { code: 'session-refused' },
    });
    rpc.close();
    expect(await logged(device.device)).toBe(1);
  });

  it('but the records of whoever is refused are judged without a session, and the next keys have sessions again', async () => {
    const enrolled = await enrol();
    const { device } = enrolled;
    await byOperator(enrolled, 'session-revocation');
    const [answer] = await submit(parties, credential, [device.record()]);
    expect(answer!.outcome).toBe('accepted');
    const next = await nextKeys(device);
    const rotation = device.rotation(next.digest);
    // The rotation itself goes under the new certificate already.
    expect(await send(await session({ ...enrolled, certificate: next.session }), [rotation])).toMatchObject([
      { outcome: 'accepted' },
    ]);
    const { acts } = (await ask(parties, parties.operator, `/v1/devices/${device.device}`)).json();
    expect(acts).toMatchObject([{ act: 'sessions-revoked', words: 'session keys up to epoch 1: a disk was sold' }]);
  });

  it('but a suspended device keeps its sessions, and what continues its chain is accepted', async () => {
    const enrolled = await enrol();
    const { device } = enrolled;
    const copy = device.copy();
    await submit(parties, credential, [device.record()]);
    const [fork] = await submit(parties, credential, [copy.record({ pieces: 2 })]);
    expect(fork!.rejection!.code).toBe('fork');
    expect(await send(await session(enrolled), [device.record()])).toMatchObject([{ outcome: 'accepted' }]);
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

describe("When the session authority's key is rotated", () => {
  it('sessions go on for devices from before and from after, and each trusts its own authority alone', async () => {
    const before = await enrol();
    const role = 'session-authority' as const;
    const ceremony = `cer_${'5'.repeat(32)}` as CeremonyId;
    value(await parties.call(CRYPTOGRAPHIC_DEVICE.rotateRoleKey, { role, ceremony }));
    const after = await enrol();
    expect(after.authority).not.toBe(before.authority);
    for (const one of [before, after]) {
      expect(await send(await session(one), [one.device.record()])).toMatchObject([{ outcome: 'accepted' }]);
    }
    // The end's certificate was renewed: what an authority before it does not vouch for is not believed.
    const stranger = { ...after, authority: (await foreignCertificate(after.device.device)).cert };
    await expect(session(stranger)).rejects.toThrow('session-failed');
    // Who has the first key's certificate from elsewhere has no session by it: it stands in no register.
    const next = await nextKeys(before.device);
    expect(next.session).not.toBe(before.certificate);
    const rotation = before.device.rotation(next.digest);
    expect(await send(await session({ ...before, certificate: next.session }), [rotation])).toMatchObject([
      { outcome: 'accepted' },
    ]);
  });
});

/** The session authority's first key, as whoever holds these keys signs by it. */
function firstAuthority(keys: KeyStore): Issuer {
  const sign = async (input: Uint8Array): Promise<Uint8Array> =>
    (await keys.sign('session-authority', 1, [input]))[0] ?? new Uint8Array(0);
  return { name: 'CN=countermark session authority', sign };
}

/** A certificate for the device from an authority that nobody trusts. */
async function foreignCertificate(device: string): Promise<{ key: string; cert: string }> {
  const keys = value(openSoftwareKeys(`${parties.folder}/foreign-keys`, 1));
  const { privateKey, publicKey } = generateSigningKey();
  const der = await deviceSessionCertificate(firstAuthority(keys), device, publicKeyBytes(publicKey), Date.now());
  await keys.close();
  return { key: privateKey.export({ type: 'pkcs8', format: 'pem' }).toString(), cert: pem(der) };
}

/** One that our own authority signs for the device's session key, and that stands in no register. */
async function ourCertificate(device: SimulatedDevice, issuedAtMs: number): Promise<string> {
  const keys = value(openSoftwareKeys(keysFolder(`${parties.folder}/cd`), 1));
  const key = publicKeyBytes(device.session.publicKey);
  const der = await deviceSessionCertificate(firstAuthority(keys), device.device, key, issuedAtMs);
  await keys.close();
  return pem(der);
}
