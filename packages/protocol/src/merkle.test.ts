/** The Merkle tree against RFC 6962's definition, written down independently and recursively. */
import { createHash } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type Digest, digestOf, type Sha256 } from './digest.ts';
import {
  append,
  auditPath,
  EMPTY_FRONTIER,
  frontierBytes,
  frontierOf,
  leafDigest,
  provesLeaf,
  root,
} from './merkle.ts';

const sha256: Sha256 = (bytes) => new Uint8Array(createHash('sha256').update(bytes).digest());
const leaves = fc
  .array(fc.uint8Array({ minLength: 1, maxLength: 8 }), { maxLength: 70 })
  .map((all) => all.map((leaf) => digestOf(sha256(leaf))));

/** MTH of RFC 6962, 2.1, over leaf hashes. */
function mth(all: readonly Digest[]): Uint8Array {
  if (all.length === 0) return sha256(new Uint8Array(0));
  if (all.length === 1) return all[0] as Digest;
  let k = 1;
  while (k * 2 < all.length) k *= 2;
  return sha256(Uint8Array.from([1, ...mth(all.slice(0, k)), ...mth(all.slice(k))]));
}

describe('Merkle tree', () => {
  it('has the root of RFC 6962, however the leaves were appended', () => {
    fc.assert(
      fc.property(leaves, fc.array(fc.nat(9), { maxLength: 20 }), (all, cuts) => {
        let frontier = EMPTY_FRONTIER;
        let at = 0;
        for (const cut of [...cuts, all.length]) {
          frontier = append(frontier, all.slice(at, at + cut), sha256);
          at = Math.min(all.length, at + cut);
        }
        expect(frontier.leaves).toBe(all.length);
        expect(root(frontier, sha256)).toEqual(mth(all));
        expect(frontierOf(frontier.leaves, frontierBytes(frontier))).toEqual(frontier);
      }),
    );
  });

  it('proves every leaf in its place and no other', () => {
    fc.assert(
      fc.property(
        leaves.filter((all) => all.length > 0),
        fc.nat(),
        fc.nat(),
        (all, a, b) => {
          const index = a % all.length;
          const other = b % all.length;
          const path = auditPath(all, index, sha256);
          const top = root(append(EMPTY_FRONTIER, all, sha256), sha256);
          expect(provesLeaf(all[index] as Digest, index, all.length, path, top, sha256)).toBe(true);
          const same = Buffer.compare(all[index] as Digest, all[other] as Digest) === 0;
          if (!same) expect(provesLeaf(all[other] as Digest, index, all.length, path, top, sha256)).toBe(false);
          if (other !== index && !same)
            expect(provesLeaf(all[index] as Digest, other, all.length, path, top, sha256)).toBe(false);
        },
      ),
    );
  });

  it('hashes a leaf as H(0x00 || salt || record)', () => {
    expect(leafDigest(Uint8Array.of(7, 8), Uint8Array.of(9), sha256)).toEqual(sha256(Uint8Array.of(0, 7, 8, 9)));
  });

  it('refuses a stored frontier that does not fit its number', () => {
    expect(() => frontierOf(3, new Uint8Array(32))).toThrow(RangeError);
  });
});
