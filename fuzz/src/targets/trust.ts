/**
 * Trust: the bundle's JSON, and what is believed under it.
 *
 * `trust-bundle`: what parses is formatted and parsed to the same keys, each once. `authentic`: of all inputs only the
 * published messages themselves verify, with their own authenticator or, for a signature, its other form (r, n - s), which
 * changes neither digest nor content. `chain`: no statistics, whatever their amounts, make the judgement of a chain fail
 * otherwise than by a rejection, and what continues a chain balances.
 */
import { equalMacs, hmacSha256 } from '@countermark/node-platform/signing';
import { nodeVerification } from '@countermark/node-platform/verification';
import { messageDigest, parseEnvelope, seal, type Envelope } from '@countermark/protocol/cose';
import { type Digest, digestText } from '@countermark/protocol/digest';
import { BATCH_STATISTICS, batchStatisticsSchema } from '@countermark/protocol/messages/batch-statistics';
import { MESSAGES } from '@countermark/protocol/messages/catalogue';
import { DEVICE_CERTIFICATE, ENROLMENT_REQUEST } from '@countermark/protocol/messages/enrolment';
import { balanced } from '@countermark/protocol/registers';
import { parseBytes } from '@countermark/protocol/schema';
import { verifyAttestedRecord } from '@countermark/verify/attested-record';
import { CHAIN_START, judge } from '@countermark/verify/chain';
import { type VerifiedRecord, verifyRecord } from '@countermark/verify/record';
import { formatTrustBundle, parseTrustBundle, trustedKeys } from '@countermark/verify/trust-bundle';
import { type Trust, verifyEnrolmentRequest, verifyMessage } from '@countermark/verify/verified';
import { mutateCbor } from '../cbor-tree.ts';
import { mutateJson } from '../json-tree.ts';
import { join, type Mutation } from '../mutation.ts';
import { ACCEPTED, must, mustEqual, type Target } from '../target.ts';
import { acceptedVectors, bytesOf, deviceCertificates, macKeys, rejectedVectors, vectorText } from '../vectors.ts';
import { mutateEnvelope } from './envelope.ts';

const RECORD_TYPES: ReadonlySet<string> = new Set(['batch-statistics', 'key-rotation', 'final-statement']);

export const trustBundleTarget: Target = {
  name: 'trust-bundle',
  about: 'JSON of the trust bundle: formatted and parsed again it has the same keys, each role and epoch once',
  words: ['verify', 'protocol'],
  maxBytes: 16_384,
  mutations: [mutateJson],
  open: () => ({
    seeds: [Uint8Array.from(Buffer.from(vectorText('trust-bundle.json')))],
    run: (input) => {
      const parsed = parseTrustBundle(Buffer.from(input).toString());
      if (!parsed.ok) return parsed.rejection.code;
      const { value } = parsed;
      const names = value.keys.map(({ role, epoch }) => `${role}#${epoch}`);
      must(new Set(names).size === names.length, 'a key twice');
      must(
        value.keys.every(({ epoch, publicKey }) => Number.isSafeInteger(epoch) && epoch > 0 && publicKey.length === 65),
        'a key of a wrong form',
      );
      const text = formatTrustBundle(value);
      const again = parseTrustBundle(text);
      must(again.ok && formatTrustBundle(again.value) === text, 'formatted, it is another bundle');
      return ACCEPTED;
    },
  }),
};

/** Order of the group of P-256 (SEC 2, 2.4.2). */
const ORDER = 0xffff_ffff_0000_0000_ffff_ffff_ffff_ffff_bce6_faad_a717_9e84_f3b9_cac2_fc63_2551n;

/** The other signature over the same: (r, n - s). */
function otherForm(signature: Uint8Array): Uint8Array {
  const s = BigInt(`0x${Buffer.from(signature.subarray(32)).toString('hex')}`);
  const other = (ORDER - (s % ORDER)).toString(16).padStart(64, '0');
  return join(signature.subarray(0, 32), bytesOf(other));
}

/** Also exchanges header, payload or authenticator with another message, and takes the other form of a signature. */
const mutateMessage: Mutation = (input, material) => {
  const own = parseEnvelope(input);
  const other = parseEnvelope(material.other());
  if (!own.ok || !other.ok) return mutateEnvelope(input, material);
  const one = own.value;
  const changed: Envelope = material.random.pick([
    () => ({ ...one, payload: other.value.payload }),
    () => ({ ...one, certificates: other.value.certificates }),
    () => ({ ...one, protectedHeader: other.value.protectedHeader }),
    () => ({ ...other.value, authenticator: one.authenticator }),
    () => ({
      ...one,
      authenticator: one.authentication === 'signature' ? otherForm(one.authenticator) : one.authenticator,
    }),
    () => ({ ...one, payload: mutateCbor(one.payload, material) }),
    () => ({ ...one, protectedHeader: mutateCbor(one.protectedHeader, material) }),
  ])();
  const length = changed.authentication === 'signature' ? 64 : 32;
  return seal(changed, join(changed.authenticator, new Uint8Array(64)).slice(0, length), changed.certificates);
};

function vectorsTrust(): Trust {
  const bundle = parseTrustBundle(vectorText('trust-bundle.json'));
  must(bundle.ok, 'the trust bundle of the vectors does not parse');
  const roles: Trust = { port: nodeVerification, keys: trustedKeys(bundle.value) };
  const certificates = deviceCertificates().map((bytes) => {
    const verified = verifyMessage(DEVICE_CERTIFICATE, bytes, roles);
    must(verified.ok, 'a certificate of the vectors does not verify');
    return verified.value;
  });
  const { device, epoch, statistics } = macKeys() as { device: string; epoch: number; statistics: string };
  return {
    port: nodeVerification,
    keys: trustedKeys(bundle.value, certificates),
    macs: {
      verifyMac: (key, purpose, input, code) =>
        key.holder === device &&
        key.epoch === epoch &&
        purpose === 'statistics' &&
        equalMacs(hmacSha256(bytesOf(statistics), input), code),
    },
  };
}

/** Verifies as whoever receives such a message does. */
function verify(envelope: Envelope, bytes: Uint8Array, trust: Trust) {
  if (envelope.type === ENROLMENT_REQUEST.type) return verifyEnrolmentRequest(bytes, trust.port);
  if (RECORD_TYPES.has(envelope.type)) return verifyRecord(bytes, trust);
  const of = MESSAGES.find(({ type }) => type === envelope.type) ?? BATCH_STATISTICS;
  return verifyMessage(of, bytes, trust);
}

export const authenticTarget: Target = {
  name: 'authentic',
  about: 'verification: nothing but the published messages verifies; (r, n - s) keeps digest and content',
  words: ['protocol'],
  maxBytes: 8_192,
  mutations: [mutateEnvelope, mutateMessage, mutateMessage],
  open: () => {
    const trust = vectorsTrust();
    const vectors = [...acceptedVectors(), ...rejectedVectors()].filter(({ check }) => check !== 'cbor');
    const genuine = new Map<string, Set<string>>();
    const attestations: Uint8Array[] = [];
    const seeds = vectors.flatMap(({ input }) => input);
    for (const bytes of seeds) {
      const envelope = parseEnvelope(bytes);
      // What verifies before anything was changed is genuine, the wrong attestations of the vectors included: they are signed.
      if (!envelope.ok || !verify(envelope.value, bytes, trust).ok) continue;
      const { value } = envelope;
      const of = digestText(messageDigest(value, nodeVerification.sha256));
      const known = genuine.get(of) ?? new Set<string>();
      genuine.set(of, known.add(digestText(value.authenticator)));
      if (value.authentication === 'signature') known.add(digestText(otherForm(value.authenticator)));
      if (value.type === 'attestation') attestations.push(bytes);
    }
    must(genuine.size >= 15, 'the vectors hold fewer genuine messages than messages there are');
    return {
      seeds,
      run: (input) => {
        const envelope = parseEnvelope(input);
        if (!envelope.ok) return envelope.rejection.code;
        const verified = verify(envelope.value, input, trust);
        const digest = messageDigest(envelope.value, nodeVerification.sha256);
        const known = genuine.get(digestText(digest));
        if (verified.ok) {
          must(known !== undefined, 'a message verifies that nobody authenticated');
          must(known.has(digestText(envelope.value.authenticator)), 'another authenticator verifies');
          const of = 'verified' in verified.value ? verified.value.verified : verified.value;
          mustEqual(of.digest, digest, 'the digest depends on the authenticator');
        }
        if (envelope.value.type === 'batch-statistics') {
          for (const attestation of attestations.slice(0, 2)) {
            const attested = verifyAttestedRecord(input, attestation, { port: trust.port, keys: trust.keys });
            must(!attested.ok || known !== undefined, 'an attestation covers a record that nobody authenticated');
          }
        }
        return verified.ok ? ACCEPTED : verified.rejection.code;
      },
    };
  },
};

export const chainTarget: Target = {
  name: 'chain',
  about: 'statistics with any amounts against the start of a chain: judged without a fault; what continues it balances',
  words: ['protocol'],
  maxBytes: 8_192,
  mutations: [mutateCbor],
  open: () => ({
    seeds: [...acceptedVectors(), ...rejectedVectors()].flatMap(({ input }) =>
      input.flatMap((bytes) => {
        const envelope = parseEnvelope(bytes);
        return envelope.ok && envelope.value.type === 'batch-statistics' ? [envelope.value.payload] : [];
      }),
    ),
    run: (input) => {
      const parsed = parseBytes(batchStatisticsSchema, input);
      if (!parsed.ok) return parsed.rejection.code;
      const message = parsed.value;
      const key = { holder: message.device, epoch: message.observed.epoch };
      const digest = nodeVerification.sha256(input) as Digest;
      const record = { type: 'batch-statistics', verified: { message, envelope: { key }, digest } };
      const verdict = judge(CHAIN_START, record as unknown as VerifiedRecord, () => null);
      if (verdict.outcome === 'rejected') return verdict.rejection.code;
      must(verdict.outcome === 'continues', 'it was accepted before, in an empty chain');
      const { registers, funds } = verdict.head;
      must(balanced(registers, funds), 'a head that does not balance');
      must(registers.ascendingMills <= funds.receivedMills, 'more was franked than received');
      return ACCEPTED;
    },
  }),
};
