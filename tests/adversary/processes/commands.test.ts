/**
 * The operators' commands against a running installation, and a host that brings its records to the authority itself: in both
 * forms, text for people and one JSON object for programs. The copied device is a simulated one, enrolled like any other.
 */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { askServer, type ServerAccess } from '@countermark/cli/registration';
import type { DeviceReport } from '@countermark/protocol/interfaces/host';
import { type Answer, answersSchema, submissionSchema } from '@countermark/protocol/interfaces/answer';
import type { LicenseeId } from '@countermark/protocol/id';
import { encodeWith, parseBytes } from '@countermark/protocol/schema';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { SimulatedDevice } from '../../../bench/src/simulated-device.ts';
import { value } from '../../contract/server-parties.ts';
import { type Ended, json, type Running, sampleOf, Workshop } from '../../loop/command.ts';

const LICENSEE = 'lic_demo-bureau' as LicenseeId;
const workshop = new Workshop();
const data = workshop.path('data');
let up: Running;
let server: ServerAccess;

beforeAll(async () => {
  up = workshop.start(
    'up',
    '--data',
    data,
    '--mailing',
    workshop.mailing('m.csv', sampleOf('alder-press').slice(0, 40)),
  );
  await up.says(/is up/);
  const run = (name: string): Record<string, unknown> =>
    JSON.parse(readFileSync(join(data, name), 'utf8')) as Record<string, unknown>;
  const host = run('run/host.json') as { server: ServerAccess };
  server = host.server;
});
afterAll(async () => {
  up.child.kill('SIGTERM');
  const { code, stderr } = await up.ended;
  workshop.stopAll();
  expect(code, stderr).toBe(0);
});

const run = (...args: string[]): Promise<Ended> => workshop.run(...args, '--data', data);
async function ask<T>(...args: string[]): Promise<T> {
  const ended = await run(...args, '--json');
  expect(ended.code, ended.stderr).toBe(0);
  return json<T>(ended);
}
async function text(...args: string[]): Promise<string> {
  const ended = await run(...args);
  expect(ended.code, ended.stderr).toBe(0);
  return ended.stdout;
}

/** A device whose store was copied; both histories reported. */
async function forkedDevice(): Promise<SimulatedDevice> {
  const device = new SimulatedDevice(LICENSEE);
  const request = Buffer.from(device.enrolmentRequest()).toString('base64url');
  const { code } = await ask<{ code: string }>('device', 'invite', LICENSEE);
  await askServer(server, 'POST', '/v1/devices', { licensee: LICENSEE, request, code });
  device.receive(100_000n);
  const copy = device.copy();
  const answers = await submit(device.record({ pieces: 2 }), copy.record({ pieces: 3 }));
  expect(answers.map(({ rejection, outcome }) => rejection?.code ?? outcome)).toEqual(['accepted', 'fork']);
  return device;
}

async function submit(...records: Uint8Array[]): Promise<readonly Answer[]> {
  const response = await fetch(new URL('/v1/records', server.url), {
    method: 'POST',
    headers: { authorization: `Bearer ${server.credential}`, 'content-type': 'application/cbor' },
    body: Buffer.from(encodeWith(submissionSchema, { records })),
  });
  return value(parseBytes(answersSchema, new Uint8Array(await response.arrayBuffer()))).answers;
}

type Listed = { readonly devices: readonly { readonly device: string; readonly standing: string }[] };
type Cases = {
  readonly cases: readonly {
    readonly code: string;
    readonly verified: boolean;
    readonly words: readonly string[];
    readonly differences: readonly {
      readonly what: string;
      readonly accepted: string;
      readonly refused: string;
      readonly differs: boolean;
    }[];
  }[];
};
type Death = {
  readonly declaredBy: string;
  readonly confirmedBy: string | null;
  readonly refundAfterMs: number | null;
};

describe('A forked device', () => {
  let device: SimulatedDevice;
  beforeAll(async () => {
    device = await forkedDevice();
  });

  test('is listed and shown, in columns that line up', async () => {
    const listed = await text('device', 'list');
    const [heading = '', ...rows] = listed.trimEnd().split('\n');
    const at = heading.indexOf('Standing');
    expect(rows.map((row) => row.slice(at, at + 10).trim()).sort()).toEqual(['good', 'suspended']);
    expect((await ask<Listed>('device', 'list', '--standing', 'suspended')).devices).toMatchObject([
      { device: device.device, standing: 'suspended' },
    ]);
    const shown = await text('device', 'show', device.device);
    expect(shown).toMatch(/^Standing +suspended: two different records for sequence 1$/m);
    expect(shown).toMatch(/^Evidence +1: see countermark device evidence/m);
  });

  test('has its two records shown beside each other, verified again, with what differs in words', async () => {
    const { cases } = await ask<Cases>('device', 'evidence', device.device);
    expect(cases).toMatchObject([{ code: 'fork', verified: true }]);
    const words = cases[0]?.words.join(' ') ?? '';
    expect(words).toContain('Both follow the same record');
    expect(words).toContain('The piece numbers 1 to 2 stand on mail of both');
    expect(words).toContain('franked 3 pieces for USD 2.220');
    const differing = new Map(cases[0]?.differences.map((one) => [one.what, one]));
    expect(differing.get('Pieces')).toMatchObject({ accepted: '2', refused: '3', differs: true });
    expect(differing.get('Sequence')).toMatchObject({ accepted: '1', refused: '1', differs: false });
    expect(differing.get('Digest')?.differs).toBe(true);
    const shown = await text('device', 'evidence', device.device);
    expect(shown).toMatch(/^Postage +USD 1\.480 +USD 2\.220 +differs$/m);
    expect(shown).not.toMatch(/^Sequence /m);
  });

  test('has its evidence exported, so that anyone verifies it by itself', async () => {
    const folder = workshop.path('case');
    await text('device', 'evidence', device.device, '--export', folder);
    const files = readdirSync(folder).map((name) => join(folder, name));
    const verified = await workshop.run('verify', ...files, '--quiet');
    expect(verified.stdout).not.toContain('refused');
    expect(verified.stdout).toContain(`are two different records 1 of ${device.device}`);
    expect(verified.code).toBe(3);
    // A record that somebody altered is no evidence.
    const record = files.find((file) => file.includes('-fork-') && file.endsWith('.record.cose'))!;
    const bytes = readFileSync(record);
    bytes[bytes.length - 1]! ^= 1;
    writeFileSync(record, bytes);
    expect((await workshop.run('verify', record, '--quiet')).stdout).toContain('refused');
  });

  test('is withdrawn for good, and not paid back as a dead one', async () => {
    expect((await run('device', 'withdraw', device.device)).code).toBe(2);
    expect(await text('device', 'withdraw', device.device, '--reason', 'copied')).toContain(
      'is withdrawn for good: copied',
    );
    const shown = await text('device', 'show', device.device);
    expect(shown).toMatch(/^Standing +withdrawn: copied$/m);
    expect(shown).toMatch(/UTC +withdrawn +operator +copied$/m);
    const refused = await run('device', 'declare-dead', device.device, '--reason', 'lost', '--json');
    expect([refused.code, json<{ error: { code: string } }>(refused).error.code]).toEqual([6, 'device-forked']);
  });
});

test('a dead device is ended by two operators, each with a credential of their own', async () => {
  const { device } = await ask<DeviceReport>('device', 'status');
  const declared = await ask<Death>('device', 'declare-dead', device, '--reason', 'burnt');
  expect(declared).toMatchObject({ declaredBy: 'operator', confirmedBy: null });
  const alone = await run('device', 'confirm-dead', device, '--json');
  expect([alone.code, json<{ error: { code: string } }>(alone).error.code]).toEqual([2, 'second-person-needed']);
  const { secondOperator } = JSON.parse(readFileSync(join(data, 'credentials.json'), 'utf8')) as {
    secondOperator: string;
  };
  const own = workshop.path('own-credential');
  writeFileSync(own, `${secondOperator}\n`);
  const confirmed = await workshop.run('device', 'confirm-dead', device, '--server', server.url, '--credential', own);
  expect(confirmed.code, confirmed.stderr).toBe(0);
  expect(confirmed.stdout).toMatch(/^Confirmed +by second-operator, /m);
  expect(await text('device', 'show', device)).toMatch(
    /^Standing +dead: dead: burnt \(declared by operator, confirmed by second-operator\)$/m,
  );
  expect((await run('device', 'show', device, '--operator', 'nobody')).code).toBe(2);
});

test('records that a server withholds are brought to the authority by the host itself', async () => {
  const jobs = readdirSync(join(data, 'output'));
  const folder = join(data, 'output', jobs[0]!, 'records');
  const files = readdirSync(folder).map((name) => join(folder, name));
  const { results } = await ask<{ results: { outcome: string }[] }>('evidence', 'submit', ...files);
  expect(results).toEqual([expect.objectContaining({ outcome: 'already-accepted' })]);
  const record = files.find((file) => file.endsWith('.record.cose'))!;
  const unconfirmed = workshop.path('stray.record.cose');
  writeFileSync(unconfirmed, readFileSync(record));
  const ended = await run('evidence', 'submit', unconfirmed, '--trust', join(folder, 'trust-bundle.json'));
  expect([ended.code, ended.stdout]).toEqual([5, expect.stringContaining('not sent')]);
});
