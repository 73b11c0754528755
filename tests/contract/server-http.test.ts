/**
 * The server's HTTP interface: what it answers, and every bad input with its code as problem+json.
 */
import { randomBytes } from 'node:crypto';
import { nodeVerification } from '@countermark/node-platform/verification';
import { encode } from '@countermark/protocol/cbor';
import type { LicenseeId } from '@countermark/protocol/id';
import { submissionSchema } from '@countermark/protocol/interfaces/answer';
import { BATCH_STATISTICS } from '@countermark/protocol/messages/batch-statistics';
import { CONFIRMATION } from '@countermark/protocol/messages/confirmation';
import { DEVICE_CERTIFICATE } from '@countermark/protocol/messages/enrolment';
import { POLICY, SIGNED_TIME } from '@countermark/protocol/messages/policy';
import { encodeWith } from '@countermark/protocol/schema';
import { trustedKeys } from '@countermark/verify/trust-bundle';
import { verifyMessage } from '@countermark/verify/verified';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { SimulatedDevice } from '../../bench/src/simulated-device.ts';
import {
  ask,
  type Certified,
  enrolled,
  invited,
  licensee,
  type Parties,
  startParties,
  submit,
  value,
} from './server-parties.ts';

const ID = 'lic_http';
let parties: Parties;
let credential: string;
let stranger: string;

beforeAll(async () => {
  parties = await startParties();
  credential = await licensee(parties, ID, '1000000');
  stranger = await licensee(parties, 'lic_stranger', '0', 'mailer');
});
afterAll(async () => {
  await parties.stop();
});

const device = async (): Promise<SimulatedDevice> => {
  const made = await enrolled(parties, credential, ID);
  made.receive(100_000n);
  return made;
};
const trust = () => ({ port: nodeVerification, keys: trustedKeys(parties.bundle) });
const flipped = (bytes: Uint8Array, at: number): Uint8Array => bytes.map((byte, i) => (i === at ? byte ^ 1 : byte));
const codes = async (...records: Uint8Array[]): Promise<string[]> =>
  (await submit(parties, credential, records)).map((answer) => answer.rejection?.code ?? answer.outcome);

describe('The server', () => {
  it('describes itself in OpenAPI 3.1, and answers its health and the trust bundle to anyone', async () => {
    const described = (await ask(parties, null, '/openapi.json')).json<{ openapi: string; paths: object }>();
    expect(described.openapi).toBe('3.1.0');
    expect(Object.keys(described.paths)).toEqual(
      expect.arrayContaining(['/v1/records', '/v1/funds-requests', '/v1/devices']),
    );
    expect((await ask(parties, null, '/health')).json()).toEqual({ status: 'ok' });
    expect((await ask(parties, null, '/v1/trust-bundle')).json()).toMatchObject({ schema: 1 });
  });

  it('enrols a device, the same at every repeat, with a policy for the registered customers', async () => {
    const simulated = new SimulatedDevice(ID as LicenseeId);
    const request = Buffer.from(simulated.enrolmentRequest()).toString('base64url');
    const body = { licensee: ID, request, code: await invited(parties, ID) };
    const first = (await ask(parties, credential, '/v1/devices', body)).json<Certified>();
    expect((await ask(parties, credential, '/v1/devices', body)).json()).toEqual(first);
    const certificate = value(verifyMessage(DEVICE_CERTIFICATE, Buffer.from(first.certificate, 'base64url'), trust()));
    expect(certificate.message).toMatchObject({ device: simulated.device, licensee: ID });
    const policy = value(verifyMessage(POLICY, Buffer.from(first.policy, 'base64url'), trust())).message;
    expect(policy).toMatchObject({ version: 1, customers: [], highestFundsMills: 50_000_000n, lockAfterDays: 90 });
    await ask(parties, credential, `/v1/licensees/${ID}/customers`, { customers: ['zeta', 'alpha', 'zeta'] });
    const fetched = await ask(parties, credential, `/v1/devices/${simulated.device}/policy`);
    expect(fetched.type).toBe('application/cbor');
    const renewed = value(verifyMessage(POLICY, fetched.body, trust())).message;
    expect(renewed).toMatchObject({ version: 2, customers: ['alpha', 'zeta'] });
    await ask(parties, credential, `/v1/licensees/${ID}/customers`, { customers: ['alpha'] });
    expect((await ask(parties, credential, `/v1/devices/${simulated.device}/policy`)).body).toEqual(fetched.body);
    const time = await ask(parties, credential, `/v1/devices/${simulated.device}/time`);
    expect(value(verifyMessage(SIGNED_TIME, time.body, trust())).message.device).toBe(simulated.device);
    const other = new SimulatedDevice(ID as LicenseeId);
    other.device = simulated.device;
    const taken = { ...body, request: Buffer.from(other.enrolmentRequest()).toString('base64url') };
    expect((await ask(parties, credential, '/v1/devices', taken)).json()).toMatchObject({
      code: 'device-enrolled',
      status: 409,
    });
  });

  it('registers as many customers as a policy holds, and refuses more without losing the policy', async () => {
    const own = await licensee(parties, 'lic_many');
    const simulated = await enrolled(parties, own, 'lic_many');
    const customers = Array.from({ length: 4_096 }, (_, i) => `c${String(i).padStart(6, '0')}`);
    const register = (some: readonly string[]) =>
      ask(parties, own, '/v1/licensees/lic_many/customers', { customers: some });
    expect((await register(customers)).status).toBe(200);
    const long = Array.from({ length: 2_000 }, (_, i) => `customer-with-a-long-name-${String(i).padStart(6, '0')}`);
    const wide = await ask(parties, credential, `/v1/licensees/${ID}/customers`, { customers: long });
    expect(wide.json()).toMatchObject({ code: 'limit-exceeded' });
    expect((await register(['one-more'])).json()).toMatchObject({ code: 'limit-exceeded', status: 413 });
    expect((await register(customers.slice(0, 2))).status).toBe(200);
    const policy = await ask(parties, own, `/v1/devices/${simulated.device}/policy`);
    expect(value(verifyMessage(POLICY, policy.body, trust())).message.customers).toEqual(customers);
  });

  it('accepts records, and answers the same confirmation for ever, also after it was started again', async () => {
    const simulated = await device();
    const records = [simulated.record(), simulated.record(), simulated.record()];
    const first = await submit(parties, credential, records);
    expect(first.map((answer) => answer.outcome)).toEqual(['accepted', 'accepted', 'accepted']);
    const confirmation = value(verifyMessage(CONFIRMATION, first[2]!.confirmation!, trust())).message;
    expect(confirmation).toMatchObject({ device: simulated.device, sequence: 3 });
    await parties.restart();
    const again = await submit(parties, credential, records);
    for (const [i, answer] of again.entries()) {
      expect(answer.outcome).toBe('already-accepted');
      expect(Buffer.from(answer.confirmation!)).toEqual(Buffer.from(first[i]!.confirmation!));
      expect(Buffer.from(answer.attestation!)).toEqual(Buffer.from(first[i]!.attestation!));
    }
    for (const part of ['confirmation', 'attestation'] as const) {
      const stored = await ask(parties, credential, `/v1/devices/${simulated.device}/records/2/${part}`);
      expect(Buffer.from(stored.body)).toEqual(Buffer.from(first[1]![part]!));
    }
    const absent = await ask(parties, credential, `/v1/devices/${simulated.device}/records/9/confirmation`);
    expect(absent.json()).toMatchObject({ code: 'unknown-record', status: 404 });
  });

  it('pays into a deposit once for each key', async () => {
    const pay = async (key: string, amountMills: string) =>
      ask(
        parties,
        parties.operator,
        '/v1/licensees/lic_stranger/deposits',
        { amountMills },
        { 'idempotency-key': key },
      );
    expect([(await pay('k1', '500')).status, (await pay('k1', '500')).status]).toEqual([201, 200]);
    expect((await pay('k1', '501')).json()).toMatchObject({ code: 'idempotency-conflict', status: 409 });
    expect((await pay('k2', '20')).json()).toMatchObject({ balanceMills: '520' });
    const without = await ask(parties, parties.operator, '/v1/licensees/lic_stranger/deposits', { amountMills: '1' });
    expect(without.json()).toMatchObject({ code: 'malformed', status: 400 });
  });

  it('takes no more into all deposits than a balance holds', async () => {
    const own = await startParties();
    try {
      await licensee(own, 'lic_rich');
      const most = '9'.repeat(18);
      const pay = (key: string) =>
        ask(own, own.operator, '/v1/licensees/lic_rich/deposits', { amountMills: most }, { 'idempotency-key': key });
      for (let i = 0; i < 9; i++) expect((await pay(`k${i}`)).status).toBe(201);
      expect((await pay('k9')).json()).toMatchObject({ code: 'limit-exceeded' });
      expect((await pay('k8')).json()).toMatchObject({ balanceMills: (9n * BigInt(most)).toString() });
    } finally {
      await own.stop();
    }
  });
});

describe('A bad record gets its code, and those beside it are taken', () => {
  it('altered, truncated, of another type, of an unknown device', async () => {
    const simulated = await device();
    const before = simulated.copy();
    const good = simulated.record();
    const unknown = new SimulatedDevice(ID as LicenseeId);
    unknown.receive(1_000n);
    expect(
      await codes(
        flipped(good, good.length - 1),
        good.subarray(0, good.length - 1),
        before.fundsRequest(1, 1n),
        unknown.record(),
        good,
        Uint8Array.of(0),
      ),
    ).toEqual([
      'bad-authenticator',
      'cbor-malformed',
      'wrong-type',
      'unknown-device',
      'accepted',
      'envelope-malformed',
    ]);
  });

  it('replayed, out of order, forked, inconsistent, of a newer version', async () => {
    const simulated = await device();
    const copied = simulated.copy();
    const [first, second, third] = [simulated.record(), simulated.record(), simulated.record()];
    expect(await codes(first, first, third)).toEqual(['accepted', 'accepted', 'out-of-order']);
    const expected = (await submit(parties, credential, [third]))[0]!.rejection!;
    expect(expected.detail).toMatchObject({ sequence: 3, expected: 2 });
    const altered = second.slice();
    expect(await codes(second, altered, third)).toEqual(['accepted', 'accepted', 'accepted']);
    expect(await codes(copied.record({ pieces: 7 }))).toEqual(['fork']);
    const other = await device();
    const statistics = other.statistics();
    const { observed, declaration } = statistics;
    expect(await codes(other.copy().seal({ ...statistics, observed: { ...observed, pieces: 5 } }))).toEqual([
      'inconsistent',
    ]);
    expect(await codes(other.copy().seal({ ...statistics, declaration: { ...declaration, scheme: 2 } }))).toEqual([
      'unsupported-version',
    ]);
    const newer = other.copy().seal(statistics, { ...BATCH_STATISTICS, version: 2 });
    expect(await codes(newer)).toEqual(['unsupported-version']);
    expect(await codes(other.record())).toEqual(['accepted']);
  });
});

describe('A bad submission is problem+json with its code', () => {
  const record = new Uint8Array(10);
  const submission = (records: readonly Uint8Array[]): Uint8Array => encodeWith(submissionSchema, { records });
  const deep = (levels: number): Uint8Array => new Uint8Array([...new Array<number>(levels).fill(0x81), 0]);
  it.each([
    ['no CBOR', Uint8Array.of(0xff, 1), 'cbor-not-deterministic', 400],
    ['truncated', submission([record]).subarray(0, 8), 'cbor-malformed', 400],
    ['too deep', deep(40), 'cbor-too-deep', 400],
    ['not deterministic', Uint8Array.of(0xa1, 0x18, 0x01, 0x80), 'cbor-not-deterministic', 400],
    ['with a duplicate key', Uint8Array.of(0xa2, 1, 0x80, 1, 0x80), 'cbor-duplicate-key', 400],
    [
      'with an unknown field',
      encode(
        new Map([
          [1, [record] as const],
          [2, 1 as never],
        ]),
      ),
      'unknown-field',
      400,
    ],
    ['of no records', encode(new Map([[1, []]])), 'malformed', 400],
    ['of too many records', encode(new Map([[1, Array.from({ length: 257 }, () => record)]])), 'malformed', 400],
    ['too large', new Uint8Array(4 * 1024 * 1024 + 1), 'limit-exceeded', 413],
  ])('%s', async (_name, body, code, status) => {
    const answer = await ask(parties, credential, '/v1/records', body);
    expect(answer.type).toMatch(/^application\/problem\+json/);
    expect(answer.json()).toMatchObject({ code, status, request_id: expect.stringMatching(/^req_/) });
    expect(answer.status).toBe(status);
  });

  it('of another media type', async () => {
    const answer = await ask(parties, credential, '/v1/records', submission([record]), {
      'content-type': 'text/plain',
    });
    expect(answer.json()).toMatchObject({ code: 'malformed', status: 415 });
    const json = await ask(parties, credential, '/v1/records', { records: [] });
    expect(json.json()).toMatchObject({ code: 'malformed', status: 400 });
  });

  it('in JSON: every defect is named', async () => {
    const answer = await ask(parties, parties.operator, '/v1/licensees', { licensee: 'nobody', kind: 'x', more: 1 });
    expect(answer.json()).toMatchObject({ code: 'malformed', status: 400 });
    expect(answer.json<{ errors: unknown[] }>().errors.length).toBeGreaterThanOrEqual(3);
    const text = await ask(parties, parties.operator, '/v1/licensees', Buffer.from('{"a":'), {
      'content-type': 'application/json',
    });
    expect(text.json()).toMatchObject({ code: 'malformed', status: 400 });
  });

  it('to a route that is none', async () => {
    expect((await ask(parties, credential, '/v1/nothing')).json()).toMatchObject({
      code: 'unknown-operation',
      status: 404,
    });
  });
});

describe('A caller gets only its own', () => {
  it('and nothing without a credential, or with a wrong one', async () => {
    for (const wrong of [null, 'x', randomBytes(32).toString('hex')]) {
      const paths = [`/v1/licensees/${ID}/accounts`, `/v1/devices/psd_0123456789abcdef/policy`, '/v1/programmes'];
      for (const path of paths) {
        expect((await ask(parties, wrong, path)).json()).toMatchObject({ code: 'unauthorised', status: 401 });
      }
      expect((await ask(parties, wrong, '/v1/records', new Uint8Array(4))).status).toBe(401);
    }
  });

  it("and not what is another licensee's, or the operator's", async () => {
    const simulated = await device();
    const id = simulated.device;
    const request = simulated.fundsRequest(1, 0n);
    expect((await ask(parties, stranger, '/v1/funds-requests', request)).json()).toMatchObject({
      code: 'unauthorised',
    });
    expect((await ask(parties, credential, '/v1/funds-requests', request)).status).toBe(200);
    for (const path of [`/v1/licensees/${ID}/accounts`, `/v1/licensees/${ID}/grants`, `/v1/devices/${id}/settlement`]) {
      expect((await ask(parties, credential, path)).status).toBe(200);
      expect((await ask(parties, stranger, path)).json()).toMatchObject({ code: 'unauthorised', status: 401 });
    }
    const made = await ask(parties, credential, '/v1/licensees', { licensee: 'lic_x', name: 'x', kind: 'mailer' });
    expect(made.json()).toMatchObject({ code: 'unauthorised' });
    const paid = await ask(
      parties,
      credential,
      `/v1/licensees/${ID}/deposits`,
      { amountMills: '1' },
      { 'idempotency-key': 'x' },
    );
    expect(paid.json()).toMatchObject({ code: 'unauthorised' });
    expect((await ask(parties, parties.operator, '/v1/licensees/lic_none/accounts')).json()).toMatchObject({
      code: 'unknown-licensee',
      status: 404,
    });
    expect((await ask(parties, parties.operator, '/v1/devices/psd_0123456789abcdef/policy')).json()).toMatchObject({
      code: 'unknown-device',
    });
  });
});
