/**
 * Generated documents (tests/generators/) are committed as they would be generated today.
 *
 * Guarantees it for every generator in that folder, and that a changed, a missing and a left-over document are noticed.
 */
import { spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { root } from './source-tree.ts';

function generate(program: string, ...parameters: string[]): { code: number | null; said: string } {
  const tsx = join(root, 'node_modules/tsx/dist/esm/index.mjs');
  const result = spawnSync(process.execPath, ['--conditions=source', '--import', tsx, program, ...parameters], {
    cwd: root,
    encoding: 'utf8',
  });
  return { code: result.status, said: result.stderr };
}

test('the generated documents are up to date', () => {
  const { code, said } = generate('tests/generate.mjs', '--check');
  expect(code, said).toBe(0);
});

describe('the check', () => {
  const checkout = mkdtempSync(join(tmpdir(), 'countermark-generated-'));
  const program = join(checkout, 'tests/generate.mjs');
  beforeAll(() => {
    mkdirSync(join(checkout, 'tests/generators'), { recursive: true });
    cpSync(join(root, 'tests/generate.mjs'), program);
    writeFileSync(join(checkout, 'package.json'), '{ "type": "module" }');
    writeFileSync(
      join(checkout, 'tests/generators/words.ts'),
      "export const folders: string[] = ['docs/words'];\nexport const documents = () => [{ path: 'docs/words/piece.md', content: 'piece\\n' }];\n",
    );
  });
  afterAll(() => {
    rmSync(checkout, { recursive: true, force: true });
  });

  test('names a missing document, then accepts it once it is written', () => {
    const missing = generate(program, '--check');
    expect(missing).toMatchObject({
      code: 1,
      said: expect.stringContaining('docs/words/piece.md: is missing') as string,
    });
    expect(generate(program).code).toBe(0);
    expect(readFileSync(join(checkout, 'docs/words/piece.md'), 'utf8')).toBe('piece\n');
    expect(generate(program, '--check').code).toBe(0);
  });

  test('names a document changed by hand and one left over', () => {
    writeFileSync(join(checkout, 'docs/words/piece.md'), 'peace\n');
    writeFileSync(join(checkout, 'docs/words/batch.md'), 'batch\n');
    const { code, said } = generate(program, '--check');
    expect(code).toBe(1);
    expect(said).toContain('docs/words/piece.md: is out of date');
    expect(said).toContain('docs/words/batch.md: is no longer generated');
  });
});
