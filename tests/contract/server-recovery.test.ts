/**
 * A server that was restored from an older backup gets back from the authority what no host feeds it with.
 */
import { copyFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { SimulatedDevice } from '../../bench/src/simulated-device.ts';
import { ask, enrolled, eventually, licensee, type Parties, startParties, submit } from './server-parties.ts';

let parties: Parties;
let credential: string;
beforeEach(async () => {
  parties = await startParties();
  credential = await licensee(parties, 'lic_one', '1000000');
});
afterEach(() => parties.stop());

const STORE = 'server.sqlite';
const backUp = () => {
  copyFileSync(join(parties.folder, 'server', STORE), join(parties.folder, 'backup'));
};
const putBack = () => {
  for (const end of ['-wal', '-shm']) rmSync(join(parties.folder, 'server', STORE + end), { force: true });
  copyFileSync(join(parties.folder, 'backup'), join(parties.folder, 'server', STORE));
};
const settlementOf = async (device: SimulatedDevice) =>
  (await ask(parties, credential, `/v1/devices/${device.device}/settlement`)).json<{
    logged?: number;
    delivered?: number;
  }>();
const delivered = (device: SimulatedDevice) =>
  eventually(
    () => settlementOf(device),
    (seen) => seen.delivered === device.sequence,
  );
const recordOf = async (device: SimulatedDevice, sequence: number) =>
  Buffer.from((await ask(parties, credential, `/v1/devices/${device.device}/records/${sequence}/record`)).body);
const funded = async (of: string, own: string, authentication?: 'mac'): Promise<SimulatedDevice> => {
  const device = await enrolled(parties, own, of, authentication);
  device.receive(100_000n);
  return device;
};
const sent = async (device: SimulatedDevice, count: number): Promise<Uint8Array[]> => {
  const records = Array.from({ length: count }, () => device.record());
  const answers = await submit(parties, credential, records);
  expect(answers.map(({ outcome }) => outcome)).toEqual(records.map(() => 'accepted'));
  await delivered(device);
  return records;
};

test('Records that only the authority has come back, of a device that the server has forgotten as well', async () => {
  const known = await funded('lic_one', credential);
  await sent(known, 2);
  await parties.restart(backUp);
  const lost = await sent(known, 3);
  const forgotten = await funded('lic_one', credential, 'mac');
  const all = await sent(forgotten, 2);

  await parties.restart(putBack);
  for (const device of [known, forgotten]) {
    await eventually(
      () => settlementOf(device),
      (seen) => seen.logged === device.sequence,
    );
  }
  // The exact bytes, and each confirmed: the next record of the chain is taken.
  expect(await recordOf(known, 3)).toEqual(Buffer.from(lost[0]!));
  expect(await recordOf(forgotten, 2)).toEqual(Buffer.from(all[1]!));
  const [again] = await submit(parties, credential, [lost[2]!]);
  expect(again).toMatchObject({ outcome: 'already-accepted' });
  expect(again?.confirmation).toBeDefined();
  await sent(known, 1);
});

test('A licensee who is not registered again yet is waited for, and others are not held up', async () => {
  const first = await funded('lic_one', credential);
  await sent(first, 1);
  await parties.restart(backUp);
  const later = await licensee(parties, 'lic_later');
  const theirs = await funded('lic_later', later);
  expect(await submit(parties, later, [theirs.record()])).toMatchObject([{ outcome: 'accepted' }]);
  await sent(first, 2);
  await eventually(
    async () => parties.authority.intake,
    (intake) => intake === 4,
  );

  await parties.restart(putBack);
  await eventually(
    () => settlementOf(first),
    (seen) => seen.logged === 3,
  );
  const again = await licensee(parties, 'lic_later');
  await parties.restart();
  await eventually(
    async () => (await ask(parties, again, `/v1/devices/${theirs.device}/settlement`)).json<{ logged?: number }>(),
    (seen) => seen.logged === 1,
  );
});

test('What the server delivers itself is never asked back', async () => {
  const device = await funded('lic_one', credential);
  await sent(device, 2);
  await sent(device, 3);
  await parties.restart();
  await sent(device, 1);
  expect(parties.authority.listedRecords).toBe(0);
});

test('Where the authority was put back as well, it is asked from the last point that both know', async () => {
  const device = await funded('lic_one', credential);
  await sent(device, 2);
  await parties.restart(backUp);
  await sent(device, 2);
  const { intake } = parties.authority;
  await sent(device, 2);
  await parties.restart(() => {
    putBack();
    parties.authority.forget(intake);
  });
  await eventually(
    () => settlementOf(device),
    (seen) => seen.logged === intake,
  );
  // Not from the first one: the two before the backup are not asked back.
  expect(parties.authority.listedRecords).toBe(2);
});
