/**
 * People and the audit trail by the command line, against a running installation; then what is left on the disk: `check` names an altered
 * trail, and no log of the five processes has a secret.
 */
import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import Database from 'better-sqlite3';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Ended, json, type Running, sampleOf, Workshop } from '../../loop/command.ts';
import { filesBelow, privateKeysBelow, type Secret, secretsIn } from '../../secrets-in-text.ts';

const workshop = new Workshop();
const data = workshop.path('data');
const secrets: Secret[] = [];
let up: Running;
let url: string;

beforeAll(async () => {
  const mailing = workshop.mailing('m.csv', sampleOf('alder-press').slice(0, 40));
  up = workshop.start('up', '--transport', 'session', '--data', data, '--mailing', mailing);
  await up.says(/is up/);
  const host = JSON.parse(readFileSync(join(data, 'run/host.json'), 'utf8')) as { server: { url: string } };
  url = host.server.url;
});
afterAll(() => workshop.stopAll());

const run = (...args: string[]): Promise<Ended> => workshop.run(...args, '--data', data);
const by = (credential: string, ...args: string[]): Promise<Ended> =>
  workshop.run(...args, '--server', url, '--credential', credential);
type Failed = { readonly error: { readonly code: string } };
type Trail = {
  readonly head: { readonly number: number; readonly digest: string };
  readonly entries: readonly { readonly act: string; readonly actor: string; readonly subject: string }[];
};

describe('People', () => {
  test('are added, with a credential that is shown once or written to a file of their own', async () => {
    const shown = await run('person', 'add', 'alice', '--role', 'auditor');
    expect(shown.code, shown.stderr).toBe(0);
    expect(shown.stdout).toMatch(/^alice\.[0-9a-f]{64}\n$/);
    expect(shown.stderr).toContain('shown this once');
    writeFileSync(workshop.path('alice'), shown.stdout);
    secrets.push({ name: 'of alice', value: shown.stdout.trim().slice(6) });

    const file = workshop.path('otto');
    const written = await run('person', 'add', 'otto', '--role', 'officer', '--credential-to', file);
    expect([written.code, written.stdout]).toEqual([0, `The credential of otto (officer) is in ${file}.\n`]);
    expect(statSync(file).mode & 0o777).toBe(0o600);
    secrets.push({ name: 'of otto', value: readFileSync(file, 'utf8').trim().slice(5) });
    const again = await run('person', 'add', 'bert', '--role', 'auditor', '--credential-to', file, '--json');
    expect([again.code, json<Failed>(again).error.code]).toEqual([2, 'usage']);
    const taken = await run('person', 'add', 'otto', '--role', 'auditor', '--json');
    expect([taken.code, json<Failed>(taken).error.code]).toEqual([3, 'person-exists']);
  });

  test('are listed, and do what their role may', async () => {
    const listed = await by(workshop.path('alice'), 'person', 'list');
    expect(listed.code, listed.stderr).toBe(0);
    expect(listed.stdout).toMatch(/^Name +Role +Of +Added +Revoked\nalice +auditor +.* by operator\notto +officer +/);
    const refused = await by(workshop.path('alice'), 'person', 'revoke', 'otto', '--json');
    expect([refused.code, json<Failed>(refused).error.code]).toEqual([2, 'unauthorised']);
    const far = workshop.run(
      'person',
      'list',
      '--server',
      'http://server.example',
      '--credential',
      workshop.path('alice'),
      '--json',
    );
    expect(json<Failed>(await far).error.code).toBe('insecure-address');
  });

  test('are revoked', async () => {
    const added = await by(workshop.path('otto'), 'person', 'add', 'carl', '--role', 'operator', '--json');
    const { credential } = json<{ credential: string }>(added);
    secrets.push({ name: 'of carl', value: credential.slice(5) });
    writeFileSync(workshop.path('carl'), credential);
    expect((await by(workshop.path('carl'), 'device', 'list')).code).toBe(0);
    const revoked = await by(workshop.path('otto'), 'person', 'revoke', 'carl');
    expect([revoked.code, revoked.stdout]).toEqual([0, 'The credential of carl (operator) is revoked, by otto.\n']);
    const refused = await by(workshop.path('carl'), 'device', 'list', '--json');
    expect(json<Failed>(refused).error.code).toBe('unauthorised');
  });
});

test('The audit trail is read and computed again by an auditor, who sees what was cut off', async () => {
  const read = (...args: string[]) => by(workshop.path('alice'), 'audit', 'list', ...args);
  const { head, entries } = json<Trail>(await read('--json'));
  expect(head).toEqual({ number: entries.length, digest: expect.stringMatching(/^[0-9a-f]{64}$/) });
  expect(entries.map(({ act, actor, subject }) => `${act} ${subject} ${actor}`)).toEqual([
    'trail-begun  ',
    'licensee-registered lic_demo-bureau operator',
    'deposit-paid lic_demo-bureau operator',
    ...entries.slice(3, -4).map(({ act, actor, subject }) => `${act} ${subject} ${actor}`),
    'person-added alice operator',
    'person-added otto operator',
    'person-added carl otto',
    'person-revoked carl otto',
  ]);
  expect(entries.slice(3, -4).map(({ act }) => act)).toEqual(expect.arrayContaining(['certificate-issued']));
  const text = await read('--last', '2');
  expect(text.stdout.trimEnd().split('\n')).toHaveLength(3);
  expect(text.stdout).toMatch(/ otto \(person\) +person-revoked +carl +operator\n$/);
  expect(text.stderr).toContain(`Its last: ${head.number}:${head.digest}`);
  expect((await read('--known', `${head.number}:${head.digest}`)).code).toBe(0);
  const cut = await read('--known', `${head.number + 1}:${head.digest}`);
  expect([cut.code, cut.stderr]).toEqual([3, expect.stringContaining(`The trail ends with entry ${head.number}`)]);
  const other = await read('--known', `2:${head.digest}`);
  expect([other.code, other.stderr]).toEqual([3, expect.stringContaining('Entry 2 has the digest')]);
});

describe('What is left when it has ended', () => {
  test('has no secret in any log, nor said anywhere', async () => {
    up.child.kill('SIGTERM');
    const ended = await up.ended;
    expect(ended.code, ended.stderr).toBe(0);
    const credentials = JSON.parse(readFileSync(join(data, 'credentials.json'), 'utf8')) as Record<string, string>;
    for (const [name, value] of Object.entries(credentials)) secrets.push({ name, value });
    const keys = privateKeysBelow(data);
    // Of authority, PSD and cryptographic device at least.
    expect(
      new Set(keys.map(({ name }) => name.split('/')[1])).size,
      JSON.stringify(keys.map(({ name }) => name)),
    ).toBeGreaterThanOrEqual(3);
    secrets.push(...keys);
    const logs = filesBelow(join(data, 'logs'));
    expect(logs.length).toBeGreaterThan(0);
    const said = [...logs.map((file) => readFileSync(file, 'utf8')), ended.stdout, ended.stderr].join('\n');
    expect(said).toContain('A session began');
    expect(secretsIn(said, secrets)).toEqual([]);
  });

  test('is examined by `check`, which names an entry that somebody altered', async () => {
    const good = await run('check');
    expect(good.code, good.stdout + good.stderr).toBe(0);
    const store = filesBelow(data).find((file) => file.endsWith('server.sqlite'))!;
    const database = new Database(store);
    database.prepare("UPDATE audit_entry SET actor = 'alice' WHERE act = 'person-revoked'").run();
    database.close();
    const bad = await run('check');
    expect(bad.code).not.toBe(0);
    expect(bad.stdout + bad.stderr).toMatch(/audit trail breaks at its entry \d+ \(person-revoked carl by alice\)/);
  });
});
