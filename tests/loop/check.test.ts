/**
 * Damage planted in copies of a real installation's stores, of each kind, and `check` that names it: a flipped byte, a missing
 * row, another amount, a swapped grant, a lost end, a cut write-ahead log, a wrong cursor, a store that is an older copy.
 *
 * Two installations are made by the command line: one with everything confirmed, a credit drawn in its second mailing; one whose
 * records are held, with the piece records inside the device.
 */
import { copyFileSync, cpSync, existsSync, readFileSync, rmSync, truncateSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import Database from 'better-sqlite3';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { configsOf, examined } from '../examined.ts';
import { json, sampleOf, Workshop } from './command.ts';

const workshop = new Workshop();
const settled = workshop.path('settled');
/** The same installation before its second mailing. */
const before = workshop.path('before');
const held = workshop.path('held');
afterAll(() => workshop.stopAll());

beforeAll(async () => {
  const up = ['up', '--once', '--json', '--no-pages', '--data'];
  // Four batches, one of them large enough for discount and credit.
  const birch = sampleOf('birch-mutual');
  const product = (name: string): string[] => birch.filter((row) => row.includes(name)).slice(0, 20);
  const alder = sampleOf('alder-press');
  const some = [
    ...alder.slice(0, 510),
    ...product('usps-fcm-flat'),
    ...product('usps-fcm-letter'),
    ...sampleOf('cedar-clinic').slice(0, 20),
  ];
  const first = await workshop.run(...up, settled, '--mailing', workshop.mailing('first.csv', some));
  expect(first.code, first.stderr).toBe(0);
  cpSync(settled, before, { recursive: true });
  const rows = alder.slice(0, 40).map((row) => row.replace('alder-', 'second-'));
  const second = await workshop.run(...up, settled, '--mailing', workshop.mailing('second.csv', rows));
  expect(second.code, second.stderr).toBe(0);
  const few = [...alder.slice(0, 300), ...sampleOf('cedar-clinic').slice(0, 40)];
  const third = await workshop.run(
    ...up,
    held,
    ...['--mailing', workshop.mailing('held.csv', few), '--records', 'psd', '--forwarding', 'hold', '--hold-for', '1d'],
  );
  expect(third.code, third.stderr).toBe(5);
});

let copies = 0;

/** A copy of an installation's folder. */
function copyOf(data: string): string {
  const copy = workshop.path(`copy-${copies++}`);
  cpSync(data, copy, { recursive: true, filter: (from) => !from.includes('/output/') });
  return copy;
}

const STORES = {
  psd: 'psd/psd.db',
  host: 'host/host.sqlite',
  'cryptographic-device': 'cryptographic-device/cryptographic-device.sqlite',
  server: 'server/server.sqlite',
  authority: 'authority/authority.db',
} as const;
type Store = keyof typeof STORES;

/** Does as someone with an editor would. */
function altered(data: string, store: Store, sql: string): string {
  const copy = copyOf(data);
  const database = new Database(join(copy, STORES[store]));
  database.pragma('foreign_keys = OFF');
  database.pragma('ignore_check_constraints = ON');
  database.function('flip', (bytes: unknown, at: unknown) => {
    const changed = Buffer.from(bytes as Buffer);
    const place = (Number(at) + changed.length) % changed.length;
    changed[place] = (changed[place] ?? 0) ^ 1;
    return changed;
  });
  const changes = database.prepare('SELECT total_changes() AS n').pluck();
  const earlier = Number(changes.get());
  database.exec(sql);
  expect(Number(changes.get()), sql).toBeGreaterThan(earlier);
  database.close();
  return copy;
}

describe('An installation in which nothing is wrong', () => {
  it.each([
    ['settled', settled],
    ['before its second mailing', before],
    ['with held records', held],
  ])('is found so: %s', async (_, data) => {
    expect(await examined(data)).toEqual([]);
  });

  it('is told so by the command, which exits with 0, accounts for the money, and leaves every store as it was', async () => {
    const bytes = (): string[] =>
      Object.values(STORES).map((store) => readFileSync(join(settled, store)).toString('hex'));
    const earlier = bytes();
    const ended = await workshop.run('check', settled, '--json');
    expect(ended.code, ended.stderr).toBe(0);
    const { problems, checked, money } = json<{
      problems: number;
      checked: { party: string; problems: string[] }[];
      money: Record<string, string>[];
    }>(ended);
    expect(problems).toBe(0);
    expect(checked.map(({ party }) => party).sort()).toEqual(Object.keys(STORES).sort());
    expect(money).toEqual([expect.objectContaining({ inFlightMills: '0', unbookedMills: '0' })]);
    expect(money[0]?.holdsMills).toBe(money[0]?.accountMills);
    expect(bytes()).toEqual(earlier);
  });

  it('is found so in a backup, which has no device in it, and must not', async () => {
    const copy = copyOf(settled);
    const refused = await workshop.run('check', copy, '--backup');
    expect(refused.code).toBe(2);
    rmSync(join(copy, 'psd'), { recursive: true });
    expect((await workshop.run('check', copy, '--backup')).code).toBe(0);
    expect((await workshop.run('check', copy)).stdout).toMatch(/psd +1 problem/);
  });

  it('has a party that is checked by itself, in its own folder', async () => {
    const ended = await workshop.run('check', join(settled, 'host'));
    expect(ended.code, ended.stderr).toBe(0);
    expect(ended.stdout).toMatch(/host +nothing is wrong/);
  });
});

describe('Damage', () => {
  const HEAD = '(SELECT max(cursor) FROM record)';
  it.each<readonly [Store, string, RegExp]>([
    // The server: log, ledger, registry.
    [
      'server',
      'UPDATE record SET record = flip(record, 300) WHERE cursor = 2',
      /server: record 2 of psd_\w+: .*is not authentic/,
    ],
    [
      'server',
      'UPDATE record SET attestation = flip(attestation, -5) WHERE sequence = 3',
      /record 3 of psd_\w+: The attestation of attesting is not authentic/,
    ],
    [
      'server',
      'UPDATE confirmation SET confirmation = (SELECT confirmation FROM confirmation WHERE sequence = 2) WHERE sequence = 3',
      /record 3 of .*confirmation names another digest/,
    ],
    [
      'server',
      'UPDATE record SET digest = flip(digest, 0) WHERE sequence = 1',
      /record 1 of .*stored digest is not its own/,
    ],
    ['server', 'DELETE FROM record WHERE sequence = 2', /record 3 of psd_\w+: it does not continue the chain/],
    ['server', `DELETE FROM record WHERE cursor = ${HEAD}`, /the follower ledger is further than the log.*end is lost/],
    [
      'server',
      'UPDATE head SET sequence = sequence - 1',
      /the head of psd_\w+ is record 4; the last record in the log is 5/,
    ],
    ['server', 'UPDATE head SET pieces = pieces + 1', /head of psd_\w+ has other registers/],
    ['server', 'UPDATE log_position SET cursor = 1', /log's position is 1/],
    [
      'server',
      "UPDATE follower SET cursor = 1 WHERE name = 'ledger'",
      /postage of record \d of .* is booked, though the ledger's cursor 1/,
    ],
    ['server', "UPDATE follower SET cursor = 99 WHERE name = 'delivery'", /follower delivery is further than the log/],
    [
      'server',
      "UPDATE entry_line SET amount_mills = amount_mills + 5 WHERE account LIKE 'postage:%' AND entry = (SELECT max(number) FROM entry WHERE kind = 'postage')",
      /ledger entry \d+ does not sum to zero/,
    ],
    [
      'server',
      `UPDATE entry_line SET amount_mills = amount_mills + 7 * (CASE WHEN account LIKE 'device:%' THEN -1 ELSE 1 END)
                  WHERE entry = (SELECT max(number) FROM entry WHERE kind = 'postage')`,
      /the postage of record 5 of .* moves .* by -?\d+ mills in the ledger; -?\d+ are right/,
    ],
    [
      'server',
      `DELETE FROM entry_line WHERE entry = (SELECT min(number) FROM entry WHERE kind = 'postage');
                DELETE FROM entry WHERE number = (SELECT min(number) FROM entry WHERE kind = 'postage')`,
      /ledger entry \d+ is missing/,
    ],
    [
      'server',
      `UPDATE balance SET balance_mills = balance_mills + 1 WHERE account LIKE 'deposit:%'`,
      /balance of deposit:lic_demo-bureau is not the sum of its lines/,
    ],
    [
      'server',
      `UPDATE booked_grant SET grant_bytes = (SELECT grant_bytes FROM booked_grant WHERE cursor = 1) WHERE cursor = 2`,
      /grant 2 is stored under another digest/,
    ],
    [
      'server',
      `UPDATE booked_grant SET grant_bytes = flip(grant_bytes, -1) WHERE cursor = 1`,
      /server: grant 1: .*authentic/,
    ],
    [
      'server',
      `UPDATE booked_grant SET customer = 'someone-else' WHERE cursor = 1`,
      /grant 1 is stored as another customer's/,
    ],
    [
      'server',
      'UPDATE entitled SET entitlement_mills = entitlement_mills - 1',
      /the entitlement of .* is stored as \d+ mills; its grants say \d+/,
    ],
    [
      'server',
      'UPDATE credit SET remaining_mills = remaining_mills + 100',
      /of the credit of grant \d+ \d+ mills are left; \d+ were booked and \d+ drawn/,
    ],
    [
      'server',
      `UPDATE entry_line SET account = 'credit:lic_demo-bureau:cedar-clinic'
                  WHERE account LIKE 'credit:%' AND entry = (SELECT number FROM entry WHERE kind = 'draw')`,
      /credit drawn by record 5 of .* is not its own customer's/,
    ],
    [
      'server',
      'UPDATE funds SET amount_mills = amount_mills + 1 WHERE number = 1',
      /funds grant 1 of psd_\w+ is of \d+ mills; \d+ are booked/,
    ],
    [
      'server',
      'UPDATE funds SET funds_grant = flip(funds_grant, -1) WHERE number = 1',
      /funds grant 1 of psd_\w+: .*authentic/,
    ],
    [
      'server',
      "UPDATE draw SET customer = 'cedar-clinic'",
      /pays alder-press \d+ mills of drawn credit; 0 of that customer's draws/,
    ],
    ['server', 'UPDATE certificate SET certificate = flip(certificate, -1)', /(certificate|cannot be read)/],
    ['server', 'UPDATE policy SET policy = flip(policy, -1)', /policy 1 of psd_\w+: /],
    // The authority: its log, totals, grants.
    ['authority', 'UPDATE record SET bytes = flip(bytes, 300) WHERE cursor = 2', /Record 2 of .* is not good/],
    ['authority', 'DELETE FROM record WHERE cursor = 2', /Record 3 of .*the one before is missing/],
    ['authority', `DELETE FROM record WHERE cursor = ${HEAD}`, /log ends at 4; its position is 5/],
    [
      'authority',
      "UPDATE record SET customer = 'cedar-clinic' WHERE cursor = 1",
      /Record 1 of .* is stored as of the customer cedar-clinic/,
    ],
    [
      'authority',
      'UPDATE total SET pieces = pieces + 1 WHERE id = 1',
      /The total .* has \d+ pieces .*its cells have \d+/,
    ],
    [
      'authority',
      'UPDATE cell SET postage_mills = postage_mills + 1; UPDATE total SET postage_mills = postage_mills + (SELECT count(*) FROM cell WHERE total = total.id)',
      /the cells that were counted are not its own/,
    ],
    [
      'authority',
      "UPDATE position SET value = 3 WHERE name = 'rolled'",
      /Record 4 of .*: the cells that were counted are not its own/,
    ],
    [
      'authority',
      'UPDATE issued_grant SET bytes = (SELECT bytes FROM issued_grant WHERE cursor = 1) WHERE cursor = 2',
      /Grant 2 is stored under another digest/,
    ],
    [
      'authority',
      'UPDATE issued_grant SET amount_mills = amount_mills + 1 WHERE cursor = 1',
      /Grant 1 is stored with another .*amount/,
    ],
    [
      'authority',
      'DELETE FROM issued_grant WHERE cursor = (SELECT max(cursor) FROM issued_grant)',
      /(was granted \d+ mills under .*; the records entitle to \d+|last grant is \d+)/,
    ],
    [
      'authority',
      'UPDATE issued_grant SET through = 0 WHERE cursor = 1',
      /Grant 1 rests on the record \w+, which is not in the log before it/,
    ],
    ['authority', 'UPDATE device SET digest = flip(digest, 0)', /stored head of psd_\w+ is not its last record/],
    // The host: archive and journal.
    ['host', 'UPDATE record SET bytes = flip(bytes, -1) WHERE sequence = 2', /host: record 2: .*is not authentic/],
    [
      'host',
      'UPDATE record SET bytes = flip(bytes, 300) WHERE sequence = 2',
      /host: record 2: its bytes are not those of its digest/,
    ],
    [
      'host',
      'DELETE FROM record WHERE sequence = 2',
      /archive lacks 1 records that the device has had confirmed and deleted, from 2 to 2/,
    ],
    [
      'host',
      'UPDATE record SET confirmation = (SELECT confirmation FROM record WHERE sequence = 1) WHERE sequence = 2',
      /record 2: its confirmation is of another record/,
    ],
    [
      'host',
      'UPDATE franked SET salts = flip(salts, 20) WHERE first_index = 0 AND batch = 1',
      /host: the batch bat_\w+: its piece records do not have the root/,
    ],
    [
      'host',
      'UPDATE chunk SET entries = flip(entries, 5) WHERE first_index = 0 AND batch = 1',
      /host: the batch bat_\w+: its pieces carry \d+ mills; \d+ were noted/,
    ],
    [
      'host',
      'DELETE FROM franked WHERE rowid = (SELECT max(rowid) FROM franked)',
      /host: the batch bat_\w+: .*it is missing/,
    ],
    [
      'host',
      'UPDATE batch SET postage_mills = postage_mills + 1 WHERE batch = 1',
      /host: the batch bat_\w+: it has \d+ pieces for \d+ mills; its record says/,
    ],
    ['host', 'UPDATE piece_grant SET bytes = flip(bytes, -1) WHERE cursor = 1', /host: grant 1: /],
    ['host', 'UPDATE funds_grant SET bytes = flip(bytes, -1) WHERE number = 1', /host: funds grant 1: /],
    // The cryptographic device.
    [
      'cryptographic-device',
      'UPDATE device SET certificate = flip(certificate, -1)',
      /is not signed by this cryptographic device/,
    ],
    [
      'cryptographic-device',
      "UPDATE device SET licensee = 'lic_other'",
      /certificate of psd_\w+, epoch 1, is stored as that of another/,
    ],
    [
      'cryptographic-device',
      'UPDATE funds_grant SET number = number + 10',
      /funds grant 1\d of psd_\w+ is stored under a wrong number/,
    ],
    // The device: what it has deleted can only be told from others.
    [
      'psd',
      'UPDATE record SET digest = flip(digest, 0) WHERE sequence = 2',
      /server: record 2 of psd_\w+: the log has another one than the device/,
    ],
    ['psd', 'DELETE FROM record WHERE sequence = 2', /psd: record 2 is missing/],
    [
      'psd',
      'UPDATE device SET descending = descending + 500, received = received + 500',
      /has received \d+ mills by its funds grants .*; the ledger granted \d+/,
    ],
    [
      'psd',
      'UPDATE device SET descending = descending + 500, ascending = ascending - 500',
      /the device's store is an older copy/,
    ],
    ['psd', 'UPDATE device SET last_grant = last_grant - 1', /has received \d+ mills by its funds grants up to/],
  ])('is named: %s, %s', async (store, sql, words) => {
    expect((await examined(altered(settled, store, sql))).join('\n')).toMatch(words);
  });

  it.each<readonly [Store, string, RegExp]>([
    ['psd', 'UPDATE record SET bytes = flip(bytes, 300) WHERE sequence = 1', /psd: record 1: /],
    [
      'psd',
      'UPDATE chunk SET salts = flip(salts, 3) WHERE rowid = 1',
      /psd: batch bat_\w+: its piece records do not have the root/,
    ],
    ['psd', 'DELETE FROM chunk WHERE rowid = 2', /psd: batch bat_\w+ has \d+ of its 300 piece records/],
    ['psd', 'DELETE FROM record WHERE sequence = 1', /psd: record 1 is missing/],
    [
      'host',
      'UPDATE record SET bytes = (SELECT bytes FROM record WHERE sequence = 2) WHERE sequence = 1',
      /host: record 1: its bytes are not/,
    ],
    ['host', 'DELETE FROM record; DELETE FROM batch', /^$/],
  ])('is named where records are held: %s, %s', async (store, sql, words) => {
    expect((await examined(altered(held, store, sql))).join('\n')).toMatch(words);
  });

  it.each<readonly [Store, readonly RegExp[]]>([
    [
      'server',
      [
        /psd_\w+ has received \d+ mills/,
        /authority has record 5 .*log does not/,
        /record 5 of .* was confirmed and deleted by the device/,
      ],
    ],
    [
      'authority',
      [
        /grants up to \d+ are booked; the authority has issued \d+: its store is an older copy/,
        /authority has the records of psd_\w+ up to 4; up to 5 were delivered/,
      ],
    ],
    [
      'psd',
      [
        /device stands at record 4, this archive has record 5 of it: the device's store is an older copy/,
        /the device's store is an older copy/,
      ],
    ],
    ['host', [/archive lacks 1 records .*from 5 to 5/]],
    [
      'cryptographic-device',
      [
        /funds grant \d of psd_\w+ is in the ledger, and the cryptographic device knows of \d: its register is an older copy/,
      ],
    ],
  ])('is named: a store that is an older copy, of %s', async (store, all) => {
    const copy = copyOf(settled);
    copyFileSync(join(before, STORES[store]), join(copy, STORES[store]));
    const problems = (await examined(copy)).join('\n');
    for (const words of all) expect(problems).toMatch(words);
  });

  it('is named: a write-ahead log that was cut', async () => {
    const copy = copyOf(settled);
    const path = join(copy, STORES.server);
    const database = new Database(path);
    database.pragma('wal_autocheckpoint = 0');
    const last = database.prepare<[], { device: string }>('SELECT * FROM record ORDER BY cursor DESC LIMIT 1').get();
    database.exec('DELETE FROM record WHERE sequence = 5');
    database.pragma('wal_checkpoint(TRUNCATE)');
    const columns = Object.keys(last ?? {});
    database
      .prepare(`INSERT INTO record (${columns.join()}) VALUES (${columns.map(() => '?').join()})`)
      .run(Object.values(last ?? {}));
    const whole = workshop.path(`copy-${copies++}`);
    cpSync(copy, whole, { recursive: true });
    const cut = workshop.path(`copy-${copies++}`);
    cpSync(copy, cut, { recursive: true });
    database.close();
    const log = join(cut, `${STORES.server}-wal`);
    truncateSync(log, Math.floor(statSync(log).size / 2));
    expect(await examined(whole)).toEqual([]);
    expect((await examined(cut)).join('\n')).toMatch(
      /the follower ledger is further than the log, which ends at cursor \d+: its end is lost/,
    );
  });

  it.each([...Object.values(STORES), 'authority/grant-key.pkcs8', 'cryptographic-device/keys'])(
    'is named: %s is gone, and none is made in its place',
    async (file) => {
      const copy = copyOf(settled);
      rmSync(join(copy, file), { recursive: true });
      expect((await examined(copy)).join('\n')).toMatch(/There is no /);
      expect(existsSync(join(copy, file))).toBe(false);
    },
  );

  it.each(Object.keys(STORES) as Store[])('is named: pages overwritten in the store of %s', async (store) => {
    const copy = copyOf(settled);
    const path = join(copy, STORES[store]);
    const bytes = readFileSync(path);
    // Every page but the first.
    for (let page = 4_096; page < bytes.length; page += 4_096) bytes.fill(0xa5, page, page + 64);
    writeFileSync(path, bytes);
    expect((await examined(copy)).filter((problem) => problem.startsWith(`${store}: `))).not.toEqual([]);
  });

  it('is told by the command with what is wrong and where, exit code 6, and stays as it was', async () => {
    const copy = altered(settled, 'server', 'DELETE FROM record WHERE sequence = 2');
    const ended = await workshop.run('check', copy);
    expect(ended.code).toBe(6);
    expect(ended.stdout).toMatch(/server +\d+ problems/);
    expect(ended.stdout).toMatch(/record 3 of psd_\w+: it does not continue the chain/);
    expect((await examined(copy)).length).toBeGreaterThan(0);
  });
});

describe('A start', () => {
  it.each<readonly [Store, string, RegExp]>([
    ['server', 'UPDATE record SET record = flip(record, 300) WHERE sequence = 5', /record 5 of psd_\w+/],
    ['server', 'DELETE FROM record WHERE sequence = 5', /head of psd_\w+ is not its last record 4/],
    ['authority', 'DELETE FROM record WHERE cursor = 5', /log ends at 4; its position is 5/],
    [
      'host',
      'UPDATE record SET bytes = flip(bytes, 300) WHERE sequence = 5',
      /record 5: its bytes are not those of its digest/,
    ],
    ['cryptographic-device', 'UPDATE funds_grant SET funds_grant = flip(funds_grant, -1)', /is not signed by this/],
    ['psd', 'UPDATE device SET head = flip(head, 0)', /head of the chain is not the last record/],
  ])('stops with its reason at an end that contradicts itself: %s, %s', async (store, sql, words) => {
    const copy = altered(settled, store, sql);
    const config = join(copy, 'run', `${store}.json`);
    writeFileSync(config, JSON.stringify((await configsOf(copy))[store]));
    const ended = await workshop.party(store, 'serve', '--config', config);
    expect(ended.code, ended.stderr).toBe(6);
    expect(ended.stderr).toMatch(words);
  });

  it('of all five says it, too', async () => {
    const copy = altered(settled, 'psd', 'UPDATE device SET head = flip(head, 0)');
    const ended = await workshop.run('up', '--once', '--no-mailing', '--json', '--data', copy);
    expect(ended.code).toBe(6);
    expect(json<{ error: { message: string } }>(ended).error.message).toMatch(/head of the chain is not the last/);
  });
});

it('While the installation runs, a check says so and looks at nothing', async () => {
  const running = workshop.start('up', '--no-mailing', '--data', copyOf(settled));
  await running.says(/Countermark is up/);
  const data = workshop.path(`copy-${copies - 1}`);
  const ended = await workshop.run('check', data, '--json');
  expect(ended.code).toBe(6);
  expect(json(ended)).toMatchObject({ error: { code: 'store-in-use' } });
  running.child.kill('SIGINT');
  expect((await running.ended).code).toBe(0);
});
