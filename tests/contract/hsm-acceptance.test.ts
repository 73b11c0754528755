/** Acceptance while the token is away: nothing is confirmed, nobody's record is lost, and nothing has to be started again. */
import { verifyMessage } from '@countermark/verify/verified';
import { nodeVerification } from '@countermark/node-platform/verification';
import { CONFIRMATION } from '@countermark/protocol/messages/confirmation';
import { trustedKeys } from '@countermark/verify/trust-bundle';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { SimulatedDevice } from '../../bench/src/simulated-device.ts';
import { type SoftHsm, softHsm } from '../../bench/src/soft-hsm.ts';
import { enrolled, eventually, licensee, type Parties, startParties, submit, value } from './server-parties.ts';

const hsm = softHsm('acceptance');
const skipped = typeof hsm === 'string';

describe.skipIf(skipped)('A server whose cryptographic device has its keys on a token', () => {
  const token = hsm as SoftHsm;
  let parties: Parties;
  let credential: string;
  beforeAll(async () => {
    parties = await startParties({ hsm: token.of('acceptance') });
    credential = await licensee(parties, 'lic_token', '1000000');
  });
  afterAll(async () => {
    await parties.stop();
    token.stop();
  });

  const devices = async (): Promise<readonly SimulatedDevice[]> =>
    Promise.all((['signature', 'mac'] as const).map((by) => enrolled(parties, credential, 'lic_token', by)));

  test('takes records by signature and by code, and confirms them under the keys of the token', async () => {
    for (const device of await devices()) {
      device.receive(10_000n);
      const [answer] = await submit(parties, credential, [device.record()]);
      const trust = { port: nodeVerification, keys: trustedKeys(parties.bundle) };
      expect(answer).toMatchObject({ outcome: 'accepted' });
      expect(value(verifyMessage(CONFIRMATION, answer!.confirmation!, trust)).message.sequence).toBe(1);
    }
  });

  test('says "try again" while the token is away, confirms nothing, and goes on by itself when it is back', async () => {
    const both = await devices();
    const records = both.map((device) => {
      device.receive(10_000n);
      return device.record();
    });
    token.unplug();
    for (let attempt = 0; attempt < 3; attempt += 1) {
      const answers = await submit(parties, credential, records);
      expect(answers.map(({ outcome, rejection }) => [outcome, rejection?.code])).toEqual(
        records.map(() => ['rejected', 'try-again']),
      );
      expect(answers.some(({ confirmation }) => confirmation !== undefined)).toBe(false);
    }
    token.plug();
    const answers = await eventually(
      () => submit(parties, credential, records),
      (seen) => seen.every(({ confirmation }) => confirmation !== undefined),
    );
    expect(answers.map(({ outcome }) => outcome)).toEqual(['accepted', 'accepted']);
    const again = await submit(parties, credential, records);
    expect(again.map(({ confirmation }) => confirmation)).toEqual(answers.map(({ confirmation }) => confirmation));
  });
});
