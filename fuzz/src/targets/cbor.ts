/**
 * The strict CBOR decoder, judged both ways: what it accepts is exactly what this workspace's own reading calls one
 * deterministic item, and encodes to the same bytes again.
 */
import { decode, encode, MESSAGE_LIMITS } from '@countermark/protocol/cbor';
import { containers, mutateCbor, strictDefect } from '../cbor-tree.ts';
import { ACCEPTED, must, mustEqual, type Target } from '../target.ts';
import { acceptedVectors, rejectedVectors } from '../vectors.ts';

const CODES = new Set([
  'cbor-too-large',
  'cbor-too-deep',
  'cbor-duplicate-key',
  'cbor-malformed',
  'cbor-not-deterministic',
]);

export const cborTarget: Target = {
  name: 'cbor',
  about:
    'CBOR decoder: accepts exactly the deterministic encoding, as a second reader sees it; encodes to the same bytes',
  words: ['protocol', 'library'],
  maxBytes: 8_192,
  mutations: [mutateCbor],
  open: () => ({
    seeds: [...acceptedVectors(), ...rejectedVectors()]
      .flatMap(({ check, input }) => input.map((bytes) => (check === 'cbor' ? bytes : bytes.subarray(1))))
      .filter((bytes) => bytes.length <= 8_192),
    run: (input) => {
      const result = decode(input);
      const defect = strictDefect(input, MESSAGE_LIMITS.maxDepth);
      if (!result.ok) {
        const { code } = result.rejection;
        must(CODES.has(code), `a code of another place: ${code}`);
        must(defect !== null || containers(input) > 4_096, `refused as ${code} what is one deterministic item`);
        return code;
      }
      must(defect === null, `accepted although ${defect ?? ''}`);
      mustEqual(encode(result.value), input, 'encodes to other bytes');
      return ACCEPTED;
    },
  }),
};
