/**
 * What follows the log, end to end on SQLite and on a real PostgreSQL: postage, delivery, grants, draws, funds.
 */
import { nodeVerification } from '@countermark/node-platform/verification';
import { parseEnvelope } from '@countermark/protocol/cose';
import { digestOf } from '@countermark/protocol/digest';
import { type CustomerId, hex } from '@countermark/protocol/id';
import { DEVICE_CERTIFICATE } from '@countermark/protocol/messages/enrolment';
import { FUNDS_GRANT } from '@countermark/protocol/messages/funds';
import { CREDIT_GRANT, DISCOUNT_GRANT } from '@countermark/protocol/messages/grant';
import { POLICY } from '@countermark/protocol/messages/policy';
import { SUSPENSION } from '@countermark/protocol/messages/policy';
import { mills } from '@countermark/protocol/money';
import { type RejectionCode, rejection } from '@countermark/protocol/rejection';
import { answersSchema } from '@countermark/protocol/interfaces/answer';
import { bytes, encodeWith, field, list, parseBytes, struct } from '@countermark/protocol/schema';
import { trustedKeys } from '@countermark/verify/trust-bundle';
import { verifyMessage } from '@countermark/verify/verified';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { SimulatedDevice } from '../../bench/src/simulated-device.ts';
import { testPostgres } from '../postgres.ts';
import { grantOf as grant } from './server-grants.ts';
import {
  ask,
  type Certified,
  enrolled,
  eventually,
  licensee,
  type Parties,
  startParties,
  submit,
  value,
} from './server-parties.ts';

const postgres = await testPostgres();
const CUSTOMER = 'acme' as CustomerId;
const OTHER = 'other' as CustomerId;

afterAll(async () => {
  if (typeof postgres !== 'string') await postgres.stop();
});

/** A refusal begins with its code. */
const because = (code: RejectionCode): unknown => expect.stringMatching(new RegExp(`^${code}: `));

type Listed = { readonly grants: readonly { kind: string; customer?: string; bookedAtMs: number }[] };

describe.each(['SQLite', 'PostgreSQL'])('Settlement on %s', (kind) => {
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

  const balances = async (credential: string, id: string): Promise<Record<string, string>> => {
    const { accounts } = (await ask(parties, credential, `/v1/licensees/${id}/accounts`)).json();
    return Object.fromEntries(
      (accounts as { account: string; balanceMills: string }[]).map((one) => [one.account, one.balanceMills]),
    );
  };
  const settlement = async (credential: string, device: SimulatedDevice) =>
    (await ask(parties, credential, `/v1/devices/${device.device}/settlement`)).json();
  const settled = async (credential: string, device: SimulatedDevice) =>
    eventually(
      () => settlement(credential, device),
      (seen) => seen['evaluated'] === device.sequence,
    );
  const fund = async (credential: string, request: Uint8Array) => {
    const answer = await ask(parties, credential, '/v1/funds-requests', request);
    if (answer.status !== 200) throw new Error(Buffer.from(answer.body).toString());
    const trust = { port: nodeVerification, keys: trustedKeys(parties.bundle) };
    return { bytes: answer.body, ...value(verifyMessage(FUNDS_GRANT, answer.body, trust)).message };
  };
  /** The server forgets a funds grant, as one restored from an older backup: its entry, its row, what it drew. */
  const forget = async (device: SimulatedDevice, number: number): Promise<void> => {
    await parties.service.database.transaction(async (tables) => {
      const of = { device: device.device as string, number: BigInt(number) };
      await tables.deleteFrom('funds').where('device', '=', of.device).where('number', '=', of.number).execute();
      await tables
        .updateTable('draw')
        .set({ device: null, number: null })
        .where('device', '=', of.device)
        .where('number', '=', of.number)
        .execute();
      const entry = await tables
        .selectFrom('entry')
        .select('number')
        .where('ref', '=', `funds:${device.device}:${number}`)
        .executeTakeFirstOrThrow();
      const lines = await tables.selectFrom('entry_line').selectAll().where('entry', '=', entry.number).execute();
      for (const { account, amount_mills } of lines) {
        await tables
          .updateTable('balance')
          .set((eb) => ({ balance_mills: eb('balance_mills', '-', amount_mills) }))
          .where('account', '=', account)
          .execute();
      }
      await tables.deleteFrom('entry_line').where('entry', '=', entry.number).execute();
      await tables.deleteFrom('entry').where('number', '=', entry.number).execute();
    });
  };
  /** A device whose licensee's customer has a credit, of which its postage has drawn so much. */
  const drawing = async (id: string, creditMills: bigint) => {
    const credential = await licensee(parties, id, '10000000');
    const device = await enrolled(parties, credential, id);
    await fund(credential, device.fundsRequest(1, 5_000_000n));
    device.receive(5_000_000n);
    parties.authority.grant(CREDIT_GRANT, grant(id, CUSTOMER, creditMills));
    wake();
    await eventually(
      async () => (await balances(credential, id))[`credit:${id}:acme`],
      (seen) => seen === String(creditMills),
    );
    const draw = async (pieces: number): Promise<void> => {
      await submit(parties, credential, [device.record({ pieces, customer: CUSTOMER })]);
      await settled(credential, device);
    };
    return { credential, device, draw };
  };
  const wake = (): void => {
    parties.service.wake();
  };

  it.skipIf(skipped)('refills once for a request, from the deposit, capped by deposit and policy', async () => {
    const credential = await licensee(parties, 'lic_refill', '60000000');
    const device = await enrolled(parties, credential, 'lic_refill', 'mac');
    const request = device.fundsRequest(1, 20_000_000n);
    const first = await fund(credential, request);
    expect(first).toMatchObject({ amountMills: 20_000_000n, receivedMills: 20_000_000n, draws: [] });
    expect((await fund(credential, request)).bytes).toEqual(first.bytes);
    expect(await balances(credential, 'lic_refill')).toEqual({
      'deposit:lic_refill': '40000000',
      [`device:${device.device}`]: '20000000',
    });
    device.receive(20_000_000n);
    // The policy lets the device hold 50,000,000.
    expect(await fund(credential, device.fundsRequest(2, 35_000_000n))).toMatchObject({ amountMills: 30_000_000n });
    device.receive(30_000_000n);
    const full = await fund(credential, device.fundsRequest(3, 1n));
    expect(full).toMatchObject({ amountMills: 0n, refusal: because('funds-limit') });
    const second = await enrolled(parties, credential, 'lic_refill');
    const poor = await fund(credential, second.fundsRequest(1, 10_000_001n));
    expect(poor).toMatchObject({ amountMills: 0n, refusal: because('insufficient-deposit') });
    expect((await balances(credential, 'lic_refill'))['deposit:lic_refill']).toBe('10000000');
    const conflict = await ask(parties, credential, '/v1/funds-requests', second.fundsRequest(1, 5n));
    expect(conflict.json()).toMatchObject({ code: 'funds-request-conflict', status: 409 });
  });

  it.skipIf(skipped)(
    'gives no funds while the device has received other than the ledger knows, until the archive is booked',
    async () => {
      const credential = await licensee(parties, 'lic_restored', '1000000');
      const device = await enrolled(parties, credential, 'lic_restored');
      const archived = await fund(credential, device.fundsRequest(1, 1_000n));
      // The server forgets, as one restored from an older backup.
      await parties.service.database.transaction(async (tables) => {
        await tables.deleteFrom('funds').where('device', '=', device.device).execute();
        const entry = await tables
          .selectFrom('entry')
          .select('number')
          .where('ref', '=', `funds:${device.device}:1`)
          .executeTakeFirstOrThrow();
        await tables.deleteFrom('entry_line').where('entry', '=', entry.number).execute();
        await tables.deleteFrom('entry').where('number', '=', entry.number).execute();
        await tables
          .deleteFrom('balance')
          .where('account', 'in', ['deposit:lic_restored', `device:${device.device}`])
          .execute();
        await tables
          .insertInto('balance')
          .values({ account: 'deposit:lic_restored', balance_mills: 1_000_000n })
          .execute();
      });
      device.receive(1_000n);
      const refused = await fund(credential, device.fundsRequest(2, 1_000n));
      expect(refused).toMatchObject({ amountMills: 0n, refusal: because('funds-total-mismatch') });
      const booked = await ask(parties, parties.operator, '/v1/archived-funds-grants', archived.bytes);
      expect(booked.status).toBe(204);
      expect(await fund(credential, device.fundsRequest(3, 500n))).toMatchObject({ amountMills: 500n });
      expect((await balances(credential, 'lic_restored'))['deposit:lic_restored']).toBe('998500');
    },
  );

  it.skipIf(skipped)(
    "books postage by customer, delivers, books grants, and draws each customer's own credit, each mill once",
    async () => {
      const id = 'lic_bureau';
      const credential = await licensee(parties, id, '10000000');
      const customers = await ask(parties, credential, `/v1/licensees/${id}/customers`, {
        customers: [OTHER, CUSTOMER],
      });
      expect(customers.json()).toEqual({ customers: [CUSTOMER, OTHER] });
      const device = await enrolled(parties, credential, id);
      await fund(credential, device.fundsRequest(1, 5_000_000n));
      device.receive(5_000_000n);
      await submit(parties, credential, [
        device.record({ pieces: 3, customer: CUSTOMER }),
        device.record({ pieces: 5, customer: OTHER }),
        device.record({ pieces: 2 }),
      ]);
      expect(await settled(credential, device)).toMatchObject({
        logged: 3,
        booked: 3,
        delivered: 3,
        evaluated: 3,
        drawableMills: '0',
      });
      expect(parties.authority.delivered.flatMap((one) => one.certificates).length).toBeGreaterThan(0);
      expect(await balances(credential, id)).toMatchObject({
        [`postage:${id}:acme`]: '2220',
        [`postage:${id}:other`]: '3700',
        [`postage:${id}`]: '1480',
        [`device:${device.device}`]: String(5_000_000 - 7_400),
      });

      parties.authority.grant(DISCOUNT_GRANT, grant(id, OTHER, 333n));
      parties.authority.grant(CREDIT_GRANT, grant(id, CUSTOMER, 1_000n));
      wake();
      const listed = await eventually(
        async () => (await ask(parties, credential, `/v1/licensees/${id}/grants`)).json<Listed>(),
        (seen) => seen.grants.length === 2,
      );
      expect(listed.grants.map((one) => [one.kind, one.customer])).toEqual([
        ['discount', 'other'],
        ['credit', 'acme'],
      ]);
      expect(await balances(credential, id)).toMatchObject({
        [`discount:${id}:other`]: '333',
        [`credit:${id}:acme`]: '1000',
      });
      expect(await balances(credential, id)).not.toHaveProperty(`drawn:${id}`);

      const { bookedAtMs } = listed.grants[1]!;
      await submit(parties, credential, [
        // Opened before the booking, as far as the device's time says: draws nothing.
        device.record({ pieces: 1, customer: CUSTOMER, openedAfterMs: bookedAtMs - 1 }),
        // Another customer's postage draws nothing either.
        device.record({ pieces: 9, customer: OTHER, openedAfterMs: bookedAtMs }),
        device.record({ pieces: 1, customer: CUSTOMER, openedAfterMs: bookedAtMs }),
        device.record({ pieces: 1, customer: CUSTOMER, openedAfterMs: bookedAtMs }),
      ]);
      expect(await settled(credential, device)).toMatchObject({ drawableMills: '1000' });
      expect(await balances(credential, id)).toMatchObject({ [`drawn:${id}`]: '1000', [`credit:${id}:acme`]: '0' });

      const collected = await fund(credential, device.fundsRequest(2, 0n));
      expect(collected).toMatchObject({
        amountMills: 1_000n,
        draws: [{ customer: CUSTOMER, amountMills: 1_000n }],
        receivedMills: 5_001_000n,
      });
      device.receive(1_000n);
      expect(await fund(credential, device.fundsRequest(3, 0n))).toMatchObject({ amountMills: 0n, draws: [] });
      expect(await settlement(credential, device)).toMatchObject({ drawableMills: '0' });
      const { entries } = (await ask(parties, credential, `/v1/licensees/${id}/entries`)).json();
      for (const entry of entries as { lines: { amountMills: string }[] }[]) {
        expect(entry.lines.reduce((sum, line) => sum + BigInt(line.amountMills), 0n)).toBe(0n);
      }
      expect(await parties.service.ledger.problems()).toEqual([]);
    },
  );

  it.skipIf(skipped)(
    'pays an entitlement once, whatever revisions an authority that was restored grants it in',
    async () => {
      const id = 'lic_regranted';
      const credential = await licensee(parties, id);
      const booked = async (count: number) => {
        wake();
        await eventually(
          async () => (await ask(parties, credential, `/v1/licensees/${id}/grants`)).json<Listed>(),
          (seen) => seen.grants.length === count,
        );
        return balances(credential, id);
      };
      const first = grant(id, CUSTOMER, 500n);
      parties.authority.grant(CREDIT_GRANT, first);
      parties.authority.grant(DISCOUNT_GRANT, grant(id, OTHER, 70n));
      await booked(2);
      // Restored from a backup and fed again, it reckons the same in other steps, and signs anew.
      parties.authority.grant(CREDIT_GRANT, { ...first, amountMills: mills(200n), entitlementMills: mills(200n) });
      const second = { revision: 2, amountMills: mills(450n), grantedBeforeMills: mills(200n) };
      parties.authority.grant(CREDIT_GRANT, { ...first, ...second, entitlementMills: mills(650n) });
      parties.authority.grant(DISCOUNT_GRANT, { ...grant(id, OTHER, 70n), grantedAtMs: 2 });
      expect(await booked(5)).toMatchObject({ [`credit:${id}:acme`]: '650', [`discount:${id}:other`]: '70' });
      expect(await parties.service.ledger.problems()).toEqual([]);
    },
  );

  it.skipIf(skipped)('pays a draw once that an archived funds grant had paid already', async () => {
    const id = 'lic_paid';
    const { credential, device, draw } = await drawing(id, 10_000n);
    await draw(1);
    const paid = await fund(credential, device.fundsRequest(2, 0n));
    expect(paid.draws).toEqual([{ customer: CUSTOMER, amountMills: 740n }]);
    await forget(device, 2);
    device.receive(740n);
    expect((await ask(parties, parties.operator, '/v1/archived-funds-grants', paid.bytes)).status).toBe(204);
    expect(await fund(credential, device.fundsRequest(3, 0n))).toMatchObject({ amountMills: 0n, draws: [] });
    await draw(2);
    const next = await fund(credential, device.fundsRequest(4, 0n));
    expect(next.draws).toEqual([{ customer: CUSTOMER, amountMills: 1_480n }]);
    expect((await balances(credential, id))[`drawn:${id}`]).toBe('0');
    expect(await parties.service.ledger.problems()).toEqual([]);
  });

  it.skipIf(skipped)('nets a draw that an archived grant paid with what is drawn for that customer later', async () => {
    const id = 'lic_netted';
    const { credential, device, draw } = await drawing(id, 10_000n);
    await draw(1);
    const paid = await fund(credential, device.fundsRequest(2, 0n));
    await forget(device, 2);
    // The draw itself is forgotten too: the credit waits again, as a ledger that follows the log anew may have it.
    await parties.service.database.transaction(async (tables) => {
      await tables.deleteFrom('draw').where('licensee', '=', id).execute();
      await tables.updateTable('balance').set({ balance_mills: 0n }).where('account', '=', `drawn:${id}`).execute();
    });
    device.receive(740n);
    await ask(parties, parties.operator, '/v1/archived-funds-grants', paid.bytes);
    await draw(2);
    expect(await fund(credential, device.fundsRequest(3, 0n))).toMatchObject({
      draws: [{ customer: CUSTOMER, amountMills: 740n }],
    });
  });

  it.skipIf(skipped)(
    'keeps draws and ledger together where the request had been granted with other draws',
    async () => {
      const id = 'lic_corrected';
      const { credential, device, draw } = await drawing(id, 10_000n);
      await draw(1);
      const request = device.fundsRequest(2, 0n);
      const granted = await fund(credential, request);
      await forget(device, 2);
      await draw(2);
      // Decided anew with all of the draws; the cryptographic device answers with the grant that it had made.
      expect((await fund(credential, request)).bytes).toEqual(granted.bytes);
      device.receive(740n);
      expect((await balances(credential, id))[`drawn:${id}`]).toBe('1480');
      expect((await fund(credential, device.fundsRequest(3, 0n))).draws).toEqual([
        { customer: CUSTOMER, amountMills: 1_480n },
      ]);
      expect((await balances(credential, id))[`drawn:${id}`]).toBe('0');
    },
  );

  it.skipIf(skipped)('books nothing twice when it follows the log again from the start', async () => {
    const id = 'lic_again';
    const credential = await licensee(parties, id, '100000');
    const device = await enrolled(parties, credential, id);
    device.receive(10_000n);
    await submit(parties, credential, [device.record(), device.record()]);
    await settled(credential, device);
    const before = await balances(credential, id);
    await parties.service.database.transaction(async (tables) => {
      await tables.updateTable('follower').set({ cursor: 0n }).where('name', 'in', ['ledger', 'delivery']).execute();
    });
    wake();
    await settled(credential, device);
    expect(await balances(credential, id)).toEqual(before);
  });

  it.skipIf(skipped)(
    'goes on delivering after the authority was away, and feeds one that lost records again',
    async () => {
      const id = 'lic_away';
      const credential = await licensee(parties, id, '100000');
      const device = await enrolled(parties, credential, id);
      device.receive(100_000n);
      parties.authority.answer = () => null;
      await submit(parties, credential, [device.record(), device.record()]);
      expect(await settlement(credential, device)).toMatchObject({ logged: 2, delivered: 0 });
      parties.authority.answer = undefined;
      await settled(credential, device);
      let asked = 0;
      parties.authority.answer = (delivery) => {
        asked += 1;
        if (asked > 1) return undefined as never;
        const results = delivery.items.map(() => ({
          outcome: 'rejected' as const,
          rejection: rejection('out-of-order', { device: device.device, sequence: 3, expected: 1 }),
        }));
        return { cursor: 0, results };
      };
      parties.authority.delivered.length = 0;
      await submit(parties, credential, [device.record()]);
      await settled(credential, device);
      const again = parties.authority.delivered.slice(1).flatMap((one) => one.items);
      expect(again.length).toBeGreaterThanOrEqual(3);
      parties.authority.answer = undefined;
    },
  );

  it.skipIf(skipped)(
    'feeds again an authority that lost records, though it has as many since as it had then',
    async () => {
      const id = 'lic_overtaken';
      const credential = await licensee(parties, id, '100000');
      const lost = await enrolled(parties, credential, id);
      const other = await enrolled(parties, credential, id);
      lost.receive(50_000n);
      other.receive(50_000n);
      const { intake } = parties.authority;
      const record = lost.record();
      await submit(parties, credential, [record]);
      await settled(credential, lost);
      parties.authority.answer = () => null;
      parties.authority.forget(intake);
      parties.authority.delivered.length = 0;
      await submit(parties, credential, [other.record(), other.record()]);
      parties.authority.answer = undefined;
      await settled(credential, other);
      const again = parties.authority.delivered.flatMap(({ items }) => items.map((item) => hex(item.record)));
      expect(again).toContain(hex(record));
    },
  );

  it.skipIf(skipped).each([
    ['records', 'lic_otherrecords'],
    ['grants alone', 'lic_othergrants'],
  ])(
    'books what an authority with another history of %s granted under cursors that were passed, of each entitlement what is lacking',
    async (lost, id) => {
      const credential = await licensee(parties, id, '100000');
      const device = await enrolled(parties, credential, id);
      device.receive(50_000n);
      const { authority } = parties;
      const credits = async () => {
        const accounts = await balances(credential, id);
        return [accounts[`credit:${id}:acme`], accounts[`credit:${id}:other`]];
      };
      const { intake } = authority;
      const before = authority.grants.length;
      authority.grant(CREDIT_GRANT, grant(id, CUSTOMER, 500n));
      await submit(parties, credential, [device.record({ customer: 'third' as CustomerId })]);
      await settled(credential, device);
      await eventually(credits, ([acme]) => acme === '500');
      // Under the cursor of the one that is booked is another customer's now.
      if (lost === 'records') authority.forget(intake);
      authority.grants.length = before;
      authority.grant(CREDIT_GRANT, grant(id, OTHER, 70n));
      authority.grant(CREDIT_GRANT, { ...grant(id, CUSTOMER, 300n), entitlementMills: mills(800n), revision: 2 });
      wake();
      expect(await eventually(credits, ([acme, other]) => acme === '800' && other === '70')).toEqual(['800', '70']);
    },
  );

  it.skipIf(skipped)(
    'suspends a forked device: no funds, and its later records are delivered with its suspension',
    async () => {
      const id = 'lic_fork';
      const credential = await licensee(parties, id, '100000');
      const device = await enrolled(parties, credential, id);
      await fund(credential, device.fundsRequest(1, 50_000n));
      device.receive(50_000n);
      const copied = device.copy();
      const [one, other] = [device.record(), copied.record({ pieces: 2 })];
      const answers = await submit(parties, credential, [one, other]);
      expect(answers.map((answer) => answer.rejection?.code ?? answer.outcome)).toEqual(['accepted', 'fork']);
      await eventually(
        () => settlement(credential, device),
        (seen) => seen['delivered'] === 1,
      );
      expect(await settlement(credential, device)).toMatchObject({ suspended: true });
      const suspension = await ask(parties, credential, `/v1/devices/${device.device}/suspension`);
      expect(suspension.status).toBe(200);
      const refused = await fund(credential, device.fundsRequest(2, 100n));
      expect(refused).toMatchObject({ amountMills: 0n, refusal: because('device-suspended') });
      parties.authority.delivered.length = 0;
      const later = device.record();
      expect((await submit(parties, credential, [later]))[0]!.outcome).toBe('accepted');
      await settled(credential, device);
      const delivery = parties.authority.delivered.find(({ items }) => items.length > 0);
      expect(delivery?.items.map((item) => Buffer.from(item.record))).toEqual([Buffer.from(later)]);
      expect(delivery?.suspensions).toEqual([suspension.body]);
      const trust = { port: nodeVerification, keys: trustedKeys(parties.bundle) };
      expect(value(verifyMessage(SUSPENSION, delivery!.suspensions![0]!, trust)).message).toMatchObject({
        device: device.device,
        suspended: true,
      });
    },
  );

  it.skipIf(skipped)(
    'delivers what came before a suspension apart from it, and signs one that a crash kept from being signed',
    async () => {
      const id = 'lic_standing';
      const credential = await licensee(parties, id, '100000');
      const device = await enrolled(parties, credential, id);
      device.receive(50_000n);
      parties.authority.answer = () => null;
      const copied = device.copy();
      const [before, forked] = [device.record(), copied.record({ pieces: 2 })];
      const marked = device.record();
      await submit(parties, credential, [before, forked, marked]);
      await parties.service.database.transaction(async (tables) => {
        await tables.updateTable('device').set({ suspension: null }).where('device', '=', device.device).execute();
      });
      parties.authority.delivered.length = 0;
      parties.authority.answer = undefined;
      await settled(credential, device);
      const deliveries = parties.authority.delivered
        .map(({ items, suspensions }) => ({
          records: items.map(({ record }) => Buffer.from(record)),
          suspensions: suspensions?.length ?? 0,
        }))
        // One without anything only asks for the authority's cursor.
        .filter(({ records, suspensions }) => records.length + suspensions > 0);
      expect(deliveries).toEqual([
        { records: [Buffer.from(before)], suspensions: 0 },
        { records: [Buffer.from(marked)], suspensions: 1 },
      ]);
    },
  );

  it.skipIf(skipped)('is not held up by a device whose record the authority refuses for good', async () => {
    const id = 'lic_refused';
    const credential = await licensee(parties, id, '100000');
    const device = await enrolled(parties, credential, id);
    const good = await enrolled(parties, credential, id);
    device.receive(50_000n);
    good.receive(50_000n);
    const bad = { device: device.device, sequence: 1, reason: 'a test' };
    let cursor = 1_000;
    parties.authority.answer = ({ items }) => {
      const results = items.map(({ record }) => {
        const parsed = value(parseEnvelope(record));
        if (parsed.key.holder !== device.device) return { outcome: 'accepted' as const };
        const sequence = records.findIndex((one) => Buffer.from(one).equals(record)) + 1;
        const refused =
          sequence === 1
            ? rejection('inconsistent', bad)
            : rejection('out-of-order', { ...bad, sequence, expected: 1 });
        return { outcome: 'rejected' as const, rejection: refused };
      });
      return { cursor: (cursor += items.length), results };
    };
    parties.authority.evaluatedThrough = 1_000_000;
    const records = [device.record(), device.record()];
    await submit(parties, credential, records);
    await settled(credential, device);
    const later = device.record();
    records.push(later);
    await submit(parties, credential, [later, good.record()]);
    await settled(credential, good);
    parties.authority.answer = undefined;
    parties.authority.evaluatedThrough = undefined;
  });

  it.skipIf(skipped)('takes no key rotation to another certificate than the one of the new epoch', async () => {
    const id = 'lic_rotated';
    const credential = await licensee(parties, id);
    const device = await enrolled(parties, credential, id);
    device.receive(50_000n);
    await submit(parties, credential, [device.record()]);
    const rotation = device.copy().rotation(digestOf(new Uint8Array(32).fill(1)));
    // Without a certificate of the epoch it may be one that the server has lost, and that the host gives back.
    expect((await submit(parties, credential, [rotation]))[0]!.rejection).toMatchObject({ code: 'unknown-device' });
    const request = Buffer.from(device.rotationRequest()).toString('base64url');
    expect((await ask(parties, credential, '/v1/devices', { licensee: id, request })).status).toBe(201);
    expect((await submit(parties, credential, [rotation]))[0]!.rejection).toMatchObject({ code: 'inconsistent' });
    expect((await submit(parties, credential, [device.record()]))[0]!.outcome).toBe('accepted');
    expect(await settled(credential, device)).toMatchObject({ logged: 2, suspended: false });
  });

  it.skipIf(skipped).each(['signature', 'mac'] as const)(
    'takes records of both keys of a rotation, however late, and nothing under the old key after it (%s)',
    async (authentication) => {
      const id = `lic_rotating-${authentication}`;
      const credential = await licensee(parties, id, '100000');
      const device = await enrolled(parties, credential, id, authentication);
      await fund(credential, device.fundsRequest(1, 50_000n));
      device.receive(50_000n);
      const held = [device.record(), device.record()];
      const enrol = async (request: Uint8Array): Promise<Uint8Array> => {
        const text = Buffer.from(request).toString('base64url');
        const answer = await ask(parties, credential, '/v1/devices', { licensee: id, request: text });
        expect(answer.status).toBe(201);
        return Uint8Array.from(Buffer.from(answer.json<Certified>().certificate, 'base64url'));
      };
      const certificate = await enrol(device.rotationRequest());
      expect(Buffer.from(await enrol(device.rotationRequest(new Uint8Array(16).fill(1))))).toEqual(
        Buffer.from(certificate),
      );
      const trust = { port: nodeVerification, keys: trustedKeys(parties.bundle) };
      const { digest, message } = value(verifyMessage(DEVICE_CERTIFICATE, certificate, trust));
      expect(message).toMatchObject({ device: device.device, licensee: id, epoch: 2, authentication });
      const thief = device.copy();
      const rotation = device.rotation(digest);
      const all = [...held, rotation, device.record(), device.record()];
      expect((await submit(parties, credential, all)).map(({ outcome }) => outcome)).toEqual(all.map(() => 'accepted'));
      expect(await settled(credential, device)).toMatchObject({ logged: 5, suspended: false });
      const delivered = parties.authority.delivered.flatMap(({ certificates }) => certificates.map((one) => hex(one)));
      expect(delivered).toContain(hex(certificate));

      Object.assign(thief, { sequence: device.sequence, head: device.head, registers: device.registers });
      const [refused] = await submit(parties, credential, [thief.record()]);
      expect(refused?.rejection).toMatchObject({ code: 'superseded-key', detail: { epoch: 1, current: 2 } });
      const { log } = parties.service;
      expect((await log.evidence(device.device)).map(({ code }) => code)).toEqual(['superseded-key']);
      const before = await balances(credential, id);
      const asked = await ask(parties, credential, '/v1/funds-requests', thief.fundsRequest(2, 1_000n));
      expect(asked.json()).toMatchObject({ code: 'superseded-key' });
      expect(await balances(credential, id)).toEqual(before);
      // It took no number: the device itself goes on with it.
      expect((await fund(credential, device.fundsRequest(2, 1_000n))).amountMills).toBe(1_000n);
      // A start reads the end of the log again, with the certificates of both epochs.
      await parties.restart();
      expect((await submit(parties, credential, [device.record()]))[0]?.outcome).toBe('accepted');
    },
  );

  it.skipIf(skipped)('asks for grants until there are none, however short the lists', async () => {
    const id = 'lic_lists';
    const credential = await licensee(parties, id);
    parties.authority.listLength = 1;
    for (const revision of [1, 2, 3]) {
      const before = BigInt(revision - 1) * 10n;
      parties.authority.grant(DISCOUNT_GRANT, {
        ...grant(id, CUSTOMER, 10n, revision),
        entitlementMills: mills(before + 10n),
        grantedBeforeMills: mills(before),
      });
    }
    wake();
    await eventually(
      async () => (await balances(credential, id))[`discount:${id}:acme`],
      (seen) => seen === '30',
    );
    parties.authority.listLength = undefined;
  });

  it.skipIf(skipped)('has a licensee wait for its own grants, not for those of others', async () => {
    const own = await licensee(parties, 'lic_own');
    const other = await licensee(parties, 'lic_other');
    const device = await enrolled(parties, own, 'lic_own');
    parties.authority.grant(DISCOUNT_GRANT, grant('lic_own', CUSTOMER, 10n, 1));
    parties.authority.grant(DISCOUNT_GRANT, grant('lic_other', CUSTOMER, 10n, 1));
    wake();
    await eventually(
      async () => (await balances(other, 'lic_other'))['discount:lic_other:acme'],
      (seen) => seen === '10',
    );
    type Cursor = { readonly cursor: string; readonly grantsCursor: string };
    const listed = (await ask(parties, own, '/v1/licensees/lic_own/grants')).json<Cursor>();
    const settlement = (await ask(parties, own, `/v1/devices/${device.device}/settlement`)).json<Cursor>();
    expect(settlement.grantsCursor).toBe(listed.cursor);
  });

  it.skipIf(skipped)(
    'gives a device policies above the one that it has, where the server has forgotten that',
    async () => {
      const id = 'lic_policies';
      const credential = await licensee(parties, id);
      const { device } = await enrolled(parties, credential, id);
      const versionAbove = async (above: number): Promise<number> => {
        const { body } = await ask(parties, credential, `/v1/devices/${device}/policy?above=${above}`);
        const policy = verifyMessage(POLICY, body, { port: nodeVerification, keys: trustedKeys(parties.bundle) });
        return value(policy).message.version;
      };
      expect(await versionAbove(0)).toBe(1);
      expect(await versionAbove(1)).toBe(1);
      expect(await versionAbove(5)).toBe(6);
      // Nobody uses versions up by asking.
      expect(await versionAbove(4_000_000_000)).toBe(10_007);
    },
  );

  it.skipIf(skipped)('takes records back from an archive, and keeps their confirmations', async () => {
    const id = 'lic_archive';
    const credential = await licensee(parties, id, '100000');
    const device = await enrolled(parties, credential, id);
    device.receive(10_000n);
    const records = [device.record(), device.record()];
    const answers = await submit(parties, credential, records);
    await settled(credential, device);
    await parties.service.database.transaction(async (tables) => {
      for (const table of ['record', 'confirmation', 'head'] as const) {
        await tables.deleteFrom(table).where('device', '=', device.device).execute();
      }
    });
    const part = bytes(1, 1 << 18);
    const item = struct('item', { record: field(1, part), attestation: field(2, part), confirmation: field(3, part) });
    const archive = struct('archive', { items: field(1, list(item, 256)) });
    const items = records.map((record, i) => ({
      record,
      attestation: answers[i]!.attestation!,
      confirmation: answers[i]!.confirmation!,
    }));
    const exchanged = [{ ...items[0]!, confirmation: items[1]!.confirmation }];
    const feed = async (given: typeof items) => {
      const answer = await ask(parties, credential, '/v1/archived-records', encodeWith(archive, { items: given }));
      return value(parseBytes(answersSchema, answer.body)).answers;
    };
    expect((await feed(exchanged))[0]!.rejection?.code).toBe('confirmation-mismatch');
    const restored = await feed(items);
    expect(restored.map((one) => Buffer.from(one.confirmation!))).toEqual(
      items.map((one) => Buffer.from(one.confirmation)),
    );
    const repeated = await submit(parties, credential, records);
    expect(repeated.map((one) => [one.outcome, Buffer.from(one.confirmation!)])).toEqual(
      items.map((one) => ['already-accepted', Buffer.from(one.confirmation)]),
    );
  });
});
