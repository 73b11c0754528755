/**
 * Bad deliveries: each gets its code, nothing of it is counted, and what is good beside it is not held up.
 */
import { randomBytes } from 'node:crypto';
import { encode } from '@countermark/protocol/cbor';
import { digestOf, digestText } from '@countermark/protocol/digest';
import { deliverySchema } from '@countermark/protocol/interfaces/delivery';
import { mills } from '@countermark/protocol/money';
import { encodeWith } from '@countermark/protocol/schema';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { delivery, type Franked, Roles, TestDevice } from './authority-evidence.ts';
import { TestAuthority } from './authority-process.ts';

const roles = new Roles();
const LETTERS = [{ level: '5-digit', pieces: 600 }];
let postal: TestAuthority;

beforeAll(async () => {
  postal = new TestAuthority(roles);
  await postal.start();
});

afterAll(async () => {
  await postal.discard();
});

const flipped = (bytes: Uint8Array, at: number): Uint8Array => bytes.map((byte, i) => (i === at ? byte ^ 1 : byte));
const codeOf = async (device: TestDevice, item: Partial<Franked> & Pick<Franked, 'record' | 'attestation'>) => {
  const { results } = await postal.deliver({
    certificates: [device.certificate],
    items: [{ record: item.record, attestation: item.attestation }],
  });
  return results[0]!.rejection?.code ?? results[0]!.outcome;
};

describe('a record', () => {
  test('with one bit changed anywhere is refused, and then taken unaltered', async () => {
    const device = new TestDevice(roles);
    const good = device.frank(LETTERS);
    const codes = new Set<string>();
    for (let at = 0; at < good.record.length; at += 7) {
      codes.add(await codeOf(device, { ...good, record: flipped(good.record, at) }));
    }
    expect(codes).not.toContain('accepted');
    expect(codes).toContain('bad-authenticator');
    expect(await codeOf(device, good)).toBe('accepted');
  });

  test.each(['signature', 'mac'] as const)('by %s, truncated or longer, is refused', async (authentication) => {
    const device = new TestDevice(roles, 'lic_bad', authentication);
    const good = device.frank(LETTERS);
    expect(await codeOf(device, { ...good, record: good.record.subarray(0, -1) })).toBe('cbor-malformed');
    expect(await codeOf(device, { ...good, record: Uint8Array.from([...good.record, 0]) })).toBe('cbor-malformed');
    expect(await codeOf(device, { ...good, record: Uint8Array.from([0]) })).toBe('envelope-malformed');
    expect(await codeOf(device, good)).toBe('accepted');
  });

  test('by MAC stands on its attestation: another payload under the same attestation is refused', async () => {
    const device = new TestDevice(roles, 'lic_bad', 'mac');
    const good = device.frank(LETTERS);
    const payloadAt = good.record.length - 200;
    const code = await codeOf(device, { ...good, record: flipped(good.record, payloadAt) });
    expect(['attestation-mismatch', 'cbor-not-deterministic', 'cbor-malformed']).toContain(code);
    expect(await codeOf(device, good)).toBe('accepted');
  });

  test('with a bad attestation is refused, by signature and by MAC', async () => {
    for (const authentication of ['signature', 'mac'] as const) {
      const device = new TestDevice(roles, 'lic_bad', authentication);
      const good = device.frank(LETTERS);
      const attestation = flipped(good.attestation, good.attestation.length - 1);
      expect(await codeOf(device, { ...good, attestation })).toBe('bad-authenticator');
      expect(await codeOf(device, { ...good, attestation: good.record })).toBe('wrong-type');
      expect(await codeOf(device, { record: good.attestation, attestation: good.attestation })).toMatch(
        /wrong-type|attestation-mismatch/,
      );
    }
  });

  test.each([
    ['digest', { digest: digestOf(randomBytes(32)) }],
    ['sequence', { sequence: 2 }],
    ['device', { device: 'psd_ffffffffffffffff' as never }],
    ['licensee', { licensee: 'lic_other' as never }],
    ['epoch', { epoch: 2 }],
    ['procedure', { authentication: 'mac' as const }],
  ])('whose attestation names another %s is refused', async (_, differing) => {
    const device = new TestDevice(roles);
    const item = device.frank(LETTERS, { alterAttestation: (attestation) => ({ ...attestation, ...differing }) });
    expect(await codeOf(device, item)).toBe('attestation-mismatch');
  });

  test('whose attestation another authority signed is refused', async () => {
    const device = new TestDevice(new Roles());
    const item = device.frank(LETTERS);
    expect(await codeOf(device, item)).toBe('bad-authenticator');
  });

  test('of an unknown device, or under a certificate that the issuing key did not sign, is refused', async () => {
    const device = new TestDevice(roles);
    const item = device.frank(LETTERS);
    const without = await postal.deliver({ certificates: [], items: [item] });
    expect(without.results[0]!.rejection?.code).toBe('unknown-device');
    for (const certificate of [
      device.certificateBy('policy'),
      flipped(device.certificate, 40),
      item.attestation,
      new Uint8Array([1]),
    ]) {
      const forged = await postal.deliver({ certificates: [certificate], items: [item] });
      expect(forged.results[0]!.rejection?.code).toBe('unknown-device');
    }
    expect(await codeOf(device, item)).toBe('accepted');
  });

  test('of another licensee than its device is refused', async () => {
    const device = new TestDevice(roles, 'lic_one');
    const other = { licensee: 'lic_two' as never };
    const item = device.frank(LETTERS, {
      alter: (statistics) => ({ ...statistics, ...other }),
      alterAttestation: (attestation) => ({ ...attestation, ...other }),
    });
    expect(await codeOf(device, item)).toBe('attestation-mismatch');
  });

  test.each(['signature', 'mac'] as const)(
    'by another procedure than %s, its device’s, is refused',
    async (enrolled) => {
      const device = new TestDevice(roles, 'lic_bad', enrolled);
      const by = enrolled === 'mac' ? 'signature' : 'mac';
      expect(await codeOf(device, device.frank(LETTERS, { by, branch: true }))).toBe('wrong-algorithm');
      expect(await codeOf(device, device.frank(LETTERS))).toBe('accepted');
    },
  );

  test.each(['signature', 'mac'] as const)('by %s, under the key of another device, is refused', async (by) => {
    const [one, other] = [new TestDevice(roles, 'lic_bad', by), new TestDevice(roles, 'lic_bad', by)];
    await postal.deliver(delivery([other], [other.frank(LETTERS)]));
    const code = await codeOf(one, one.frank(LETTERS, { holder: other.id }));
    expect(code).toBe(by === 'mac' ? 'wrong-device' : 'bad-authenticator');
  });

  test('twice in one delivery is taken once', async () => {
    const device = new TestDevice(roles);
    const item = device.frank(LETTERS);
    const { results } = await postal.deliver(delivery([device], [item, item]));
    expect(results.map(({ outcome }) => outcome)).toEqual(['accepted', 'already-accepted']);
  });

  test('out of order is refused until the one before it came', async () => {
    const device = new TestDevice(roles);
    const [first, second] = [device.frank(LETTERS), device.frank(LETTERS)];
    const { results } = await postal.deliver(delivery([device], [second, first, second]));
    expect(results).toMatchObject([
      { outcome: 'rejected', rejection: { code: 'out-of-order', detail: { expected: 1 } } },
      { outcome: 'accepted' },
      { outcome: 'accepted' },
    ]);
  });

  test('that contradicts itself or its predecessor is refused', async () => {
    const device = new TestDevice(roles);
    const more = device.frank(LETTERS, {
      branch: true,
      alter: (statistics) => ({
        ...statistics,
        observed: {
          ...statistics.observed,
          cells: statistics.observed.cells.map((cell) => ({ ...cell, pieces: cell.pieces + 1 })),
        },
      }),
    });
    expect(await codeOf(device, more)).toBe('inconsistent');
    const rewound = device.frank(LETTERS, {
      branch: true,
      alter: (statistics) => ({
        ...statistics,
        observed: {
          ...statistics.observed,
          opened: { ...statistics.observed.opened, ascendingMills: mills(10n) },
          closed: { ...statistics.observed.closed, ascendingMills: mills(444_010n) },
        },
      }),
    });
    expect(await codeOf(device, rewound)).toBe('inconsistent');
    const scheme = device.frank(LETTERS, {
      branch: true,
      alter: (statistics) => ({ ...statistics, declaration: { ...statistics.declaration, scheme: 2 } }),
    });
    expect(await codeOf(device, scheme)).toBe('unsupported-version');
    expect(await codeOf(device, device.frank(LETTERS))).toBe('accepted');
  });

  test('that is a second one for its sequence is a fork', async () => {
    const device = new TestDevice(roles);
    const branch = device.frank(LETTERS, { branch: true });
    const kept = device.frank([{ level: 'aadc', pieces: 600 }]);
    expect(await codeOf(device, kept)).toBe('accepted');
    expect(await codeOf(device, branch)).toBe('fork');
    expect(await codeOf(device, kept)).toBe('already-accepted');
    const listed = (await (await postal.request('/v1/quarantine')).json()) as { records: { device: string }[] };
    expect(listed.records.filter((record) => record.device === device.id)).toMatchObject([
      { sequence: 1, code: 'fork' },
    ]);
  });
});

describe('what earns nothing', () => {
  test.each([
    ['underpaid', 'mispaid', { pieces: [{ level: '5-digit', pieces: 600, affixedMills: 739n }] }],
    ['overpaid', 'mispaid', { pieces: [{ level: '5-digit', pieces: 600, affixedMills: 741n }] }],
    ['a level that the tariff does not have', 'unpriced', { pieces: [{ level: '9-digit', pieces: 600 }] }],
    ['a tariff that nobody knows', 'unknown-tariff', { pieces: LETTERS, tariff: digestOf(new Uint8Array(32)) }],
    ['a batch that lost its piece records', 'incomplete', { pieces: LETTERS, incomplete: true }],
    ['spoiled pieces', 'spoiled', { pieces: [], spoiled: 600 }],
  ])('%s: stored and counted as such, without a grant', async (name, standing, { pieces, ...options }) => {
    const licensee = `lic_nothing-${name.length}-${standing}`;
    const device = new TestDevice(roles, licensee);
    const { cursor, results } = await postal.deliver(
      delivery([device], [device.frank(pieces, { customer: 'alder-press', ...options })]),
    );
    expect(results).toEqual([{ outcome: 'accepted' }]);
    const own = (await postal.grants(cursor)).filter(({ grant }) => grant.licensee === licensee);
    expect(own).toEqual([]);
    const { rows } = await postal.totals(`by=standing&licensee=${licensee}`);
    expect(rows).toMatchObject([{ values: { standing }, pieces: '600', differenceMills: '0' }]);
  });

  test('an incomplete batch holds up nothing that follows it', async () => {
    const device = new TestDevice(roles, 'lic_after-incomplete');
    const items = [
      device.frank(LETTERS, { customer: 'alder-press', incomplete: true }),
      device.frank(LETTERS, { customer: 'alder-press' }),
    ];
    const { cursor } = await postal.deliver(delivery([device], items));
    const own = (await postal.grants(cursor)).filter(({ grant }) => grant.licensee === device.licensee);
    expect(own.map(({ kind, grant }) => [kind, grant.amountMills, grant.evidence.map(digestText)])).toEqual([
      ['discount', (147n * 600n * 3n) / 100n, [digestText(items[1]!.digest)]],
      ['credit', (740n * 100n * 30n) / 100n, [digestText(items[1]!.digest)]],
    ]);
    expect(own[0]!.grant.reasons).toContain('Not counted: 600 pieces (incomplete).');
  });

  test('a suspended device earns nothing until a later message releases it; older messages change nothing', async () => {
    const device = new TestDevice(roles, 'lic_suspended');
    const bring = (suspensions: Uint8Array[]) =>
      postal.deliver(delivery([device], [device.frank(LETTERS, { customer: 'alder-press' })], suspensions));
    const pieces = async (standing: string): Promise<string | undefined> =>
      (await postal.totals(`by=standing&licensee=lic_suspended&standing=${standing}`)).rows[0]?.pieces;
    const suspended = await bring([roles.suspension(device, true, 20)]);
    expect(suspended.results).toEqual([{ outcome: 'accepted' }]);
    await bring([roles.suspension(device, false, 10), roles.suspension(new TestDevice(new Roles()), true, 99)]);
    await postal.grants((await bring([])).cursor);
    expect(await pieces('suspended')).toBe('1800');
    await postal.grants((await bring([roles.suspension(device, false, 30)])).cursor);
    expect([await pieces('suspended'), await pieces('paid')]).toEqual(['1800', '600']);
    // A suspension that the policy key did not sign is none.
    const forged = roles.suspension(device, true, 40);
    await postal.grants((await bring([flipped(forged, forged.length - 1)])).cursor);
    expect(await pieces('paid')).toBe('1200');
  });
});

/** A delivery of so many items that are none. */
function deliveryOf(items: number): Uint8Array {
  const item = new Map([
    [1, new Uint8Array(1)],
    [2, new Uint8Array(1)],
  ]);
  return encode(
    new Map([
      [1, []],
      [2, Array.from({ length: items }, () => item)],
    ]),
  );
}

describe('a request', () => {
  test('without the credential is refused, and nothing is taken in', async () => {
    const device = new TestDevice(roles);
    const body = encodeWith(deliverySchema, delivery([device], [device.frank(LETTERS)]));
    for (const authorization of ['', 'Bearer', `Bearer ${'0'.repeat(64)}`, postal.config.credential]) {
      const response = await fetch(`${postal.url}/v1/records`, {
        method: 'POST',
        headers: { authorization, 'content-type': 'application/cbor' },
        body: body as Uint8Array<ArrayBuffer>,
      });
      expect(response.status).toBe(401);
      expect(response.headers.get('content-type')).toMatch(/application\/problem\+json/);
      expect(await response.json()).toMatchObject({ code: 'unauthorised' });
    }
    for (const path of ['/v1/grants', '/v1/totals', '/v1/programmes', '/v1/quarantine']) {
      expect((await fetch(`${postal.url}${path}`)).status).toBe(401);
    }
    expect((await fetch(`${postal.url}/health`)).status).toBe(200);
  });

  test.each([
    ['nothing', new Uint8Array(), 400, 'cbor-malformed'],
    ['no CBOR', new Uint8Array([0xff]), 400, 'cbor-not-deterministic'],
    ['another message', encode(new Map([[1, 2]])), 400, 'malformed'],
    ['unknown fields', encode(new Map([[9, 2]])), 400, 'unknown-field'],
    ['too many items', deliveryOf(257), 400, 'malformed'],
    ['a duplicate key', Uint8Array.from([0xa2, 1, 0x80, 1, 0x80]), 400, 'cbor-duplicate-key'],
    ['nesting that is too deep', Uint8Array.from([...Array<number>(100).fill(0x81), 0]), 400, 'cbor-too-deep'],
    ['17 MiB', new Uint8Array(17 * 1024 * 1024), 413, 'cbor-too-large'],
  ])('with %s is refused with its code', async (_, body, status, code) => {
    const response = await postal.post(body);
    expect(response.status).toBe(status);
    expect(await response.json()).toMatchObject({ code, status, request_id: expect.any(String) as string });
  });

  test('of another kind is refused with its code', async () => {
    const json = await postal.request('/v1/records', {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: '{}',
    });
    expect([json.status, ((await json.json()) as { code: string }).code]).toEqual([415, 'malformed']);
    for (const [path, status, code] of [
      ['/v1/totals?by=colour', 400, 'malformed'],
      ['/v1/totals?by=level,level', 400, 'malformed'],
      ['/v1/totals?colour=red', 400, 'malformed'],
      ['/v1/totals?mailingDateFrom=yesterday', 400, 'malformed'],
      ['/v1/totals?by=level&by=product', 400, 'malformed'],
      ['/v1/grants?after=-1', 400, 'malformed'],
      ['/v1/grants?before=1', 400, 'malformed'],
      ['/v1/nothing', 404, 'unknown-operation'],
    ] as const) {
      const response = await postal.request(path);
      expect([path, response.status, ((await response.json()) as { code: string }).code]).toEqual([path, status, code]);
    }
  });
});
