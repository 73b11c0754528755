/**
 * A dead device is ended by two people, and its balance paid back once, not before the scan window has passed. Who alone
 * would have money back for a device that franks on finds the second person, the window, or the bill. On SQLite and on a
 * real PostgreSQL; time is moved by hand, for server and cryptographic device alike or for one of them.
 */
import { randomBytes } from 'node:crypto';
import { type Clock, systemClock } from '@countermark/node-platform/clock';
import { Examination } from '@countermark/node-platform/examination';
import type { LicenseeId } from '@countermark/protocol/id';
import { nodeVerification, sha256 } from '@countermark/node-platform/verification';
import { messageDigest, parseEnvelope } from '@countermark/protocol/cose';
import { FUNDS_GRANT } from '@countermark/protocol/messages/funds';
import { checkStanding } from '@countermark/server/standing-check';
import type { ServerTables } from '@countermark/server/tables';
import { trustedKeys } from '@countermark/verify/trust-bundle';
import type { SqlDatabase } from '@countermark/sql/database';
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
const DAY_MS = 86_400_000;
const WINDOW_DAYS = 60;
const DEPOSIT_MILLS = 1_000_000n;

afterAll(async () => {
  if (typeof postgres !== 'string') await postgres.stop();
});

/** Real time, moved by hand; waits are real ones. */
class MovedClock implements Clock {
  movedMs = 0;
  nowMs(): number {
    return systemClock.nowMs() + this.movedMs;
  }
  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    return systemClock.sleep(ms, signal);
  }
}

describe.each(['SQLite', 'PostgreSQL'])('On %s, a dead device', (kind) => {
  const skipped = kind === 'PostgreSQL' && typeof postgres === 'string';
  const second = randomBytes(32).toString('hex');
  const clock = new MovedClock();
  const deviceClock = new MovedClock();
  let parties: Parties;
  beforeAll(async () => {
    if (skipped) return;
    parties = await startParties({
      ...(kind === 'PostgreSQL' && typeof postgres !== 'string' ? { database: postgres.url } : {}),
      clock,
      deviceClock,
      settings: { operators: [{ name: 'colleague', credential: second }], scanWindowDays: WINDOW_DAYS },
    });
  });
  afterAll(async () => {
    if (!skipped) await parties.stop();
  });

  const balance = (account: string): Promise<bigint> => parties.service.ledger.balance(account);
  const as = (credential: string, device: SimulatedDevice, path: string, body?: object) =>
    ask(parties, credential, `/v1/devices/${device.device}${path}`, body);
  const show = async (device: SimulatedDevice) => (await as(parties.operator, device, '')).json<Shown>();
  const declare = (device: SimulatedDevice, by = parties.operator) =>
    as(by, device, '/death', { reason: 'burnt with the building' });
  const confirm = (device: SimulatedDevice, by = second) => as(by, device, '/death/confirmation', {});
  const moveOn = (days: number): void => {
    clock.movedMs += days * DAY_MS;
    deviceClock.movedMs += days * DAY_MS;
    parties.service.wake();
  };
  const funded = async (id: string, amountMills = 100_000n) => {
    const credential = await licensee(parties, id, String(DEPOSIT_MILLS));
    const device = await enrolled(parties, credential, id);
    await fund(credential, device.fundsRequest(1, amountMills));
    device.receive(amountMills);
    return { credential, device };
  };
  const fund = async (credential: string, request: Uint8Array) => {
    const { body } = await ask(parties, credential, '/v1/funds-requests', request);
    const trust = { port: nodeVerification, keys: trustedKeys(parties.bundle) };
    return value(verifyMessage(FUNDS_GRANT, body, trust)).message;
  };
  const booked = async (credential: string, device: SimulatedDevice) =>
    eventually(
      async () => (await ask(parties, credential, `/v1/devices/${device.device}/settlement`)).json(),
      (seen) => seen['booked'] === device.sequence,
    );
  const settled = (device: SimulatedDevice) =>
    eventually(
      async () => {
        await parties.service.deadDevices.settleDue();
        return show(device);
      },
      ({ death }) => death?.settled !== 'open',
    );
  /** Everything that was ever paid in is somewhere: nothing appeared, nothing vanished. */
  const conserved = async (id: string, device: SimulatedDevice): Promise<void> => {
    expect(await parties.service.ledger.problems()).toEqual([]);
    const of = id as LicenseeId;
    const held =
      (await balance(`deposit:${of}`)) + (await balance(`device:${device.device}`)) + (await balance(`postage:${of}`));
    expect(held).toBe(DEPOSIT_MILLS);
  };

  it.skipIf(skipped)('is not ended by one person, whoever it is, nor by one with the same name', async () => {
    const { credential, device } = await funded('lic_alone');
    expect((await confirm(device)).json()).toMatchObject({ code: 'device-not-declared-dead' });
    expect((await declare(device, credential)).status).toBe(401);
    expect((await declare(device)).json()).toMatchObject({ declaredBy: 'operator', confirmedBy: null });
    expect((await confirm(device, parties.operator)).json()).toMatchObject({ code: 'second-person-needed' });
    expect((await declare(device)).json()).toMatchObject({ declaredBy: 'operator' });
    // One declaration has no effect.
    expect(await show(device)).toMatchObject({ standing: 'good', death: { settled: 'open', refundAfterMs: null } });
    moveOn(WINDOW_DAYS + 1);
    expect(await fund(credential, device.fundsRequest(2, 100n))).toMatchObject({ amountMills: 100n });
    expect((await confirm(device)).json()).toMatchObject({ declaredBy: 'operator', confirmedBy: 'colleague' });
    const { standing, acts } = await show(device);
    expect(standing).toBe('dead');
    expect(acts.map(({ act, operator, words }) => [act, operator, words])).toEqual([
      ['declared-dead', 'operator', 'burnt with the building'],
      ['confirmed-dead', 'colleague', 'burnt with the building'],
    ]);
    expect(await fund(credential, device.fundsRequest(3, 100n))).toMatchObject({ amountMills: 0n });
  });

  it.skipIf(skipped)('has its balance back once, when the scan window has passed by both clocks', async () => {
    const { credential, device } = await funded('lic_refund');
    await submit(parties, credential, [device.record({ pieces: 10 })]);
    await booked(credential, device);
    await declare(device);
    await confirm(device);
    const account = `device:${device.device}`;
    const left = 100_000n - 7_400n;
    expect(await balance(account)).toBe(left);
    moveOn(WINDOW_DAYS - 1);
    // A server clock that runs ahead is not enough.
    clock.movedMs += 5 * DAY_MS;
    await parties.service.deadDevices.settleDue();
    expect(await show(device)).toMatchObject({ death: { settled: 'open' }, balanceMills: String(left) });
    clock.movedMs -= 5 * DAY_MS;
    await parties.service.deadDevices.settleDue();
    expect(await show(device)).toMatchObject({ death: { settled: 'open' } });
    moveOn(2);
    expect(await settled(device)).toMatchObject({
      death: { settled: 'refunded', refundedMills: String(left) },
      balanceMills: '0',
    });
    expect(await balance('deposit:lic_refund')).toBe(DEPOSIT_MILLS - 7_400n);
    await parties.restart();
    moveOn(WINDOW_DAYS);
    expect((await confirm(device)).json()).toMatchObject({ settled: 'refunded' });
    const { acts } = await show(device);
    expect(acts.filter(({ act }) => act === 'refunded')).toHaveLength(1);
    expect(await balance('deposit:lic_refund')).toBe(DEPOSIT_MILLS - 7_400n);
    await conserved('lic_refund', device);
  });

  it.skipIf(skipped)('is billed for records that turn up before the refund, and after it', async () => {
    const { credential, device } = await funded('lic_late');
    await submit(parties, credential, [device.record()]);
    await declare(device);
    await confirm(device);
    const [early, late, later] = [
      device.record({ pieces: 2 }),
      device.record({ pieces: 3 }),
      device.record({ pieces: 4 }),
    ];
    expect((await submit(parties, credential, [early]))[0]?.outcome).toBe('accepted');
    moveOn(WINDOW_DAYS + 1);
    expect(await settled(device)).toMatchObject({ death: { refundedMills: String(100_000n - 3n * 740n) } });
    expect((await submit(parties, credential, [late, later])).map(({ outcome }) => outcome)).toEqual([
      'accepted',
      'accepted',
    ]);
    await booked(credential, device);
    expect(await show(device)).toMatchObject({ balanceMills: '0', sequence: 4 });
    expect((await parties.service.log.entry(device.device, 4))?.suspended).toBe(true);
    expect(await balance('postage:lic_late')).toBe(10n * 740n);
    expect(await balance('deposit:lic_late')).toBe(DEPOSIT_MILLS - 10n * 740n);
    await conserved('lic_late', device);
  });

  it.skipIf(skipped)(
    'is billed after the refund also for what stands: a restored log was fed it too late',
    async () => {
      const { credential, device } = await funded('lic_late-standing');
      await submit(parties, credential, [device.record()]);
      await declare(device);
      await confirm(device);
      await parties.service.log.standUntil(device.device, 2);
      moveOn(WINDOW_DAYS + 1);
      expect(await settled(device)).toMatchObject({ death: { refundedMills: String(100_000n - 740n) } });
      await submit(parties, credential, [device.record({ pieces: 3 })]);
      await booked(credential, device);
      expect((await parties.service.log.entry(device.device, 2))?.suspended).toBe(false);
      expect(await show(device)).toMatchObject({ balanceMills: '0' });
      expect(await balance('deposit:lic_late-standing')).toBe(DEPOSIT_MILLS - 4n * 740n);
      await conserved('lic_late-standing', device);
    },
  );

  it.skipIf(skipped)('can leave a debt, which no funds are granted against', async () => {
    const { credential, device } = await funded('lic_debt', DEPOSIT_MILLS);
    const other = await enrolled(parties, credential, 'lic_debt');
    await declare(device);
    await confirm(device);
    moveOn(WINDOW_DAYS + 1);
    await settled(device);
    await fund(credential, other.fundsRequest(1, DEPOSIT_MILLS));
    await submit(parties, credential, [device.record({ pieces: 100 })]);
    await booked(credential, device);
    expect(await balance('deposit:lic_debt')).toBe(-74_000n);
    other.receive(DEPOSIT_MILLS);
    expect(await fund(credential, other.fundsRequest(2, 1n))).toMatchObject({
      amountMills: 0n,
      refusal: expect.stringMatching(/^insufficient-deposit: /) as string,
    });
    expect(await parties.service.ledger.problems()).toEqual([]);
  });

  it.skipIf(skipped)('that forked gets nothing back: before its declaration, and within the window', async () => {
    const forked = await funded('lic_forked');
    await submit(parties, forked.credential, [forked.device.copy().record({ pieces: 2 }), forked.device.record()]);
    expect((await declare(forked.device)).json()).toMatchObject({ code: 'device-forked' });
    const { credential, device } = await funded('lic_resurrected');
    const copy = device.copy();
    await submit(parties, credential, [device.record()]);
    await declare(device);
    await confirm(device);
    const [answer] = await submit(parties, credential, [copy.record({ pieces: 5 })]);
    expect(answer?.rejection?.code).toBe('fork');
    moveOn(WINDOW_DAYS + 1);
    expect(await settled(device)).toMatchObject({ death: { settled: 'withheld', refundedMills: null } });
    expect(await balance(`device:${device.device}`)).toBe(100_000n - 740n);
    expect((await show(device)).acts.at(-1)).toMatchObject({ act: 'refund-withheld', operator: '' });
    await conserved('lic_resurrected', device);
  });

  it.skipIf(skipped)('cannot be ended, nor refunded, by who alters the store: a check finds each', async () => {
    const { credential, device } = await funded('lic_altered');
    await submit(parties, credential, [device.record()]);
    await booked(credential, device);
    await declare(device);
    await confirm(device);
    moveOn(WINDOW_DAYS + 1);
    await settled(device);
    const { database } = parties.service;
    const problems = async (): Promise<readonly string[]> => {
      const examination = new Examination();
      await checkStanding({ database, roleKeys: trustedKeys(parties.bundle) }, examination);
      return examination.problems.filter((words) => words.includes(device.device));
    };
    expect(await problems()).toEqual([]);
    const id = device.device;
    const alterations: readonly (readonly [RegExp, (tables: Tables) => { execute(): Promise<unknown> }])[] = [
      [
        /lets records stand that the log does not/,
        (tables) => tables.updateTable('head').set({ suspended_after: 0n }).where('device', '=', id),
      ],
      [
        /record 1 of .* stands, and the device was suspended before it/,
        (tables) => tables.updateTable('head').set({ suspended_after: 0n }).where('device', '=', id),
      ],
      [
        /record 1 of .* is marked, and the device is not suspended/,
        (tables) => ({
          execute: async () => {
            await tables.updateTable('record').set({ suspended: 1n }).where('device', '=', id).execute();
            await tables.updateTable('head').set({ suspended: 0n }).where('device', '=', id).execute();
          },
        }),
      ],
      [
        /the log has not suspended it/,
        (tables) => tables.updateTable('head').set({ suspended: 0n }).where('device', '=', id),
      ],
      [
        /act confirms that/,
        (tables) => tables.updateTable('death').set({ confirmed_by: 'somebody' }).where('device', '=', id),
      ],
      [
        /refunded before its time/,
        (tables) => tables.updateTable('death').set({ refund_after_ms: 9_999_999_999_999n }).where('device', '=', id),
      ],
      [
        /is told as 7 mills/,
        (tables) => tables.updateTable('death').set({ refunded_mills: 7n }).where('device', '=', id),
      ],
      [
        /which is no refunded device/,
        (tables) => tables.updateTable('death').set({ settled: 'withheld' }).where('device', '=', id),
      ],
      [
        /the withdrawal of/,
        (tables) =>
          tables
            .updateTable('withdrawal')
            .set({ suspension: Uint8Array.of(1) })
            .where('device', '=', id),
      ],
    ];
    for (const [words, alter] of alterations) {
      const before = (await problems()).length;
      await database.transaction((tables) => alter(tables).execute());
      expect((await problems()).slice(0, before + 1).join('; ')).toMatch(words);
    }
  });

  it.skipIf(skipped)('is not paid back twice for a request that was decided and never granted', async () => {
    const { credential, device } = await funded('lic_in-flight');
    // The server decided and booked, and died before its cryptographic device signed.
    const request = device.fundsRequest(2, 5_000n);
    const envelope = value(parseEnvelope(request));
    await parties.service.database.transaction(async (tables) => {
      const decided = {
        device: device.device,
        number: 2n,
        licensee: device.licensee,
        request_digest: messageDigest(envelope, sha256),
        request,
        deposit_mills: 5_000n,
        draws: Uint8Array.of(0x80),
        amount_mills: 5_000n,
        refusal: null,
        funds_grant: null,
      };
      await tables.insertInto('funds').values(decided).execute();
      await parties.service.ledger.bookIn(tables, [
        {
          ref: `funds:${device.device}:2`,
          kind: 'funds',
          note: '',
          atMs: 1,
          lines: [
            { account: 'deposit:lic_in-flight', amountMills: -5_000n },
            { account: `device:${device.device}`, amountMills: 5_000n },
          ],
        },
      ]);
    });
    await declare(device);
    await confirm(device);
    moveOn(WINDOW_DAYS + 1);
    expect(await settled(device)).toMatchObject({ death: { refundedMills: '105000' } });
    expect(await fund(credential, request)).toMatchObject({ amountMills: 0n });
    expect(await balance('deposit:lic_in-flight')).toBe(DEPOSIT_MILLS);
    expect(await show(device)).toMatchObject({ balanceMills: '0' });
    await conserved('lic_in-flight', device);
  });

  it.skipIf(skipped)('has grants that an archive returns moved on to the deposit, too', async () => {
    const { credential, device } = await funded('lic_archived');
    const grant = (await ask(parties, credential, '/v1/funds-requests', device.fundsRequest(2, 5_000n))).body;
    await declare(device);
    await confirm(device);
    // The server forgets the grant, as one restored from an older backup.
    await parties.service.database.transaction(async (tables) => {
      const ref = `funds:${device.device}:2`;
      const { number } = await tables
        .selectFrom('entry')
        .select('number')
        .where('ref', '=', ref)
        .executeTakeFirstOrThrow();
      await tables.deleteFrom('funds').where('device', '=', device.device).where('number', '=', 2n).execute();
      await tables.deleteFrom('entry_line').where('entry', '=', number).execute();
      await tables.deleteFrom('entry').where('number', '=', number).execute();
      for (const [account, mills] of [
        [`device:${device.device}`, -5_000n],
        ['deposit:lic_archived', 5_000n],
      ] as const) {
        await tables
          .updateTable('balance')
          .set((eb) => ({ balance_mills: eb('balance_mills', '+', mills) }))
          .where('account', '=', account)
          .execute();
      }
    });
    moveOn(WINDOW_DAYS + 1);
    await settled(device);
    expect((await ask(parties, parties.operator, '/v1/archived-funds-grants', grant)).status).toBe(204);
    expect(await show(device)).toMatchObject({ balanceMills: '0' });
    expect(await balance('deposit:lic_archived')).toBe(DEPOSIT_MILLS);
    await conserved('lic_archived', device);
  });
});

type Tables = Parameters<Parameters<SqlDatabase<ServerTables>['transaction']>[0]>[0];

type Shown = {
  readonly standing: string;
  readonly balanceMills: string;
  readonly death: { readonly settled: string; readonly refundedMills: string | null } | null;
  readonly acts: readonly { readonly act: string; readonly operator: string; readonly words: string }[];
};
