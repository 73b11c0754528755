/** Every committed vector, good and bad, through the check that decides it; and that each message and code has one. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { sha256 } from '@countermark/node-platform/verification';
import { MESSAGES } from '@countermark/protocol/messages/catalogue';
import { leafDigest, provesLeaf } from '@countermark/protocol/merkle';
import { digestOf } from '@countermark/protocol/digest';
import { CATALOGUE } from '@countermark/protocol/rejection-catalogue';
import { describe, expect, it } from 'vitest';
import { type Check, envelopeFacts, outcomeOf, strangersTrust } from './vectors.ts';

const root = join(import.meta.dirname, '..', '..');
const read = (name: string): unknown => JSON.parse(readFileSync(join(root, 'docs/protocol/vectors', name), 'utf8'));
const bytesOf = (text: string): Uint8Array => {
  const [start, zeros] = text.split('(00 x ') as [string, string | undefined];
  return Uint8Array.from(
    Buffer.concat([Buffer.from(start, 'hex'), Buffer.alloc(zeros === undefined ? 0 : Number.parseInt(zeros, 10))]),
  );
};

type Printed = {
  name: string;
  check: Check;
  type?: string;
  input: string[];
  outcome: string;
  toBeAuthenticated?: string;
  digest?: string;
};
const printed = ['accepted.json', 'rejected.json'].flatMap((name) => (read(name) as { vectors: Printed[] }).vectors);
const certificates = (read('device-certificates.json') as { certificates: string[] }).certificates.map(bytesOf);
const trust = strangersTrust(certificates);

describe('Vectors', () => {
  it.each(printed.map((vector) => [vector.name, vector] as const))(
    '%s',
    (_, { toBeAuthenticated, digest, ...vector }) => {
      const input = vector.input.map(bytesOf);
      expect(outcomeOf({ ...vector, input }, trust)).toBe(vector.outcome);
      if (digest !== undefined)
        expect(envelopeFacts(input[0] as Uint8Array)).toMatchObject({ digest, toBeAuthenticated });
    },
  );

  it('has one that is accepted for every message', () => {
    const seen = new Set(
      printed
        .filter(({ outcome }) => outcome === 'accepted')
        .flatMap((vector) => vector.input.map((text) => envelopeType(bytesOf(text)))),
    );
    expect(MESSAGES.map((message) => message.type).filter((type) => !seen.has(type))).toEqual([]);
  });

  it('proves a single piece of the Merkle vector', () => {
    const vector = read('merkle.json') as {
      pieces: { salt: string; record: string }[];
      root: string;
      proof: { index: number; size: number; path: string[] };
    };
    const piece = vector.pieces[vector.proof.index] as { salt: string; record: string };
    const leaf = leafDigest(bytesOf(piece.salt), bytesOf(piece.record), sha256);
    const path = vector.proof.path.map((text) => digestOf(bytesOf(text)));
    expect(provesLeaf(leaf, vector.proof.index, vector.proof.size, path, digestOf(bytesOf(vector.root)), sha256)).toBe(
      true,
    );
  });

  it('has a vector for every code that a message can meet, and a test that names every other code', () => {
    const withVector = new Set(printed.map(({ outcome }) => outcome));
    const tests = sources(root, ['packages', 'tests']).map((file) => readFileSync(file, 'utf8'));
    const without = Object.keys(CATALOGUE).filter(
      (code) =>
        !withVector.has(code) && !tests.some((text) => text.includes(`'${code}'`) || text.includes(`"${code}"`)),
    );
    expect(without).toEqual([]);
  });
});

function envelopeType(bytes: Uint8Array): string {
  return /countermark\/([a-z-]+)/.exec(Buffer.from(bytes).toString('latin1'))?.[1] ?? '';
}

function sources(from: string, folders: string[]): string[] {
  return folders.flatMap((folder) =>
    readdirSync(join(from, folder), { recursive: true, encoding: 'utf8' })
      .filter((name) => name.endsWith('.test.ts') && !name.includes('node_modules'))
      .map((name) => join(from, folder, name)),
  );
}
