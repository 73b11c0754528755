/**
 * One contract for the authority's store, on SQLite and on a real PostgreSQL: intake, totals and grants are atomic, durable
 * and counted once, whoever else works on the same store and wherever the work broke off.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { GrantSigner } from '@countermark/authority/grant';
import { takeIn } from '@countermark/authority/intake';
import { loadProgrammes, shippedProgrammeFiles } from '@countermark/authority/programmes';
import { shippedTariffs } from '@countermark/authority/rating';
import { settle } from '@countermark/authority/settlement';
import type { AuthorityStore, SignedGrant } from '@countermark/authority/store/authority-store';
import { openAuthorityStore } from '@countermark/authority/store/sql-store';
import { parseTotalsQuery } from '@countermark/authority/totals';
import { generateSigningKey, publicKeyBytes, signP1363 } from '@countermark/node-platform/signing';
import { digestOf, digestText, NO_DIGEST } from '@countermark/protocol/digest';
import type { LicenseeId, ProgrammeId } from '@countermark/protocol/id';
import type { Delivery } from '@countermark/protocol/interfaces/delivery';
import { mills } from '@countermark/protocol/money';
import type { Programme } from '@countermark/tariff/programme';
import { trustedKeys } from '@countermark/verify/trust-bundle';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { type TestPostgres, testPostgres } from '../postgres.ts';
import { delivery, Roles, TestDevice } from './authority-evidence.ts';
import { quiet, valueOf } from './authority-process.ts';

const roles = new Roles();
const trusted = trustedKeys(roles.bundle);
const key = generateSigningKey();
const signer: GrantSigner = {
  epoch: 1,
  publicKey: publicKeyBytes(key.publicKey),
  certificates: [],
  keys: () => ({ publicKey: publicKeyBytes(key.publicKey), authentication: 'signature' }),
  sign: (bytes) => Promise.resolve(signP1363(key.privateKey, bytes)),
};
const tariffs = shippedTariffs();
let programmes: readonly Programme[] = [];
let licensees = 0;

beforeAll(async () => {
  programmes = valueOf(await loadProgrammes(await shippedProgrammeFiles()));
});

const LETTERS = [
  { level: '5-digit', pieces: 400 },
  { level: 'aadc', pieces: 200 },
];

describe.each(['sqlite', 'postgres'] as const)('the store on %s', (kind) => {
  let url = '';
  let server: TestPostgres | string | undefined;
  let folder = '';
  /** Two workers' views: on SQLite one process owns the file, so both are the same. */
  let store: AuthorityStore;
  let other: AuthorityStore;

  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), 'authority-store-'));
    url = `sqlite://${join(folder, 'authority.db')}`;
    if (kind === 'postgres') {
      server = await testPostgres();
      if (typeof server === 'string') return;
      url = server.url;
    }
    store = await openAuthorityStore(url);
    other = kind === 'postgres' ? await openAuthorityStore(url) : store;
    await store.addProgrammes(programmes);
  });

  afterAll(async () => {
    if (typeof server === 'string') return;
    await store.close();
    if (other !== store) await other.close();
    await server?.stop();
    rmSync(folder, { recursive: true, force: true });
  });

  beforeEach((context) => {
    if (typeof server === 'string') context.skip(server);
  });

  const bring = (given: Delivery, to = store) =>
    takeIn(given, { store: to, roles: trusted, nowMs: () => 5, log: quiet });
  const settleOn = (on: AuthorityStore, with_: GrantSigner = signer) =>
    settle({ store: on, programmes, tariffs, signer: with_, nowMs: () => 6, log: quiet });
  const newLicensee = (): string => `lic_contract-${++licensees}`;
  const query = (parameters: Record<string, string>) => valueOf(parseTotalsQuery(parameters));

  async function grantsOf(licensee: string, programme = 'demo-bands-on-number') {
    const found = [];
    for (const { id, version } of programmes) {
      if (id !== programme) continue;
      for (const [customer, period] of [
        ['alder-press', '2026-03-02'],
        ['birch-mutual', '2026-03-02'],
        [null, '2026-03-02'],
      ] as const) {
        const last = await store.lastGrant({
          programme: id,
          version,
          licensee: licensee as LicenseeId,
          customer: customer as never,
          period,
        });
        if (last !== null) found.push({ customer, ...last });
      }
    }
    return found;
  }

  test('counts cursors up by one for each record, and takes a repetition for what it is', async () => {
    const before = (await store.positions()).intake;
    const device = new TestDevice(roles, newLicensee());
    const given = delivery([device], [device.frank(LETTERS), device.frank(LETTERS), device.frank(LETTERS)]);
    const first = await bring(given);
    expect(first).toMatchObject({ cursor: before + 3, results: Array(3).fill({ outcome: 'accepted' }) });
    const again = await bring(given);
    expect(again).toEqual({ ...first, results: Array(3).fill({ outcome: 'already-accepted' }) });
    const stored = await store.records(before, 10);
    expect(stored.map(({ cursor, sequence }) => [cursor, sequence])).toEqual([
      [before + 1, 1],
      [before + 2, 2],
      [before + 3, 3],
    ]);
    expect(stored.map(({ bytes }) => Buffer.from(bytes).toString('hex'))).toEqual(
      given.items.map(({ record }) => Buffer.from(record).toString('hex')),
    );
  });

  test('takes nothing that goes on from a point that its history has not come by', async () => {
    const device = new TestDevice(roles, newLicensee());
    const [one, two, three] = [device.frank(LETTERS), device.frank(LETTERS), device.frank(LETTERS)];
    const first = await bring(delivery([device], [one]));
    const since = { cursor: first.cursor, digest: first.history };
    const second = await bring({ ...delivery([device], [two]), since });
    expect(second).toMatchObject({ cursor: first.cursor + 1, continues: true });
    expect(second.history).not.toEqual(first.history);
    for (const point of [
      { cursor: second.cursor, digest: first.history },
      { cursor: first.cursor, digest: second.history },
      { cursor: second.cursor + 1, digest: second.history },
      { cursor: second.cursor + 1, digest: NO_DIGEST },
    ]) {
      expect(await bring({ ...delivery([device], [three]), since: point })).toEqual({
        ...second,
        results: [],
        continues: false,
      });
      expect(await store.cameBy(point)).toBe(false);
    }
    expect(await store.cameBy(since)).toBe(true);
    expect(await bring({ ...delivery([device], [three]), since })).toMatchObject({ cursor: second.cursor + 1 });
  });

  test('takes each record once when workers bring the same and others at once', async () => {
    const before = (await store.positions()).intake;
    const devices = Array.from({ length: 4 }, () => new TestDevice(roles, newLicensee()));
    const items = devices.map((device) => [device.frank(LETTERS), device.frank(LETTERS)]);
    const given = devices.map((device, i) => delivery([device], items[i]!));
    const answers = await Promise.all([...given, ...given].map((one, i) => bring(one, i % 2 === 0 ? store : other)));
    const accepted = answers.flatMap(({ results }) => results).filter(({ outcome }) => outcome === 'accepted');
    expect(accepted).toHaveLength(8);
    expect((await store.positions()).intake).toBe(before + 8);
    expect((await store.records(before, 100)).map(({ cursor }) => cursor)).toEqual(
      Array.from({ length: 8 }, (_, i) => before + 1 + i),
    );
  });

  test('issues each revision once when workers settle at once', async () => {
    const licensee = newLicensee();
    const device = new TestDevice(roles, licensee);
    await bring(delivery([device], [device.frank(LETTERS, { customer: 'alder-press' })]));
    const settled = await Promise.all([settleOn(store), settleOn(other), settleOn(store), settleOn(other)]);
    expect(Math.max(...settled)).toBe((await store.positions()).intake);
    expect(await grantsOf(licensee)).toMatchObject([{ customer: 'alder-press', revision: 1 }]);
    // 600 pieces, 3 %: (740 - 593) x 400 + (740 - 641) x 200.
    expect((await grantsOf(licensee))[0]!.entitlementMills).toBe(((147n * 400n + 99n * 200n) * 3n) / 100n);
    await bring(delivery([device], [device.frank(LETTERS, { customer: 'alder-press' })]));
    await Promise.all([settleOn(store), settleOn(other)]);
    // 1,200 pieces, 10 % of all.
    expect(await grantsOf(licensee)).toMatchObject([
      { revision: 2, entitlementMills: (2n * (147n * 400n + 99n * 200n)) / 10n },
    ]);
  });

  test('grants once, whatever step a crash ended', async () => {
    const licensee = newLicensee();
    const device = new TestDevice(roles, licensee);
    await bring(delivery([device], [device.frank(LETTERS, { customer: 'birch-mutual' })]));
    const dead: GrantSigner = { ...signer, sign: () => Promise.reject(new Error('killed while signing')) };
    await expect(settleOn(store, dead)).rejects.toThrow('killed while signing');
    expect(await grantsOf(licensee)).toEqual([]);
    const lostAnswer: AuthorityStore = new Proxy(store, {
      get: (target, name) => {
        if (name === 'evaluated') {
          return async (...of: Parameters<AuthorityStore['evaluated']>) => {
            await target.evaluated(...of);
            throw new Error('killed after the commit');
          };
        }
        const method = Reflect.get(target, name) as unknown;
        return typeof method === 'function' ? (method.bind(target) as unknown) : method;
      },
    });
    await expect(settleOn(lostAnswer)).rejects.toThrow('killed after the commit');
    await settleOn(store);
    await settleOn(other);
    const grants = await grantsOf(licensee);
    expect(grants).toMatchObject([{ customer: 'birch-mutual', revision: 1 }]);
  });

  test('never issues what does not verify', async () => {
    const device = new TestDevice(roles, newLicensee());
    await bring(delivery([device], [device.frank(LETTERS, { customer: 'alder-press' })]));
    const broken: GrantSigner = { ...signer, sign: () => Promise.resolve(new Uint8Array(64)) };
    await expect(settleOn(store, broken)).rejects.toThrow('does not verify');
    expect(await grantsOf(device.licensee)).toEqual([]);
    await settleOn(store);
    expect(await grantsOf(device.licensee)).toHaveLength(1);
  });

  test('stores the grants of an evaluation whole or not at all', async () => {
    const { id, version, evaluated } = (await store.programmes())[0]!;
    const grant = (digest: number): SignedGrant => ({
      programme: id,
      version,
      licensee: newLicensee() as LicenseeId,
      customer: null,
      period: '2026',
      revision: 1,
      amountMills: mills(1n),
      entitlementMills: mills(1n),
      digest: digestOf(new Uint8Array(32).fill(digest)),
      bytes: new Uint8Array([1]),
    });
    expect(await store.evaluated({ id, version }, evaluated + 1, evaluated + 2, [grant(1)])).toBe(false);
    expect(await store.evaluated({ id: 'nobody' as ProgrammeId, version }, 0, 1, [])).toBe(false);
    const before = (await store.grants(0, 10_000)).length;
    const one = grant(2);
    await expect(
      store.evaluated({ id, version }, evaluated, evaluated, [one, { ...one, digest: grant(3).digest }]),
    ).rejects.toThrow();
    expect(await store.grants(0, 10_000)).toHaveLength(before);
    expect((await store.programmes())[0]!.evaluated).toBe(evaluated);
  });

  test('moves totals on only from where they stand', async () => {
    await settleOn(store);
    const { rolled } = await store.positions();
    const device = new TestDevice(roles, newLicensee());
    await bring(delivery([device], [device.frank(LETTERS)]));
    const rate = () => {
      throw new Error('must not be rated');
    };
    expect(await store.roll(rolled - 1, 10, rate)).toBe(rolled);
    await settleOn(store);
    expect((await store.positions()).rolled).toBe(rolled + 1);
  });

  test('adds up by any dimension, exactly beyond 2^53', async () => {
    const licensee = newLicensee();
    const device = new TestDevice(roles, licensee);
    const much = (1n << 53n) + 1n;
    const big = device.frank([{ level: '5-digit', pieces: 1 }], {
      alter: (statistics) => ({
        ...statistics,
        observed: {
          ...statistics.observed,
          cells: [{ ...statistics.observed.cells[0]!, postageMills: mills(much) }],
          closed: {
            ascendingMills: mills(much),
            descendingMills: mills(0n),
            pieces: 1,
          },
          opened: { ...statistics.observed.opened, descendingMills: mills(much) },
          funds: { ...statistics.observed.funds, receivedMills: mills(much) },
        },
      }),
    });
    const second = new TestDevice(roles, licensee);
    const answers = await bring(
      delivery(
        [device, second],
        [
          big,
          second.frank(LETTERS, { customer: 'alder-press', spoiled: 3 }),
          second.frank([{ level: 'aadc', pieces: 5 }], { customer: 'birch-mutual', mailingDate: '2026-03-03' }),
        ],
      ),
    );
    expect(answers.results.map(({ outcome }) => outcome)).toEqual(['accepted', 'accepted', 'accepted']);
    await settleOn(store);
    const ask = async (parameters: Record<string, string>) =>
      (await store.totals(query({ licensee, ...parameters }), 100)).rows.map((row) => [
        ...row.values,
        Number(row.pieces),
        row.postageMills,
      ]);
    expect(await ask({ by: 'standing' })).toEqual([
      ['mispaid', 1, much],
      ['paid', 605, 605n * 740n],
      ['spoiled', 3, 3n * 740n],
    ]);
    expect(await ask({ by: 'customer,level', standing: 'paid' })).toEqual([
      ['alder-press', '5-digit', 400, 400n * 740n],
      ['alder-press', 'aadc', 200, 200n * 740n],
      ['birch-mutual', 'aadc', 5, 5n * 740n],
    ]);
    expect(await ask({ by: 'mailingDate', mailingDateFrom: '2026-03-03' })).toEqual([['2026-03-03', 5, 5n * 740n]]);
    expect(await ask({ by: 'specimen,weightStep', level: 'aadc' })).toEqual([['true', '10', 205, 205n * 740n]]);
    expect(await ask({ by: 'customer', customer: '' })).toEqual([[null, 1, much]]);
    expect(await ask({ customer: 'nobody' })).toEqual([]);
    expect(await ask({})).toEqual([[609, much + 608n * 740n]]);
  });

  test('keeps both records of a fork, suspends its device, and marks what follows', async () => {
    const device = new TestDevice(roles, newLicensee());
    const first = device.frank(LETTERS, { customer: 'alder-press' });
    await bring(delivery([device], [first]));
    const branch = device.frank([{ level: 'aadc', pieces: 9 }], {
      branch: true,
      alter: (statistics) => ({ ...statistics, previous: digestOf(new Uint8Array(32).fill(9)) }),
    });
    for (let i = 0; i < 2; i++) {
      const forked = await bring(delivery([device], [branch]));
      expect(forked.results).toMatchObject([{ outcome: 'rejected', rejection: { code: 'fork' } }]);
    }
    const kept = (await store.quarantined()).filter((record) => record.device === device.id);
    expect(kept.map(({ digest }) => digestText(digest))).toEqual([digestText(branch.digest)]);
    expect((await store.device(device.id))!.suspended).toMatch(/fork/);
    const followed = await bring(
      delivery([device], [device.frank(LETTERS, { customer: 'alder-press' })], [roles.suspension(device, false, 10)]),
    );
    expect(followed.results).toEqual([{ outcome: 'accepted' }]);
    await settleOn(store);
    // 600 pieces counted, not 1,200.
    expect(await grantsOf(device.licensee)).toMatchObject([{ revision: 1, entitlementMills: 2_358n }]);
  });

  test('keeps no more than so many quarantined records of a device, and has room for forks beside others', async () => {
    const device = new TestDevice(roles, newLicensee());
    const contradictions = Array.from({ length: 20 }, (_, i) =>
      device.frank([{ level: 'aadc', pieces: i + 1 }], {
        branch: true,
        alter: (statistics) => ({ ...statistics, observed: { ...statistics.observed, pieces: 1_000 } }),
      }),
    );
    const answers = await bring(delivery([device], contradictions));
    expect(new Set(answers.results.map(({ rejection }) => rejection?.code))).toEqual(new Set(['inconsistent']));
    const kept = async () => (await store.quarantined()).filter((record) => record.device === device.id);
    expect(await kept()).toHaveLength(8);
    const branch = device.frank([{ level: 'aadc', pieces: 7 }], { branch: true });
    expect((await bring(delivery([device], [device.frank(LETTERS)]))).results).toEqual([{ outcome: 'accepted' }]);
    const forked = await bring(delivery([device], [branch]));
    expect(forked.results).toMatchObject([{ rejection: { code: 'fork' } }]);
    expect((await kept()).map(({ rejection: { code } }) => code).filter((code) => code === 'fork')).toHaveLength(1);
  });

  test('keeps the first certificate of a device and epoch', async () => {
    const device = new TestDevice(roles, newLicensee());
    await bring(delivery([device], [device.frank(LETTERS)]));
    const [stored] = await store.certificates([{ device: device.id, epoch: 1 }]);
    await store.addCertificates([{ ...stored!, publicKey: new Uint8Array(65) }]);
    expect(await store.certificates([{ device: device.id, epoch: 1 }])).toEqual([stored]);
    expect(await store.certificates([{ device: device.id, epoch: 2 }])).toEqual([]);
  });

  test('is found as it was left when it is opened again', async () => {
    await settleOn(store);
    const positions = await store.positions();
    const grants = await store.grants(0, 10_000);
    expect(grants.map(({ cursor }) => cursor)).toEqual(grants.map((_, i) => i + 1));
    if (kind === 'sqlite') {
      await store.close();
      store = await openAuthorityStore(url);
      other = store;
      expect(await store.positions()).toEqual(positions);
      expect((await store.grants(0, 10_000)).map(({ digest }) => digestText(digest))).toEqual(
        grants.map(({ digest }) => digestText(digest)),
      );
    } else {
      expect(await other.positions()).toEqual(positions);
    }
  });
});
