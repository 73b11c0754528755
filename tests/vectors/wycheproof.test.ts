/**
 * Our use of ECDSA P-256 and HMAC-SHA256 against the vectors of C2SP/wycheproof (Apache-2.0): every valid one holds, every
 * invalid one is refused. Skips visibly where the files are not beside the checkout.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { equalMacs, hmacSha256 } from '@countermark/node-platform/signing';
import { sha256, verifySignature } from '@countermark/node-platform/verification';
import { describe, expect, it } from 'vitest';

const SHARED = process.env['COUNTERMARK_SHARED_DATA'] ?? join(import.meta.dirname, '..', '..', '..', 'shared', 'data');
const FOLDER = join(SHARED, 'wycheproof');

type Group<Test> = {
  readonly publicKey: { readonly uncompressed: string };
  readonly tagSize: number;
  readonly tests: readonly Test[];
};
type Case = { readonly tcId: number; readonly comment: string; readonly msg: string; readonly result: string };

function groups<Test>(name: string): readonly Group<Test>[] {
  return (JSON.parse(readFileSync(join(FOLDER, name), 'utf8')) as { testGroups: Group<Test>[] }).testGroups;
}

const bytes = (text: string): Uint8Array => Uint8Array.from(Buffer.from(text, 'hex'));

describe.skipIf(!existsSync(FOLDER))('Wycheproof', () => {
  it('agrees on every ECDSA P-256 signature in r||s form', () => {
    const wrong = groups<Case & { sig: string }>('ecdsa_secp256r1_sha256_p1363_test.json').flatMap((group) =>
      group.tests
        .filter(
          ({ msg, sig, result }) =>
            verifySignature(bytes(group.publicKey.uncompressed), bytes(msg), bytes(sig)) !== (result === 'valid'),
        )
        .map(({ tcId, comment }) => `${tcId}: ${comment}`),
    );
    expect(wrong).toEqual([]);
  });

  it('agrees on every HMAC-SHA256 of full length', () => {
    const wrong = groups<Case & { key: string; tag: string }>('hmac_sha256_test.json')
      .filter((group) => group.tagSize === 256)
      .flatMap((group) =>
        group.tests
          .filter(
            ({ key, msg, tag, result }) =>
              equalMacs(hmacSha256(bytes(key), bytes(msg)), bytes(tag)) !== (result === 'valid'),
          )
          .map(({ tcId, comment }) => `${tcId}: ${comment}`),
      );
    expect(wrong).toEqual([]);
  });

  it('takes none of the shortened codes for a code of ours, valid as they are for others', () => {
    const taken = groups<Case & { key: string; tag: string }>('hmac_sha256_test.json')
      .filter((group) => group.tagSize !== 256)
      .flatMap((group) =>
        group.tests.filter(({ key, msg, tag }) => equalMacs(hmacSha256(bytes(key), bytes(msg)), bytes(tag))),
      );
    expect(taken).toEqual([]);
  });
});

describe('The verification port', () => {
  it('hashes as FIPS 180-4 says', () => {
    expect(Buffer.from(sha256(new TextEncoder().encode('abc'))).toString('hex')).toBe(
      'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad',
    );
  });

  it('answers false, and does not throw, for a key that is no point of the curve', () => {
    expect(verifySignature(new Uint8Array(65), new Uint8Array(1), new Uint8Array(64))).toBe(false);
    expect(verifySignature(new Uint8Array(0), new Uint8Array(1), new Uint8Array(64))).toBe(false);
    expect(
      verifySignature(Uint8Array.of(4, ...new Uint8Array(64).fill(255)), new Uint8Array(1), new Uint8Array(64)),
    ).toBe(false);
  });
});
