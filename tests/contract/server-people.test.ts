/**
 * People with roles: their credentials, what needs two of them, and what a customer gets to see. Who may ask which route is
 * `server-authorisation.test.ts`.
 */
import { randomBytes } from 'node:crypto';
import type { CustomerId, LicenseeId } from '@countermark/protocol/id';
import { ACCOUNT } from '@countermark/server/ledger';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { SimulatedDevice } from '../../bench/src/simulated-device.ts';
import { ask, enrolled, eventually, licensee, type Parties, startParties, submit } from './server-parties.ts';

const ID = 'lic_people';
let parties: Parties;
let host: string;
const colleague = randomBytes(32).toString('hex');

beforeAll(async () => {
  parties = await startParties({ settings: { operators: [{ name: 'colleague', credential: colleague }] } });
  host = await licensee(parties, ID, '1000000');
});
afterAll(async () => {
  await parties.stop();
});

const add = (name: string, role: string, of: object = {}, by = parties.operator) =>
  ask(parties, by, '/v1/people', { name, role, ...of });
const person = async (...given: Parameters<typeof add>): Promise<string> =>
  (await add(...given)).json<{ credential: string }>().credential;
const revoke = (name: string, by = parties.operator) => ask(parties, by, `/v1/people/${name}/revocation`, {});
const stored = async (name: string) =>
  parties.service.database.read((tables) =>
    tables.selectFrom('person').selectAll().where('name', '=', name).executeTakeFirstOrThrow(),
  );

describe('A person', () => {
  it('has a credential of 256 random bits, of which the server keeps an argon2id hash only', async () => {
    const added = await add('alice', 'auditor');
    expect(added.status).toBe(201);
    const { credential, ...rest } = added.json<{ credential: string }>();
    expect(rest).toEqual({ name: 'alice', role: 'auditor' });
    expect(credential).toMatch(/^alice\.[0-9a-f]{64}$/);
    const row = await stored('alice');
    expect(row.hash).toMatch(/^\$argon2id\$v=19\$m=19456,t=2,p=1\$/);
    expect(JSON.stringify(Object.values(row).map(String))).not.toContain(credential.slice(6));
    expect((await ask(parties, credential, '/v1/people')).json()).toMatchObject({
      people: [{ name: 'alice', role: 'auditor', addedBy: 'operator', revokedAtMs: null }],
    });
    expect(await person('bob', 'auditor')).not.toContain(credential.slice(6));
  });

  it('is known again after a restart, and at many requests at once', async () => {
    const credential = await person('carol', 'auditor');
    await parties.restart();
    const answers = await Promise.all(Array.from({ length: 20 }, () => ask(parties, credential, '/v1/people')));
    expect(answers.map(({ status }) => status)).toEqual(answers.map(() => 200));
  });

  it('is nobody from the next request on, once revoked; the name is not given again', async () => {
    const credential = await person('dave', 'auditor');
    expect((await ask(parties, credential, '/v1/people')).status).toBe(200);
    const revoked = (await revoke('dave')).json();
    expect(revoked).toMatchObject({ name: 'dave', revokedBy: 'operator' });
    expect((await ask(parties, credential, '/v1/people')).status).toBe(401);
    expect((await revoke('dave')).json()).toEqual(revoked);
    expect((await add('dave', 'auditor')).json()).toMatchObject({ code: 'person-exists', status: 409 });
    expect((await revoke('nobody')).json()).toMatchObject({ code: 'unknown-person', status: 404 });
    await parties.restart();
    expect((await ask(parties, credential, '/v1/people')).status).toBe(401);
  });

  it('cannot have the name of a configured credential, nor can one be configured with a person’s', async () => {
    for (const name of ['operator', 'colleague']) {
      expect((await add(name, 'auditor')).json()).toMatchObject({ code: 'person-exists' });
    }
    const own = await startParties({ settings: { operators: [{ name: 'colleague', credential: colleague }] } });
    try {
      await own.service.database.transaction(async (tables) => {
        await tables
          .insertInto('person')
          .values({
            name: 'colleague',
            role: 'officer',
            licensee: null,
            customer: null,
            hash: 'x',
            added_by: 'operator',
            added_at_ms: 1n,
            revoked_by: null,
            revoked_at_ms: null,
          })
          .execute();
      });
      await expect(own.restart()).rejects.toThrow('config-invalid');
    } finally {
      await own.stop();
    }
  });

  it('of a role that is theirs to give: officers only by the bootstrap credential; a customer has a licensee', async () => {
    const officer = await person('erin', 'officer');
    expect((await add('frank', 'officer', {}, officer)).json()).toMatchObject({ code: 'unauthorised' });
    expect((await add('frank', 'officer', {}, colleague)).json()).toMatchObject({ code: 'unauthorised' });
    expect((await add('frank', 'operator', {}, officer)).status).toBe(201);
    expect((await stored('frank')).added_by).toBe('erin');
    expect((await add('grace', 'customer')).json()).toMatchObject({ code: 'malformed' });
    expect((await add('grace', 'auditor', { licensee: ID })).json()).toMatchObject({ code: 'malformed' });
    expect((await add('grace', 'customer', { licensee: 'lic_none' })).json()).toMatchObject({
      code: 'unknown-licensee',
    });
    expect((await add('Grace', 'auditor')).json()).toMatchObject({ code: 'malformed' });
  });
});

describe('A dead device', () => {
  const death = (device: SimulatedDevice, by: string, confirmation = '') =>
    ask(
      parties,
      by,
      `/v1/devices/${device.device}/death${confirmation}`,
      confirmation === '' ? { reason: 'burnt' } : {},
    );
  const declared = (device: SimulatedDevice, by: string) => death(device, by);
  const confirmed = (device: SimulatedDevice, by: string) => death(device, by, '/confirmation');

  it('is confirmed by an officer, with another credential than it was declared with', async () => {
    const device = await enrolled(parties, host, ID);
    const operator = await person('heidi', 'operator');
    const officer = await person('ivan', 'officer');
    expect((await declared(device, officer)).json()).toMatchObject({ declaredBy: 'ivan', confirmedBy: null });
    expect((await confirmed(device, operator)).json()).toMatchObject({ code: 'unauthorised' });
    expect((await confirmed(device, officer)).json()).toMatchObject({ code: 'second-person-needed' });
    const other = await person('judy', 'officer');
    expect((await confirmed(device, other)).json()).toMatchObject({ declaredBy: 'ivan', confirmedBy: 'judy' });
    const { acts } = (await ask(parties, parties.operator, `/v1/devices/${device.device}`)).json<{ acts: object[] }>();
    expect(acts).toMatchObject([
      { act: 'declared-dead', operator: 'ivan' },
      { act: 'confirmed-dead', operator: 'judy' },
    ]);
  });

  it('is not ended by one person with two credentials, of which they made one', async () => {
    const [first, second] = [await enrolled(parties, host, ID), await enrolled(parties, host, ID)];
    const officer = await person('kim', 'officer');
    const made = await person('kims-other', 'operator', {}, officer);
    expect((await declared(first, made)).json()).toMatchObject({ declaredBy: 'kims-other' });
    expect((await confirmed(first, officer)).json()).toMatchObject({ code: 'second-person-dependent' });
    // Whoever has the bootstrap credential makes officers.
    expect((await declared(second, parties.operator)).json()).toMatchObject({ declaredBy: 'operator' });
    expect((await confirmed(second, officer)).json()).toMatchObject({ code: 'second-person-dependent' });
    const [{ confirmed_by: confirmedBy } = { confirmed_by: 'x' }] = await parties.service.database.read((tables) =>
      tables.selectFrom('death').select('confirmed_by').where('device', '=', first.device).execute(),
    );
    expect(confirmedBy).toBe(null);
    expect((await confirmed(first, colleague)).json()).toMatchObject({ confirmedBy: 'colleague' });
  });
});

describe('A customer', () => {
  it('reads the accounts, ledger lines, grants and records that are its own, and nothing else', async () => {
    const of = 'lic_bureau';
    const own = await licensee(parties, of, '1000000');
    await ask(parties, own, `/v1/licensees/${of}/customers`, { customers: ['acme', 'zeta'] });
    const device = await enrolled(parties, own, of);
    device.receive(100_000n);
    const batch = (customer: string) => device.record({ customer: customer as CustomerId });
    await submit(parties, own, [batch('acme'), batch('zeta'), device.record()]);
    await eventually(
      () => parties.service.ledger.balance(ACCOUNT.device(device.device)),
      (balanceMills) => balanceMills !== 0n,
    );
    await eventually(
      async () => (await ask(parties, own, `/v1/devices/${device.device}/settlement`)).json(),
      ({ booked }) => booked === 3,
    );
    const acme = await person('acme-books', 'customer', { licensee: of, customer: 'acme' });
    const bureau = await person('bureau-books', 'customer', { licensee: of });
    const account = (customer?: string) => ACCOUNT.of('postage', of as LicenseeId, customer as CustomerId | undefined);
    const accountsOf = async (credential: string) =>
      (await ask(parties, credential, `/v1/licensees/${of}/accounts`))
        .json<{ accounts: { account: string }[] }>()
        .accounts.map((one) => one.account);
    expect(await accountsOf(acme)).toEqual([account('acme')]);
    expect(await accountsOf(bureau)).toEqual(expect.arrayContaining([account('acme'), account('zeta'), account()]));
    const linesOf = async (credential: string) =>
      (await ask(parties, credential, `/v1/licensees/${of}/entries`))
        .json<{ entries: { lines: { account: string }[] }[] }>()
        .entries.map(({ lines }) => lines.map((line) => line.account));
    expect(await linesOf(acme)).toEqual([[account('acme')]]);
    expect((await linesOf(bureau)).length).toBeGreaterThanOrEqual(4);
    expect((await ask(parties, acme, `/v1/licensees/${of}/grants`)).json()).toMatchObject({ grants: [] });
    const record = async (credential: string, sequence: number, part = 'record') =>
      (await ask(parties, credential, `/v1/devices/${device.device}/records/${sequence}/${part}`)).status;
    expect([await record(acme, 1), await record(acme, 2), await record(acme, 3)]).toEqual([200, 404, 404]);
    expect(await record(acme, 2, 'confirmation')).toBe(404);
    expect([await record(bureau, 1), await record(bureau, 2), await record(bureau, 3)]).toEqual([200, 200, 200]);
    for (const credential of [acme, bureau]) {
      expect((await ask(parties, credential, `/v1/licensees/${ID}/accounts`)).status).toBe(401);
    }
    const stranger = await person('stranger', 'customer', { licensee: ID });
    expect(await record(stranger, 1)).toBe(401);
  });
});
