/**
 * A line whose PSD has its keys on a token, with real processes: killed again and again while it franks, rotated, without its token for a while,
 * put back to an older copy, and closed.
 */
import { execFileSync } from 'node:child_process';
import { cpSync, existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { HsmConfig } from '@countermark/node-platform/hsm-access';
import { HOST } from '@countermark/protocol/interfaces/host';
import { checkStore } from '@countermark/psd/shell/check';
import { openTokenKeys } from '@countermark/psd/shell/token-keys';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type SoftHsm, softHsm } from '../../bench/src/soft-hsm.ts';
import { type Line, startInstallation, type TestInstallation } from '../installation.ts';

const hsm = softHsm('line');
const skipped = typeof hsm === 'string';
const PIECES = 6_000;

describe.skipIf(skipped)('A PSD with its keys on a token', () => {
  const soft = hsm as SoftHsm;
  let installation: TestInstallation;
  let line: Line;
  let token: HsmConfig;
  beforeAll(async () => {
    token = soft.of('line');
    const { module, token: label, pinFile } = token;
    installation = await startInstallation();
    line = await installation.line({
      licensee: 'lic_token',
      pages: false,
      psdPkcs11Module: module,
      psdPkcs11Token: label,
      psdPkcs11PinFile: pinFile,
    });
  });
  afterAll(async () => {
    await installation.stop();
    soft.stop();
  });

  const frank = (job: string, pieces: number, keepOpen = false) => {
    const file = join(installation.folder, `${job}.csv`);
    const rows = Array.from({ length: pieces }, (_, i) => `${job}-${i},usps-fcm-letter,5-digit,0.95,02108`);
    writeFileSync(file, ['piece_ref,product,level,weight_oz,zip', ...rows].join('\n'));
    return line.host.call(HOST.frank, { file, job, keepOpen });
  };
  const settled = async (job: string): Promise<void> => {
    const { outcome } = await line.host.call(HOST.wait, { job, timeoutMs: 120_000 });
    expect(outcome).toBe('settled');
  };
  const store = (): string => join(line.paths.parties.psd, 'psd.db');
  const keysOnToken = (): string[] => {
    const pin = readFileSync(token.pinFile, 'utf8').trim();
    const asked = ['--module', token.module, '--token-label', 'line', '--login', '--pin', pin];
    const listed = execFileSync('pkcs11-tool', [...asked, '--list-objects', '--type', 'privkey'], {
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    return [...listed.toString().matchAll(/label:\s+(\S+)/g)].map(([, name = '']) => name).sort();
  };
  const expectWhole = async (): Promise<void> => {
    await line.processes.psd.stop();
    const holder = await openTokenKeys(token);
    if (!holder.ok) throw new Error(holder.rejection.code);
    expect(checkStore(store(), undefined, holder.value)).toEqual({ ok: true, value: [] });
    await holder.value.close();
    await line.processes.psd.start();
  };

  test('franks every piece once, whenever it is killed, and no longer says that its keys are unsafe', async () => {
    const franking = frank('killed', PIECES);
    const seen = { over: false };
    void franking.finally(() => {
      seen.over = true;
    });
    let kills = 0;
    while (!seen.over && kills < 8) {
      await line.processes.psd.kill();
      kills += 1;
      await new Promise((resolve) => setTimeout(resolve, 150));
    }
    const { report, rejection } = await franking;
    expect([report.pieces, rejection]).toEqual([PIECES, undefined]);
    expect(kills).toBeGreaterThan(2);
    await settled('killed');
    expect((await line.device()).registers.pieces).toBe(PIECES);
    await expectWhole();
    const log = join(line.paths.logs, 'psd.log');
    const said = existsSync(log) ? readFileSync(log, 'utf8') : '';
    expect(said).not.toContain('UNSAFE_PSD_KEYS');
    expect(said).not.toContain(readFileSync(token.pinFile, 'utf8').trim());
  });

  test('goes over to new keys on the token, and the old ones are gone from it', async () => {
    const { device } = await line.device();
    expect(keysOnToken()).toEqual([`countermark-${device}-agreement-1`, `countermark-${device}-signing-1`]);
    expect(await line.host.call(HOST.rotate, {})).toMatchObject({ rotated: true, epoch: 2 });
    expect((await frank('rotated', 10)).report.pieces).toBe(10);
    await settled('rotated');
    expect(keysOnToken()).toEqual([`countermark-${device}-agreement-2`, `countermark-${device}-signing-2`]);
  });

  test('without its token says so, and the mailing goes on when it is back', async () => {
    const before = (await line.device()).registers.pieces;
    soft.unplug();
    const refused = await frank('away', 20);
    expect([refused.rejection?.code, (await line.device()).registers.pieces]).toEqual(['hsm-unavailable', before]);
    soft.plug();
    let answer = await frank('away', 20);
    for (let attempt = 0; answer.rejection !== undefined && attempt < 50; attempt += 1) {
      expect(answer.rejection.code).toBe('hsm-unavailable');
      await new Promise((resolve) => setTimeout(resolve, 200));
      answer = await frank('away', 20);
    }
    await settled('away');
    expect((await line.device()).registers.pieces).toBe(before + 20);
    await expectWhole();
  });

  test('does not start with a wrong PIN, says so without it, and starts with the right one', async () => {
    const right = readFileSync(token.pinFile, 'utf8');
    await line.processes.psd.stop();
    writeFileSync(token.pinFile, '0000\n');
    const said = await line.processes.psd.start().then(String, String);
    expect(said).toContain('CKR_PIN_INCORRECT');
    expect(said).not.toContain('0000');
    writeFileSync(token.pinFile, right);
    await line.processes.psd.start();
    expect((await frank('right', 2)).report.pieces).toBe(2);
    await settled('right');
  });

  test('put back to an older copy of its store does not start, and goes on with the newest', async () => {
    const { psd } = line.processes;
    const folder = line.paths.parties.psd;
    await psd.stop();
    cpSync(folder, `${folder}-older`, { recursive: true });
    await psd.start();
    expect((await frank('newer', 3)).report.pieces).toBe(3);
    await settled('newer');
    const { registers } = await line.device();
    await psd.stop();
    cpSync(folder, `${folder}-newest`, { recursive: true });
    rmSync(folder, { recursive: true });
    cpSync(`${folder}-older`, folder, { recursive: true });
    const said = await psd.start().then(String, String);
    expect(said).toContain('is an older copy');
    expect(said).toContain(`${registers.pieces} pieces`);
    rmSync(folder, { recursive: true });
    cpSync(`${folder}-newest`, folder, { recursive: true });
    await psd.start();
    expect((await line.device()).registers).toEqual(registers);
  });

  test('that is closed erases its keys on the token', async () => {
    const { device } = await line.device();
    const { url, credential } = installation.operator;
    const ordered = await fetch(`${url}/v1/devices/${device}/closure`, {
      method: 'POST',
      headers: { authorization: `Bearer ${credential}`, 'content-type': 'application/json' },
      body: JSON.stringify({ reason: 'line taken down' }),
    });
    expect(ordered.ok).toBe(true);
    for (let attempt = 0; (await line.device()).zeroised !== true; attempt += 1) {
      if (attempt === 100) throw new Error('it does not come to its end');
      await line.host.call(HOST.send, {});
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    expect(keysOnToken()).toEqual([]);
    await expectWhole();
  });
});
