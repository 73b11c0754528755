/**
 * The audit trail: what is done stands in it, what is not done does not; a check says in words where somebody altered it. On SQLite and
 * on a real PostgreSQL.
 */
import { Examination } from '@countermark/node-platform/examination';
import { sha256 } from '@countermark/node-platform/verification';
import { type Digest, digestText, NO_DIGEST } from '@countermark/protocol/digest';
import type { LicenseeId } from '@countermark/protocol/id';
import { type AuditEntry, auditDigest } from '@countermark/protocol/interfaces/audit-entry';
import { checkTrail } from '@countermark/server/audit-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { SimulatedDevice } from '../../bench/src/simulated-device.ts';
import { ask, enrolled, invited, licensee, type Parties, startParties } from './server-parties.ts';
import { testPostgres } from '../postgres.ts';

const postgres = await testPostgres();
afterAll(async () => {
  if (typeof postgres !== 'string') await postgres.stop();
});

type Entry = AuditEntry & { readonly digest: string };

describe.each(['SQLite', 'PostgreSQL'])('On %s, the audit trail', (kind) => {
  const skipped = kind === 'PostgreSQL' && typeof postgres === 'string';
  let parties: Parties;
  beforeAll(async () => {
    if (skipped) return;
    parties = await startParties(
      kind === 'PostgreSQL' && typeof postgres !== 'string' ? { database: postgres.url } : {},
    );
  });
  afterAll(async () => {
    if (!skipped) await parties.stop();
  });

  const trail = async (after = 0): Promise<readonly Entry[]> =>
    (await ask(parties, parties.operator, `/v1/audit-entries?after=${after}&limit=1000`)).json<{ entries: Entry[] }>()
      .entries;
  const since = async (work: () => Promise<unknown>): Promise<string[]> => {
    const before = (await trail()).length;
    await work();
    return (await trail(before)).map(({ actor, actorKind, act, subject }) => `${actorKind} ${actor} ${act} ${subject}`);
  };
  const problems = async (): Promise<readonly string[]> => {
    const examination = new Examination();
    await checkTrail(parties.service.database, examination);
    return examination.problems;
  };

  it.skipIf(skipped)('has an entry for what people do, by whom, once, and none for what was refused', async () => {
    const { operator } = parties;
    const of = 'lic_audit';
    let host = '';
    expect(await since(async () => (host = await licensee(parties, of)))).toEqual([
      `bootstrap operator licensee-registered ${of}`,
    ]);
    const pay = (key: string, amountMills: string) =>
      ask(parties, operator, `/v1/licensees/${of}/deposits`, { amountMills }, { 'idempotency-key': key });
    expect(await since(() => pay('k', '500'))).toEqual([`bootstrap operator deposit-paid ${of}`]);
    expect(await since(() => pay('k', '500'))).toEqual([]);
    expect(await since(() => pay('k', '501'))).toEqual([]);
    const payOut = () =>
      ask(parties, operator, `/v1/licensees/${of}/payouts`, { amountMills: '100' }, { 'idempotency-key': 'o' });
    expect(await since(payOut)).toEqual([`bootstrap operator deposit-paid-out ${of}`]);
    expect(await since(payOut)).toEqual([]);
    const customers = (names: string[]) => ask(parties, host, `/v1/licensees/${of}/customers`, { customers: names });
    expect(await since(() => customers(['acme']))).toEqual([`host ${of} customers-registered ${of}`]);
    expect(await since(() => customers(['acme']))).toEqual([]);
    const device = new SimulatedDevice(of as LicenseeId);
    const request = Buffer.from(device.enrolmentRequest()).toString('base64url');
    expect(await since(() => ask(parties, host, '/v1/devices', { licensee: of, request }))).toEqual([]);
    let code = '';
    expect(await since(async () => (code = await invited(parties, of)))).toEqual([
      `bootstrap operator code-issued ${of}`,
    ]);
    const enrol = () => ask(parties, host, '/v1/devices', { licensee: of, request, code });
    expect(await since(enrol)).toEqual([`host ${of} certificate-issued ${device.device}`]);
    expect(await since(enrol)).toEqual([]);
    const add = (name: string) => ask(parties, operator, '/v1/people', { name, role: 'officer' });
    let officer = '';
    expect(await since(async () => (officer = (await add('otto')).json<{ credential: string }>().credential))).toEqual([
      'bootstrap operator person-added otto',
    ]);
    expect(await since(() => add('otto'))).toEqual([]);
    const choose = () => ask(parties, operator, `/v1/devices/${device.device}/profile`, { profile: '72h' });
    expect(await since(choose)).toEqual([`bootstrap operator profile-chosen ${device.device}`]);
    const withdraw = (by: string) => ask(parties, by, `/v1/devices/${device.device}/withdrawal`, { reason: 'stolen' });
    expect(await since(() => withdraw(host))).toEqual([]);
    expect(await since(() => withdraw(officer))).toEqual([`person otto withdrawn ${device.device}`]);
    expect(await since(() => withdraw(officer))).toEqual([]);
    const revoke = () => ask(parties, operator, '/v1/people/otto/revocation', {});
    expect(await since(revoke)).toEqual(['bootstrap operator person-revoked otto']);
    expect(await since(revoke)).toEqual([]);
    expect(JSON.stringify(await trail())).not.toContain(officer.slice(5));
  });

  it.skipIf(skipped)('is one chain that anyone can compute, also where many act at once', async () => {
    await Promise.all(
      Array.from({ length: 12 }, (_, i) =>
        ask(parties, parties.operator, '/v1/licensees', { licensee: `lic_m${i}`, name: 'm', kind: 'mailer' }),
      ),
    );
    let previous: Digest = NO_DIGEST;
    const entries = await trail();
    expect(entries.length).toBeGreaterThan(18);
    for (const [i, { digest, ...entry }] of entries.entries()) {
      expect(entry.number).toBe(i + 1);
      previous = auditDigest(entry, previous, sha256);
      expect(digest).toBe(digestText(previous));
    }
    expect(await problems()).toEqual([]);
  });

  it.skipIf(skipped)('cannot be altered, thinned out or filled up without a check that says where', async () => {
    const { database } = parties.service;
    const entry = (number: bigint) =>
      database.read((tables) =>
        tables.selectFrom('audit_entry').selectAll().where('number', '=', number).executeTakeFirstOrThrow(),
      );
    const good = await entry(3n);
    const last = (await trail()).length;
    const breaks = [/^the audit trail breaks at its entry 3 \(deposit-paid lic_audit by operator\)/];
    const alterations: [Partial<typeof good>, RegExp[]][] = [
      [{ words: '5 mills under the key k' }, breaks],
      [{ actor: 'somebody' }, [/breaks at its entry 3 .* by somebody\)/]],
      [{ actor_kind: 'person' }, breaks],
      [{ actor_kind: 'invented' }, breaks],
      [{ subject: 'lic_other' }, [/breaks at its entry 3/]],
      [{ act: 'withdrawn' }, [/breaks at its entry 3/]],
      [{ at_ms: good.at_ms + 1n }, breaks],
      [{ digest: good.digest.map((byte) => byte ^ 1) }, breaks],
    ];
    const set = (to: Partial<typeof good>, number = 3n) =>
      database.transaction(async (tables) => {
        await tables.updateTable('audit_entry').set(to).where('number', '=', number).execute();
      });
    for (const [altered, expected] of alterations) {
      await set(altered);
      expect(await problems()).toEqual(expected.map((words) => expect.stringMatching(words) as string));
      await set(good);
      expect(await problems()).toEqual([]);
    }
    await database.transaction(async (tables) => {
      await tables.deleteFrom('audit_entry').where('number', '=', 3n).execute();
    });
    expect(await problems()).toEqual(['the audit trail lacks its entry 3: 4 comes next']);
    await database.transaction(async (tables) => {
      await tables.insertInto('audit_entry').values(good).execute();
      await tables
        .insertInto('audit_entry')
        .values({ ...good, number: BigInt(last + 1) })
        .execute();
    });
    expect(await problems()).toEqual([expect.stringMatching(`breaks at its entry ${last + 1} `)]);
    await database.transaction(async (tables) => {
      await tables
        .deleteFrom('audit_entry')
        .where('number', '=', BigInt(last + 1))
        .execute();
    });
    expect(await problems()).toEqual([]);
  });

  it.skipIf(skipped)('begins with what was done before there was one, which cannot be altered either', async () => {
    const { database } = parties.service;
    const device = await enrolled(parties, await licensee(parties, 'lic_before'), 'lic_before');
    const earlier = {
      number: 1n,
      device: device.device,
      act: 'withdrawn',
      operator: 'operator',
      words: 'lost',
      at_ms: 7n,
    };
    // As a server of the version before left it.
    await database.transaction(async (tables) => {
      await tables.deleteFrom('audit_entry').execute();
      await tables.insertInto('operator_act').values(earlier).execute();
    });
    await parties.restart();
    expect(await trail()).toMatchObject([
      {
        number: 1,
        actorKind: 'server',
        act: 'trail-begun',
        words: expect.stringMatching(/^1 acts before, [0-9a-f]{64}$/),
      },
    ]);
    await ask(parties, parties.operator, `/v1/devices/${device.device}/death`, { reason: 'burnt' });
    const { acts } = (await ask(parties, parties.operator, `/v1/devices/${device.device}`)).json<{ acts: object[] }>();
    expect(acts).toEqual([
      { act: 'withdrawn', operator: 'operator', words: 'lost', atMs: 7 },
      expect.objectContaining({ act: 'declared-dead', operator: 'operator', words: 'burnt' }),
    ]);
    expect(await problems()).toEqual([]);
    await parties.restart();
    expect((await trail()).map(({ act }) => act)).toEqual(['trail-begun', 'declared-dead']);
    await parties.service.database.transaction(async (tables) => {
      await tables.updateTable('operator_act').set({ operator: 'somebody' }).execute();
    });
    expect(await problems()).toEqual([
      'what operators did before the audit trail began is not what its first entry says',
    ]);
  });
});
