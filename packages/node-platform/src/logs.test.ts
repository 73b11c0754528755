import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { Fault } from './fault.ts';
import { type LogFields, openLog } from './logs.ts';
import { writePrivateFile } from './private-file.ts';
import { RotatingFile } from './rotating-file.ts';

describe('a log', () => {
  const lines: string[] = [];
  const log = openLog('psd', { write: (line) => lines.push(line) });
  const last = (): Record<string, unknown> => JSON.parse(lines.at(-1) ?? '') as Record<string, unknown>;

  it('writes the fields of its list, amounts exactly', () => {
    log.info('A batch was closed', { batch: 'bat_1', pieces: 3, postageMills: 2n ** 60n });
    expect(last()).toMatchObject({
      party: 'psd',
      msg: 'A batch was closed',
      batch: 'bat_1',
      pieces: 3,
      postageMills: '1152921504606846976',
    });
  });

  it('cannot be made to write a key, bytes, an object, or a field that is not on its list', () => {
    const secret = 'c2VjcmV0';
    const smuggled = {
      privateKey: secret,
      device: { key: secret },
      digest: new TextEncoder().encode(secret),
      reason: 'x'.repeat(10_000),
    };
    log.info('Enrolled', smuggled as unknown as LogFields);
    expect(lines.at(-1)).not.toContain(secret);
    expect(lines.at(-1)).not.toContain('privateKey');
    expect(last()).not.toHaveProperty('digest');
    expect(lines.at(-1)?.length).toBeLessThan(1_000);
  });

  it('tells an error with its code, its causes, and nothing else that it carries', () => {
    const cause = Object.assign(new Error('ENOSPC'), { code: 'ENOSPC', buffer: 'c2VjcmV0' });
    log.error('A write failed', new Fault('store-full', 'the disk is full', { retry: 'later', cause }));
    expect(last()).toMatchObject({
      error: { code: 'store-full', retry: 'later', cause: { code: 'ENOSPC', message: 'ENOSPC' } },
    });
    expect(lines.at(-1)).not.toContain('c2VjcmV0');
    log.error('Something odd was thrown', 'a text');
    expect(last()).toMatchObject({ error: { message: 'a text' } });
  });
});

describe('files', () => {
  it('of logs are bounded, and the newest lines are kept', () => {
    const directory = mkdtempSync(join(tmpdir(), 'log-'));
    const file = new RotatingFile(join(directory, 'logs', 'psd.log'), 100, 2);
    for (let line = 0; line < 50; line += 1)
      expect(file.append(Buffer.from(`line ${String(line).padStart(3, '0')}\n`))).toBe(true);
    file.close();
    const names = readdirSync(join(directory, 'logs')).sort();
    expect(names).toEqual(['psd.log', 'psd.log.1', 'psd.log.2']);
    const all = ['psd.log.2', 'psd.log.1', 'psd.log']
      .map((name) => readFileSync(join(directory, 'logs', name), 'utf8'))
      .join('');
    expect(all).toMatch(/line 048\nline 049\n$/);
    for (const name of names) expect(statSync(join(directory, 'logs', name)).size).toBeLessThanOrEqual(100);
    rmSync(directory, { recursive: true });
    expect(new RotatingFile(join(directory, 'psd.log')).append(Buffer.from('x'))).toBe(true);
    rmSync(directory, { recursive: true });
  });

  it('that are private are replaced whole', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'file-'));
    const path = join(directory, 'sockets.json');
    await writePrivateFile(path, 'one');
    await writePrivateFile(path, 'two');
    expect(readFileSync(path, 'utf8')).toBe('two');
    expect(statSync(path).mode & 0o777).toBe(0o600);
    expect(readdirSync(directory)).toEqual(['sockets.json']);
    await expect(writePrivateFile(join(directory, 'none', 'x'), 'x')).rejects.toMatchObject({
      code: 'file-write-failed',
    });
    rmSync(directory, { recursive: true });
  });
});
