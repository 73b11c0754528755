// Makes of each party's compiled modules one program, packages/PARTY/dist/program/main.js: its own code and the libraries in a few
// files. Loading some 1,300 modules one by one took server and authority 0.9 s of processor time at every start, 0.3 s now
// (docs/decisions/programs.md). The last step of a build; start.mjs runs it.
//
//   node programs.mjs            after `tsc -b`, makes all of them
//   node programs.mjs remove     before it
//
// Guarantees: nothing of an earlier build is there beside something of this one, whenever it breaks off: all programs are removed first;
// each comes whole, by a rename, once all could be made; the command, which starts the others, comes last. The same modules
// make the same bytes, whatever the place of the checkout. What is loaded late (`import()`) is a file of its own.
// Not inside: addons, libraries that read their own files, and worker threads (packages/*/worker), which are found where they lie.
import { existsSync, readFileSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { dirname, join, relative, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const root = dirname(fileURLToPath(import.meta.url));

const PARTIES = ['psd', 'host', 'cryptographic-device', 'server', 'authority', 'cli'];

/** Addons (pg looks for one that is not installed), and what finds its files by its own place. */
const OUTSIDE = ['better-sqlite3', 'pkcs11js', '@node-rs/argon2', 'pg-native', 'pdfkit', 'pino'];

/** Libraries written for CommonJS ask for built-in modules by `require`. */
const REQUIRE =
  "import { createRequire as createRequireOfProgram } from 'node:module'; const require = createRequireOfProgram(import.meta.url);";

const folderOf = (party) => join(root, 'packages', party, 'dist', 'program');
/** Each run has its own: one whose start.mjs was killed may still write, and then fails at its rename, or lets the other's fail. */
const unfinished = (party) => `${folderOf(party)}.${process.pid}`;

function remove() {
  // In the reverse order of their coming.
  for (const party of PARTIES.toReversed()) {
    const dist = dirname(folderOf(party));
    if (!existsSync(dist)) continue;
    for (const name of readdirSync(dist).filter((found) => /^program(\.\d+)?$/.test(found))) {
      rmSync(join(dist, name), { recursive: true, force: true });
    }
  }
}

/**
 * A module of ours that finds files by its own place still does: the place is told from the program's, so that a checkout can be
 * moved. A main knows itself as the program.
 */
function placed(party) {
  const main = join(root, 'packages', party, 'dist', 'main.js');
  return {
    name: 'placed',
    setup: (setup) => {
      setup.onLoad({ filter: /[\\/]packages[\\/][^\\/]+[\\/]dist[\\/].*\.js$/ }, ({ path }) => {
        const text = readFileSync(path, 'utf8');
        if (path === main || !text.includes('import.meta.url')) return null;
        const place = JSON.stringify(relative(folderOf(party), path).split(sep).join('/'));
        return { contents: text.replaceAll('import.meta.url', `new URL(${place}, import.meta.url).href`) };
      });
    },
  };
}

async function make(party) {
  await build({
    absWorkingDir: root,
    entryPoints: [join(root, 'packages', party, 'dist', 'main.js')],
    outdir: unfinished(party),
    bundle: true,
    splitting: true,
    platform: 'node',
    format: 'esm',
    target: 'node20',
    // Of a library in both forms the module: what is loaded late, and written for CommonJS, has no names of its own in a program.
    mainFields: ['module', 'main'],
    sourcemap: 'linked',
    external: OUTSIDE,
    banner: { js: REQUIRE },
    plugins: [placed(party)],
    logLevel: 'warning',
  });
}

remove();
if (process.argv[2] !== 'remove') {
  await Promise.all(PARTIES.map(make));
  for (const party of PARTIES) renameSync(unfinished(party), folderOf(party));
}
