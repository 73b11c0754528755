/** The measurement follows the code of the device, and nothing else. */
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { digestText } from '@countermark/protocol/digest';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { measured } from './measurement.ts';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'measured-'));
  mkdirSync(join(folder, 'core'));
  write('main.js', "export const name = 'psd';");
  write('core/code.js', "export const name = 'core';");
});
afterEach(() => {
  rmSync(folder, { recursive: true });
});

const write = (path: string, text: string): void => {
  writeFileSync(join(folder, path), text);
};
const now = (): string => digestText(measured(folder, '.js'));

it('is another one with any change of code: a byte, a name, a file more', () => {
  const seen = new Set([now()]);
  write('main.js', "export const name = 'pse';");
  seen.add(now());
  write('main.js', "export const name = 'psd';");
  write('core/further.js', '');
  seen.add(now());
  rmSync(join(folder, 'core/further.js'));
  cpSync(join(folder, 'core/code.js'), join(folder, 'core/other.js'));
  rmSync(join(folder, 'core/code.js'));
  seen.add(now());
  expect(seen.size).toBe(4);
});

it('is the same wherever the code lies, and whatever maps and types lie beside it', () => {
  const before = now();
  write('main.js.map', '{}');
  write('core/code.d.ts', 'export {};');
  const elsewhere = mkdtempSync(join(tmpdir(), 'measured-'));
  cpSync(folder, elsewhere, { recursive: true });
  expect([now(), digestText(measured(elsewhere, '.js'))]).toEqual([before, before]);
  rmSync(elsewhere, { recursive: true });
});
