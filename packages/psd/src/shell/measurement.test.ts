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
  for (const name of ['protocol', 'psd', 'verify']) {
    mkdirSync(join(folder, name, 'src', 'core'), { recursive: true });
    write(`${name}/src/core/code.ts`, `export const name = '${name}';`);
  }
});
afterEach(() => {
  rmSync(folder, { recursive: true });
});

const write = (path: string, text: string): void => {
  writeFileSync(join(folder, path), text);
};
const now = (): string => digestText(measured(folder, 'src', '.ts'));

it('is another one with any change of code: a byte, a name, a file more', () => {
  const seen = new Set([now()]);
  write('psd/src/core/code.ts', "export const name = 'pse';");
  seen.add(now());
  write('psd/src/core/code.ts', "export const name = 'psd';");
  write('verify/src/core/further.ts', '');
  seen.add(now());
  rmSync(join(folder, 'verify/src/core/further.ts'));
  cpSync(join(folder, 'protocol/src/core/code.ts'), join(folder, 'protocol/src/core/other.ts'));
  rmSync(join(folder, 'protocol/src/core/code.ts'));
  seen.add(now());
  expect(seen.size).toBe(4);
});

it('is the same wherever the code lies, and whatever tests and types lie beside it', () => {
  const before = now();
  write('psd/src/core/code.test.ts', 'it();');
  write('psd/src/core/code.d.ts', 'export {};');
  const elsewhere = mkdtempSync(join(tmpdir(), 'measured-'));
  cpSync(folder, elsewhere, { recursive: true });
  expect([now(), digestText(measured(elsewhere, 'src', '.ts'))]).toEqual([before, before]);
  rmSync(elsewhere, { recursive: true });
});
