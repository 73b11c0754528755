/**
 * COSE envelopes: what parses is the one accepted form, so that sealing it again gives the same bytes; no digest depends
 * on the authenticator.
 */
import { nodeVerification } from '@countermark/node-platform/verification';
import { messageDigest, parseEnvelope, seal, unsealed } from '@countermark/protocol/cose';
import { mutateCbor } from '../cbor-tree.ts';
import { join, type Mutation } from '../mutation.ts';
import { ACCEPTED, must, mustEqual, type Target } from '../target.ts';
import { acceptedVectors, rejectedVectors } from '../vectors.ts';

/** The tag stays apart, so that a mutation of the tree does not fail at the first byte. */
export const mutateEnvelope: Mutation = (input, material) => {
  const { random } = material;
  const tag = random.once(12) ? Uint8Array.of(random.pick([0xd1, 0xd2, 0xd8, 0xc0, 0x84])) : input.subarray(0, 1);
  return join(tag, mutateCbor(input.subarray(1), material));
};

export const envelopeTarget: Target = {
  name: 'envelope',
  about: 'COSE_Sign1 and COSE_Mac0: one form only, seals again to the same bytes, digest without the authenticator',
  words: ['protocol'],
  maxBytes: 8_192,
  mutations: [mutateEnvelope],
  open: () => ({
    seeds: [...acceptedVectors(), ...rejectedVectors()].flatMap(({ input }) => input),
    run: (input) => {
      const result = parseEnvelope(input);
      if (!result.ok) return result.rejection.code;
      const { value } = result;
      mustEqual(seal(value, value.authenticator, value.certificates), input, 'seals to other bytes');
      const made = unsealed(value.authentication, value.type, value.version, value.key, value.payload);
      mustEqual(made.protectedHeader, value.protectedHeader, 'its header is not the one that this type and key have');
      const other = seal(
        value,
        value.authenticator.map((byte) => byte ^ 1),
      );
      const again = parseEnvelope(other);
      must(again.ok, 'another authenticator of the same length is no envelope');
      const digest = messageDigest(value, nodeVerification.sha256);
      mustEqual(messageDigest(again.value, nodeVerification.sha256), digest, 'the digest depends on the authenticator');
      return ACCEPTED;
    },
  }),
};
