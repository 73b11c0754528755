/**
 * New devices come in with a one-time code of an operator: on SQLite and on a real PostgreSQL, time moved by hand.
 */
import { type Clock, systemClock } from '@countermark/node-platform/clock';
import { sha256 } from '@countermark/node-platform/verification';
import { hex, type LicenseeId } from '@countermark/protocol/id';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { SimulatedDevice } from '../../bench/src/simulated-device.ts';
import { testPostgres } from '../postgres.ts';
import {
  ask,
  type Certified,
  enrolled,
  invited,
  licensee,
  type Parties,
  startParties,
  submit,
} from './server-parties.ts';

const postgres = await testPostgres();
const DAY_MS = 86_400_000;

afterAll(async () => {
  if (typeof postgres !== 'string') await postgres.stop();
});

describe.each(['SQLite', 'PostgreSQL'])('On %s, a new device', (kind) => {
  const skipped = kind === 'PostgreSQL' && typeof postgres === 'string';
  let movedMs = 0;
  const clock: Clock = {
    nowMs: () => systemClock.nowMs() + movedMs,
    sleep: (ms, signal) => systemClock.sleep(ms, signal),
  };
  let parties: Parties;
  beforeAll(async () => {
    if (skipped) return;
    parties = await startParties({
      ...(kind === 'PostgreSQL' && typeof postgres !== 'string' ? { database: postgres.url } : {}),
      clock,
    });
  });
  afterAll(async () => {
    if (!skipped) await parties.stop();
  });

  const requestOf = (device: SimulatedDevice): string => Buffer.from(device.enrolmentRequest()).toString('base64url');
  const enrol = (credential: string, of: string, request: string, code?: string) =>
    ask(parties, credential, '/v1/devices', { licensee: of, request, ...(code === undefined ? {} : { code }) });
  const fresh = (of: string) => new SimulatedDevice(of as LicenseeId);
  type Code = { id: string; state: string; device: string | null; endsAtMs: number; issuedBy: string };
  const codes = async (credential: string, of: string) =>
    (await ask(parties, credential, `/v1/licensees/${of}/enrolment-codes`)).json<{ codes: Code[] }>().codes;

  it.skipIf(skipped)('is refused without a code, and nothing of it is registered or certified', async () => {
    const id = 'lic_without';
    const credential = await licensee(parties, id);
    const device = fresh(id);
    const refused = await enrol(credential, id, requestOf(device));
    expect([refused.status, refused.json()]).toMatchObject([403, { code: 'enrolment-code-needed' }]);
    expect(refused.json()['detail']).toContain(device.device);
    expect((await ask(parties, credential, `/v1/devices/${device.device}/policy`)).json()).toMatchObject({
      code: 'unknown-device',
    });
    // Nor is the operator's own credential a code.
    expect((await enrol(parties.operator, id, requestOf(device))).status).toBe(403);
  });

  it.skipIf(skipped)(
    'is enrolled with its code once; the same request again gets the same certificate, with and without it',
    async () => {
      const id = 'lic_once';
      const credential = await licensee(parties, id);
      const code = await invited(parties, id);
      const request = requestOf(fresh(id));
      const first = await enrol(credential, id, request, code);
      expect(first.status).toBe(201);
      for (const again of [code, undefined]) {
        expect((await enrol(credential, id, request, again)).json<Certified>().certificate).toBe(
          first.json<Certified>().certificate,
        );
      }
      const second = await enrol(credential, id, requestOf(fresh(id)), code);
      expect(second.json()).toMatchObject({
        code: 'enrolment-code-refused',
        detail: expect.stringContaining('another device'),
      });
      expect(await codes(credential, id)).toMatchObject([{ state: 'used', issuedBy: 'operator' }]);
    },
  );

  it.skipIf(skipped)('is enrolled alone where several come with one code at the same time', async () => {
    const id = 'lic_at-once';
    const credential = await licensee(parties, id);
    const code = await invited(parties, id);
    const answers = await Promise.all(
      Array.from({ length: 6 }, () => enrol(credential, id, requestOf(fresh(id)), code)),
    );
    expect(answers.map(({ status }) => status).sort()).toEqual([201, 403, 403, 403, 403, 403]);
  });

  it.skipIf(skipped)(
    'is refused with a code of another licensee, without saying whose it is; with one that is over, or revoked, or none',
    async () => {
      const id = 'lic_refused';
      const credential = await licensee(parties, id);
      await licensee(parties, 'lic_refused-other');
      const others = await invited(parties, 'lic_refused-other');
      const request = requestOf(fresh(id));
      const refusal = async (code: string) => String((await enrol(credential, id, request, code)).json()['detail']);
      expect(await refusal(others)).toContain('it is no code of lic_refused.');
      expect(await refusal('0'.repeat(40))).toContain('it is no code of lic_refused.');
      expect(await refusal('abc')).toContain('40 hex digits');
      expect((await codes(parties.operator, 'lic_refused-other'))[0]).toMatchObject({ state: 'open' });

      const revoked = await invited(parties, id);
      const [{ id: name } = { id: '' }] = await codes(credential, id);
      const revocation = `/v1/licensees/${id}/enrolment-codes/${name}/revocation`;
      expect((await ask(parties, credential, revocation, {})).status).toBe(401);
      expect((await ask(parties, parties.operator, revocation, {})).json()).toMatchObject({
        state: 'revoked',
        revokedBy: 'operator',
      });
      expect(await refusal(revoked)).toContain('it was revoked');
      const unknown = revocation.replace(name, '0'.repeat(16));
      expect((await ask(parties, parties.operator, unknown, {})).json()).toMatchObject({
        code: 'unknown-enrolment-code',
        status: 404,
      });

      const late = await invited(parties, id);
      movedMs += 7 * DAY_MS + 1_000;
      expect(await refusal(late)).toContain('its time is over');
      expect((await codes(credential, id)).map(({ state }) => state).sort()).toEqual(['ended', 'revoked']);
      expect((await enrol(credential, id, request, await invited(parties, id))).status).toBe(201);
    },
  );

  it.skipIf(skipped)(
    'does not use its code up with a request that nobody signed, or for keys of another device',
    async () => {
      const id = 'lic_kept';
      const credential = await licensee(parties, id);
      const known = await enrolled(parties, credential, id);
      const code = await invited(parties, id);
      const device = fresh(id);
      const broken = device.enrolmentRequest();
      broken.set([(broken.at(-1) ?? 0) ^ 1], broken.length - 1);
      expect((await enrol(credential, id, Buffer.from(broken).toString('base64url'), code)).status).toBe(400);
      const posing = fresh(id);
      posing.device = known.device;
      expect((await enrol(credential, id, requestOf(posing), code)).json()).toMatchObject({ code: 'device-enrolled' });
      expect((await enrol(credential, id, requestOf(device), code)).status).toBe(201);
    },
  );

  it.skipIf(skipped)('that was enrolled rotates its keys without a code, and reports', async () => {
    const id = 'lic_rotates';
    const credential = await licensee(parties, id);
    const device = await enrolled(parties, credential, id);
    const rotation = Buffer.from(device.rotationRequest()).toString('base64url');
    expect((await enrol(credential, id, rotation)).status).toBe(201);
    device.receive(10_000n);
    expect((await submit(parties, credential, [device.record()]))[0]?.outcome).toBe('accepted');
  });

  it.skipIf(skipped)('has its code from an operator only, who sees it once; the database has its hash', async () => {
    const id = 'lic_secret';
    const credential = await licensee(parties, id);
    const path = `/v1/licensees/${id}/enrolment-codes`;
    expect((await ask(parties, credential, path, {})).status).toBe(401);
    const code = await invited(parties, id);
    expect(code).toMatch(/^[0-9a-f]{40}$/);
    expect(await invited(parties, id)).not.toBe(code);
    expect(JSON.stringify(await codes(parties.operator, id))).not.toContain(code);
    const rows = await parties.service.database.read((tables) =>
      tables.selectFrom('enrolment_code').selectAll().where('licensee', '=', id).execute(),
    );
    expect(rows.map(({ hash }) => hash)).toContain(hex(sha256(Buffer.from(code, 'hex'))));
    const [{ endsAtMs } = { endsAtMs: 0 }] = await codes(credential, id);
    expect(Math.abs(endsAtMs - clock.nowMs() - 7 * DAY_MS)).toBeLessThan(60_000);
    const other = await licensee(parties, 'lic_secret-other');
    expect((await ask(parties, other, path)).status).toBe(401);
  });
});

describe('A server that was restored from before an enrolment', () => {
  it('takes the device again without a code: the cryptographic device has certified it', async () => {
    const parties = await startParties();
    const credential = await licensee(parties, 'lic_back');
    const device = fresh('lic_back');
    const request = Buffer.from(device.enrolmentRequest()).toString('base64url');
    const body = { licensee: 'lic_back', request, code: await invited(parties, 'lic_back') };
    const first = (await ask(parties, credential, '/v1/devices', body)).json<Certified>();
    await parties.service.database.transaction(async (tables) => {
      await tables.deleteFrom('policy').where('device', '=', device.device).execute();
      await tables.deleteFrom('certificate').where('device', '=', device.device).execute();
      await tables.deleteFrom('device').where('device', '=', device.device).execute();
      await tables.deleteFrom('enrolment_code').execute();
    });
    const again = await ask(parties, credential, '/v1/devices', { licensee: 'lic_back', request });
    expect(again.json<Certified>().certificate).toBe(first.certificate);
    await parties.stop();
  });
  const fresh = (of: string) => new SimulatedDevice(of as LicenseeId);
});
