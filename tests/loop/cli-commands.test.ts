/**
 * Every command against a running installation, in both its forms: text for people, one JSON object for programs.
 */
import { X509Certificate } from 'node:crypto';
import { existsSync, readdirSync, writeFileSync } from 'node:fs';
import type {
  BatchReport,
  DeviceReport,
  DryRunAnswer,
  ExportAnswer,
  FundsAnswer,
  GrantReport,
  HostStatusAnswer,
  ImportAnswer,
  JobReport,
  RecordReport,
  RefillAnswer,
  ReprintAnswer,
  SendAnswer,
  ShowAnswer,
} from '@countermark/protocol/interfaces/host';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Ended, json, type Running, sampleOf, Workshop } from './command.ts';

const workshop = new Workshop();
const data = workshop.path('data');
let up: Running;

beforeAll(async () => {
  up = workshop.start('up', '--data', data, '--no-mailing', '--refill', '1000.00');
  await up.says(/is up/);
});
afterAll(async () => {
  up.child.kill('SIGTERM');
  const { code, stderr } = await up.ended;
  workshop.stopAll();
  expect(code, stderr).toBe(0);
});

const run = (...args: string[]): Promise<Ended> => workshop.run(...args, '--data', data);

/** The JSON of a command that must succeed. */
async function ask<T>(...args: string[]): Promise<T> {
  const ended = await run(...args, '--json');
  expect(ended.code, ended.stderr).toBe(0);
  return json<T>(ended);
}

/** The text of a command that must succeed. */
async function text(...args: string[]): Promise<string> {
  const ended = await run(...args);
  expect(ended.code, ended.stderr).toBe(0);
  return ended.stdout;
}

test('status names the five processes, what to back up, and that nothing waits', async () => {
  const shown = await text('status');
  for (const party of ['cryptographic-device', 'authority', 'server', 'psd', 'host']) {
    expect(shown).toMatch(new RegExp(`^${party} +running +\\d+ +0 `, 'm'));
  }
  expect(shown).toContain('Back up');
  const status = await ask<HostStatusAnswer>('status');
  expect(status.pending).toEqual([]);
  expect(status.server.reachable).toBe(true);
});

test('device status says that every indicium is a specimen', async () => {
  expect(await text('device', 'status')).toContain('SPECIMEN');
  expect(await ask<DeviceReport>('device', 'status')).toMatchObject({ state: 'operational', certified: false });
});

describe('a mailing by hand', () => {
  const file = workshop.mailing('mailing.csv', sampleOf('alder-press').slice(0, 60));

  test('the template can be franked as it is', async () => {
    const template = await text('batch', 'template');
    const example = workshop.path('example.csv');
    writeFileSync(example, template);
    const { pieces, rejectedRows } = await ask<DryRunAnswer>('batch', 'frank', example, '--dry-run');
    expect({ pieces, rejectedRows }).toEqual({ pieces: template.trimEnd().split('\n').length - 1, rejectedRows: 0 });
  });

  test('a dry run says what it would cost and earn, and franks nothing', async () => {
    const answer = await ask<DryRunAnswer>('batch', 'frank', file, '--dry-run');
    expect(answer.pieces).toBe(60);
    expect(BigInt(answer.fundsBeforeMills) - BigInt(answer.fundsAfterMills)).toBe(BigInt(answer.postageMills));
    const shown = await text('batch', 'frank', file, '--dry-run');
    expect(shown).toMatch(/^alder-press +usps-fcm-letter/m);
    expect(shown).toContain('Nothing was franked.');
    expect((await ask<FundsAnswer>('funds', 'show')).pieces).toBe(0);
  });

  test('is franked, kept open, spoiled, closed, reprinted, and shown', async () => {
    const report = await ask<JobReport>('batch', 'frank', file, '--keep-open', '--job', 'by-hand');
    expect(report).toMatchObject({ job: 'by-hand', pieces: 60 });
    expect(report.batches.map(({ state }) => state)).toEqual(['open']);
    const spoiled = await ask<{ batch: BatchReport }>('batch', 'spoil', '3', '10-12');
    expect(spoiled.batch.spoiled).toBe(4);
    const unknown = await run('batch', 'spoil', '99', '--json');
    expect(unknown.code).toBe(3);
    expect((await ask<ShowAnswer>('batch', 'show')).batch).toMatchObject({ state: 'open', spoiled: 4 });
    const closed = await ask<{ batch: BatchReport }>('batch', 'close');
    expect(closed.batch.sequence).toBe(1);
    const { batches } = await ask<{ batches: BatchReport[] }>('batch', 'list', '--job', 'by-hand');
    expect(batches).toHaveLength(1);
    const id = batches[0]?.id ?? '';
    expect(await text('batch', 'list')).toContain(id.slice(0, 12));
    const { batch, piece } = await ask<ShowAnswer>('batch', 'show', '--piece', '5');
    expect(batch.id).toBe(id);
    expect(piece?.pieceNumber).toBe(5);
    expect(await text('batch', 'show', id.slice(0, 12))).toMatch(/^Spoiled +4$/m);
    const before = await ask<FundsAnswer>('funds', 'show');
    const { file: pages, pieces } = await ask<ReprintAnswer>('batch', 'reprint', '--pieces', '5', '7-8');
    expect(pieces).toBe(3);
    expect((await run('batch', 'reprint', '--pieces', '3', '--json')).code).toBe(3);
    expect(existsSync(pages)).toBe(true);
    expect((await ask<FundsAnswer>('funds', 'show')).ascendingMills).toBe(before.ascendingMills);
  });

  test('what does not exist is refused with 3', async () => {
    for (const args of [
      ['batch', 'show', 'bat_zz'],
      ['batch', 'show'],
      ['grant', 'show', 'zz'],
      ['batch', 'reprint', 'bat_zz'],
    ]) {
      expect((await run(...args, '--json')).code, args.join(' ')).toBe(3);
    }
  });
});

test('funds: Used, Available, Control total, Pieces, accounts, a refill', async () => {
  const refilled = await ask<RefillAnswer>('funds', 'refill', '250.00');
  expect(refilled).toMatchObject({ grantedMills: '250000', refusal: null });
  const shown = await text('funds', 'show');
  for (const line of [/^Used +USD /m, /^Available +USD /m, /^Control total +USD 1,250\.000/m, /^Pieces +60$/m]) {
    expect(shown).toMatch(line);
  }
  expect(shown).toMatch(/^Postage +alder-press +\d/m);
  expect((await run('funds', 'refill', 'much')).code).toBe(2);
  expect((await run('funds', 'refill', '10000000.00')).code).toBe(4);
});

test('deposits: paid in and out once for a key, by an operator; what was spoiled waits for the scan window', async () => {
  const before = (
    await ask<{ balanceMills: string }>('funds', 'deposit', 'lic_demo-bureau', '10.00', '--key', 'bank-1')
  ).balanceMills;
  expect(await ask('funds', 'deposit', 'lic_demo-bureau', '10.00', '--key', 'bank-1')).toMatchObject({
    balanceMills: before,
  });
  expect(await text('funds', 'payout', 'lic_demo-bureau', '4.50', '--key', 'out-1')).toMatch(
    /^USD 4\.500 paid out of the deposit/,
  );
  expect((await run('funds', 'payout', 'lic_demo-bureau', '900000.00')).code).toBe(4);
  expect((await run('funds', 'payout', 'lic_nobody', '1.00')).code).toBe(3);
  await run('statistics', 'send');
  // The ledger follows the log in a unit of work of its own.
  await expect
    .poll(() => text('funds', 'spoiled', 'lic_demo-bureau'), { timeout: 20_000 })
    .toMatch(/^psd_\w+ +1 +alder-press +\d+\.\d+ +comes back after \d{4}-/m);
});

test('enrolment codes: up used one of its own; further ones are issued, listed and revoked', async () => {
  type Code = { id: string; state: string; device: string | null; code: string };
  const { codes } = await ask<{ codes: Code[] }>('device', 'invitations', 'lic_demo-bureau');
  const { device } = await ask<DeviceReport>('device', 'status');
  expect(codes.map(({ state, device: by }) => [state, by])).toEqual([['used', device]]);
  const issued = await ask<Code>('device', 'invite', 'lic_demo-bureau', '--days', '1');
  expect(issued.code).toMatch(/^[0-9a-f]{40}$/);
  expect(await text('device', 'uninvite', 'lic_demo-bureau', issued.id)).toContain('is revoked');
  const listed = await text('device', 'invitations', 'lic_demo-bureau');
  expect(listed).toMatch(new RegExp(`^${issued.id} +revoked by operator `, 'm'));
  expect(listed).not.toContain(issued.code);
  expect((await run('device', 'invite', 'lic_demo-bureau', '--days', '91')).code).toBe(2);
  // Enrolled already: nothing changes.
  expect(await text('device', 'enrol')).toContain(`${device} is enrolled for lic_demo-bureau, key epoch 1.`);
});

test('the device has an X.509 certificate, for whoever wants one', async () => {
  const { device } = await ask<DeviceReport>('device', 'status');
  const pem = await text('device', 'certificate', '--pem');
  const authority = new X509Certificate(await text('device', 'certificate', '--authority', '--pem'));
  const certificate = new X509Certificate(pem);
  expect(certificate.subject).toBe(`CN=${device}\nO=lic_demo-bureau`);
  expect(certificate.verify(authority.publicKey)).toBe(true);
  expect(await text('device', 'certificate')).toMatch(new RegExp(`^Subject +CN=${device}, O=lic_demo-bureau$`, 'm'));
});

test('records and grants: listed, sent, verified by themselves', async () => {
  const sent = await run('statistics', 'send', '--json');
  expect(sent.code, sent.stderr).toBe(0);
  expect(json<SendAnswer>(sent).waiting).toEqual([]);
  const { records } = await ask<{ records: RecordReport[] }>('statistics', 'list');
  expect(records.map(({ state }) => state)).toEqual(['confirmed']);
  expect(await text('statistics', 'list')).toMatch(/^ *1 .* confirmed/m);
  const { grants } = await ask<{ grants: GrantReport[] }>('grant', 'list');
  for (const { digest } of grants) {
    expect(await text('grant', 'show', digest.slice(0, 12))).toContain(digest);
  }
  expect(await text('grant', 'list')).not.toBe('');
});

test('without a session, by a stick: export, import, confirmation import', async () => {
  const stick = workshop.path('stick');
  const held = workshop.path('held');
  const other = workshop.start('up', '--data', held, '--no-mailing', '--customers', 'many');
  await other.says(/is up/);
  const frank = async (name: string, rows: readonly string[]): Promise<void> => {
    const franked = await workshop.run('batch', 'frank', workshop.mailing(name, rows), '--json', '--data', held);
    expect(franked.code, franked.stderr).toBe(0);
  };
  await frank('before.csv', sampleOf('alder-press').slice(0, 5));
  const status = json<{ supervisor: { processes: { name: string; pid: number }[] } }>(
    await workshop.run('status', '--json', '--data', held),
  );
  // The server of this installation answers nobody: records wait, and leave on a stick.
  const server = status.supervisor.processes.find(({ name }) => name === 'server')?.pid ?? 0;
  process.kill(server, 'SIGSTOP');
  await frank('after.csv', sampleOf('alder-press').slice(5, 10));
  const exported = json<ExportAnswer>(await workshop.run('statistics', 'export', stick, '--json', '--data', held));
  expect(exported.files.length).toBeGreaterThan(0);
  process.kill(server, 'SIGCONT');
  const carried = json<ImportAnswer>(await workshop.run('statistics', 'import', stick, '--json', '--data', held));
  expect(carried.read).toBeGreaterThan(0);
  expect(readdirSync(stick).some((name) => name.includes('confirmation'))).toBe(true);
  const back = json<ImportAnswer>(await workshop.run('confirmation', 'import', stick, '--json', '--data', held));
  expect(back.read).toBeGreaterThan(0);
  const { records } = json<{ records: RecordReport[] }>(
    await workshop.run('statistics', 'list', '--json', '--data', held),
  );
  expect(records.every(({ state }) => state === 'confirmed')).toBe(true);
  other.child.kill('SIGTERM');
  expect((await other.ended).code).toBe(0);
});
