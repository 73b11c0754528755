/**
 * A server that confirms a record and then loses, withholds or exchanges it: the host brings the record to the authority itself,
 * with the confirmation that the server's own cryptographic device signed. And what nobody gets in that way.
 */
import type { DeliveryAnswers } from '@countermark/authority/intake';
import { deliveryAnswersSchema } from '@countermark/protocol/interfaces/delivery';
import {
  type Evidence,
  EVIDENCE_LIMITS,
  evidenceSchema,
  MAX_EVIDENCE,
} from '@countermark/protocol/interfaces/evidence';
import { CONFIRMATION, type Confirmation } from '@countermark/protocol/messages/confirmation';
import { encodeWith, parseBytes } from '@countermark/protocol/schema';
import { digestText, NO_DIGEST } from '@countermark/protocol/digest';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { delivery, type Franked, Roles, TestDevice } from '../contract/authority-evidence.ts';
import { TestAuthority, valueOf } from '../contract/authority-process.ts';

const LETTERS = [{ level: '5-digit', pieces: 600 }];
const CUSTOMER = { customer: 'alder-press' };

const roles = new Roles();
const postal = new TestAuthority(roles);
beforeAll(() => postal.start());
afterAll(() => postal.discard());

function confirmation({ statistics, digest }: Franked, changes: Partial<Confirmation> = {}): Uint8Array {
  const { device, licensee, sequence } = statistics;
  return roles.sign(CONFIRMATION, { device, licensee, sequence, digest, confirmedAtMs: 5, ...changes });
}

function evidence(
  device: TestDevice,
  franked: readonly Franked[],
  confirmations = franked.map((one) => confirmation(one)),
): Evidence {
  return {
    certificates: [device.certificate],
    items: franked.map(({ record, attestation }, at) => ({ record, attestation, confirmation: confirmations[at]! })),
  };
}

/** Brought as anybody brings it: without a credential. */
async function bring(
  brought: Evidence | Uint8Array,
): Promise<{ status: number; answers: DeliveryAnswers; code: string }> {
  const response = await fetch(`${postal.url}/v1/evidence`, {
    method: 'POST',
    headers: { 'content-type': 'application/cbor' },
    body: Buffer.from(brought instanceof Uint8Array ? brought : encodeWith(evidenceSchema, brought)),
  });
  const body = new Uint8Array(await response.arrayBuffer());
  if (response.status === 200) {
    return { status: 200, answers: valueOf(parseBytes(deliveryAnswersSchema, body)), code: '' };
  }
  const { code } = JSON.parse(Buffer.from(body).toString()) as { code: string };
  return { status: response.status, answers: { cursor: 0, results: [], history: NO_DIGEST, continues: true }, code };
}

async function codes(brought: Evidence): Promise<string[]> {
  return (await bring(brought)).answers.results.map(({ outcome, rejection }) => rejection?.code ?? outcome);
}

describe('A confirmed record that its server withholds', () => {
  test('is counted and granted when the host brings it, and once, whoever brings it again', async () => {
    const device = new TestDevice(roles, 'lic_withheld');
    const [first, second] = [device.frank(LETTERS, CUSTOMER), device.frank(LETTERS, CUSTOMER)];
    const taken = await bring(evidence(device, [first, second]));
    expect(taken.answers.results).toEqual([{ outcome: 'accepted' }, { outcome: 'accepted' }]);
    const granted = (await postal.grants(taken.answers.cursor)).filter(
      ({ grant }) => grant.licensee === device.licensee,
    );
    expect(granted.flatMap(({ grant }) => grant.evidence.map(digestText))).toEqual(
      expect.arrayContaining([digestText(first.digest), digestText(second.digest)]),
    );
    expect(await codes(evidence(device, [first]))).toEqual(['already-accepted']);
    const late = await postal.deliver(delivery([device], [first, second]));
    expect(late.results).toEqual([{ outcome: 'already-accepted' }, { outcome: 'already-accepted' }]);
    const { rows } = await postal.totals('by=standing&licensee=lic_withheld');
    expect(rows).toMatchObject([{ values: { standing: 'paid' }, pieces: '1200' }]);
  });

  test('of a device that authenticates by codes is taken by its attestation', async () => {
    const device = new TestDevice(roles, 'lic_withheld-code', 'mac');
    expect(await codes(evidence(device, [device.frank(LETTERS, CUSTOMER)]))).toEqual(['accepted']);
  });

  test('is not taken before the one that it follows, and the answer says which that is', async () => {
    const device = new TestDevice(roles, 'lic_withheld-order');
    const [first, second] = [device.frank(LETTERS, CUSTOMER), device.frank(LETTERS, CUSTOMER)];
    const { answers } = await bring(evidence(device, [second]));
    expect(answers.results[0]?.rejection).toMatchObject({ code: 'out-of-order', detail: { expected: 1 } });
    expect(await codes(evidence(device, [first, second]))).toEqual(['accepted', 'accepted']);
  });

  test('earns nothing where its device is suspended: the way round the server leads to the same place', async () => {
    const device = new TestDevice(roles, 'lic_withheld-suspended');
    await postal.deliver(delivery([device], [device.frank(LETTERS, CUSTOMER)], [roles.suspension(device, true, 20)]));
    expect(await codes(evidence(device, [device.frank(LETTERS, CUSTOMER)]))).toEqual(['accepted']);
    await postal.grants((await bring(evidence(device, [device.frank(LETTERS, CUSTOMER)]))).answers.cursor);
    const { rows } = await postal.totals('by=standing&licensee=lic_withheld-suspended');
    expect(rows).toMatchObject([{ values: { standing: 'suspended' }, pieces: '1800' }]);
  });
});

test('A server that confirms two histories of a device convicts both itself and the device', async () => {
  const device = new TestDevice(roles, 'lic_equivocation');
  const told = device.frank(LETTERS, { ...CUSTOMER, branch: true });
  const logged = device.frank(LETTERS, { ...CUSTOMER, spoiled: 1 });
  await postal.deliver(delivery([device], [logged]));
  expect(await codes(evidence(device, [told]))).toEqual(['fork']);
  const { records } = (await (await postal.request('/v1/quarantine')).json()) as {
    records: { device: string; digest: string; code: string }[];
  };
  expect(records).toContainEqual(
    expect.objectContaining({ device: device.id, digest: digestText(told.digest), code: 'fork' }),
  );
  // From then on the device earns nothing, by either way.
  await postal.grants((await bring(evidence(device, [device.frank(LETTERS, CUSTOMER)]))).answers.cursor);
  const { rows } = await postal.totals('by=standing&licensee=lic_equivocation&standing=suspended');
  expect(rows).toMatchObject([{ pieces: '600' }]);
});

describe('Nobody gets a record in that was not confirmed', () => {
  const device = new TestDevice(roles, 'lic_unconfirmed');
  const one = device.frank(LETTERS, { ...CUSTOMER, branch: true });
  const other = device.frank(LETTERS, { ...CUSTOMER, spoiled: 1 });
  const strangers = new Roles();
  const flipped = (bytes: Uint8Array): Uint8Array =>
    bytes.map((byte, at) => (at === bytes.length - 1 ? byte ^ 1 : byte));
  test.each<readonly [string, Uint8Array, string]>([
    ['no confirmation but its attestation again', one.attestation, 'wrong-type'],
    ['the confirmation of another record', confirmation(other), 'confirmation-mismatch'],
    ['one for another sequence', confirmation(one, { sequence: 2 }), 'confirmation-mismatch'],
    ['an altered one', flipped(confirmation(one)), 'bad-authenticator'],
    [
      'one by another key of the server side',
      roles.sign(CONFIRMATION, { ...said(one) }, 'attesting'),
      'bad-authenticator',
    ],
    ['one by a key that nobody knows', strangers.sign(CONFIRMATION, { ...said(one) }), 'bad-authenticator'],
  ])('with %s', async (_, bytes, code) => {
    expect(await codes(evidence(device, [one], [bytes]))).toEqual([code]);
  });

  test('nor one that was not attested, or under a certificate of no issuer', async () => {
    const unattested = { ...one, attestation: flipped(one.attestation) };
    expect(await codes(evidence(device, [unattested], [confirmation(one)]))).toEqual(['bad-authenticator']);
    const unknown = new TestDevice(strangers, 'lic_unknown');
    expect(await codes(evidence(unknown, [unknown.frank(LETTERS, CUSTOMER)]))).not.toContain('accepted');
  });

  test('nor more at once than is taken from strangers', async () => {
    const many = evidence(
      device,
      Array.from({ length: MAX_EVIDENCE + 1 }, () => one),
    );
    expect(await bring(many)).toMatchObject({ status: 400, code: 'malformed' });
    expect(await bring(new Uint8Array(EVIDENCE_LIMITS.maxBytes + 1))).toMatchObject({ status: 413 });
    expect(await bring(new Uint8Array())).toMatchObject({ status: 400 });
  });
});

function said({ statistics, digest }: Franked): Confirmation {
  const { device, licensee, sequence } = statistics;
  return { device, licensee, sequence, digest, confirmedAtMs: 5 };
}

describe('A withdrawal that reaches the authority', () => {
  const standing = async (licensee: string): Promise<Record<string, string>> => {
    const { rows } = await postal.totals(`by=standing&licensee=${licensee}`);
    return Object.fromEntries(rows.map((row) => [String(row.values['standing']), row.pieces]));
  };

  test('without any record, whatever its time, ends what the device earns; no message lifts it', async () => {
    const device = new TestDevice(roles, 'lic_gone');
    const bring = async (suspensions: Uint8Array[]): Promise<void> => {
      const { cursor } = await postal.deliver(delivery([device], [device.frank(LETTERS, CUSTOMER)], suspensions));
      await postal.grants(cursor);
    };
    await bring([roles.suspension(device, false, 50)]);
    expect(await standing('lic_gone')).toEqual({ paid: '600' });
    // By a clock that was set back; alone.
    await postal.deliver(delivery([], [], [roles.withdrawal(device, 40)]));
    await bring([]);
    await bring([roles.suspension(device, false, 90)]);
    await bring([roles.suspension(device, true, 99), roles.suspension(device, false, 100)]);
    expect(await standing('lic_gone')).toEqual({ paid: '600', suspended: '1800' });
  });

  test('names the last record that stands: those up to it earn, though they come after it, and none later, whatever comes first', async () => {
    const device = new TestDevice(roles, 'lic_gone-named');
    const [first, second, third, fourth] = [1, 2, 3, 4].map(() => device.frank(LETTERS, CUSTOMER)) as [
      Franked,
      Franked,
      Franked,
      Franked,
    ];
    // Before any record of the device; in pieces; the last one by its host.
    await postal.deliver(delivery([device], [], [roles.withdrawal(device, 10, 2)]));
    await postal.deliver(delivery([device], [first]));
    await postal.deliver(delivery([device], [second, third]));
    await postal.grants((await bring(evidence(device, [fourth]))).answers.cursor);
    expect(await standing('lic_gone-named')).toEqual({ paid: '1200', suspended: '1200' });
    const shown = (await (await postal.request(`/v1/devices/${device.id}`)).json()) as { suspendedAfter: number };
    expect(shown.suspendedAfter).toBe(2);
  });

  test('may name a later record than the suspension before it; after a fork that the authority saw itself, none', async () => {
    const device = new TestDevice(roles, 'lic_gone-later');
    const frank = () => device.frank(LETTERS, CUSTOMER);
    await postal.deliver(delivery([device], [frank()], [roles.suspension(device, true, 10, 1)]));
    await postal.deliver(delivery([device], [frank()], [roles.withdrawal(device, 20, 2)]));
    await postal.grants((await postal.deliver(delivery([device], [frank()]))).cursor);
    expect(await standing('lic_gone-later')).toEqual({ paid: '1200', suspended: '600' });

    const forked = new TestDevice(roles, 'lic_forked-later');
    const copied = forked.frank(LETTERS, { ...CUSTOMER, branch: true });
    await postal.deliver(delivery([forked], [forked.frank(LETTERS, { ...CUSTOMER, spoiled: 1 }), copied]));
    const next = [forked.frank(LETTERS, CUSTOMER)];
    await postal.grants((await postal.deliver(delivery([forked], next, [roles.withdrawal(forked, 20, 2)]))).cursor);
    expect(await standing('lic_forked-later')).toEqual({ paid: '600', spoiled: '1', suspended: '600' });
  });

  test('stays one when its device is also seen to fork', async () => {
    const device = new TestDevice(roles, 'lic_gone-forked');
    const copied = device.frank(LETTERS, { ...CUSTOMER, branch: true });
    const own = device.frank(LETTERS, { ...CUSTOMER, spoiled: 1 });
    const { results } = await postal.deliver(delivery([device], [own, copied], [roles.withdrawal(device, 10)]));
    expect(results.map(({ rejection }) => rejection?.code)).toEqual([undefined, 'fork']);
    await postal.deliver(delivery([], [], [roles.suspension(device, false, 20)]));
    await postal.grants((await postal.deliver(delivery([device], [device.frank(LETTERS, CUSTOMER)]))).cursor);
    expect(await standing('lic_gone-forked')).toEqual({ suspended: '1200', spoiled: '1' });
  });

  test('is nobody’s but the policy key’s to sign', async () => {
    const device = new TestDevice(roles, 'lic_not-gone');
    const forged = new Roles().withdrawal(device, 10);
    await postal.deliver(delivery([], [], [forged]));
    await postal.grants((await postal.deliver(delivery([device], [device.frank(LETTERS, CUSTOMER)]))).cursor);
    expect(await standing('lic_not-gone')).toEqual({ paid: '600' });
  });
});
