/**
 * The software measurement: SHA-256 over the code that makes up the device, as installed.
 *
 * Guarantees the same value for the same files, whatever their place: names within each package and contents, sorted.
 * It covers the code of psd, protocol and verify; not node-platform, Node itself, or the libraries. A device that lies
 * about its software lies about its measurement as well: without a token it is a statement, not a proof.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, extname, join, relative, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import { sha256 } from '@countermark/node-platform/verification';
import { concat, utf8 } from '@countermark/protocol/bytes';
import { encode } from '@countermark/protocol/cbor';
import { type Digest, digestOf } from '@countermark/protocol/digest';
import type { Software } from '@countermark/protocol/fields';

const PACKAGES = ['protocol', 'psd', 'verify'] as const;

/** Version and measurement of the running device. */
export function runningSoftware(): Software {
  const here = fileURLToPath(import.meta.url);
  // .../psd/<src or dist>/shell/measurement.<ts or js>: the same kind of file is measured everywhere.
  const kind = dirname(dirname(here));
  const packages = dirname(dirname(kind));
  const folder = relative(dirname(kind), kind);
  const manifest = JSON.parse(readFileSync(join(dirname(kind), 'package.json'), 'utf8')) as { version: string };
  return { version: manifest.version, measurement: measured(packages, folder, extname(here)) };
}

/** The measurement of the device's packages in a folder: of their files below `folder` with the extension, tests and types apart. */
export function measured(packages: string, folder: string, extension: string): Digest {
  const entries: Uint8Array[] = [];
  for (const name of PACKAGES) {
    const root = join(packages, name, folder);
    const files = readdirSync(root, { recursive: true, encoding: 'utf8' })
      .filter((file) => extname(file) === extension && !file.endsWith('.test.ts') && !file.endsWith('.d.ts'))
      .map((file) => file.split(sep).join('/'))
      .sort();
    for (const file of files) entries.push(encode([`${name}/${file}`, sha256(readFileSync(join(root, file)))]));
  }
  return digestOf(sha256(concat([utf8('countermark measurement'), ...entries])));
}
