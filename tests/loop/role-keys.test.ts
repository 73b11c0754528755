/**
 * The keys of every role are rotated between real processes, by two officers at the command line: while a mailing runs, while records are
 * held for a day, and while the cryptographic device is killed. Everything is confirmed, nobody needs another trust bundle, and old and new
 * verify offline.
 */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseEnvelope } from '@countermark/protocol/cose';
import { HOST } from '@countermark/protocol/interfaces/host';
import { CERTIFIED_ROLES, parsePayload, ROTATED_KEYS, type RotatedKey } from '@countermark/protocol/message';
import { DEVICE_CERTIFICATE, type DeviceCertificate } from '@countermark/protocol/messages/enrolment';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { type Line, readSample, startInstallation, type TestInstallation } from '../installation.ts';
import { Workshop } from './command.ts';

const DAY_MS = 86_400_000;
const workshop = new Workshop();
let installation: TestInstallation;

beforeAll(async () => {
  installation = await startInstallation();
  for (const [name, { credential }] of Object.entries({ first: installation.operator, second: installation.second })) {
    writeFileSync(workshop.path(name), credential, { mode: 0o600 });
  }
});
afterAll(async () => {
  workshop.stopAll();
  await installation.stop();
});

type Answer = {
  readonly ceremony: string;
  readonly epoch: number | null;
  readonly keys: readonly { readonly role: string; readonly epoch: number; readonly inUse: boolean }[];
  readonly error?: { readonly code: string };
};

/** `countermark keys ARGS`, as one of the two officers. */
async function keys(
  officer: 'first' | 'second',
  ...args: readonly string[]
): Promise<Answer & { exit: number | null }> {
  const server = ['--server', installation.operator.url, '--credential', workshop.path(officer), '--json'];
  const { code, stdout } = await workshop.run('keys', ...args, ...server);
  return { ...(JSON.parse(stdout) as Answer), exit: code };
}

/** Asked again as long as the cryptographic device is away, as a person does. */
async function rotate(role: RotatedKey, meanwhile: () => Promise<void> = async () => undefined): Promise<void> {
  const ordered = await keys('first', 'rotate', role, '--reason', 'the test of all');
  expect([ordered.exit, ordered.epoch]).toEqual([0, null]);
  expect(await keys('first', 'confirm', ordered.ceremony)).toMatchObject({
    exit: 2,
    error: { code: 'second-person-needed' },
  });
  for (let again = 0; ; again += 1) {
    const [confirmed] = await Promise.all([
      keys('second', 'confirm', ordered.ceremony),
      again === 0 ? meanwhile() : null,
    ]);
    if (confirmed.error?.code === 'try-again' && again < 20) continue;
    expect({ role, exit: confirmed.exit, epoch: confirmed.epoch }).toEqual({ role, exit: 0, epoch: 2 });
    return;
  }
}

function mailing(name: string, customer = ''): string {
  const file = join(installation.folder, `${name}.csv`);
  const rows = Array.from({ length: 3 }, (_, i) => `${name}-${i},${customer},usps-fcm-letter,5-digit,0.95,02108`);
  writeFileSync(file, ['piece_ref,customer,product,level,weight_oz,zip', ...rows].join('\n'));
  return file;
}

/** Records, attestations and confirmations that a host archived for a job. */
async function archived(line: Line, job: string): Promise<string[]> {
  const { files } = await line.host.call(HOST.job, { job });
  return readdirSync(files.records).map((name) => join(files.records, name));
}

/** The epochs of the keys that signed the files of a kind. */
function epochsOf(files: readonly string[], kind: 'confirmation' | 'attestation'): number[] {
  return files.flatMap((file) => {
    const envelope = parseEnvelope(Uint8Array.from(readFileSync(file)));
    return envelope.ok && envelope.value.type === kind ? [envelope.value.key.epoch] : [];
  });
}

it('Keys of every role are rotated while a mailing runs and records are held', { timeout: 300_000 }, async () => {
  const holding = await installation.line(
    {
      licensee: 'lic_holding',
      authentication: 'signature',
      transport: 'sessionless',
      records: 'host',
      forwarding: 'hold',
      holdFor: DAY_MS,
      pages: false,
    },
    { clock: true },
  );
  const mailer = await installation.line({
    licensee: 'lic_mailer',
    authentication: 'mac',
    transport: 'session',
    records: 'psd',
    customers: 'many',
    pages: false,
  });
  await holding.host.call(HOST.frank, { file: mailing('before'), job: 'before' });
  const sample = join(installation.folder, 'sample.csv');
  writeFileSync(sample, readSample());
  await mailer.host.call(HOST.frank, { file: mailing('early', 'acme'), job: 'early' });
  expect((await mailer.host.call(HOST.wait, { job: 'early', timeoutMs: 60_000 })).outcome).toBe('settled');

  const running = mailer.host.call(HOST.frank, { file: sample, job: 'running' });
  for (const role of ROTATED_KEYS) {
    const killed = role === 'attesting' ? () => installation.processes['cryptographic-device'].kill() : undefined;
    await rotate(role, killed);
  }
  const { remaining, rejection } = await running;
  expect([remaining, rejection]).toEqual([0, undefined]);

  // Funds, policy and time are signed by new keys now.
  await holding.host.call(HOST.refill, { amountMills: '1000000' });
  await holding.host.call(HOST.frank, { file: mailing('after'), job: 'after' });
  await mailer.host.call(HOST.frank, { file: mailing('late', 'acme'), job: 'late' });
  expect(await holding.device()).toMatchObject({ unconfirmedRecords: 2, alarms: 0 });
  holding.moveClock(DAY_MS + 60_000);
  for (const [line, job] of [
    [holding, 'before'],
    [holding, 'after'],
    [mailer, 'running'],
    [mailer, 'late'],
  ] as const) {
    const settled = await line.host.call(HOST.wait, { job, timeoutMs: 60_000 });
    expect({ job, outcome: settled.outcome, pending: settled.pending }).toEqual({
      job,
      outcome: 'settled',
      pending: [],
    });
  }
  for (const line of [holding, mailer]) expect(await line.device()).toMatchObject({ unconfirmedRecords: 0, alarms: 0 });

  // Who starts again pins what it pinned before, and follows by what it stored.
  await installation.processes['cryptographic-device'].kill();
  for (const line of [holding, mailer]) {
    await line.processes.psd.kill();
    await line.processes.host.kill();
  }
  await mailer.host.call(HOST.frank, { file: mailing('last', 'acme'), job: 'last' });
  expect((await mailer.host.call(HOST.wait, { job: 'last', timeoutMs: 60_000 })).outcome).toBe('settled');

  // With its next keys a device agrees codes with the newest key, and trusts the newest authority of sessions.
  const certificateOf = async (epoch: 1 | 2): Promise<DeviceCertificate> => {
    const files = await archived(mailer, epoch === 1 ? 'early' : 'agreed');
    const found = files.flatMap((file) => {
      const envelope = parseEnvelope(Uint8Array.from(readFileSync(file)));
      const isIt = envelope.ok && envelope.value.type === DEVICE_CERTIFICATE.type;
      const said = isIt ? parsePayload(DEVICE_CERTIFICATE, envelope.value) : null;
      return said?.ok === true && said.value.epoch === epoch ? [said.value] : [];
    });
    return found[0]!;
  };
  await mailer.host.call(HOST.rotate, {});
  await mailer.host.call(HOST.frank, { file: mailing('agreed', 'acme'), job: 'agreed' });
  expect((await mailer.host.call(HOST.wait, { job: 'agreed', timeoutMs: 60_000 })).outcome).toBe('settled');
  const [old, renewed] = [await certificateOf(1), await certificateOf(2)];
  expect(Buffer.from(renewed.agreementPeer).equals(Buffer.from(old.agreementPeer))).toBe(false);
  expect(Buffer.from(renewed.sessionAuthority).equals(Buffer.from(old.sessionAuthority))).toBe(false);
  expect(await mailer.device()).toMatchObject({ epoch: 2, unconfirmedRecords: 0, alarms: 0 });

  const listed = await keys('second', 'list');
  expect(
    listed.keys
      .filter(({ inUse }) => inUse)
      .map(({ role, epoch }) => `${role} ${epoch}`)
      .sort(),
  ).toEqual([...ROTATED_KEYS.map((role) => `${role} 2`), 'granting 1'].sort());
  expect(listed.keys).toHaveLength(2 * CERTIFIED_ROLES.length + 3);
  const newest = workshop.path('newest.json');
  expect(await keys('first', 'bundle', newest)).toMatchObject({ exit: 0 });
  const early = await archived(mailer, 'early');
  const files = [
    ...early,
    ...(await archived(holding, 'before')),
    ...(await archived(holding, 'after')),
    ...(await archived(mailer, 'running')),
    ...(await archived(mailer, 'last')),
    ...(await archived(mailer, 'agreed')),
  ];
  expect(new Set(epochsOf(early, 'confirmation'))).toEqual(new Set([1]));
  for (const kind of ['confirmation', 'attestation'] as const) expect(epochsOf(files, kind)).toContain(2);
  for (const bundle of [installation.trustBundle, newest]) {
    const { code, stdout } = await workshop.run('verify', '--quiet', '--trust', bundle, ...files);
    expect([bundle, code, stdout.split('\n').filter((text) => text.startsWith('refused'))]).toEqual([bundle, 0, []]);
  }
});
