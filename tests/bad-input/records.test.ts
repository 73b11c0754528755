/**
 * Records and requests that are not as they should be, sent to a real server (with its real cryptographic device and authority)
 * over HTTP: each is answered with its code, changes nothing, and stops nothing.
 *
 * The device is the test's own: its keys are the published ones of the vectors, enrolled like any other.
 */
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { askServer, issueEnrolmentCode, registerLicensee, type ServerAccess } from '@countermark/cli/registration';
import { agreedKey, hmacSha256, importPublicKey } from '@countermark/node-platform/signing';
import { concat } from '@countermark/protocol/bytes';
import { encode } from '@countermark/protocol/cbor';
import { seal, toBeAuthenticated, unsealed } from '@countermark/protocol/cose';
import { NO_DIGEST } from '@countermark/protocol/digest';
import { type DeviceId, hex } from '@countermark/protocol/id';
import { type Answer, answersSchema, submissionSchema } from '@countermark/protocol/interfaces/answer';
import { macKeyInfo } from '@countermark/protocol/mac-key';
import { unsealedMessage } from '@countermark/protocol/message';
import { BATCH_STATISTICS, type BatchStatistics } from '@countermark/protocol/messages/batch-statistics';
import { CONFIRMATION } from '@countermark/protocol/messages/confirmation';
import { ENROLMENT_REQUEST } from '@countermark/protocol/messages/enrolment';
import { mills } from '@countermark/protocol/money';
import { encodeWith, parseBytes } from '@countermark/protocol/schema';
import { parseTrustBundle } from '@countermark/verify/trust-bundle';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startInstallation, type TestInstallation } from '../installation.ts';
import { buildWorld, LICENSEE, SIGNING_DEVICE, testKey, testPublicKey } from '../vectors/world.ts';

const world = buildWorld(() => []);
const FORKING_DEVICE = 'psd_f0f0f0f0f0f0f0f0' as DeviceId;
const CODING_DEVICE = 'psd_c0c0c0c0c0c0c0c0' as DeviceId;
const STRANGE_DEVICE = 'psd_5050505050505050' as DeviceId;

let installation: TestInstallation;
let bureau: ServerAccess;

beforeAll(async () => {
  installation = await startInstallation();
  bureau = { ...installation.operator, credential: await registerLicensee(installation.operator, LICENSEE, 'bureau') };
  await enrol(world.enrolmentRequest);
  await enrol(enrolmentRequestOf(FORKING_DEVICE, 'signature'));
  await enrol(enrolmentRequestOf(CODING_DEVICE, 'mac'));
});
afterAll(async () => {
  await installation.stop();
});

describe('A record that is not as its device made it', () => {
  const record = world.records.first.bytes;

  it('is refused with any one bit of it changed', async () => {
    const altered = Array.from(record, (byte, at) => {
      const copy = record.slice();
      copy[at] = byte ^ (1 << (at % 8));
      return copy;
    });
    const codes = await codesOf(altered);
    expect(codes.filter((code) => ACCEPTED.includes(code))).toEqual([]);
    // Payload and signature are what is authenticated: most of the record's bytes.
    expect(codes.filter((code) => code === 'bad-authenticator').length).toBeGreaterThan(record.length / 3);
    expect(await loggedOf(SIGNING_DEVICE)).toBe(0);
  });

  it('is refused with any part of its end missing, and with a byte too much', async () => {
    const cut = Array.from({ length: record.length - 1 }, (_, i) => record.slice(0, i + 1));
    const codes = await codesOf([...cut, concat([record, Uint8Array.of(0)])]);
    expect(new Set(codes)).toEqual(new Set(['cbor-malformed']));
    expect(await loggedOf(SIGNING_DEVICE)).toBe(0);
  });

  it('is refused of a device that nobody enrolled, and under a key that was never issued', async () => {
    const strange = statisticsOf(STRANGE_DEVICE);
    const laterEpoch = world.byDevice(BATCH_STATISTICS, world.first, 'signature', 7);
    expect(await codesOf([strange.bytes, laterEpoch.bytes])).toEqual(['unknown-device', 'unknown-device']);
  });

  it('is refused under another procedure than its device is enrolled with', async () => {
    const coded = codedStatistics(SIGNING_DEVICE);
    expect(await codesOf([coded])).toEqual(['wrong-algorithm']);
  });

  it('is told apart by its version before anything of it is read', async () => {
    const newer = world.byDevice({ ...BATCH_STATISTICS, version: 2 }, world.first, 'signature');
    const [answer] = await submit([newer.bytes]);
    expect(answer?.rejection).toEqual({
      code: 'unsupported-version',
      detail: { type: 'batch-statistics', version: 2, supported: 1 },
    });
  });

  it('cannot be another message in the same envelope, however well it is signed', async () => {
    const message = unsealedMessage(BATCH_STATISTICS, 'signature', { holder: SIGNING_DEVICE, epoch: 1 }, world.first);
    const signature = world.sign(`${SIGNING_DEVICE}#1`, toBeAuthenticated(message));
    const relabelled = (type: string): Uint8Array =>
      seal(unsealed('signature', type, 1, message.key, message.payload), signature);
    const signedAs = (type: string): Uint8Array => {
      const other = unsealed('signature', type, 1, message.key, message.payload);
      return seal(other, world.sign(`${SIGNING_DEVICE}#1`, toBeAuthenticated(other)));
    };
    const codes = await codesOf([
      // The statistics' payload and signature under the label of the other record that a chain may have.
      relabelled('key-rotation'),
      signedAs('key-rotation'),
      signedAs('confirmation'),
      // Authentic messages of this device, and of the server's own keys, that are no records.
      world.enrolmentRequest,
      world.confirmations.first,
      strangersMessage(CONFIRMATION.type),
    ]);
    expect(codes.slice(2)).toEqual(['wrong-type', 'wrong-type', 'wrong-type', 'wrong-type']);
    expect(codes.slice(0, 2).every((code) => REFUSED_FORM.includes(code))).toBe(true);
    expect(await loggedOf(SIGNING_DEVICE)).toBe(0);
  });

  it('is not taken before its predecessor, and the answer says which is expected', async () => {
    const [answer] = await submit([world.records.incomplete.bytes]);
    expect(answer?.rejection).toEqual({
      code: 'out-of-order',
      detail: { device: SIGNING_DEVICE, sequence: 2, expected: 1 },
    });
    expect(await loggedOf(SIGNING_DEVICE)).toBe(0);
  });

  it('is refused where it contradicts itself, though it is authentic', async () => {
    const { observed } = world.first;
    const cheaper = { ...observed, closed: { ...observed.closed, ascendingMills: mills(1n) } };
    const [answer] = await submit([statisticsOf(SIGNING_DEVICE, { observed: cheaper }).bytes]);
    expect(answer?.rejection?.code).toBe('inconsistent');
    expect(await loggedOf(SIGNING_DEVICE)).toBe(0);
  });

  it('counts once, however often it is sent, and with whatever signature', async () => {
    const [first] = await submit([record]);
    expect(first?.outcome).toBe('accepted');
    // ECDSA signs differently each time: the same record in another envelope.
    const again = statisticsOf(SIGNING_DEVICE).bytes;
    expect(hex(again)).not.toBe(hex(record));
    const answers = await submit([record, again, record]);
    expect(answers.map(({ outcome }) => outcome)).toEqual(answers.map(() => 'already-accepted'));
    expect(new Set(answers.map(({ confirmation }) => hex(confirmation ?? new Uint8Array())))).toEqual(
      new Set([hex(first?.confirmation ?? new Uint8Array())]),
    );
    expect(await loggedOf(SIGNING_DEVICE)).toBe(1);
  });

  it('leaves the chain as it was: the next one is taken, and no earlier one again as a later', async () => {
    const { bytes, digest } = world.records.incomplete;
    expect(await codesOf([bytes])).toEqual(['accepted']);
    const early = statisticsOf(SIGNING_DEVICE, { sequence: 4, previous: digest });
    expect(await codesOf([early.bytes])).toEqual(['out-of-order']);
    expect(await codesOf([record, bytes])).toEqual(['already-accepted', 'already-accepted']);
    expect(await loggedOf(SIGNING_DEVICE)).toBe(2);
  });

  it('is a fork where another one has its sequence: both are kept, and the device is suspended', async () => {
    const one = statisticsOf(FORKING_DEVICE);
    const other = statisticsOf(FORKING_DEVICE, {
      declaration: { ...world.first.declaration, preparer: 'Somebody else' },
    });
    expect(await codesOf([one.bytes])).toEqual(['accepted']);
    expect(await codesOf([other.bytes])).toEqual(['fork']);
    expect(await codesOf([one.bytes])).toEqual(['already-accepted']);
    expect(await settlementOf(FORKING_DEVICE)).toMatchObject({ logged: 1, suspended: true });
  });

  it('authenticated by a code is refused with any one bit of it changed, and taken as it is', async () => {
    const coded = codedStatistics(CODING_DEVICE);
    const altered = Array.from(coded, (byte, at) => {
      const copy = coded.slice();
      copy[at] = byte ^ (1 << (at % 8));
      return copy;
    });
    const codes = await codesOf(altered);
    expect(codes.filter((code) => ACCEPTED.includes(code))).toEqual([]);
    expect(await codesOf([coded])).toEqual(['accepted']);
    expect(await loggedOf(CODING_DEVICE)).toBe(1);
  });
});

describe('A request over HTTP that is not of this protocol', () => {
  const deep = (levels: number): Uint8Array => concat([new Uint8Array(levels).fill(0x81), Uint8Array.of(0)]);
  const key = encode(1);
  const records = encode([world.records.first.bytes]);
  const BODIES: readonly (readonly [string, Uint8Array, number, string])[] = [
    ['nothing', new Uint8Array(), 400, 'cbor-malformed'],
    ['random bytes', Uint8Array.of(0xff, 0x00, 0x13, 0x37), 400, 'cbor-'],
    ['a tag', concat([Uint8Array.of(0xc1), records]), 400, 'cbor-malformed'],
    ['CBOR that is nested too deep', deep(100_000), 400, 'cbor-too-deep'],
    ['the same key twice', concat([Uint8Array.of(0xa2), key, records, key, records]), 400, 'cbor-duplicate-key'],
    // A key of one byte in two, and a list of indefinite length (RFC 8949, 4.2.1).
    ['longer integers than needed', concat([Uint8Array.of(0xa1, 0x18, 0x01), records]), 400, 'cbor-not-deterministic'],
    [
      'an indefinite length',
      concat([Uint8Array.of(0xa1, 0x01, 0x9f), records.slice(1), Uint8Array.of(0xff)]),
      400,
      'cbor-not-deterministic',
    ],
    [
      'a field that nobody knows',
      encode(
        new Map([
          [1, [world.records.first.bytes]],
          [9, 9],
        ] as never),
      ),
      400,
      'unknown-field',
    ],
    ['no record at all', encode(new Map([[1, []]])), 400, 'malformed'],
    [
      'a length that the body does not have',
      Uint8Array.of(0xa1, 0x01, 0x9b, 0, 0, 0, 1, 0, 0, 0, 0),
      400,
      'cbor-malformed',
    ],
    ['a record beyond its bound', encode(new Map([[1, [new Uint8Array(300 * 1024)]]])), 400, 'malformed'],
    ['too many records', encode(new Map([[1, Array.from({ length: 257 }, () => Uint8Array.of(1))]])), 400, 'malformed'],
    ['a body beyond its bound', new Uint8Array(4 * 1024 * 1024 + 1), 413, 'limit-exceeded'],
  ];

  it.each(BODIES)('%s: is a problem with its code', async (_, body, status, code) => {
    const response = await post('/v1/records', body);
    expect(response.status).toBe(status);
    expect(response.headers.get('content-type')).toContain('application/problem+json');
    const problem = (await response.json()) as { code: string; request_id: string; detail: string };
    expect(problem.code).toContain(code);
    expect(problem.request_id).toMatch(/^req_/);
    expect(problem.detail.length).toBeGreaterThan(20);
  });

  it('of another media type, or of nobody known, is a problem too', async () => {
    const text = await post('/v1/records', world.records.first.bytes, 'text/plain');
    expect([text.status, ((await text.json()) as { code: string }).code]).toEqual([415, 'malformed']);
    const unknown = await fetch(new URL('/v1/records', bureau.url), {
      method: 'POST',
      headers: { 'content-type': 'application/cbor', authorization: `Bearer ${randomBytes(32).toString('hex')}` },
      body: Buffer.from(encode(new Map([[1, [world.records.first.bytes]]]))),
    });
    expect([unknown.status, ((await unknown.json()) as { code: string }).code]).toEqual([401, 'unauthorised']);
  });

  it('asks for funds with anything else than the device’s own signed request in vain', async () => {
    const before = await accounts();
    for (const body of [world.records.first.bytes, world.enrolmentRequest, deep(1_000), world.fundsRequest]) {
      const response = await post('/v1/funds-requests', body);
      expect([400, 422]).toContain(response.status);
      expect(((await response.json()) as { code: string }).code).toBeTypeOf('string');
    }
    expect(await accounts()).toEqual(before);
  });

  it('enrols nothing: altered, of another type, or for a device that is enrolled with other keys', async () => {
    const altered = world.enrolmentRequest.slice();
    altered[altered.length - 1] = (altered.at(-1) ?? 0) ^ 1;
    const otherKeys = world.byDevice(
      ENROLMENT_REQUEST,
      { ...requestValue(FORKING_DEVICE, 'signature'), sessionKey: testPublicKey('another') },
      'signature',
    );
    await expect(enrol(altered)).rejects.toThrow(/not authentic/);
    await expect(enrol(world.records.first.bytes)).rejects.toThrow(/enrolment-request/);
    await expect(enrol(otherKeys.bytes)).rejects.toThrow(/enrolled already/);
  });

  it('leaves the server at work', async () => {
    expect(await codesOf([world.records.first.bytes])).toEqual(['already-accepted']);
  });
});

const ACCEPTED = ['accepted', 'already-accepted'];
const REFUSED_FORM = ['bad-authenticator', 'malformed', 'unknown-field', 'wrong-type'];

/** The outcome of each, or the code of its rejection. */
async function codesOf(records: readonly Uint8Array[]): Promise<string[]> {
  const answers = await submit(records);
  return answers.map(({ outcome, rejection }) => rejection?.code ?? outcome);
}

/** Submits in as many requests as it takes. */
async function submit(records: readonly Uint8Array[]): Promise<readonly Answer[]> {
  const answers: Answer[] = [];
  for (let at = 0; at < records.length; at += 256) {
    const response = await post('/v1/records', encodeWith(submissionSchema, { records: records.slice(at, at + 256) }));
    const body = new Uint8Array(await response.arrayBuffer());
    const parsed = parseBytes(answersSchema, body, { maxBytes: 4 * 1024 * 1024, maxDepth: 12 });
    if (!parsed.ok) throw new Error(`${response.status}: ${Buffer.from(body).toString()}`);
    answers.push(...parsed.value.answers);
  }
  return answers;
}

async function post(path: string, body: Uint8Array, type = 'application/cbor'): Promise<Response> {
  return fetch(new URL(path, bureau.url), {
    method: 'POST',
    headers: { authorization: `Bearer ${bureau.credential}`, 'content-type': type },
    body: Buffer.from(body),
  });
}

async function settlementOf(device: DeviceId): Promise<{ readonly logged: number }> {
  return (await askServer(bureau, 'GET', `/v1/devices/${device}/settlement`)) as { logged: number };
}

async function loggedOf(device: DeviceId): Promise<number> {
  return (await settlementOf(device)).logged;
}

async function accounts(): Promise<unknown> {
  return askServer(bureau, 'GET', `/v1/licensees/${LICENSEE}/accounts`);
}

async function enrol(request: Uint8Array): Promise<unknown> {
  return askServer(bureau, 'POST', '/v1/devices', {
    licensee: LICENSEE,
    request: Buffer.from(request).toString('base64url'),
    code: await issueEnrolmentCode(installation.operator, LICENSEE),
  });
}

function requestValue(device: DeviceId, authentication: 'signature' | 'mac') {
  return {
    device,
    epoch: 1,
    authentication,
    memory: 'host' as const,
    publicKey: testPublicKey(`${device}#1`),
    agreementKey: testPublicKey(`${device} agreement`),
    sessionKey: testPublicKey(`${device} session`),
    software: world.first.observed.software,
    nonce: new Uint8Array(16).fill(9),
  };
}

function enrolmentRequestOf(device: DeviceId, authentication: 'signature' | 'mac'): Uint8Array {
  return world.byDevice(ENROLMENT_REQUEST, requestValue(device, authentication), 'signature').bytes;
}

/** The vectors' first record as that of another device, or changed. */
function statisticsOf(device: DeviceId, changes: Partial<BatchStatistics> = {}) {
  return world.byDevice(BATCH_STATISTICS, { ...world.first, device, ...changes }, 'signature');
}

/** The vectors' record under a code, made with the key that the device shares with this cryptographic device. */
function codedStatistics(device: DeviceId): Uint8Array {
  const bundle = parseTrustBundle(readFileSync(installation.trustBundle, 'utf8'));
  if (!bundle.ok) throw new Error('trust bundle');
  const peer = importPublicKey(bundle.value.agreementKey);
  if (peer === undefined) throw new Error('agreement key');
  const key = agreedKey(testKey(`${device} agreement`), peer, {
    salt: new Uint8Array(0),
    info: macKeyInfo(device, 1, 'statistics'),
    bytes: 32,
  });
  const value: BatchStatistics = {
    ...world.coded,
    device,
    previous: NO_DIGEST,
    observed: { ...world.coded.observed, memory: 'host' },
  };
  const message = unsealedMessage(BATCH_STATISTICS, 'mac', { holder: device, epoch: 1 }, value);
  return seal(message, hmacSha256(key, toBeAuthenticated(message)));
}

/** A message of this type in form only: nobody whom the server knows signed it. */
function strangersMessage(type: string): Uint8Array {
  const message = unsealed('signature', type, 1, { holder: 'confirming', epoch: 1 }, encode(new Map([[1, 1]])));
  return seal(message, new Uint8Array(64).fill(1));
}
