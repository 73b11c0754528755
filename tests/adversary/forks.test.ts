/**
 * A device whose store was copied, or rolled back: two records for one sequence. What the server makes of it, and what an
 * operator can do: look at the evidence, and withdraw the device for good. On SQLite and on a real PostgreSQL.
 */
import { type Clock, systemClock } from '@countermark/node-platform/clock';
import { nodeVerification } from '@countermark/node-platform/verification';
import { parseEnvelope } from '@countermark/protocol/cose';
import type { CustomerId, LicenseeId, ProgrammeId } from '@countermark/protocol/id';
import { CRYPTOGRAPHIC_DEVICE } from '@countermark/protocol/interfaces/cryptographic-device';
import { DEVICE_CERTIFICATE } from '@countermark/protocol/messages/enrolment';
import { FUNDS_GRANT } from '@countermark/protocol/messages/funds';
import { CREDIT_GRANT } from '@countermark/protocol/messages/grant';
import { POLICY, SUSPENSION, type Suspension } from '@countermark/protocol/messages/policy';
import { digestOf } from '@countermark/protocol/digest';
import { mills } from '@countermark/protocol/money';
import { verifyAttestedRecord } from '@countermark/verify/attested-record';
import { trustedKeys } from '@countermark/verify/trust-bundle';
import { verifyMessage } from '@countermark/verify/verified';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { SimulatedDevice } from '../../bench/src/simulated-device.ts';
import {
  ask,
  enrolled,
  eventually,
  licensee,
  type Parties,
  startParties,
  submit,
  value,
} from '../contract/server-parties.ts';
import { testPostgres } from '../postgres.ts';

const postgres = await testPostgres();
const CUSTOMER = 'acme' as CustomerId;
const DEPOSIT_MILLS = 1_000_000n;

afterAll(async () => {
  if (typeof postgres !== 'string') await postgres.stop();
});

type DeviceJson = {
  readonly standing: string;
  readonly reason: string;
  readonly sequence: number;
  readonly evidence: number;
  readonly balanceMills: string;
  readonly acts: readonly { readonly act: string; readonly operator: string; readonly words: string }[];
};
type ExhibitJson = {
  readonly sequence: number;
  readonly record: string;
  readonly attestation: string;
  readonly certificate: string;
};
type CasesJson = {
  readonly cases: readonly {
    readonly code: string;
    readonly refused: ExhibitJson;
    readonly accepted: ExhibitJson | null;
  }[];
};

describe.each(['SQLite', 'PostgreSQL'])('On %s, a device', (kind) => {
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

  const trust = () => ({ port: nodeVerification, keys: trustedKeys(parties.bundle) });
  const operator = (path: string, body?: object) => ask(parties, parties.operator, path, body);
  const show = async (device: SimulatedDevice) => (await operator(`/v1/devices/${device.device}`)).json<DeviceJson>();
  const fund = async (credential: string, request: Uint8Array) => {
    const { body } = await ask(parties, credential, '/v1/funds-requests', request);
    return value(verifyMessage(FUNDS_GRANT, body, trust())).message;
  };
  const funded = async (id: string, amountMills = 100_000n) => {
    const credential = await licensee(parties, id, String(DEPOSIT_MILLS));
    const device = await enrolled(parties, credential, id);
    await fund(credential, device.fundsRequest(1, amountMills));
    device.receive(amountMills);
    return { credential, device };
  };
  const codes = async (credential: string, ...records: Uint8Array[]) =>
    (await submit(parties, credential, records)).map(({ rejection, outcome }) => rejection?.code ?? outcome);
  /** What the authority was told of a device, in the order in which it was. */
  const told = (device: SimulatedDevice): Suspension[] =>
    parties.authority.delivered
      .flatMap(({ suspensions = [] }) => suspensions)
      .map((bytes) => value(verifyMessage(SUSPENSION, bytes, trust())).message)
      .filter((suspension) => suspension.device === device.device);

  it.skipIf(skipped)('that was copied is a fork: both records are kept, and can be verified by anyone', async () => {
    const { credential, device } = await funded('lic_copied');
    const copy = device.copy();
    expect(await codes(credential, device.record({ pieces: 2 }), copy.record({ pieces: 3 }))).toEqual([
      'accepted',
      'fork',
    ]);
    expect(await show(device)).toMatchObject({ standing: 'suspended', sequence: 1, evidence: 1 });
    const { cases } = (await operator(`/v1/devices/${device.device}/evidence`)).json<CasesJson>();
    const [only] = cases;
    expect([cases.length, only?.code, only?.accepted?.sequence, only?.refused.sequence]).toEqual([1, 'fork', 1, 1]);
    for (const [exhibit, pieces] of [
      [only?.accepted, 2],
      [only?.refused, 3],
    ] as const) {
      const [record, attestation] = [bytesOf(exhibit!.record), bytesOf(exhibit!.attestation)];
      const certificate = verifyMessage(DEVICE_CERTIFICATE, bytesOf(exhibit!.certificate), trust());
      const verified = value(
        verifyAttestedRecord(record, attestation, {
          port: nodeVerification,
          keys: trustedKeys(parties.bundle, [value(certificate)]),
        }),
      );
      expect(verified.record.verified.message).toMatchObject({ device: device.device, observed: { pieces } });
    }
  });

  it.skipIf(skipped)('that was rolled back is a fork at the first record that it makes again', async () => {
    const { credential, device } = await funded('lic_rolled-back');
    const before = device.copy();
    expect(await codes(credential, device.record(), device.record())).toEqual(['accepted', 'accepted']);
    expect(await codes(credential, before.record({ pieces: 7 }), before.record())).toEqual(['fork', 'fork']);
    expect(await show(device)).toMatchObject({ standing: 'suspended', sequence: 2, evidence: 2 });
    // One that names a predecessor which is not there is a fork too: it stands beside the one before.
    const other = device.copy();
    expect(await codes(credential, device.record())).toEqual(['accepted']);
    const astray = other.statistics();
    const wrong = other.seal({ ...astray, sequence: 4, previous: digestOf(new Uint8Array(32).fill(9)) });
    expect(await codes(credential, wrong)).toEqual(['fork']);
    const { cases } = (await operator(`/v1/devices/${device.device}/evidence`)).json<CasesJson>();
    expect(cases.at(-1)).toMatchObject({ refused: { sequence: 4 }, accepted: { sequence: 3 } });
  });

  it.skipIf(skipped)('cannot fill the disk with evidence against itself', async () => {
    const { credential, device } = await funded('lic_flooding');
    const copies = Array.from({ length: 70 }, (_, at) => device.copy().record({ pieces: at + 2 }));
    expect(await codes(credential, device.record())).toEqual(['accepted']);
    expect(new Set(await codes(credential, ...copies))).toEqual(new Set(['fork']));
    expect(await show(device)).toMatchObject({ evidence: 64 });
  });

  it.skipIf(skipped)('that is suspended is made known to the authority, though it never reports again', async () => {
    const { credential, device } = await funded('lic_silent');
    const copy = device.copy();
    expect(await codes(credential, device.record(), copy.record({ pieces: 2 }))).toEqual(['accepted', 'fork']);
    const [suspension] = await eventually(
      () => Promise.resolve(told(device)),
      (seen) => seen.length > 0,
    );
    expect(suspension).toMatchObject({ suspended: true, afterSequence: 1 });
    expect(suspension).not.toHaveProperty('withdrawn');
    // Not with its record, which came before the fork.
    const deliveries = parties.authority.delivered.filter(
      ({ items, suspensions = [] }) => items.length > 0 && suspensions.length > 0,
    );
    expect(deliveries.flatMap(({ items }) => items.map(deviceOf))).not.toContain(device.device);
  });

  it.skipIf(skipped)(
    'that is withdrawn stays so: no funds, no franking, no release; its records are accepted, marked',
    async () => {
      const { credential, device } = await funded('lic_withdrawn');
      const copy = device.copy();
      await codes(credential, device.record(), copy.record({ pieces: 2 }));
      const path = `/v1/devices/${device.device}/withdrawal`;
      const first = await operator(path, { reason: 'copied by a thief' });
      expect(first.status).toBe(200);
      const again = await operator(path, { reason: 'something else' });
      expect(again.json()).toEqual(first.json());
      expect(first.json()).toMatchObject({ afterSequence: 1 });
      expect(await show(device)).toMatchObject({
        standing: 'withdrawn',
        suspendedAfter: 1,
        reason: 'copied by a thief',
        acts: [{ act: 'withdrawn', operator: 'operator', words: 'copied by a thief' }],
      });
      await eventually(
        () => Promise.resolve(told(device).at(-1)),
        (seen) => seen?.withdrawn === true,
      );
      const refused = await fund(credential, device.fundsRequest(2, 100n));
      expect(refused).toMatchObject({
        amountMills: 0n,
        refusal: expect.stringMatching(/^device-withdrawn: /) as string,
      });
      // The device may close, send and be confirmed; it may frank nothing more.
      const policy = await ask(parties, credential, `/v1/devices/${device.device}/policy`);
      expect(value(verifyMessage(POLICY, policy.body, trust())).message.maxUnconfirmedPostageMills).toBe(0n);
      expect(await codes(credential, device.record())).toEqual(['accepted']);
      expect((await parties.service.log.entry(device.device, 2))?.suspended).toBe(true);
      // Not even the server can take it back, nor one that forgot it.
      const words = { device: device.device, licensee: device.licensee, reason: '' };
      expect(await parties.call(CRYPTOGRAPHIC_DEVICE.suspend, { ...words, suspended: false })).toMatchObject({
        rejection: { code: 'device-withdrawn' },
      });
      const decision = { depositMills: mills(100n), draws: [] };
      const forgotten = device.fundsRequest(3, 100n);
      const { grant } = value(await parties.call(CRYPTOGRAPHIC_DEVICE.fund, { request: forgotten, ...decision }));
      expect(value(verifyMessage(FUNDS_GRANT, grant, trust())).message).toMatchObject({
        amountMills: 0n,
        refusal: expect.stringMatching(/^device-withdrawn: /) as string,
      });
    },
  );

  it.skipIf(skipped)('that is withdrawn draws no credit with what it franks', async () => {
    const { credential, device } = await funded('lic_undrawn');
    parties.authority.grant(CREDIT_GRANT, {
      programme: 'test' as ProgrammeId,
      programmeVersion: 1,
      licensee: 'lic_undrawn' as LicenseeId,
      customer: CUSTOMER,
      period: '2026',
      revision: 1,
      amountMills: mills(5_000n),
      entitlementMills: mills(5_000n),
      grantedBeforeMills: mills(0n),
      reasons: ['a test'],
      evidence: [digestOf(new Uint8Array(32))],
      currency: { code: 'USD', exponent: 3 },
      demonstration: true,
      grantedAtMs: 1,
    });
    const balance = async (account: string): Promise<bigint> => parties.service.ledger.balance(account);
    const booked = async (sequence: number) =>
      eventually(
        async () => (await ask(parties, credential, `/v1/devices/${device.device}/settlement`)).json(),
        (seen) => seen['booked'] === sequence,
      );
    parties.service.wake();
    await eventually(
      () => balance('credit:lic_undrawn:acme'),
      (seen) => seen === 5_000n,
    );
    await codes(credential, device.record({ customer: CUSTOMER }));
    await booked(1);
    expect(await balance('drawn:lic_undrawn')).toBe(740n);
    await operator(`/v1/devices/${device.device}/withdrawal`, { reason: 'stolen' });
    await codes(credential, device.record({ customer: CUSTOMER, pieces: 3 }));
    await booked(2);
    expect(await balance('drawn:lic_undrawn')).toBe(740n);
    expect(await balance('postage:lic_undrawn:acme')).toBe(4n * 740n);
    expect(await parties.service.ledger.problems()).toEqual([]);
  });

  it.skipIf(skipped)(
    'is withdrawn after a record that is named: it stands where a restored log is fed it again, and none after it',
    async () => {
      const { credential, device } = await funded('lic_named-record');
      const records = [device.record(), device.record(), device.record(), device.record()] as const;
      const tables = <T>(work: Parameters<typeof parties.service.database.transaction<T>>[0]) =>
        parties.service.database.transaction(work);
      await codes(credential, records[0], records[1]);
      const before = await tables(async (all) =>
        all.selectFrom('head').selectAll().where('device', '=', device.device).executeTakeFirstOrThrow(),
      );
      await codes(credential, records[2]);
      const withdrawal = `/v1/devices/${device.device}/withdrawal`;
      expect((await operator(withdrawal, { reason: 'stolen' })).json()).toMatchObject({ afterSequence: 3 });
      // The server as a backup of before the third record has it.
      await tables(async (all) => {
        for (const table of ['record', 'confirmation'] as const) {
          await all.deleteFrom(table).where('device', '=', device.device).where('sequence', '=', 3n).execute();
        }
        await all.deleteFrom('withdrawal').where('device', '=', device.device).execute();
        await all.updateTable('head').set(before).where('device', '=', device.device).execute();
      });
      expect(await show(device)).toMatchObject({ standing: 'good', sequence: 2, suspendedAfter: null });
      expect((await operator(withdrawal, { reason: 'stolen' })).json()).toMatchObject({ afterSequence: 3 });
      expect(await codes(credential, records[2], records[3])).toEqual(['accepted', 'accepted']);
      const marked = async (sequence: number) => (await parties.service.log.entry(device.device, sequence))?.suspended;
      expect([await marked(2), await marked(3), await marked(4)]).toEqual([false, false, true]);
      expect(await parties.service.ledger.problems()).toEqual([]);
    },
  );

  it.skipIf(skipped)('is withdrawn, and its word kept, also while the cryptographic device is away', async () => {
    const { credential, device } = await funded('lic_unsigned');
    await codes(credential, device.record());
    // As a crash between the two leaves it.
    await parties.service.log.suspend(device.device, 'stolen');
    await parties.service.database.transaction(async (tables) => {
      const row = { device: device.device, reason: 'stolen', suspension: null, at_ms: 1n };
      await tables.insertInto('withdrawal').values(row).execute();
    });
    await parties.restart();
    await eventually(
      () => Promise.resolve(told(device).at(-1)),
      (seen) => seen?.withdrawn === true,
    );
    // Told again after each start, and each hour: the authority may have been restored from an older backup.
    const before = told(device).length;
    await parties.restart();
    await eventually(
      () => Promise.resolve(told(device).length),
      (seen) => seen > before,
    );
    const after = told(device).length;
    await eventually(
      () => {
        // Each time anew: the server may only now note when it told.
        movedMs += 3_600_000;
        parties.service.wake();
        return Promise.resolve(told(device).length);
      },
      (seen) => seen > after,
    );
  });

  it.skipIf(skipped)('is nobody’s to look at or withdraw but the operators’', async () => {
    const { credential, device } = await funded('lic_curious');
    for (const [path, body] of [
      ['', undefined],
      ['/evidence', undefined],
      ['/withdrawal', { reason: 'mine' }],
      ['/death', { reason: 'mine' }],
    ] as const) {
      const answer = await ask(parties, credential, `/v1/devices/${device.device}${path}`, body);
      expect([path, answer.status]).toEqual([path, 401]);
    }
    expect((await ask(parties, credential, '/v1/devices')).status).toBe(401);
    expect((await operator('/v1/devices/psd_ffffffffffffffff/withdrawal', { reason: 'x' })).json()).toMatchObject({
      code: 'unknown-device',
    });
    expect(await show(device)).toMatchObject({ standing: 'good', acts: [] });
  });

  it.skipIf(skipped)('is listed by its standing', async () => {
    const { credential, device } = await funded('lic_listed');
    await codes(credential, device.record(), device.copy().record());
    const listed = async (query: string) =>
      (await operator(`/v1/devices?${query}`)).json<{ devices: { device: string; standing: string }[] }>().devices;
    for (const standing of ['good', 'suspended', 'withdrawn', 'dead']) {
      const found = await listed(`standing=${standing}`);
      expect(new Set(found.map((one) => one.standing)).size).toBeLessThanOrEqual(1);
      expect(found.some((one) => one.device === device.device)).toBe(standing === 'good');
    }
    const all = await listed('limit=1000');
    const [first] = all;
    // Its balance may be booked meanwhile.
    expect((await listed(`after=${first!.device}&limit=1`)).map((one) => one.device)).toEqual([all[1]!.device]);
  });
});

function deviceOf({ record }: { readonly record: Uint8Array }): string {
  const envelope = parseEnvelope(record);
  return envelope.ok ? envelope.value.key.holder : '';
}

function bytesOf(text: string): Uint8Array {
  return new Uint8Array(Buffer.from(text, 'base64url'));
}
