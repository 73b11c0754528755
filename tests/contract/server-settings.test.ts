/**
 * What an operator chooses for one device stands in its next signed policy, and in no other device's.
 */
import { parseEnvelope } from '@countermark/protocol/cose';
import { parsePayload } from '@countermark/protocol/message';
import { POLICY, type Policy } from '@countermark/protocol/messages/policy';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { SimulatedDevice } from '../../bench/src/simulated-device.ts';
import { ask, enrolled, licensee, type Parties, startParties, value } from './server-parties.ts';

let parties: Parties;
let credential: string;
let device: SimulatedDevice;
let other: SimulatedDevice;
beforeAll(async () => {
  const policy = { inspection: { warnAfterDays: 300, lockAfterDays: 365 }, products: ['letter'] };
  parties = await startParties({ settings: { policy } });
  credential = await licensee(parties, 'lic_settings');
  device = await enrolled(parties, credential, 'lic_settings');
  other = await enrolled(parties, credential, 'lic_settings');
});
afterAll(() => parties.stop());

async function policyOf(of: SimulatedDevice): Promise<Policy> {
  const answer = await ask(parties, credential, `/v1/devices/${of.device}/policy`);
  return value(parsePayload(POLICY, value(parseEnvelope(answer.body))));
}

describe('A profile of reporting deadlines', () => {
  it('is chosen for one device by its name, and signed in its next policy, which the settlement names', async () => {
    const before = await policyOf(device);
    expect(before).toMatchObject({ warnAfterDays: 28, lockAfterDays: 90, products: ['letter'] });
    const path = `/v1/devices/${device.device}/profile`;
    const chosen = await ask(parties, parties.operator, path, { profile: '72h' });
    expect(chosen.json()).toMatchObject({ profile: '72h', policySigned: true });
    const settlement = await ask(parties, credential, `/v1/devices/${device.device}/settlement`);
    expect(settlement.json()).toMatchObject({ policyVersion: before.version + 1 });
    expect(await policyOf(device)).toMatchObject({ version: before.version + 1, warnAfterDays: 2, lockAfterDays: 3 });
    expect(await policyOf(other)).toMatchObject({ lockAfterDays: 90 });
    await ask(parties, parties.operator, path, { profile: 'standard' });
    expect(await policyOf(device)).toMatchObject({ version: before.version + 2, lockAfterDays: 90 });
    const shown = (await ask(parties, parties.operator, `/v1/devices/${device.device}`)).json();
    expect(shown).toMatchObject({ profile: '', policyVersion: before.version + 2 });
    expect((shown['acts'] as { act: string; words: string }[]).map(({ act, words }) => `${act} ${words}`)).toEqual([
      'profile-chosen 72h',
      'profile-chosen standard',
    ]);
  });

  it('is nobody’s to choose but the operators’, and none that is unknown', async () => {
    const path = `/v1/devices/${device.device}/profile`;
    expect((await ask(parties, credential, path, { profile: '72h' })).status).toBe(401);
    const unknown = await ask(parties, parties.operator, path, { profile: '1000-years' });
    expect(unknown.json()).toMatchObject({ code: 'usage' });
    expect(await policyOf(other)).toMatchObject({ lockAfterDays: 90 });
  });
});

describe('An inspection', () => {
  it('is due from the enrolment, and again from the day that an operator notes', async () => {
    const before = await policyOf(other);
    expect(before.inspection).toMatchObject({ warnAfterDays: 300, lockAfterDays: 365 });
    const noted = await ask(parties, parties.operator, `/v1/devices/${other.device}/inspection`, {
      reason: 'seal whole',
    });
    const { inspectedAtMs } = noted.json<{ inspectedAtMs: number }>();
    const after = await policyOf(other);
    expect(after.version).toBe(before.version + 1);
    expect(after.inspection?.inspectedAtMs).toBe(inspectedAtMs);
    expect(inspectedAtMs).toBeGreaterThan(before.inspection?.inspectedAtMs ?? Infinity);
  });
});
