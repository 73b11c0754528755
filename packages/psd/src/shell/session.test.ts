import 'reflect-metadata';
import { createPrivateKey, KeyObject, webcrypto } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createConnection } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { serveRpcOn } from '@countermark/node-platform/rpc';
import { relay } from '@countermark/node-platform/stream-relay';
import { serveSessions, type SessionServer } from '@countermark/node-platform/tls-ends';
import type { Digest } from '@countermark/protocol/digest';
import { type Answer, answersSchema, submissionSchema } from '@countermark/protocol/interfaces/answer';
import { BATCH_STATISTICS } from '@countermark/protocol/messages/batch-statistics';
import { ENROLMENT_REQUEST } from '@countermark/protocol/messages/enrolment';
import { type Rejection, rejection } from '@countermark/protocol/rejection';
import { accept, type Result } from '@countermark/protocol/result';
import { parseValue } from '@countermark/protocol/schema';
import { BasicConstraintsExtension, PublicKey, type X509Certificate, X509CertificateGenerator } from '@peculiar/x509';
import { afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { payload, START_MS, TestAuthority } from '../../testing/authority.ts';
import { batchNumbered, declarationOf } from '../../testing/mailing.ts';
import { type Device, openDevice } from './device.ts';
import { listenForSessions, sendInSession, type SessionSocket } from './session.ts';

const P256 = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' };
const DAY_MS = 86_400_000;
/** SubjectPublicKeyInfo of a P-256 point up to the point (RFC 5480). */
const SPKI = Buffer.from('3059301306072a8648ce3d020106082a8648ce3d030107034200', 'hex');

function value<T>(result: Result<T>): T {
  if (!result.ok) throw new Error(JSON.stringify(result.rejection));
  return result.value;
}

type Issuer = { readonly certificate: X509Certificate; readonly keys: webcrypto.CryptoKeyPair };

const pair = () => webcrypto.subtle.generateKey(P256, true, ['sign', 'verify']);
const days = (n: number) => new Date(Date.now() + n * DAY_MS);

async function issuerNamed(name: string): Promise<Issuer> {
  const keys = await pair();
  const certificate = await X509CertificateGenerator.createSelfSigned(
    {
      name: `CN=${name}`,
      keys,
      signingAlgorithm: P256,
      notBefore: days(-100),
      notAfter: days(100),
      extensions: [new BasicConstraintsExtension(true, 0, true)],
    },
    webcrypto,
  );
  return { certificate, keys };
}

async function issued(by: Issuer, name: string, publicKey: PublicKey | webcrypto.CryptoKey, from = -1, to = 1) {
  return X509CertificateGenerator.create(
    {
      subject: `CN=${name}`,
      issuer: by.certificate.subject,
      publicKey,
      signingKey: by.keys.privateKey,
      signingAlgorithm: P256,
      notBefore: days(from),
      notAfter: days(to),
    },
    webcrypto,
  );
}

let issuer: Issuer;
let stranger: Issuer;
beforeAll(async () => {
  issuer = await issuerNamed('sessions');
  stranger = await issuerNamed('stranger');
});

let directory: string;
let authority: TestAuthority;
let device: Device;
let sessions: SessionSocket;
let server: SessionServer | undefined;
let submitted: Uint8Array[][];

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'psd-'));
  authority = new TestAuthority(new Uint8Array(issuer.certificate.rawData));
  submitted = [];
  server = undefined;
  device = value(
    openDevice({
      path: join(directory, 'psd.db'),
      authentication: 'mac',
      memory: 'host',
      recordCapacity: 10,
      trustBundle: authority.trustBundle,
      software: { version: '0.1.0', measurement: new Uint8Array(32) as Digest },
      onBroken: () => undefined,
    }),
  );
  const request = value(device.enrolmentRequest());
  const { sessionKey } = payload(ENROLMENT_REQUEST, request);
  const certificate = await issued(issuer, device.id, new PublicKey(Buffer.concat([SPKI, sessionKey])));
  value(
    device.install(
      authority.bytes.certificate(
        authority.certificate(authority.enrolling(request), {
          sessionCertificate: new Uint8Array(certificate.rawData),
        }),
      ),
      authority.bytes.policy(authority.policy(device.id)),
    ),
  );
  value(device.signedTime(authority.bytes.time(device.id, START_MS)));
  for (const n of [1, 2, 3]) {
    value(device.openBatch(declarationOf(batchNumbered(n))));
    value(device.closeBatch(batchNumbered(n), 0));
    value(await device.seal(batchNumbered(n), false));
  }
  sessions = await listenForSessions(join(directory, 'psd-session.sock'));
});
afterEach(async () => {
  await sessions.close();
  await server?.close();
  await device.close();
  rmSync(directory, { recursive: true });
});

/** The cryptographic device's end; `answerOf` answers each record by its sequence and digest. */
async function serve(
  answerOf: (sequence: number, digest: Digest) => Answer,
  by = issuer,
  name = 'cryptographic-device',
  from = -1,
  to = 1,
  refusalOf: () => Rejection | null = () => null,
): Promise<void> {
  const keys = await pair();
  const certificate = await issued(by, name, keys.publicKey, from, to);
  server = await serveSessions(join(directory, 'cd-session.sock'), {
    credentials: {
      privateKey: createPrivateKey(KeyObject.from(keys.privateKey).export({ type: 'pkcs8', format: 'pem' })),
      certificate: certificate.toString('pem'),
      issuers: [issuer.certificate.toString('pem')],
    },
    refusalOf,
    onSession: (stream, peer) => {
      expect(peer).toBe(device.id);
      serveRpcOn(
        stream,
        {
          submit: (parameters) => {
            const { records } = value(parseValue(submissionSchema, parameters));
            submitted.push([...records]);
            const held = device.records();
            const answers = records.map((record) => {
              const { sequence } = payload(BATCH_STATISTICS, record);
              return answerOf(sequence, held.find((one) => one.sequence === sequence)!.digest);
            });
            return accept(answersSchema.toCbor({ answers }));
          },
        },
        { onFault: () => undefined },
      );
    },
  });
}

/** What the host does: connects both sockets and carries bytes. */
async function relayed(): Promise<void> {
  const [one, other] = ['psd-session.sock', 'cd-session.sock'].map((name) => createConnection(join(directory, name)));
  void relay(one!, other!);
  await once(one!, 'connect');
}

const confirmed = (sequence: number, digest: Digest): Answer => ({
  outcome: 'accepted',
  confirmation: authority.bytes.confirmation(device.id, sequence, digest),
  attestation: Uint8Array.of(1),
});

describe('a session', () => {
  it('carries the records, the host’s copies among them, and deletes on the confirmations that come back', async () => {
    await serve(confirmed);
    const own = [1, 2, 3].map((sequence) => value(device.record(sequence)));
    const sending = sendInSession(device, sessions, [
      { sequence: 1, record: own[0]! },
      { sequence: 2 },
      { sequence: 3, record: Uint8Array.of(...own[2]!.slice(0, -1), own[2]!.at(-1)! ^ 1) },
      { sequence: 4 },
    ]);
    await relayed();
    expect(value(await sending)).toMatchObject([
      { sequence: 1, confirmation: expect.any(Uint8Array), attestation: Uint8Array.of(1) },
      { sequence: 2, confirmation: expect.any(Uint8Array) },
      { sequence: 3, rejection: { code: 'record-differs' } },
      { sequence: 4, rejection: { code: 'unknown-record' } },
    ]);
    expect(submitted.map((part) => part.map((record) => Buffer.from(record)))).toEqual([
      [Buffer.from(own[0]!), Buffer.from(own[1]!)],
    ]);
    expect(device.records().map(({ sequence }) => sequence)).toEqual([3]);
    expect(value(await sendInSession(device, sessions, [{ sequence: 1 }]))).toMatchObject([
      { rejection: { code: 'already-confirmed' } },
    ]);
  });

  it('waits for its connection when that comes later, and takes one that came before', async () => {
    await serve(confirmed);
    await relayed();
    expect(value(await sendInSession(device, sessions, [{ sequence: 1 }]))).toMatchObject([{ sequence: 1 }]);
    expect(await sendInSession(device, sessions, [{ sequence: 2 }], 1)).toMatchObject({
      rejection: { code: 'session-failed' },
    });
    expect(device.records()).toHaveLength(2);
  });

  it('passes on rejections, and deletes nothing for a confirmation that is altered or of another digest', async () => {
    await serve((sequence, digest) => {
      if (sequence === 1) return { outcome: 'rejected', rejection: rejection('out-of-order', { expected: 9 }) };
      const other = sequence === 2 ? (new Uint8Array(32) as Digest) : digest;
      const confirmation = authority.bytes.confirmation(device.id, sequence, other);
      if (sequence === 3) confirmation[confirmation.length - 1]! ^= 1;
      return { outcome: 'accepted', confirmation };
    });
    const sending = sendInSession(device, sessions, [{ sequence: 1 }, { sequence: 2 }, { sequence: 3 }]);
    await relayed();
    expect(value(await sending)).toMatchObject([
      { rejection: { code: 'out-of-order' } },
      { rejection: { code: 'confirmation-mismatch' } },
      { rejection: { code: 'bad-authenticator' } },
    ]);
    expect(device.records()).toHaveLength(3);
    expect(device.status().alarms).toBe(1);
  });

  it.each([
    ['another issuer', 'session-failed', async () => serve(confirmed, stranger)],
    ['another name', 'session-failed', async () => serve(confirmed, issuer, 'psd_0123456789abcdef')],
    ['dates long past', 'session-clock', async () => serve(confirmed, issuer, 'cryptographic-device', -9, -2)],
  ])('is not held with a server end of %s', async (_, code, prepare) => {
    await prepare();
    const sending = sendInSession(device, sessions, [{ sequence: 1 }]);
    await relayed();
    expect(await sending).toMatchObject({ ok: false, rejection: { code } });
    expect(submitted).toEqual([]);
    expect(device.records()).toHaveLength(3);
  });

  it('is not begun with a certificate of the device that is outside its dates', async () => {
    const request = value(device.enrolmentRequest());
    const { sessionKey } = payload(ENROLMENT_REQUEST, request);
    const point = new PublicKey(Buffer.concat([SPKI, sessionKey]));
    const past = await issued(issuer, device.id, point, -9, -2);
    const certificate = authority.certificate(authority.enrolling(request), {
      sessionCertificate: new Uint8Array(past.rawData),
    });
    value(
      device.install(
        authority.bytes.certificate(certificate),
        authority.bytes.policy(authority.policy(device.id, { version: 2 })),
      ),
    );
    expect(await sendInSession(device, sessions, [{ sequence: 1 }])).toMatchObject({
      rejection: { code: 'session-clock' },
    });
  });

  it('that the other end refuses to this certificate is told as what it is, and nothing was sent', async () => {
    const why = rejection('session-refused', { device: device.id, reason: 'its session key was revoked' });
    await serve(confirmed, issuer, 'cryptographic-device', -1, 1, () => why);
    const sending = sendInSession(device, sessions, [{ sequence: 1 }, { sequence: 2 }]);
    await relayed();
    expect(await sending).toEqual({ ok: false, rejection: why });
    expect(submitted).toEqual([]);
    expect(device.records()).toHaveLength(3);
  });

  it('that breaks loses nothing', async () => {
    await serve(() => {
      throw new Error('the server end fails');
    });
    const sending = sendInSession(device, sessions, [{ sequence: 1 }]);
    await relayed();
    expect(await sending).toMatchObject({ ok: false, rejection: { code: 'session-failed' } });
    expect(device.records()).toHaveLength(3);
  });
});
