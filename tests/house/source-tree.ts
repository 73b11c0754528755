/**
 * The files of this checkout that people wrote, for the tests that read them.
 *
 * Guarantees that installed, built and generated folders are left out, by name. Does not ask git: the tests also run in an
 * unpacked archive.
 */
import { readFileSync, readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = join(dirname(fileURLToPath(import.meta.url)), '../..');

const LEFT_OUT = new Set(['node_modules', 'dist', 'coverage', 'countermark-data', '.git', '.setup']);

/** Paths below `folder` ('' is the checkout), relative to the checkout, with `/`, in order. */
export function filesIn(folder: string): string[] {
  return readdirSync(join(root, folder), { withFileTypes: true })
    .sort((a, b) => (a.name < b.name ? -1 : 1))
    .flatMap((entry) => {
      const path = folder === '' ? entry.name : `${folder}/${entry.name}`;
      if (entry.isDirectory()) return LEFT_OUT.has(entry.name) ? [] : filesIn(path);
      return entry.isFile() ? [path] : [];
    });
}

export function read(path: string): string {
  return readFileSync(join(root, path), 'utf8');
}
