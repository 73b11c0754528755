import { describe, expect, test } from 'vitest';
import { parseConfig } from './config.ts';

const GIVEN = {
  data: '/var/lib/countermark/authority',
  listen: { host: '127.0.0.1', port: 0 },
  trustBundle: '/var/lib/countermark/trust-bundle.json',
  credential: '0'.repeat(64),
};

describe('the configuration', () => {
  test('is taken with its defaults', () => {
    expect(parseConfig(GIVEN)).toEqual({
      ok: true,
      value: { ...GIVEN, database: 'sqlite:///var/lib/countermark/authority/authority.db' },
    });
    const all = { ...GIVEN, database: 'postgres://a@b/c?sslmode=verify-full', programmes: ['/p.json'] };
    expect(parseConfig(all)).toEqual({ ok: true, value: all });
  });

  test('finds its folder again, whatever its name', () => {
    const parsed = parseConfig({ ...GIVEN, data: '/tmp/50 % off?#ü' });
    const database = parsed.ok ? parsed.value.database : '';
    expect(decodeURIComponent(new URL(database).pathname)).toBe('/tmp/50 % off?#ü/authority.db');
  });

  test.each<[string, unknown, string]>([
    ['no object', [], 'object'],
    ['an unknown setting', { ...GIVEN, colour: 'red' }, 'colour'],
    ['a relative folder', { ...GIVEN, data: 'data' }, 'data'],
    ['a database of another kind', { ...GIVEN, database: 'mysql://a' }, 'database'],
    ['no port', { ...GIVEN, listen: { host: 'a' } }, 'listen'],
    ['a port beyond all', { ...GIVEN, listen: { host: 'a', port: 65_536 } }, 'listen'],
    ['more about listening', { ...GIVEN, listen: { host: 'a', port: 1, tls: true } }, 'listen'],
    ['a short credential', { ...GIVEN, credential: 'ab' }, 'credential'],
    ['no trust bundle', { ...GIVEN, trustBundle: '' }, 'trustBundle'],
    ['programmes that are no paths', { ...GIVEN, programmes: [1] }, 'programmes'],
  ])('with %s is refused', (_, json, word) => {
    const parsed = parseConfig(json);
    expect(parsed).toMatchObject({ ok: false, rejection: { code: 'config-invalid' } });
    expect(parsed.ok ? '' : parsed.rejection.detail.reason).toContain(word);
  });
});
