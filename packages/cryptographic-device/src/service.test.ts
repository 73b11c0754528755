/** What the cryptographic device finds on its disk at a start: all of it, nothing, or parts of it. */
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { systemClock } from '@countermark/node-platform/clock';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type Config, openDevice } from './service.ts';

let data: string;
let config: Config;
beforeEach(() => {
  data = join(mkdtempSync(join(tmpdir(), 'device-')), 'data');
  config = { data, socket: '', sessionSocket: '', acceptanceSocket: '' };
});
afterEach(() => {
  rmSync(join(data, '..'), { recursive: true });
});

/** Opens and closes; the issuing key in hex, or the code of the refusal. */
async function start(): Promise<string> {
  const opened = await openDevice(config, systemClock);
  if (!opened.ok) return opened.rejection.code;
  const { keys, register } = opened.value;
  const key = Buffer.from(keys.publicKey('issuing', 1)).toString('hex');
  register.close();
  await keys.close();
  return key;
}

describe('The cryptographic device', () => {
  it('has the same keys at every start', async () => {
    const first = await start();
    expect(await start()).toBe(first);
  });

  it('makes no new keys where those of the devices in its register are gone', async () => {
    const first = await start();
    const keys = join(data, 'keys');
    cpSync(keys, join(data, 'backup'), { recursive: true });
    rmSync(keys, { recursive: true });
    expect(await start()).toBe('store-damaged');
    expect(existsSync(keys)).toBe(false);
    cpSync(join(data, 'backup'), keys, { recursive: true });
    expect(await start()).toBe(first);
  });

  it('begins anew after a first start that died between the first key and the last', async () => {
    mkdirSync(join(data, `keys.${process.pid}.new`), { recursive: true });
    expect(await start()).toMatch(/^04/);
    expect(readdirSync(data).filter((name) => name.endsWith('.new'))).toEqual([]);
  });
});
