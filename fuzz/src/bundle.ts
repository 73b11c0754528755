/**
 * The program under test as one file: the fuzzing worker with every package it drives, from the sources, instrumented; and
 * on request with one bug planted in it.
 *
 * Guarantees that a planted bug is there: its text must stand in its file exactly once. Our packages and the libraries that
 * parse for them (cborg, csv-parse) are inside; everything else is loaded as in production.
 */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { pathToFileURL } from 'node:url';
import { build, type Plugin } from 'esbuild';
import { instrument } from './instrumentation.ts';
import { ROOT } from './root.ts';

/** A bug planted by replacing one text of one source file. */
export type Replacement = { readonly file: string; readonly find: string; readonly replace: string };

/** In our own folder, so that the libraries outside the bundle are found from it. */
const OUTPUT = join(import.meta.dirname, '..', 'dist');
const INSIDE = /^(@countermark\/|cborg|csv-parse)/;
const COUNTERS_MAX = 1 << 16;

type Loaded = { readonly text: string; readonly words: readonly string[]; readonly package: string };

/** Files that were instrumented in this process, by path: a bug changes only one of them. */
const loaded = new Map<string, Loaded>();
let counters = 0;

const written = new Set<string>();

function removeWritten(): void {
  for (const file of written) rmSync(file, { force: true });
}

/** Writes the bundle and returns its path. It is gone when this process has ended: another run has one of its own. */
export async function bundle(name: string, replacement?: Replacement): Promise<string> {
  mkdirSync(OUTPUT, { recursive: true });
  const outfile = join(OUTPUT, `${name}-${process.pid}.mjs`);
  if (written.size === 0) process.once('exit', removeWritten);
  written.add(outfile);
  const words: Record<string, Set<string>> = {};
  const plugin: Plugin = {
    name: 'instrumented',
    setup: (setup) => {
      setup.onResolve({ filter: /^[^./]/ }, ({ path, kind }) =>
        kind === 'entry-point' || INSIDE.test(path) ? null : { path, external: true },
      );
      setup.onLoad({ filter: /\/(packages\/[^/]+\/src|node_modules\/(cborg|csv-parse))\/.*\.(ts|js)$/ }, ({ path }) => {
        const file = load(path, replacement);
        const known = (words[file.package] ??= new Set());
        for (const word of file.words) known.add(word);
        return { contents: file.text, loader: path.endsWith('.ts') ? 'ts' : 'js' };
      });
    },
  };
  const result = await build({
    entryPoints: [join(import.meta.dirname, 'worker.ts')],
    bundle: true,
    platform: 'node',
    format: 'esm',
    target: 'node20',
    conditions: ['source'],
    write: false,
    logLevel: 'silent',
    plugins: [plugin],
  });
  const [output] = result.outputFiles;
  if (output === undefined) throw new Error('esbuild wrote nothing.');
  writeFileSync(outfile, prologue(words) + output.text);
  return outfile;
}

function load(path: string, replacement: Replacement | undefined): Loaded {
  const file = relative(ROOT, path);
  const planted = replacement?.file === file ? replacement : undefined;
  const known = loaded.get(path);
  if (known !== undefined && planted === undefined) return known;
  let text = readFileSync(path, 'utf8').replaceAll('import.meta.url', JSON.stringify(pathToFileURL(path).href));
  if (planted !== undefined) {
    const parts = text.split(planted.find);
    if (parts.length !== 2) {
      throw new Error(`${file} has ${parts.length - 1} times, and not once: ${planted.find}`);
    }
    text = parts.join(planted.replace);
  }
  const instrumented = instrument(text, path, counters);
  counters += instrumented.counters;
  if (counters > COUNTERS_MAX) throw new Error('There are more branches than counters.');
  const name = /^packages\/([^/]+)/.exec(file)?.[1] ?? 'library';
  const made = { text: instrumented.text, words: instrumented.words, package: name };
  if (planted === undefined) loaded.set(path, made);
  return made;
}

/** Counters and words, before anything of the program runs. */
function prologue(words: Record<string, Set<string>>): string {
  const plain = Object.fromEntries(Object.entries(words).map(([name, set]) => [name, [...set]]));
  return [
    `const __counts = new Uint32Array(${COUNTERS_MAX}), __touched = new Uint32Array(${COUNTERS_MAX}); let __length = 0;`,
    'function __hit(n) { if (__counts[n]++ === 0) __touched[__length++] = n; }',
    'globalThis.countermarkCoverage = { counts: __counts, touched: __touched, length: () => __length,',
    'reset() { for (let i = 0; i < __length; i++) __counts[__touched[i]] = 0; __length = 0; },',
    `words: ${JSON.stringify(plain)} };\n`,
  ].join('\n');
}
