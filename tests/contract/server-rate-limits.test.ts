/**
 * Rate limits: who tries credentials, or asks without end, is told to wait; hosts that hand in records are not, and take it as a word to
 * try again where they are.
 */
import { randomBytes } from 'node:crypto';
import { request as httpRequest } from 'node:http';
import { ServerClient } from '@countermark/host/server-client';
import type { LicenseeId } from '@countermark/protocol/id';
import { afterEach, describe, expect, it } from 'vitest';
import { ask, enrolled, licensee, type Parties, startParties, submit } from './server-parties.ts';

let parties: Parties;
afterEach(async () => {
  await parties.stop();
});
const start = async (rateLimits: object): Promise<void> => {
  parties = await startParties({ settings: { rateLimits } });
};
const person = async (name: string): Promise<string> => {
  const added = await ask(parties, parties.operator, '/v1/people', { name, role: 'auditor' });
  return added.json<{ credential: string }>().credential;
};
const random = (): string => randomBytes(32).toString('hex');
const statusOf = async (credential: string | null): Promise<number> =>
  (await ask(parties, credential, '/v1/devices')).status;
const statuses = async (count: number, credential: () => string | null): Promise<number[]> => {
  const seen: number[] = [];
  for (let i = 0; i < count; i++) seen.push(await statusOf(credential()));
  return seen;
};
const refusals = async () =>
  (await ask(parties, parties.operator, '/v1/audit-entries?limit=1000'))
    .json<{ entries: { act: string; subject: string }[] }>()
    .entries.filter(({ act }) => act === 'credentials-refused')
    .map(({ subject }) => subject);

describe('Refused credentials', () => {
  it('of one name make it wait, also with the right one, unless that is known here', async () => {
    await start({ failuresPerName: 3 });
    const [known, unknown] = [await person('known'), await person('unknown')];
    expect(await statusOf(known)).toBe(200);
    for (const name of ['known', 'unknown']) {
      expect(await statuses(5, () => `${name}.${random()}`)).toEqual([401, 401, 401, 429, 429]);
    }
    const refused = await ask(parties, unknown, '/v1/devices');
    expect(refused.type).toMatch(/^application\/problem\+json/);
    expect(refused.json()).toMatchObject({ code: 'too-many-requests', status: 429, details: { limit: 3 } });
    expect(await statusOf(known)).toBe(200);
    expect(await statusOf(await person('other'))).toBe(200);
    // Once each, however many there were.
    expect(await refusals()).toEqual(['known', 'unknown']);
  });

  it('from one address make it wait; who is known to be good there does not', async () => {
    await start({ failuresPerAddress: 4 });
    const host = await licensee(parties, 'lic_address');
    const [known, unknown] = [await person('known'), await person('unknown')];
    expect(await statusOf(known)).toBe(200);
    const wrong = [random, () => `somebody.${random()}`, () => null, () => 'x'];
    expect(await statuses(4, () => wrong.pop()?.() ?? null)).toEqual([401, 401, 401, 401]);
    expect(await statuses(2, random)).toEqual([429, 429]);
    expect(await statusOf(unknown)).toBe(429);
    expect(await statusOf(known)).toBe(200);
    expect((await ask(parties, host, '/v1/licensees/lic_address/accounts')).status).toBe(200);
    expect(await upgraded(random())).toMatchObject({ status: 429, retryAfter: expect.stringMatching(/^[1-9]\d?$/) });
    expect(await upgraded(host)).toMatchObject({ status: 101 });
    expect(await refusals()).toEqual(['127.0.0.1']);
  });
});

describe('Requests', () => {
  it('of one person are bounded, each person’s for themselves; the answer says when to ask again', async () => {
    await start({ requestsPerPerson: 5 });
    const [one, other] = [await person('one'), await person('other')];
    expect(await statuses(7, () => one)).toEqual([200, 200, 200, 200, 200, 429, 429]);
    expect(await statusOf(other)).toBe(200);
    const response = await fetch(new URL('/v1/devices', parties.service.url), {
      headers: { authorization: `Bearer ${one}` },
    });
    await response.arrayBuffer();
    expect(Number(response.headers.get('retry-after'))).toBeGreaterThanOrEqual(1);
    expect(Number(response.headers.get('retry-after'))).toBeLessThanOrEqual(60);
  });

  it('that hand in records and ask for funds are never too many; what is, a host tries again', async () => {
    await start({ requestsPerMachine: 3 });
    const of = 'lic_burst' as LicenseeId;
    const host = await licensee(parties, of);
    const device = await enrolled(parties, host, of);
    device.receive(100_000n);
    for (let i = 0; i < 12; i++) expect((await submit(parties, host, [device.record()]))[0]?.outcome).toBe('accepted');
    const client = new ServerClient({ url: parties.service.url.replace(/\/$/, ''), credential: host });
    const asked = [];
    for (let i = 0; i < 4; i++) asked.push(await client.settlement(device.device));
    expect(asked.map((answer) => (answer.ok ? 'answered' : answer.rejection.code))).toEqual([
      'answered',
      'answered',
      'try-again',
      'try-again',
    ]);
    expect(asked.at(-1)).toMatchObject({ rejection: { detail: { reason: expect.stringContaining('Wait') } } });
    expect(await client.submit([device.record()])).toMatchObject({ ok: true, value: [{ outcome: 'accepted' }] });
    const session = await client.openSession();
    expect(session).toMatchObject({ ok: false, rejection: { code: 'try-again' } });
  });
});

/** An upgrade to a session: the status, and after how many seconds to ask again. */
function upgraded(credential: string): Promise<{ status: number; retryAfter: string | undefined }> {
  return new Promise((resolve, reject) => {
    const headers = { connection: 'Upgrade', upgrade: 'countermark-session', authorization: `Bearer ${credential}` };
    const asked = httpRequest(new URL('/v1/session', parties.service.url), { headers, agent: false });
    asked.on('upgrade', (_response, socket) => {
      socket.destroy();
      resolve({ status: 101, retryAfter: undefined });
    });
    asked.on('response', (response) => {
      response.resume();
      resolve({ status: response.statusCode ?? 0, retryAfter: response.headers['retry-after'] });
    });
    asked.on('error', reject);
    asked.end();
  });
}
