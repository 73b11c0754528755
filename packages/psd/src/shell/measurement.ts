/**
 * The software measurement: SHA-256 over the program that runs as the device, as built.
 *
 * Guarantees the same value for the same files, whatever their place: names within the program's folder and contents, sorted.
 * The built program has all code of psd, protocol, verify and node-platform inside, and the libraries (programs.mjs); not measured are
 * what it finds outside: Node itself, addons, pino, and the worker threads' own files. A device that lies
 * about its software lies about its measurement as well: without a token it is a statement, not a proof.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, extname, join, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import { sha256 } from '@countermark/node-platform/verification';
import { concat, utf8 } from '@countermark/protocol/bytes';
import { encode } from '@countermark/protocol/cbor';
import { type Digest, digestOf } from '@countermark/protocol/digest';
import type { Software } from '@countermark/protocol/fields';

/** Version and measurement of the running device; `main` is the URL of its program. */
export function runningSoftware(main: string): Software {
  const program = fileURLToPath(main);
  const manifest = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
    version: string;
  };
  return { version: manifest.version, measurement: measured(dirname(program), extname(program)) };
}

/** The measurement of a folder: of its files with the extension, tests and types apart. */
export function measured(folder: string, extension: string): Digest {
  const files = readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter((file) => extname(file) === extension && !file.endsWith('.test.ts') && !file.endsWith('.d.ts'))
    .map((file) => file.split(sep).join('/'))
    .sort();
  const entries = files.map((file) => encode([file, sha256(readFileSync(join(folder, file)))]));
  return digestOf(sha256(concat([utf8('countermark measurement'), ...entries])));
}
