/**
 * Merkle tree of RFC 6962 (section 2.1) over a batch's piece records, kept as a frontier.
 *
 * Guarantees: root and number of leaves commit to every leaf and its place; a leaf is salted
 * (leaf = H(0x00 || salt || piece record)), because a sibling's content could be guessed otherwise. The state of a
 * million pieces is about 20 digests.
 * Does not keep leaves: whoever proves a single piece brings them (the host's archive).
 */
import { concat } from './bytes.ts';
import { type Digest, digestOf, sameBytes, type Sha256 } from './digest.ts';

export const SALT_BYTES = 16;

/** `peaks[i]` is the root of a full subtree, largest first; their sizes are the binary digits of `leaves`. */
export type Frontier = { readonly leaves: number; readonly peaks: readonly Digest[] };

export const EMPTY_FRONTIER: Frontier = { leaves: 0, peaks: [] };

/** H(0x00 || salt || piece record without its authenticator). */
export function leafDigest(salt: Uint8Array, pieceRecord: Uint8Array, sha256: Sha256): Digest {
  const input = new Uint8Array(1 + salt.length + pieceRecord.length);
  input.set(salt, 1);
  input.set(pieceRecord, 1 + salt.length);
  return digestOf(sha256(input));
}

function nodeDigest(left: Digest, right: Digest, sha256: Sha256): Digest {
  const input = new Uint8Array(65);
  input[0] = 1;
  input.set(left, 1);
  input.set(right, 33);
  return digestOf(sha256(input));
}

/** The frontier with more leaves at its end. */
export function append(frontier: Frontier, leaves: readonly Digest[], sha256: Sha256): Frontier {
  const peaks = [...frontier.peaks];
  let count = frontier.leaves;
  for (const leaf of leaves) {
    let digest = leaf;
    // Each trailing 1 bit of the count is a full subtree of the size that `digest` has by then: join them.
    for (let bits = count; bits % 2 === 1; bits = Math.floor(bits / 2)) {
      digest = nodeDigest(peaks.pop() as Digest, digest, sha256);
    }
    peaks.push(digest);
    count += 1;
  }
  return { leaves: count, peaks };
}

/** The root (MTH of RFC 6962); of no leaves, the hash of the empty string. */
export function root(frontier: Frontier, sha256: Sha256): Digest {
  let digest = frontier.peaks.at(-1);
  if (digest === undefined) return digestOf(sha256(new Uint8Array(0)));
  for (let i = frontier.peaks.length - 2; i >= 0; i--) digest = nodeDigest(frontier.peaks[i] as Digest, digest, sha256);
  return digest;
}

/** The frontier as bytes for a store: the peaks, one after the other. */
export function frontierBytes(frontier: Frontier): Uint8Array {
  return concat(frontier.peaks);
}

/** The frontier that {@link frontierBytes} wrote. @throws RangeError where peaks and number do not belong together. */
export function frontierOf(leaves: number, bytes: Uint8Array): Frontier {
  const peaks: Digest[] = [];
  for (let offset = 0; offset < bytes.length; offset += 32) peaks.push(digestOf(bytes.slice(offset, offset + 32)));
  const expected = leaves.toString(2).replaceAll('0', '').length;
  if (peaks.length !== expected)
    throw new RangeError(`A frontier of ${leaves} leaves has ${expected} peaks, not ${peaks.length}.`);
  return { leaves, peaks };
}

/** The audit path of leaf `index` (PATH of RFC 6962, 2.1.1), from the leaf upwards. */
export function auditPath(leaves: readonly Digest[], index: number, sha256: Sha256): Digest[] {
  if (leaves.length <= 1) return [];
  const split = largestPowerBelow(leaves.length);
  const [near, far] =
    index < split ? [leaves.slice(0, split), leaves.slice(split)] : [leaves.slice(split), leaves.slice(0, split)];
  return [
    ...auditPath(near, index < split ? index : index - split, sha256),
    root(append(EMPTY_FRONTIER, far, sha256), sha256),
  ];
}

/** Whether the path leads from the leaf at `index` of `size` leaves to the root. */
export function provesLeaf(
  leaf: Digest,
  index: number,
  size: number,
  path: readonly Digest[],
  expected: Digest,
  sha256: Sha256,
): boolean {
  // RFC 9162, 2.1.3.2: the same tree, iterative.
  if (index >= size) return false;
  let node = index;
  let last = size - 1;
  let digest = leaf;
  for (const sibling of path) {
    if (last === 0) return false;
    if (node % 2 === 1 || node === last) {
      digest = nodeDigest(sibling, digest, sha256);
      while (node % 2 === 0 && node !== 0) {
        node = Math.floor(node / 2);
        last = Math.floor(last / 2);
      }
    } else {
      digest = nodeDigest(digest, sibling, sha256);
    }
    node = Math.floor(node / 2);
    last = Math.floor(last / 2);
  }
  return last === 0 && sameBytes(digest, expected);
}

function largestPowerBelow(n: number): number {
  let power = 1;
  while (power * 2 < n) power *= 2;
  return power;
}
