// Writes every generated document of the repository, or checks that what is committed is what would be written.
//
//   npm run generate              write
//   npm run generate -- --check   write nothing; exit 1 and name each file that differs, is missing or is left over
//
// A generator is a module in tests/generators/ that exports
//   documents(): { path, content }[] or a promise of it   path relative to the checkout; content a string or bytes
//   folders: string[]                                     optional: folders that hold generated files only, so that one
//                                                         that is no longer generated is noticed (and removed)
// It must be deterministic: no clock, no randomness (keys of vectors are fixed, signatures are kept or deterministic).
// Runs from the sources (`--conditions=source --import tsx`): no build needed.
import { existsSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const generatorsFolder = join(root, 'tests', 'generators');

const check = process.argv.includes('--check');
const unknown = process.argv.slice(2).filter((argument) => argument !== '--check');
if (unknown.length > 0) {
  process.stderr.write(`Unknown: ${unknown.join(' ')}. Only --check is known.\n`);
  process.exit(2);
}

const generators = existsSync(generatorsFolder)
  ? readdirSync(generatorsFolder)
      .filter((name) => /^[a-z0-9-]+\.(ts|mjs)$/.test(name))
      .sort()
  : [];

const wrong = [];
let count = 0;
for (const name of generators) {
  const generator = await import(pathToFileURL(join(generatorsFolder, name)).href);
  const documents = await generator.documents();
  const written = new Set();
  for (const { path, content } of documents) {
    const file = join(root, path);
    const wanted = Buffer.from(content);
    const present = existsSync(file) ? readFileSync(file) : undefined;
    written.add(path);
    count += 1;
    if (present?.equals(wanted)) continue;
    wrong.push(`${path}: ${present ? 'is out of date' : 'is missing'} (${name})`);
    if (check) continue;
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, wanted);
  }
  for (const folder of generator.folders ?? []) {
    if (!existsSync(join(root, folder))) continue;
    for (const entry of readdirSync(join(root, folder), { recursive: true, withFileTypes: true })) {
      if (!entry.isFile()) continue;
      const path = relative(root, join(entry.parentPath, entry.name)).replaceAll('\\', '/');
      if (written.has(path)) continue;
      wrong.push(`${path}: is no longer generated (${name})`);
      if (!check) rmSync(join(root, path));
    }
  }
}

for (const line of wrong) process.stderr.write(`${line}\n`);
if (check && wrong.length > 0) {
  process.stderr.write('Run `npm run generate` and commit what it writes.\n');
  process.exit(1);
}
process.stderr.write(
  check
    ? `${count} generated documents are up to date.\n`
    : `${count} generated documents, ${wrong.length} of them written or removed.\n`,
);
