import { POLICY } from '@countermark/protocol/messages/policy';
import { mills } from '@countermark/protocol/money';
import { describe, expect, it } from 'vitest';
import { START_MS } from '../../testing/authority.ts';
import { CoreDevice, readyDevice, SOFTWARE } from '../../testing/core-device.ts';
import { batchNumbered, chunkOf, pieces } from '../../testing/mailing.ts';
import { deviceStatus } from './status.ts';

const DAY_MS = 86_400_000;
const code = (result: { ok: boolean; rejection?: { code: string } }) => (result.ok ? 'ok' : result.rejection?.code);

function withRecord(): CoreDevice {
  const device = readyDevice({ policy: { warnAfterDays: 3, lockAfterDays: 28 } });
  device.open(batchNumbered(1));
  device.frank(batchNumbered(1), 0, pieces(2));
  device.finish(batchNumbered(1));
  return device;
}

describe('reporting deadlines by signed time', () => {
  it('warn, then lock; only opening and franking are forbidden; a confirmation lifts the lock', () => {
    const device = withRecord();
    const status = () => deviceStatus(device.state, SOFTWARE);
    expect(status()).toMatchObject({
      state: 'operational',
      warnsAtMs: START_MS + 3 * DAY_MS,
      locksAtMs: START_MS + 28 * DAY_MS,
    });
    expect(status().warning).toBeUndefined();
    device.time(START_MS + 3 * DAY_MS);
    expect(status().warning).toMatch(/2026-12-20/);
    device.open(batchNumbered(2));
    device.frank(batchNumbered(2), 0, pieces(1));
    device.time(START_MS + 28 * DAY_MS);
    expect(status()).toMatchObject({ state: 'locked' });
    expect(status().lock).toMatch(/28 days/);
    expect(code(device.ask(chunkOf(batchNumbered(2), 1, pieces(1))))).toBe('device-locked');
    expect(code(device.ask(chunkOf(batchNumbered(2), 0, pieces(1))))).toBe('ok');
    device.refill(1_000n);
    device.do({ kind: 'spoil', batch: batchNumbered(2), pieceNumbers: [3] });
    device.finish(batchNumbered(2));
    expect(code(device.open(batchNumbered(3)))).toBe('device-locked');
    const [first, second] = device.state.unconfirmed;
    device.confirm(first!.sequence, first!.digest);
    // The second was opened on the third day: its own deadline runs since then.
    expect(status()).toMatchObject({ state: 'operational', locksAtMs: START_MS + 31 * DAY_MS });
    device.confirm(second!.sequence, second!.digest);
    expect(status().locksAtMs).toBeUndefined();
    expect(code(device.open(batchNumbered(3)))).toBe('ok');
  });

  it('run for a batch that is never closed as well', () => {
    const device = readyDevice({ policy: { lockAfterDays: 28 } });
    device.open(batchNumbered(1));
    device.time(START_MS + 28 * DAY_MS);
    device.frank(batchNumbered(1), 0, pieces(1));
    expect(code(device.ask(chunkOf(batchNumbered(1), 1, pieces(1))))).toBe('device-locked');
  });

  it('are not lifted by closing and sealing: only by reporting', () => {
    const device = readyDevice({ policy: { lockAfterDays: 28 } });
    device.open(batchNumbered(1));
    device.frank(batchNumbered(1), 0, pieces(1));
    device.time(START_MS + 28 * DAY_MS);
    device.finish(batchNumbered(1));
    expect(code(device.open(batchNumbered(2)))).toBe('device-locked');
    const [record] = device.state.unconfirmed;
    device.confirm(record!.sequence, record!.digest);
    expect(code(device.open(batchNumbered(2)))).toBe('ok');
  });

  it('begin with the first signed time for records sealed before it', () => {
    const device = new CoreDevice().enrol({ lockAfterDays: 28 }).refill(10_000n);
    device.open(batchNumbered(1));
    device.finish(batchNumbered(1));
    expect(deviceStatus(device.state, SOFTWARE).locksAtMs).toBeUndefined();
    device.time(START_MS);
    expect(deviceStatus(device.state, SOFTWARE).locksAtMs).toBe(START_MS + 28 * DAY_MS);
  });
});

describe('a policy that allows no unconfirmed postage', () => {
  it('withdraws the device: what it has is closed, sealed and confirmed; nothing more is opened or franked', () => {
    const device = readyDevice();
    device.open(batchNumbered(1));
    device.frank(batchNumbered(1), 0, pieces(2));
    const none = { version: 2, maxUnconfirmedPostageMills: mills(0n) };
    device.do({
      kind: 'policy',
      policy: device.authority.verified(POLICY, device.authority.policy(device.device, none)),
    });
    expect(deviceStatus(device.state, SOFTWARE)).toMatchObject({ state: 'withdrawn' });
    expect(code(device.ask(chunkOf(batchNumbered(1), 2, pieces(1))))).toBe('device-locked');
    device.finish(batchNumbered(1));
    const [record] = device.state.unconfirmed;
    device.confirm(record!.sequence, record!.digest);
    expect(device.state.unconfirmed).toEqual([]);
    expect(code(device.open(batchNumbered(2)))).toBe('device-locked');
    expect(deviceStatus(device.state, SOFTWARE)).toMatchObject({ state: 'withdrawn' });
    expect(deviceStatus(device.state, SOFTWARE).lock).toMatch(/withdrawn/);
  });
});

describe('an inspection', () => {
  const inspection = { inspectedAtMs: START_MS, warnAfterDays: 300, lockAfterDays: 365 };

  it('is warned of, locks when its date has passed, and a policy that names a later one lifts the lock', () => {
    const device = readyDevice({ policy: { inspection } });
    const status = () => deviceStatus(device.state, SOFTWARE);
    expect(status()).toMatchObject({ state: 'operational', inspectionLocksAtMs: START_MS + 365 * DAY_MS });
    device.time(START_MS + 300 * DAY_MS);
    expect(status().warning).toMatch(/inspection is due/);
    device.time(START_MS + 365 * DAY_MS);
    expect(status()).toMatchObject({ state: 'locked' });
    expect(status().lock).toMatch(/inspection was due/);
    expect(status().lockLifts).toMatch(/inspected/);
    expect(code(device.open(batchNumbered(1)))).toBe('device-locked');
    const later = { ...inspection, inspectedAtMs: START_MS + 364 * DAY_MS };
    const policy = device.authority.policy(device.device, { version: 2, inspection: later });
    device.do({ kind: 'policy', policy: device.authority.verified(POLICY, policy) });
    expect(status()).toMatchObject({ state: 'operational' });
    expect(code(device.open(batchNumbered(1)))).toBe('ok');
  });

  it('that is due before the report warns first', () => {
    const soon = { inspectedAtMs: START_MS, warnAfterDays: 1, lockAfterDays: 10 };
    const device = readyDevice({ policy: { warnAfterDays: 1, lockAfterDays: 28, inspection: soon } });
    device.open(batchNumbered(1));
    device.frank(batchNumbered(1), 0, pieces(1));
    device.time(START_MS + 2 * DAY_MS);
    expect(deviceStatus(device.state, SOFTWARE).warning).toMatch(/inspection/);
  });
});

describe('allowed products and statistics scheme', () => {
  it('are all that a batch is opened for', () => {
    const device = readyDevice({ policy: { products: ['parcel'] } });
    expect(device.open(batchNumbered(1))).toMatchObject({
      ok: false,
      rejection: { code: 'not-in-policy', detail: { what: 'product', allowed: 'parcel' } },
    });
    expect(device.state.batch).toBeNull();
    expect(code(device.open(batchNumbered(1), { product: 'parcel' }))).toBe('ok');
    expect(deviceStatus(device.state, SOFTWARE)).toMatchObject({ products: ['parcel'] });
  });

  it('are refused where the scheme is another', () => {
    const device = readyDevice({ policy: { scheme: 7 } });
    expect(device.open(batchNumbered(1))).toMatchObject({
      ok: false,
      rejection: { code: 'not-in-policy', detail: { what: 'statistics scheme' } },
    });
  });
});
