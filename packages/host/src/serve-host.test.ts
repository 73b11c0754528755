import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { openLog } from '@countermark/node-platform/logs';
import { describeRejection } from '@countermark/protocol/rejection';
import { accept, type Result } from '@countermark/protocol/result';
import { formatTrustBundle } from '@countermark/verify/trust-bundle';
import { type HostConfig, parseHostConfig } from './config.ts';
import type { PsdClient } from './psd-client.ts';
import { serveHost } from './serve-host.ts';

const DAY_MS = 86_400_000;
let folder: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'host-'));
  const bundle = { keys: [], agreementKey: new Uint8Array(65).fill(4), sessionAuthority: new Uint8Array(1) };
  writeFileSync(join(folder, 'trust-bundle.json'), formatTrustBundle(bundle));
});
afterEach(() => {
  rmSync(folder, { recursive: true, force: true });
});

function settings(given: Record<string, unknown> = {}): Record<string, unknown> {
  return {
    data: join(folder, 'host'),
    socket: join(folder, 'run', 'host.sock'),
    psdSocket: join(folder, 'run', 'psd.sock'),
    psdSessionSocket: join(folder, 'run', 'psd-session.sock'),
    server: { url: 'http://127.0.0.1:9', credential: 'ab' },
    trustBundle: join(folder, 'trust-bundle.json'),
    licensee: 'lic_test',
    ...given,
  };
}

function configured(given: Record<string, unknown>): HostConfig {
  const config = parseHostConfig(settings(given));
  if (!config.ok) throw new Error(String(config.rejection.detail.reason));
  return config.value;
}

/** A device of which only the room for records matters. */
function psdOf(recordCapacity: number): PsdClient {
  return {
    call: <Answer>() => Promise.resolve(accept({ recordCapacity }) as unknown as Result<Answer>),
    close: () => undefined,
  };
}

describe('the configuration', () => {
  test('has its defaults in one place', () => {
    expect(configured({})).toMatchObject({
      customers: 'many',
      transport: 'session',
      forwarding: 'at-once',
      holdForMs: DAY_MS,
      submitter: 'lic_test',
      pages: true,
      tariff: 'usps-2025-07-13',
    });
  });

  test.each([
    [{ color: 'red' }, 'color'],
    [{ transport: 'pigeon' }, 'transport'],
    [{ licensee: 'x' }, 'licensee'],
    [{ tariff: 'none' }, 'tariff'],
    [{ forwarding: 'hold', holdForMs: DAY_MS - 1 }, 'holdForMs'],
    [{ server: { url: 'ftp://x', credential: 'ab' } }, 'server.url'],
    [{ submitter: 'x'.repeat(65) }, 'submitter'],
    [{ firstRefillMills: 250 }, 'firstRefillMills'],
    [{ refillBelowMills: '250', refillToMills: '250' }, 'refillToMills'],
  ])('refuses %j and names the setting', (given, name) => {
    const config = parseHostConfig(settings(given));
    expect(!config.ok && [config.rejection.code, String(config.rejection.detail.reason).includes(name)]).toEqual([
      'config-invalid',
      true,
    ]);
  });
});

describe('the start', () => {
  test('is refused where the device cannot keep what a hold makes wait', async () => {
    const config = configured({ forwarding: 'hold', holdForMs: 2 * DAY_MS });
    const log = openLog('test', { write: () => undefined });
    const started = await serveHost(config, { log, psd: psdOf(1_999) });
    if (started.ok) throw new Error('It started.');
    expect(started.rejection).toEqual({
      code: 'memory-too-small',
      detail: { capacity: 1_999, holdFor: '2 days', needed: 2_000 },
    });
    expect(describeRejection(started.rejection)).toContain('holding for 2 days needs at least 2000');
  });

  test('is refused without a trust bundle', async () => {
    const config = configured({ trustBundle: join(folder, 'none.json') });
    const log = openLog('test', { write: () => undefined });
    expect(await serveHost(config, { log, psd: psdOf(1_000) })).toMatchObject({
      ok: false,
      rejection: { code: 'config-invalid' },
    });
  });
});
