/**
 * The postal authority from delivery to grant, over HTTP: what the sample mailing earns, whom it reaches, and that nothing is
 * counted or granted twice.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { checkAuthority } from '@countermark/authority/check';
import { MIGRATIONS, type Tables } from '@countermark/authority/store/tables';
import type { Cell } from '@countermark/protocol/cell';
import { digestText } from '@countermark/protocol/digest';
import { hex } from '@countermark/protocol/id';
import { grantListSchema } from '@countermark/protocol/interfaces/delivery';
import { parseBytes } from '@countermark/protocol/schema';
import { type SqlDatabase, openDatabase } from '@countermark/sql/database';
import { afterEach, describe, expect, test } from 'vitest';
import { delivery, type Franked, Roles, TestDevice } from './authority-evidence.ts';
import { TestAuthority, valueOf } from './authority-process.ts';

const started: TestAuthority[] = [];

async function authority(...settings: ConstructorParameters<typeof TestAuthority>): Promise<TestAuthority> {
  const made = new TestAuthority(...settings);
  started.push(made);
  await made.start();
  return made;
}

afterEach(async () => {
  for (const one of started.splice(0)) await one.discard();
});

type Expected = {
  customers: {
    customer: string;
    pieces: number;
    discountMills: string;
    growthCreditMills: string;
    cells: (Cell['key'] & { pieces: number; postageMills: string })[];
  }[];
};
const expected = JSON.parse(readFileSync(new URL('../../samples/expected.json', import.meta.url), 'utf8')) as Expected;

/** A batch for each customer and product, as the host franks the sample. */
function sample(device: TestDevice): Franked[] {
  return expected.customers.flatMap(({ customer, cells }) =>
    [...new Set(cells.map(({ product }) => product))].map((product) => {
      const own = cells.filter((cell) => cell.product === product);
      return device.frank(
        own.map(({ level, pieces, weightStep }) => ({ level, pieces, weightStep })),
        { customer, product },
      );
    }),
  );
}

describe('the sample mailing', () => {
  test('earns what an independent reckoning says, for the right customers', async () => {
    const roles = new Roles();
    const device = new TestDevice(roles);
    const postal = await authority(roles);
    const items = sample(device);
    const answers = await postal.deliver(delivery([device], items));
    expect(answers.results.map(({ outcome }) => outcome)).toEqual(items.map(() => 'accepted'));
    const grants = await postal.grants(answers.cursor);

    const earned = (kind: 'discount' | 'credit') =>
      Object.fromEntries(
        expected.customers.map(({ customer }) => [
          customer,
          grants
            .filter((one) => one.kind === kind && one.grant.customer === customer)
            .reduce((sum, { grant }) => sum + grant.amountMills, 0n)
            .toString(),
        ]),
      );
    expect(earned('discount')).toEqual(
      Object.fromEntries(expected.customers.map(({ customer, discountMills }) => [customer, discountMills])),
    );
    expect(earned('credit')).toEqual(
      Object.fromEntries(expected.customers.map(({ customer, growthCreditMills }) => [customer, growthCreditMills])),
    );
    for (const { grant } of grants) {
      const own = items.filter(({ statistics }) => statistics.declaration.customer === grant.customer);
      expect(grant.evidence.map(digestText)).toEqual(own.map(({ digest }) => digestText(digest)));
      expect(grant.demonstration).toBe(true);
      expect(grant.reasons.length).toBeGreaterThan(3);
    }
  });
});

/** What `read` of a database gives to work with. */
type Connection = Parameters<Parameters<SqlDatabase<Tables>['read']>[0]>[0];

/** 500 letters at two levels: 3 % of 147 x 300 + 99 x 200 mills. */
const LETTERS = [
  { level: '5-digit', pieces: 300 },
  { level: 'aadc', pieces: 200 },
];
const THREE_PERCENT = ((147n * 300n + 99n * 200n) * 3n) / 100n;

const REBATE = {
  format: 1,
  id: 'test-rebate',
  version: 1,
  title: 'A rebate that the code has never heard of',
  demonstration: true,
  kind: 'credit',
  currency: 'USD',
  exponent: 3,
  beneficiary: 'licensee',
  mailingDates: { from: '2026-01-01', to: null },
  select: { level: ['aadc'] },
  requires: { authentication: 'signature', certified: false },
  period: { kind: 'calendar', unit: 'month' },
  base: 'postage',
  rate: '1/3',
};

function programmeFile(postal: TestAuthority, name: string, content: object): string {
  const path = join(postal.folder, name);
  writeFileSync(path, JSON.stringify(content));
  return path;
}

describe('a programme', () => {
  test('that a clerk adds as a file grants, for what was there before it too', async () => {
    const roles = new Roles();
    const first = await authority(roles, { programmes: [] });
    const device = new TestDevice(roles, 'lic_rebate');
    const mac = new TestDevice(roles, 'lic_rebate', 'mac');
    const items = [
      device.frank(LETTERS, { customer: 'alder-press' }),
      device.frank([{ level: '5-digit', pieces: 100 }], { customer: 'alder-press' }),
      device.frank(LETTERS, { customer: 'birch-mutual', mailingDate: '2026-04-01' }),
      mac.frank(LETTERS, { customer: 'birch-mutual' }),
    ];
    const { cursor } = await first.deliver(delivery([device, mac], items));
    expect(await first.grants(cursor)).toEqual([]);
    await first.stop();

    mkdirSync(join(first.config.data, 'programmes'));
    programmeFile(first, 'authority/programmes/rebate.json', REBATE);
    const second = await authority(roles, { folder: first.folder, programmes: [] });
    const grants = await second.grants(cursor);
    const third = (740n * 200n) / 3n;
    expect(
      grants.map(({ kind, grant }) => [
        kind,
        grant.customer,
        grant.period,
        grant.amountMills,
        grant.evidence.map(digestText),
      ]),
    ).toEqual([
      ['credit', undefined, '2026-03', third, [digestText(items[0]!.digest)]],
      ['credit', undefined, '2026-04', third, [digestText(items[2]!.digest)]],
    ]);
    const listed = (await (await second.request('/v1/programmes')).json()) as { programmes: object[] };
    expect(listed.programmes).toEqual([REBATE]);
  });

  test('that was altered under its version stops the start; a new version takes over where it says', async () => {
    const roles = new Roles();
    const first = new TestAuthority(roles);
    const versionOne = programmeFile(first, 'one.json', REBATE);
    const start = (programmes: string[]) => authority(roles, { folder: first.folder, programmes });
    started.push(first);
    const device = new TestDevice(roles, 'lic_versions');
    const running = await start([versionOne]);
    const { cursor } = await running.deliver(
      delivery([device], [device.frank(LETTERS, { mailingDate: '2026-03-31' })]),
    );
    expect(await running.grants(cursor)).toHaveLength(1);
    await running.stop();

    await expect(start([programmeFile(first, 'altered.json', { ...REBATE, rate: '1/2' })])).rejects.toThrow(/altered/);
    const overlapping = programmeFile(first, 'early.json', {
      ...REBATE,
      version: 2,
      rate: '1/2',
      mailingDates: { from: '2026-03-15', to: null },
    });
    await expect(start([versionOne, overlapping])).rejects.toThrow(/begin later/);

    const versionTwo = programmeFile(first, 'two.json', {
      ...REBATE,
      version: 2,
      rate: '1/2',
      mailingDates: { from: '2026-04-01', to: null },
    });
    const again = await start([versionOne, versionTwo]);
    const next = await again.deliver(
      delivery(
        [device],
        [device.frank(LETTERS, { mailingDate: '2026-04-01' }), device.frank(LETTERS, { mailingDate: '2026-03-31' })],
      ),
    );
    const grants = await again.grants(next.cursor);
    expect(
      grants.map(({ grant }) => [grant.programmeVersion, grant.period, grant.revision, grant.amountMills]),
    ).toEqual([
      [1, '2026-03', 1, 49_333n],
      [1, '2026-03', 2, 98_666n - 49_333n],
      [2, '2026-04', 1, 74_000n],
    ]);
  });
});

describe('whoever delivers what again, in whatever parts', () => {
  test('the second half of a posting raises the band for the first, once', async () => {
    const roles = new Roles();
    const postal = await authority(roles);
    const device = new TestDevice(roles, 'lic_halves');
    const first = delivery([device], [device.frank(LETTERS, { customer: 'alder-press' })]);
    const second = delivery([], [device.frank(LETTERS, { customer: 'alder-press' })]);
    await postal.grants((await postal.deliver(first)).cursor);
    await Promise.all([postal.deliver(second), postal.deliver(second), postal.deliver(first)]);
    const { cursor } = await postal.deliver(second);
    const discounts = (await postal.grants(cursor)).filter(({ kind }) => kind === 'discount');
    expect(discounts.map(({ grant }) => [grant.revision, grant.amountMills, grant.evidence.length])).toEqual([
      [1, THREE_PERCENT, 1],
      [2, (2n * (147n * 300n + 99n * 200n)) / 10n - THREE_PERCENT, 1],
    ]);
    expect(digestText(discounts[1]!.grant.previous!)).toBe(digestText(discounts[0]!.digest));
    expect(discounts[1]!.grant.reasons.at(-1)).toBe('USD 1.917 was granted before: this grant is USD 10.863.');
  });

  test('a restart between delivery and grant loses and repeats nothing', async () => {
    const roles = new Roles();
    const first = await authority(roles);
    const device = new TestDevice(roles, 'lic_restart');
    const { cursor } = await first.deliver(delivery([device], [device.frank(LETTERS, { customer: 'alder-press' })]));
    await first.stop();
    const second = await authority(roles, { folder: first.folder });
    const grants = await second.grants(cursor);
    expect(grants).toHaveLength(1);
    const grantingKey = digestText(second.grantingKey);
    await second.stop();
    const third = await authority(roles, { folder: first.folder });
    expect((await third.grants(cursor)).map(({ digest }) => digestText(digest))).toEqual(
      grants.map(({ digest }) => digestText(digest)),
    );
    expect(digestText(third.grantingKey)).toBe(grantingKey);
    await third.stop();
    expect(await checkAuthority(third.config)).toEqual({ ok: true, value: [] });
  });
});

describe('an authority that was restored from an older backup', () => {
  test('gives no cursor of a grant a second time', async () => {
    const roles = new Roles();
    const postal = await authority(roles);
    const device = new TestDevice(roles, 'lic_restored');
    const [first, second] = [1, 2].map(() => device.frank(LETTERS, { customer: 'alder-press' }));
    const one = await postal.deliver(delivery([device], [first!]));
    const before = (await postal.grants(one.cursor)).map(({ cursor }) => cursor);
    expect(before).toEqual(before.map((_, i) => i + 1));
    // The server has booked grants up to 40 before this store was put back.
    const two = await postal.deliver({ ...delivery([device], [second!]), grantsCursor: 40 });
    const after = (await postal.grants(two.cursor)).map(({ cursor }) => cursor).slice(before.length);
    expect(after.length).toBeGreaterThan(0);
    expect(after).toEqual(after.map((_, i) => 41 + i));
    await postal.stop();
    expect(await checkAuthority(postal.config)).toEqual({ ok: true, value: [] });
  });

  test('grants nothing before it knows what is booked, also for records that it had when it was copied', async () => {
    const roles = new Roles();
    const postal = await authority(roles);
    const device = new TestDevice(roles, 'lic_restored-early');
    const record = device.frank(LETTERS, { customer: 'alder-press' });
    const { cursor } = await postal.deliver(delivery([device], [record]));
    await postal.stop();
    await postal.start();
    // The server, which has booked grants up to 40, asks for those after them.
    await postal.request('/v1/grants?after=40');
    const granted = (await postal.grants(cursor)).map((grant) => grant.cursor);
    expect(granted.length).toBeGreaterThan(0);
    expect(granted).toEqual(granted.map((_, i) => 41 + i));
  });
});

describe('whoever asks for grants after one that is not, or no longer, the authority’s', () => {
  test('is told so, and gets no others', async () => {
    const roles = new Roles();
    const postal = await authority(roles);
    const device = new TestDevice(roles, 'lic_asker');
    const franked = ['alder-press', 'birch-books'].map((customer) => device.frank(LETTERS, { customer }));
    const { cursor } = await postal.deliver(delivery([device], franked));
    await postal.grants(cursor);
    const listed = async (after: string) => {
      const answer = await postal.request(`/v1/grants?after=${after}`);
      const bytes = new Uint8Array(await answer.arrayBuffer());
      return valueOf(parseBytes(grantListSchema, bytes, { maxBytes: 1_000_000, maxDepth: 8 }));
    };
    const all = await listed('0');
    const [first, second] = all.grants;
    const rest = await listed(`${first!.cursor}:${hex(first!.digest)}`);
    expect(rest).toMatchObject({ continues: true, grants: all.grants.slice(1) });
    for (const [at, digest] of [
      [first!.cursor, second!.digest],
      [second!.cursor, first!.digest],
      [all.grants.length + 1, first!.digest],
    ] as const) {
      expect(await listed(`${at}:${hex(digest)}`)).toEqual({ grants: [], evaluatedThrough: 0, continues: false });
    }
    expect((await postal.request('/v1/grants?after=1:00')).status).toBe(400);
  });
});

describe('the worked example of docs/programmes.md', () => {
  test('is what the authority grants, word by word', async () => {
    const roles = new Roles();
    const postal = await authority(roles);
    const device = new TestDevice(roles, 'lic_demo-bureau');
    const alder = expected.customers.find(({ customer }) => customer === 'alder-press')!;
    const first = device.frank(
      alder.cells.map(({ level, pieces, weightStep }) => ({ level, pieces, weightStep })),
      { customer: 'alder-press' },
    );
    await postal.grants((await postal.deliver(delivery([device], [first]))).cursor);
    const more = device.frank([{ level: '5-digit', pieces: 60 }], { customer: 'alder-press' });
    const { cursor } = await postal.deliver(delivery([device], [more]));
    const discounts = (await postal.grants(cursor)).filter(({ kind }) => kind === 'discount');
    const document = readFileSync(new URL('../../docs/programmes.md', import.meta.url), 'utf8');
    const block = /```\n(Demonstration[\s\S]*?)\n```/.exec(document)?.[1]?.split('\n');
    expect(discounts[0]!.grant.reasons).toEqual(block);
    expect(discounts.map(({ grant }) => [grant.amountMills, grant.evidence.map(digestText)])).toEqual([
      [3_433n, [digestText(first.digest)]],
      [3_963n, [digestText(more.digest)]],
    ]);
  });
});

describe('check', () => {
  test('names what was altered in the store', async () => {
    const roles = new Roles();
    const postal = await authority(roles);
    const device = new TestDevice(roles, 'lic_check');
    const items = [1, 2, 3].map(() => device.frank(LETTERS, { customer: 'alder-press' }));
    await postal.grants((await postal.deliver(delivery([device], items))).cursor);
    await postal.stop();
    const problemsAfter = async (alter?: (tables: Connection) => Promise<unknown>): Promise<string> => {
      const database = await openDatabase<Tables>(postal.config.database, { migrations: MIGRATIONS });
      if (alter !== undefined) await database.read(alter);
      await database.close();
      const checked = await checkAuthority(postal.config);
      return checked.ok ? checked.value.join('\n') : checked.rejection.code;
    };
    const addPieces = (pieces: bigint) => (tables: Connection) =>
      tables
        .updateTable('total')
        .set((build) => ({ pieces: build('pieces', '+', pieces) }))
        .where('level', '=', 'aadc')
        .execute();
    expect(await problemsAfter()).toBe('');
    expect(await problemsAfter(addPieces(1n))).toMatch(
      /The total .*"aadc".* has 601 pieces for 444000 mills; its cells have 600 for 444000/,
    );
    await problemsAfter(addPieces(-1n));
    expect(
      await problemsAfter((tables) =>
        tables
          .updateTable('issued_grant')
          .set({ digest: new Uint8Array(32) })
          .where('cursor', '=', 1n)
          .execute(),
      ),
    ).toContain('Grant 1 is stored under another digest');
    expect(
      await problemsAfter((tables) => tables.deleteFrom('issued_grant').where('cursor', '=', 1n).execute()),
    ).toContain('Grant 2: the one before is missing');
    expect(
      await problemsAfter((tables) =>
        tables.updateTable('record').set({ bytes: items[0]!.record }).where('cursor', '=', 2n).execute(),
      ),
    ).toContain(`Record 2 of ${device.id} (cursor 2) is not good: The attestation speaks of`);
    expect(
      await problemsAfter(async (tables) => {
        await tables.deleteFrom('cell').where('cursor', '=', 3n).execute();
        await tables.deleteFrom('record').where('cursor', '=', 3n).execute();
      }),
    ).toContain('The log ends at 2; its position is 3');
  });
});
