/**
 * The authority and a device that changes its keys, or ends: one chain and one reckoning over both, and nothing more under a key that is over.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Roles, TestDevice } from './authority-evidence.ts';
import { TestAuthority } from './authority-process.ts';

const roles = new Roles();
const LETTERS = [{ level: '5-digit', pieces: 300 }];
let postal: TestAuthority;

beforeAll(async () => {
  postal = new TestAuthority(roles);
  await postal.start();
});
afterAll(async () => {
  await postal.discard();
});

const codes = async (
  certificates: readonly Uint8Array[],
  items: readonly { record: Uint8Array; attestation: Uint8Array }[],
) => {
  const bare = items.map(({ record, attestation }) => ({ record, attestation }));
  const { results } = await postal.deliver({ certificates: [...certificates], items: bare });
  return results.map(({ outcome, rejection }) => rejection?.code ?? outcome);
};

describe('a device that has ended', () => {
  test.each(['signature', 'mac'] as const)(
    'is shown with its final statement; what it reported counts, and nothing comes after it (%s)',
    async (authentication) => {
      const licensee = `lic_ending-${authentication}`;
      const device = new TestDevice(roles, licensee, authentication);
      const shown = async () => (await postal.request(`/v1/devices/${device.id}`)).json();
      const before = device.frank(LETTERS, { customer: 'acme' });
      expect(await codes([device.certificate], [before])).toEqual(['accepted']);
      expect(await shown()).toMatchObject({ sequence: 1, suspended: '', ended: null });
      const statement = device.end();
      expect(await codes([], [statement, statement])).toEqual(['accepted', 'already-accepted']);
      const ended = { licensee, returnedMills: expect.stringMatching(/^[1-9]\d*$/) as string };
      expect(await shown()).toMatchObject({ sequence: 2, suspended: '', ended });
      expect(await codes([], [device.frank(LETTERS, { customer: 'acme' })])).toEqual(['chain-ended']);
      await postal.grants(authentication === 'signature' ? 2 : 4);
      const { rows } = await postal.totals(`by=licensee&licensee=${licensee}`);
      expect(rows.map(({ pieces }) => pieces)).toEqual(['300']);
    },
  );
});

describe('a device that rotates its keys', () => {
  test.each(['signature', 'mac'] as const)(
    'has its records counted under both, and none under the old key afterwards (%s)',
    async (authentication) => {
      const licensee = `lic_rotating-${authentication}`;
      const device = new TestDevice(roles, licensee, authentication);
      const before = device.frank(LETTERS, { customer: 'acme' });
      const rotation = device.rotate();
      const after = device.frank(LETTERS, { customer: 'acme' });
      // Without the new certificate nothing goes over to it, and nothing stands under it.
      expect(await codes([device.certificate], [before, rotation, after])).toEqual([
        'accepted',
        'unknown-device',
        'unknown-device',
      ]);
      expect(await codes([rotation.certificate], [rotation, after])).toEqual(['accepted', 'accepted']);
      expect(await codes([], [before, rotation, after])).toEqual([
        'already-accepted',
        'already-accepted',
        'already-accepted',
      ]);

      const old = device.frank(LETTERS, { customer: 'acme', under: 1, branch: true });
      expect(await codes([], [old])).toEqual(['superseded-key']);
      // Its own chain goes on, in good standing.
      expect(await codes([], [device.frank(LETTERS, { customer: 'acme' })])).toEqual(['accepted']);
      await postal.grants(4);
      const { rows } = await postal.totals(`by=licensee&licensee=${licensee}`);
      expect(rows.map(({ pieces }) => pieces)).toEqual(['900']);
    },
  );
});
