import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  amountMills,
  duration,
  flag,
  list,
  named,
  oneOf,
  optional,
  readConfig,
  readTomlFile,
  table,
  text,
  wholeNumber,
  withDefault,
} from './config.ts';
import { formatDuration, parseDuration } from './duration.ts';

const DAY_MS = 86_400_000;
const schema = table({
  authentication: oneOf('mac', 'signature'),
  holdFor: withDefault(duration(1_000, 90 * DAY_MS), DAY_MS),
  database: optional(text(/^(sqlite|postgres):/, 'a database URL')),
  device: table({ workers: withDefault(wholeNumber(1, 8), 2), demo: withDefault(flag(), false) }),
  customers: withDefault(list(text()), []),
  baselines: optional(named(/^[a-z]+$/, amountMills())),
});

function reason(value: unknown): string {
  const result = readConfig(schema, value, 'x.toml');
  return result.ok ? 'accepted' : String(result.rejection.detail.reason);
}

describe('a config', () => {
  let directory: string;
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'config-'));
  });
  afterEach(() => {
    rmSync(directory, { recursive: true });
  });

  it('is read from TOML with its defaults', async () => {
    const file = join(directory, 'countermark.toml');
    writeFileSync(
      file,
      'authentication = "mac"\nholdFor = "36h"\ncustomers = ["a"]\n[device]\nworkers = 3\n[baselines]\nbooks = 1000\n',
    );
    expect(await readTomlFile(schema, file)).toEqual({
      ok: true,
      value: {
        authentication: 'mac',
        holdFor: 36 * 3_600_000,
        device: { workers: 3, demo: false },
        customers: ['a'],
        baselines: new Map([['books', 1000n]]),
      },
    });
    writeFileSync(file, 'authentication = \n');
    expect(await readTomlFile(schema, file)).toMatchObject({
      ok: false,
      rejection: { code: 'config-invalid', detail: { file } },
    });
    expect(await readTomlFile(schema, join(directory, 'none'))).toMatchObject({
      ok: false,
      rejection: { code: 'config-invalid' },
    });
  });

  it('is refused with every problem at once', () => {
    expect(
      reason({ autentication: 'mac', holdFor: '1 day', device: { workers: 9, dmo: true }, customers: ['', 1] }),
    ).toBe(
      [
        'autentication is not a setting; did you mean authentication?',
        'authentication is missing',
        'holdFor must be a duration such as "1d", "36h" or "90m"',
        'device.dmo is not a setting; did you mean demo?',
        'device.workers must be a whole number from 1 to 8',
        'customers[0] must be a text that is not empty',
        'customers[1] must be a text that is not empty',
      ].join('; '),
    );
  });

  it.each([
    [
      { authentication: 'signatur', device: {} },
      'authentication must be "mac" or "signature"; did you mean "signature"?',
    ],
    [{ authentication: 'mac', device: {}, holdFor: '91d' }, 'holdFor must be from 1s to 90d'],
    [{ authentication: 'mac', device: {}, database: 'mysql://x' }, 'database must be a database URL'],
    [{ authentication: 'mac', device: { workers: '2' } }, 'device.workers must be a whole number from 1 to 8'],
    [{ authentication: 'mac', device: [] }, 'device must be a table'],
    [
      { authentication: 'mac', device: {}, baselines: { books: -1 } },
      'baselines.books must be a whole number of mills, not negative',
    ],
    [JSON.parse('{"authentication":"mac","device":{},"__proto__":{}}'), '__proto__ is not a setting'],
    [null, 'the file must be a table'],
  ])('%j is refused in words', (value: unknown, words) => {
    expect(reason(value)).toBe(words);
  });
});

describe('a duration', () => {
  it('is read back as it was written', () => {
    fc.assert(
      fc.property(fc.maxSafeNat(), (durationMs) => {
        expect(parseDuration(formatDuration(durationMs))).toBe(durationMs);
      }),
    );
    expect(formatDuration(36 * 3_600_000)).toBe('1d12h');
    expect(parseDuration('1d12h')).toBe(36 * 3_600_000);
  });
  it.each(['', '1', '1 d', '-1d', '1.5h', 'd', '1h1d', '99999999999d', '1D'])('is not %j', (word) => {
    expect(parseDuration(word)).toBeUndefined();
  });
});
