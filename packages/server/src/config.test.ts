import { describe, expect, it } from 'vitest';
import { parseConfig } from './config.ts';

const GOOD = {
  data: '/tmp/countermark/server',
  listen: { host: '127.0.0.1', port: 0 },
  trustBundle: '/tmp/countermark/trust-bundle.json',
  cdSocket: '/tmp/countermark/cd.sock',
  cdSessionSocket: '/tmp/countermark/cds.sock',
  acceptanceSocket: '/tmp/countermark/acc.sock',
  authority: { url: 'http://127.0.0.1:8080/', credential: 'ab'.repeat(32) },
  operatorCredential: 'cd'.repeat(32),
};

function reasonOf(changes: object): string {
  const parsed = parseConfig({ ...GOOD, ...changes });
  return parsed.ok ? 'accepted' : `${parsed.rejection.code}: ${parsed.rejection.detail['reason'] ?? ''}`;
}

describe("The server's configuration", () => {
  it('has its own SQLite file where no database is named, and the default policy', () => {
    const parsed = parseConfig(GOOD);
    expect(parsed).toMatchObject({
      ok: true,
      value: {
        database: 'sqlite:///tmp/countermark/server/server.sqlite',
        policy: {
          currency: { code: 'USD', exponent: 3 },
          lowestPostageMills: 1n,
          highestPostageMills: 100_000n,
          highestFundsMills: 50_000_000n,
          maxUnconfirmedBatches: 1_000,
          maxUnconfirmedPostageMills: 1_000_000_000n,
          warnAfterDays: 28,
          lockAfterDays: 90,
          maxPiecesPerBatch: 2_000_000,
          maxCellsPerBatch: 1_024,
          memoryPieces: 2_000_000,
        },
      },
    });
  });

  it('takes deadlines by the name of their profile, inspections, products and scheme; nothing that withdraws every device', () => {
    const policy = {
      profile: '21+7',
      inspection: { warnAfterDays: 300, lockAfterDays: 365 },
      products: ['letter'],
      scheme: 1,
    };
    expect(parseConfig({ ...GOOD, policy })).toMatchObject({
      value: {
        policy: { warnAfterDays: 21, lockAfterDays: 28, inspection: { lockAfterDays: 365 }, products: ['letter'] },
      },
    });
    expect(reasonOf({ policy: { profile: 'never' } })).toMatch(/config-invalid.*profile/);
    expect(reasonOf({ policy: { inspection: { warnAfterDays: -1, lockAfterDays: 2 } } })).toMatch(/config-invalid/);
    expect(reasonOf({ policy: { products: [] } })).toMatch(/config-invalid/);
    expect(reasonOf({ policy: { maxUnconfirmedPostageMills: '0' } })).toMatch(/config-invalid/);
  });

  it('takes another policy, amounts being texts', () => {
    const policy = { highestFundsMills: '77', lockAfterDays: 3 };
    expect(parseConfig({ ...GOOD, policy })).toMatchObject({
      value: { policy: { highestFundsMills: 77n, lockAfterDays: 3, warnAfterDays: 28 } },
    });
  });

  it('takes further operators, each with a name and a credential of their own, and a scan window', () => {
    const operators = [
      { name: 'night-shift', credential: '1'.repeat(64) },
      { name: 'audit', credential: '2'.repeat(64) },
    ];
    expect(parseConfig(GOOD)).toMatchObject({ value: { operators: [], scanWindowDays: 90 } });
    expect(parseConfig({ ...GOOD, operators, scanWindowDays: 30 })).toMatchObject({
      value: { operators, scanWindowDays: 30 },
    });
  });

  it('takes other rate limits, each by its name', () => {
    const rateLimits = { requestsPerPerson: 7 };
    expect(parseConfig(GOOD)).toMatchObject({ value: { rateLimits: { requestsPerPerson: 600, failuresPerName: 10 } } });
    expect(parseConfig({ ...GOOD, rateLimits })).toMatchObject({
      value: { rateLimits: { requestsPerPerson: 7, failuresPerName: 10 } },
    });
  });

  it.each([
    ['an unknown setting', { port: 1 }, /port is unknown/],
    ['an unknown one of listen', { listen: { ...GOOD.listen, path: '/' } }, /listen must/],
    ['an unknown one of the authority', { authority: { ...GOOD.authority, path: '/' } }, /path is unknown/],
    ['a missing one', { cdSocket: undefined }, /cdSocket is missing/],
    ['a relative folder', { data: 'data' }, /absolute/],
    ['no port', { listen: { host: 'x' } }, /listen/],
    ['an authority without credential', { authority: { url: 'http://x/' } }, /credential/],
    [
      'a second operator with the credential of the first',
      { operators: [{ name: 'b', credential: 'cd'.repeat(32) }] },
      /operators/,
    ],
    [
      'two operators of one name',
      { operators: ['1', '2'].map((digit) => ({ name: 'b', credential: digit.repeat(64) })) },
      /operators/,
    ],
    [
      'an operator with the name of the first',
      { operators: [{ name: 'operator', credential: '1'.repeat(64) }] },
      /operators/,
    ],
    ['an operator without credential', { operators: [{ name: 'b' }] }, /operators/],
    ['operators that are no list', { operators: { b: '1'.repeat(64) } }, /operators/],
    ['an unknown rate limit', { rateLimits: { perPerson: 7 } }, /rateLimits/],
    ['a rate limit of nothing', { rateLimits: { failuresPerName: 0 } }, /rateLimits/],
    ['a rate limit that is a text', { rateLimits: { failuresPerName: '7' } }, /rateLimits/],
    ['rate limits that are none', { rateLimits: 7 }, /rateLimits/],
    ['a scan window of no days', { scanWindowDays: 0 }, /scanWindowDays/],
    ['a short operator credential', { operatorCredential: 'cd' }, /operatorCredential/],
    ['another database', { database: 'mysql://x' }, /database/],
    ['an unknown policy value', { policy: { highest: '1' } }, /highest is not valid/],
    ['an amount that is a number', { policy: { highestFundsMills: 1 } }, /highestFundsMills is not valid/],
    ['days that are a text', { policy: { lockAfterDays: 'x' } }, /policy/],
  ])('refuses %s', (_name, changes, reason) => {
    expect(reasonOf(changes)).toMatch(/^config-invalid/);
    expect(reasonOf(changes)).toMatch(reason);
  });
});
