/**
 * An act of a party's program on a store that nobody serves from (node-platform/party-main).
 *
 * Guarantees that it is the party's own program that does it, and that it says so; a store in use is refused by that program.
 */
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Fault } from '@countermark/node-platform/fault';
import { writePrivateFile } from '@countermark/node-platform/private-file';
import type { Rejection } from '@countermark/protocol/rejection';
import { Refused } from './failure.ts';
import { type PartyName, partyMain } from './installation-paths.ts';

/** What the program answers. @throws Refused as it says; Fault `act-failed` */
export async function actOf(
  party: PartyName,
  act: string,
  config: object,
): Promise<Readonly<Record<string, string | number>>> {
  const folder = mkdtempSync(join(tmpdir(), 'countermark-act-'));
  try {
    const file = join(folder, 'config.json');
    await writePrivateFile(file, JSON.stringify(config));
    const child = spawn(process.execPath, [partyMain(party), act, '--config', file], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const words = { out: '', err: '' };
    child.stdout.on('data', (bytes: Buffer) => {
      words.out += bytes.toString();
    });
    child.stderr.on('data', (bytes: Buffer) => {
      words.err = (words.err + bytes.toString()).slice(-2_000);
    });
    const code = await new Promise<number | null>((resolve) => {
      child.once('close', resolve);
    });
    const line = answerIn(words.out);
    if (line?.rejection !== undefined) throw new Refused(line.rejection);
    if (line?.done !== undefined) return line.done;
    throw new Fault('act-failed', `${act} of ${party} ended with exit code ${code ?? '?'}: ${words.err.trim()}`, {
      retry: 'never',
    });
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

type Line = { readonly done?: Readonly<Record<string, string | number>>; readonly rejection?: Rejection };

function answerIn(text: string): Line | null {
  try {
    return JSON.parse(text.trim()) as Line;
  } catch {
    return null;
  }
}
