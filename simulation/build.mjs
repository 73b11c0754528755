// Builds the simulated world: the parties' own sources, with the machine under them replaced, in one file.
//
// Guarantees: every replaced module is named in the table below; every other line of the parties that runs in the world is the shipped one, but
// for a planted bug, which is an exact replacement of text that occurs once in its file (a stale one is refused). With real
// signatures one row less is replaced.
import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const here = dirname(fileURLToPath(import.meta.url));
const root = dirname(here);
const machine = join(here, 'src', 'machine');

/** Modules of the parties by what stands in for them. */
const REPLACED = {
  'packages/node-platform/src/clock.ts': 'clock.ts',
  'packages/node-platform/src/rpc.ts': 'rpc.ts',
  'packages/node-platform/src/tls-ends.ts': 'tls-ends.ts',
  'packages/node-platform/src/unix-sockets.ts': 'unix-sockets.ts',
  'packages/node-platform/src/sign-workers.ts': 'sign-workers.ts',
  'packages/cryptographic-device/src/verify-workers.ts': 'verify-workers.ts',
  'packages/cryptographic-device/src/session-certificates.ts': 'session-certificates.ts',
  'packages/cryptographic-device/src/identity-certificates.ts': 'identity-certificates.ts',
  'packages/server/src/http.ts': 'server-http.ts',
  'packages/server/src/authority-client.ts': 'authority-client.ts',
  'packages/authority/src/http.ts': 'authority-http.ts',
  'packages/host/src/server-client.ts': 'server-client.ts',
  'packages/host/src/session-relay.ts': 'session-relay.ts',
};
const SIGNING = { 'packages/node-platform/src/signing.ts': 'signing.ts' };

/** Modules of the platform by what stands in for them, where a party imports them. */
const PLATFORM = {
  'node:fs': 'node-fs.ts',
  'node:fs/promises': 'node-fs.ts',
  'node:crypto': 'node-crypto.ts',
  'node:timers/promises': 'timers.ts',
  'better-sqlite3': 'better-sqlite3.ts',
};

/** Libraries that are bundled for speed: kysely freezes every node of every query, which nobody needs here. */
const BUNDLED = new Set(['kysely']);
const FREEZING = /export function freeze\(obj\) \{\s*return Object\.freeze\(obj\);\s*\}/;

/** Applies a planted bug to a source. @throws Error where its text does not occur exactly once. */
function mutated(source, { name, file, find, replace }) {
  const parts = source.split(find);
  if (parts.length !== 2) {
    throw new Error(`the planted bug ${name} is stale: its text occurs ${parts.length - 1} times in ${file}`);
  }
  return parts.join(replace);
}

/** Bundles an entry of src/ into `outfile`. `mutants`: planted bugs. `realSignatures`: P-256 instead of its stand-in. */
export async function bundle(entry, outfile, { mutants = [], realSignatures = false } = {}) {
  const replaced = new Map(
    Object.entries(realSignatures ? REPLACED : { ...REPLACED, ...SIGNING }).map(([from, to]) => [
      join(root, from),
      join(machine, to),
    ]),
  );
  const substitution = {
    name: 'machine',
    setup(setting) {
      setting.onResolve({ filter: /.*/ }, async (given) => {
        if (given.pluginData === 'resolved' || given.kind === 'entry-point') return undefined;
        const ofParty = given.importer.startsWith(join(root, 'packages'));
        const platform = PLATFORM[given.path];
        if (platform !== undefined && ofParty) return { path: join(machine, platform) };
        if (!given.path.startsWith('.') && !given.path.startsWith('/') && !given.path.startsWith('@countermark/')) {
          return BUNDLED.has(given.path) ? undefined : { path: given.path, external: true };
        }
        const { path, kind, resolveDir, importer } = given;
        const found = await setting.resolve(path, { kind, resolveDir, importer, pluginData: 'resolved' });
        if (found.errors.length > 0) return found;
        const instead = replaced.get(found.path);
        // What stands in for a module may use the module itself.
        return instead === undefined || importer === instead ? found : { path: instead };
      });
      setting.onLoad({ filter: /[\\/]kysely[\\/]dist[\\/]esm[\\/]util[\\/]object-utils\.js$/ }, ({ path }) => {
        const source = readFileSync(path, 'utf8');
        if (!FREEZING.test(source)) throw new Error('kysely has another way to freeze its nodes: see build.mjs');
        return { contents: source.replace(FREEZING, 'export function freeze(obj) { return obj; }'), loader: 'js' };
      });
      for (const mutant of mutants) {
        const path = join(root, mutant.file);
        const filter = new RegExp(`${path.replace(/[.\\/]/g, '\\$&')}$`);
        setting.onLoad({ filter }, () => ({
          contents: mutants
            .filter(({ file }) => file === mutant.file)
            .reduce((source, one) => mutated(source, one), readFileSync(path, 'utf8')),
          loader: 'ts',
        }));
      }
    },
  };
  await build({
    entryPoints: [join(here, 'src', entry)],
    outfile,
    bundle: true,
    format: 'esm',
    platform: 'node',
    target: 'node20',
    conditions: ['source'],
    plugins: [substitution],
    inject: [join(machine, 'injected.ts')],
    define: { 'Date.now': 'simulatedNow', 'Math.random': 'simulatedRandom' },
    logLevel: 'warning',
    legalComments: 'none',
    sourcemap: 'inline',
  });
}
