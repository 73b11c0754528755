/**
 * Calling the command wrongly, and mailings that cannot be franked: exit codes, one JSON object, what to do now.
 */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import type { JobReport } from '@countermark/protocol/interfaces/host';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { json, type Running, sample, Workshop } from './command.ts';

const workshop = new Workshop();
afterAll(() => workshop.stopAll());

type Failed = { readonly error: { readonly code: string; readonly message: string } };

describe('usage', () => {
  test.each([
    ['an unknown noun', ['letters']],
    ['an unknown option', ['up', '--onse']],
    ['a wrong value', ['up', '--authentication', 'rot13']],
    ['a wrong duration', ['up', '--data', 'hold', '--forwarding', 'hold', '--hold-for', '1h']],
    ['a missing argument', ['batch', 'frank']],
    ['no noun', []],
    ['a noun without a verb', ['batch']],
    ['a reset that is not asked for', ['reset']],
  ])('%s ends with 2 and writes nothing', async (_, args) => {
    const at = args.indexOf('hold');
    const folder = workshop.path('usage');
    const ended = await workshop.run(...args.map((arg, i) => (i === at && args[i - 1] === '--data' ? folder : arg)));
    expect(ended.code, ended.stderr).toBe(2);
    expect(ended.stderr).not.toBe('');
    expect(existsSync(`${folder}/countermark.toml`)).toBe(false);
  });

  test('with --json, a failure is one JSON object as well', async () => {
    expect(json<Failed>(await workshop.run('up', '--json', '--onse')).error.code).toBe('usage');
    const none = await workshop.run('funds', 'show', '--json', '--data', workshop.path('none'));
    expect(none.code).toBe(5);
    expect(json<Failed>(none).error).toMatchObject({ code: 'not-running' });
  });

  test('a party that cannot start is heard first, with its own code and what to do', async () => {
    const pin = workshop.path('no-pin');
    const token = ['--pkcs11-module', '/nowhere.so', '--pkcs11-token', 'none', '--pkcs11-pin-file', pin];
    const ended = await workshop.run('up', '--no-mailing', '--json', '--data', workshop.path('tokenless'), ...token);
    expect(ended.code, ended.stderr).toBe(2);
    const { code, message } = json<Failed>(ended).error;
    expect(code).toBe('config-invalid');
    expect(message).toMatch(
      /^The configuration \S*no-pin is not valid: the PIN cannot be read \(ENOENT.*Correct it; [^]*\(cryptographic-device did not start; its log: /,
    );
  });

  test('a folder with other things in it is left alone', async () => {
    const folder = workshop.path('other');
    mkdirSync(folder);
    writeFileSync(`${folder}/thesis.txt`, 'x');
    const up = await workshop.run('up', '--once', '--json', '--data', folder);
    expect(up.code).toBe(2);
    expect(json<Failed>(up).error.message).toContain('--data');
    expect((await workshop.run('reset', '--demo', '--yes', '--data', folder)).code).toBe(2);
    expect(existsSync(`${folder}/thesis.txt`)).toBe(true);
  });

  test('help has examples everywhere', async () => {
    const nouns = await workshop.run('help');
    expect(nouns.code).toBe(0);
    for (const args of [
      ['up'],
      ['batch', 'frank'],
      ['funds', 'refill'],
      ['verify'],
      ['statistics', 'export'],
      ['reset'],
    ]) {
      const help = await workshop.run(...args, '--help');
      expect(help.code).toBe(0);
      expect(help.stdout).toMatch(/Examples:\n {2}\$ countermark /);
      expect((await workshop.run('help', ...args)).stdout).toBe(help.stdout);
    }
  });
});

test('an example of a mailing is to be had before anything runs', async () => {
  const none = workshop.path('not-there');
  const { stdout, code } = await workshop.run('batch', 'template', '--data', none);
  expect(code).toBe(0);
  const lines = stdout.trimEnd().split('\n');
  expect(lines[0]).toBe(sample()[0]);
  expect(sample()).toEqual(expect.arrayContaining(lines));
  const own = await workshop.run('batch', 'template', '--one', '--data', none);
  expect(own.stdout.split('\n', 1)[0]).not.toContain('customer');
});

describe('a bad mailing', () => {
  const data = workshop.path('data');
  const [header = '', ...rows] = sample().slice(0, 41);

  test('one bad row and nothing is franked: exit 3, the rows in FILE.errors.csv; --accept-good franks the rest', async () => {
    const bad = rows.map((row, i) => (i === 7 ? row.replace(/,00901[-\d]*$/, ',901') : row));
    expect(bad[7]).not.toBe(rows[7]);
    const file = workshop.mailing('bad.csv', bad);
    const refused = await workshop.run('up', '--once', '--json', '--data', data, '--mailing', file);
    expect(refused.code, refused.stderr).toBe(3);
    const { error, ...rest } = json<Failed & Partial<JobReport>>(refused);
    expect(error.code).toBe('file-rows');
    expect(rest.pieces ?? 0).toBe(0);
    const errors = readFileSync(`${file}.errors.csv`, 'utf8');
    expect(errors).toContain('901');
    expect(errors.trimEnd().split('\n')).toHaveLength(2);

    const accepted = await workshop.run('up', '--once', '--json', '--data', data, '--mailing', file, '--accept-good');
    expect(accepted.code, accepted.stderr).toBe(0);
    expect(json<JobReport>(accepted)).toMatchObject({ pieces: 39, rejectedRows: 1, pending: [] });
  });

  test('what was fixed at the first start cannot be changed', async () => {
    const changed = await workshop.run('up', '--once', '--json', '--data', data, '--authentication', 'mac');
    expect(changed.code).toBe(2);
    expect(json<Failed>(changed).error.message).toContain('authentication was fixed');
  });

  describe('is refused by what is running, too', () => {
    let up: Running;
    beforeAll(async () => {
      up = workshop.start('up', '--no-mailing', '--data', data);
      await up.says(/is up/);
    });
    afterAll(async () => {
      up.child.kill('SIGTERM');
      expect((await up.ended).code, up.stderr).toBe(0);
    });
    const frank = (file: string, ...more: string[]) =>
      workshop.run('batch', 'frank', file, '--json', '--data', data, ...more);

    test.each([
      ['missing', undefined, 'file-unreadable'],
      ['empty', '', 'file-empty'],
      ['column', `${header.replace('weight_oz', 'weight')}\n${rows.join('\n')}\n`, 'file-columns'],
      ['long', `${header}\n${rows[0]}${'x'.repeat(70_000)}\n`, 'file-structure'],
    ])('%s: exit 3 and the reason', async (name, content, code) => {
      const file = workshop.path(`${name}.csv`);
      if (content !== undefined) writeFileSync(file, content);
      const refused = await frank(file);
      expect(refused.code, refused.stderr).toBe(3);
      expect(json<Failed>(refused).error.code).toBe(code);
    });

    test('another encoding, unless an option names it', async () => {
      const file = workshop.path('latin.csv');
      const text = `${header}\n${rows.slice(0, 3).join('\n').replace('Rosa', 'Ros\u00e9')}\n`;
      writeFileSync(file, Buffer.from(text, 'latin1'));
      expect(json<Failed>(await frank(file)).error.code).toBe('file-encoding');
      const read = await frank(file, '--encoding', 'windows-1252');
      expect(read.code, read.stderr).toBe(0);
    });
  });
});
