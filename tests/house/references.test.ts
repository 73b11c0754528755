/**
 * Files that documents and comments send a reader to are there.
 *
 * Guarantees it for relative links in Markdown, and for paths of this checkout (docs/, tests/, packages/, bench/, fuzz/, samples/) that Markdown or a
 * comment names with their ending. Does not judge what is said about them. docs/claims.md: tests/house/claims.test.ts.
 */
import { existsSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import { expect, test } from 'vitest';
import { filesIn, read, root } from './source-tree.ts';

const all = filesIn('');
const isThere = (path: string): boolean => existsSync(join(root, path));

test('links in documents lead somewhere', () => {
  const broken = all
    .filter((path) => path.endsWith('.md'))
    .flatMap((document) =>
      [...read(document).matchAll(/\]\((?!https?:|mailto:|#)([^)#\s]+)/g)]
        .map(([, target]) => normalize(join(dirname(document), target!)))
        .filter((target) => !isThere(target))
        .map((target) => `${document}: ${target}`),
    );
  expect(broken).toEqual([]);
});

test('files named in documents and comments exist', () => {
  const named =
    /(?<![\w./-])((?:docs|tests|packages|bench|fuzz|samples)\/[\w./-]*\w\.(?:md|ts|mjs|json|cddl|csv))(?![\w*{])/g;
  const comment = /\/\*\*?[\s\S]*?\*\/|^\s*\/\/.*$/gm;
  const broken = all
    .filter((path) => /\.(md|ts|mjs|cjs)$/.test(path) && !path.startsWith('docs/claims'))
    .flatMap((path) => {
      const text = path.endsWith('.md') ? read(path) : (read(path).match(comment) ?? []).join('\n');
      return [...text.matchAll(named)]
        .filter(([, target]) => !isThere(target!))
        .map(([, target]) => `${path}: ${target!}`);
    });
  expect(broken).toEqual([]);
});
