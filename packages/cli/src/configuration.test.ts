import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import {
  changedLasting,
  checkSettings,
  completeSettings,
  optionName,
  readSettings,
  SETTINGS,
  type Settings,
  settingsFile,
  settingsPage,
} from './configuration.ts';

const folder = mkdtempSync(join(tmpdir(), 'countermark-configuration-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

async function read(text: string) {
  const file = join(folder, 'countermark.toml');
  writeFileSync(file, text);
  return readSettings(file);
}

function complete(given: Readonly<Record<string, unknown>>): Settings {
  const checked = checkSettings(given, 'test');
  if (!checked.ok) throw new Error(String(checked.rejection.detail.reason));
  const settings = completeSettings(checked.value, 'test');
  if (!settings.ok) throw new Error(String(settings.rejection.detail.reason));
  return settings.value;
}

describe('the file of settings', () => {
  test('as it is written first says nothing but what was given', async () => {
    expect(await read(settingsFile({ authentication: 'mac', holdFor: '2d', pages: false }))).toEqual({
      ok: true,
      value: { authentication: 'mac', holdFor: 172_800_000, pages: false },
    });
  });

  test('with every comment taken away is the standard configuration', async () => {
    const text = settingsFile({}).replaceAll(/^# (\w+ = )/gm, '$1');
    const all = await read(text.replaceAll(/^(database|pkcs11\w+|psdPkcs11\w+|certificate\w*) = .*$/gm, ''));
    expect(all.ok && completeSettings(all.value, 'test')).toEqual({ ok: true, value: complete({}) });
  });

  test('explains every setting, and so does its page', () => {
    for (const { name } of SETTINGS) {
      expect(settingsFile({})).toMatch(new RegExp(`^# ${name} = `, 'm'));
      expect(settingsPage()).toContain(`| \`${name}\` |`);
    }
  });

  test.each([
    ['transprt = "session"', 'did you mean transport'],
    ['transport = "sesion"', 'did you mean "session"'],
    ['holdFor = 1', 'a duration'],
    ['holdFor = "1h"', 'from 1d'],
    ['refill = 250.00', 'as a text'.slice(3)],
    ['refill = "2.5.0"', 'an amount such as'],
    ['pages = "no"', 'true or false'],
    ['recordCapacity = 0', 'from 1 to'],
    ['licensee = "me"', 'lic_'],
    ['database = "mysql://x"', 'postgres://'],
    ['authentication = ', 'Invalid TOML'],
  ])('refuses %s', async (line, reason) => {
    const refused = await read(`${line}\n`);
    expect(refused.ok ? undefined : refused.rejection.code).toBe('config-invalid');
    expect(refused.ok ? '' : String(refused.rejection.detail.reason)).toContain(reason);
  });
});

describe('settings', () => {
  test('are in dollars and mills, days and milliseconds', () => {
    expect(complete({ refill: '250.5', holdFor: '1d12h' })).toMatchObject({
      refill: 250_500n,
      deposit: 100_000_000n,
      holdFor: 129_600_000,
    });
  });

  test('of one mailer name the mailer as licensee', () => {
    expect(complete({ customers: 'one' })).toMatchObject({ licensee: 'lic_demo-mailer', submitter: 'Demo Mailer' });
    expect(complete({ customers: 'one', licensee: 'lic_me' }).licensee).toBe('lic_me');
  });

  test('cannot ask for a greater refill than the deposit', () => {
    const checked = checkSettings({ deposit: '1.00', refill: '2.00' }, 'test');
    expect(checked.ok && completeSettings(checked.value, 'test')).toMatchObject({
      ok: false,
      rejection: { code: 'config-invalid' },
    });
  });

  test('refill by themselves only to more than the amount below which they do', () => {
    const of = (refillTo: string) => {
      const checked = checkSettings({ refillBelow: '1.00', refillTo }, 'test');
      return checked.ok && completeSettings(checked.value, 'test').ok;
    };
    expect([of('1.00'), of('1.01')]).toEqual([false, true]);
  });

  test('that the device holds cannot change, the others can', () => {
    const before = complete({});
    expect(changedLasting(before, { authentication: 'mac' })).toBe('authentication');
    expect(changedLasting(before, { authentication: 'signature', transport: 'session' })).toBeUndefined();
  });

  test('have options with their names', () => {
    expect(optionName('holdFor')).toBe('hold-for');
  });
});
