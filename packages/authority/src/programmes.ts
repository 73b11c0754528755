/**
 * The programmes that the authority runs: files that a clerk writes (docs/programmes.md), read at start.
 *
 * Guarantees: all parse, versions of one programme follow each other in mailing dates, and what stands under a version
 * is what stood there when the authority first ran it. A new version for mail that an earlier one has paid for already
 * is refused at start.
 */
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Rejection, rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { errorCode, errorText } from '@countermark/node-platform/fault';
import { inSuccession, parseProgramme, type Programme } from '@countermark/tariff/programme';
import type { Config } from './config.ts';
import type { AuthorityStore } from './store/authority-store.ts';

/** Folder of the programmes that come with the product; all of them are demonstrations. */
const SHIPPED = fileURLToPath(new URL('../programmes/', import.meta.url));

/** Paths of the programmes that come with the product. */
export function shippedProgrammeFiles(): Promise<readonly string[]> {
  return jsonFiles(SHIPPED);
}

/** The files that run: those configured (else those that come with the product), and the clerk's own in the data folder. */
export async function programmeFiles(config: Pick<Config, 'data' | 'programmes'>): Promise<readonly string[]> {
  const own = await jsonFiles(join(config.data, 'programmes'));
  return [...(config.programmes ?? (await shippedProgrammeFiles())), ...own];
}

async function jsonFiles(folder: string): Promise<readonly string[]> {
  let names: string[];
  try {
    names = await readdir(folder);
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return [];
    throw error;
  }
  return names
    .filter((name) => name.endsWith('.json'))
    .sort()
    .map((name) => join(folder, name));
}

/** Reads programme files. Rejection: `config-invalid`. */
export async function loadProgrammes(files: readonly string[]): Promise<Result<readonly Programme[]>> {
  const programmes: Programme[] = [];
  for (const file of files) {
    let text: string;
    try {
      text = await readFile(file, 'utf8');
    } catch (error) {
      return refuse(rejection('config-invalid', { file, reason: errorText(error) }));
    }
    const parsed = parseProgramme(text);
    if (!parsed.ok) return refuse(rejection('config-invalid', { file, reason: `${parsed.path} ${parsed.problem}` }));
    programmes.push(parsed.programme);
  }
  const succession = inSuccession(programmes);
  return succession.ok
    ? accept(succession.programmes)
    : refuse(rejection('config-invalid', { file: files.join(', '), reason: succession.problem }));
}

/** Takes programmes into the store. A rejection (`config-invalid`) where one was altered under its version, or comes too late. */
export async function adoptProgrammes(
  store: AuthorityStore,
  programmes: readonly Programme[],
): Promise<Rejection | null> {
  const known = await store.programmes();
  for (const { id, version, canonical, mailingDates } of programmes) {
    const file = `programme ${id} version ${version}`;
    const same = known.find((state) => state.id === id && state.version === version);
    if (same !== undefined && same.canonical !== canonical) {
      return rejection('config-invalid', { file, reason: 'it was altered; give what is new a new version' });
    }
    if (same === undefined && (await store.grantedFrom(id, version, mailingDates.from))) {
      const reason = `an earlier version has granted for mail of ${mailingDates.from} or later: begin later`;
      return rejection('config-invalid', { file, reason });
    }
  }
  await store.addProgrammes(programmes);
  return null;
}
