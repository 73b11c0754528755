/**
 * The protocol's vectors: one at least for every message and for every rejection that a message can meet, each with the
 * check that decides it.
 *
 * `documents()` of tests/generators/vectors.ts writes them; vectors.test.ts and the stranger's verifier read them.
 */
import { nodeVerification, sha256 } from '@countermark/node-platform/verification';
import { equalMacs, hmacSha256 } from '@countermark/node-platform/signing';
import { concat } from '@countermark/protocol/bytes';
import { type CborValue, decode, encode } from '@countermark/protocol/cbor';
import { CARRIED_MAX, parseEnvelope, seal, toBeAuthenticated, unsealed } from '@countermark/protocol/cose';
import type { DeviceId } from '@countermark/protocol/id';
import { type MessageType, parsePayload } from '@countermark/protocol/message';
import { ATTESTATION } from '@countermark/protocol/messages/attestation';
import { BATCH_STATISTICS } from '@countermark/protocol/messages/batch-statistics';
import { MESSAGES } from '@countermark/protocol/messages/catalogue';
import { CONFIRMATION } from '@countermark/protocol/messages/confirmation';
import {
  DEVICE_CERTIFICATE,
  type DeviceCertificate,
  ENROLMENT_REQUEST,
} from '@countermark/protocol/messages/enrolment';
import { ROTATION_REQUEST } from '@countermark/protocol/messages/key-rotation';
import { DISCOUNT_GRANT } from '@countermark/protocol/messages/grant';
import { ROLE_CERTIFICATE } from '@countermark/protocol/messages/role-certificate';
import { mills } from '@countermark/protocol/money';
import type { Result } from '@countermark/protocol/result';
import { encodeWith } from '@countermark/protocol/schema';
import { verifyAttestedRecord } from '@countermark/verify/attested-record';
import { CHAIN_START, type ChainHead, judge } from '@countermark/verify/chain';
import { verifyRecord } from '@countermark/verify/record';
import { verifyRotationRequest } from '@countermark/verify/rotation-request';
import { trustedKeys } from '@countermark/verify/trust-bundle';
import { type Trust, verifyEnrolmentRequest, verifyMessage, type Verified } from '@countermark/verify/verified';
import { CODING_DEVICE, macKey, NOW_MS, SIGNING_DEVICE, testPublicKey, trustedRoleKeys, type World } from './world.ts';

/**
 * How a vector is checked. `cbor`: decode; `message`: verify by its type; `record`: verify by the device's procedure
 * without MAC keys; `coded-record`: with the MAC key; `attested`: record and attestation together; `chain`: records
 * one after the other into an empty chain; `certificate`: under the issuing key.
 */
export type Check = 'cbor' | 'message' | 'record' | 'coded-record' | 'attested' | 'chain';

export type Vector = {
  readonly name: string;
  readonly check: Check;
  /** For `message`: the type that is expected. */
  readonly type?: string;
  readonly input: readonly Uint8Array[];
  /** `accepted`, or the code of the rejection. */
  readonly outcome: string;
};

/** The trust of a stranger: role keys, and devices by their certificates. */
export function strangersTrust(certificates: readonly Uint8Array[]): Trust {
  const bundle = {
    keys: trustedRoleKeys(),
    agreementKey: testPublicKey('agreement'),
    sessionAuthority: Uint8Array.of(0x30, 0x00),
  };
  const roles: Trust = { port: nodeVerification, keys: trustedKeys(bundle) };
  const verified = certificates.map((certificate) => {
    const result = verifyMessage(DEVICE_CERTIFICATE, certificate, roles);
    if (!result.ok) throw new Error(`certificate: ${result.rejection.code}`);
    return result.value;
  });
  return { port: nodeVerification, keys: trustedKeys(bundle, verified) };
}

/** Runs a vector's check; the outcome is `accepted` or the code of the rejection. */
export function outcomeOf(vector: Vector, trust: Trust): string {
  const [first, second] = vector.input as readonly [Uint8Array, Uint8Array];
  const say = (result: Result<unknown>): string => (result.ok ? 'accepted' : result.rejection.code);
  switch (vector.check) {
    case 'cbor':
      return say(decode(first));
    case 'message': {
      const of = MESSAGES.find((message) => message.type === vector.type) as MessageType<unknown>;
      if (of.type === ENROLMENT_REQUEST.type) return say(verifyEnrolmentRequest(first, trust.port));
      if (of.type === ROTATION_REQUEST.type) return say(verifyRotationRequest(first, trust));
      return say(verifyMessage(of, first, trust));
    }
    case 'record':
      return say(verifyRecord(first, trust));
    case 'coded-record':
      return say(
        verifyRecord(first, {
          ...trust,
          macs: {
            verifyMac: (key, purpose, input, code) =>
              equalMacs(hmacSha256(macKey(key.holder as DeviceId, key.epoch, purpose), input), code),
          },
        }),
      );
    case 'attested':
      return say(verifyAttestedRecord(first, second, trust));
    case 'chain':
      return chainOutcome(vector.input, trust);
  }
}

function chainOutcome(records: readonly Uint8Array[], trust: Trust): string {
  let head: ChainHead = CHAIN_START;
  const accepted = new Map<number, Verified<unknown>['digest']>();
  let outcome = 'accepted';
  for (const bytes of records) {
    const record = verifyRecord(bytes, trust);
    if (!record.ok) return record.rejection.code;
    const verdict = judge(head, record.value, (sequence) => accepted.get(sequence) ?? null);
    outcome =
      verdict.outcome === 'rejected'
        ? verdict.rejection.code
        : verdict.outcome === 'continues'
          ? 'accepted'
          : verdict.outcome;
    if (verdict.outcome === 'continues') {
      head = verdict.head;
      accepted.set(head.sequence, head.digest);
    }
  }
  return outcome;
}

/** All vectors of a world. */
export function vectorsOf(world: World): Vector[] {
  const { records, attestations, confirmations, first } = world;
  const good: Vector[] = [
    { name: 'a record with a signature', check: 'record', input: [records.first.bytes], outcome: 'accepted' },
    { name: 'an incomplete record', check: 'record', input: [records.incomplete.bytes], outcome: 'accepted' },
    { name: 'a key rotation', check: 'record', input: [records.rotation.bytes], outcome: 'accepted' },
    {
      name: 'a record with a code, checked by who has the key',
      check: 'coded-record',
      input: [records.coded.bytes],
      outcome: 'accepted',
    },
    {
      name: 'a record and its attestation',
      check: 'attested',
      input: [records.first.bytes, attestations.first],
      outcome: 'accepted',
    },
    {
      name: 'a record with a code and its attestation',
      check: 'attested',
      input: [records.coded.bytes, attestations.coded],
      outcome: 'accepted',
    },
    {
      name: 'a key rotation and its attestation',
      check: 'attested',
      input: [records.rotation.bytes, attestations.rotation],
      outcome: 'accepted',
    },
    {
      name: 'a chain of three records',
      check: 'chain',
      input: [records.first.bytes, records.incomplete.bytes, records.rotation.bytes],
      outcome: 'accepted',
    },
    { name: 'a final statement', check: 'record', input: [records.finalStatement.bytes], outcome: 'accepted' },
    {
      name: 'a final statement and its attestation',
      check: 'attested',
      input: [records.finalStatement.bytes, attestations.finalStatement],
      outcome: 'accepted',
    },
    {
      name: 'a chain that has ended',
      check: 'chain',
      input: [records.first.bytes, records.finalStatement.bytes],
      outcome: 'accepted',
    },
    {
      name: 'a record that was accepted before',
      check: 'chain',
      input: [records.first.bytes, records.first.bytes],
      outcome: 'already-accepted',
    },
    message('confirmation', confirmations.first),
    message('attestation', attestations.first),
    message('enrolment-request', world.enrolmentRequest),
    message('rotation-request', world.rotationRequest),
    message('device-certificate', world.certificates.signing),
    message('funds-request', world.fundsRequest),
    message('funds-grant', world.fundsGrant),
    message('policy', world.policy),
    message('signed-time', world.signedTime),
    message('suspension', world.suspension),
    { ...message('suspension', world.suspensionAfter), name: 'a suspension that names the last record that stands' },
    { ...message('suspension', world.withdrawal), name: 'a suspension that is a withdrawal, for good' },
    message('discount-grant', world.discountGrant),
    message('credit-grant', world.creditGrant),
    message('role-certificate', world.roleCertificate('confirming', 2)),
    message('granting-certificate', world.grantingCertificate(2)),
  ];
  return [...good, ...codec(), ...altered(world), ...envelopes(world), ...rotated(world), ...chains(world, first)];
}

function message(type: string, bytes: Uint8Array): Vector {
  return { name: `a ${type}`, check: 'message', type, input: [bytes], outcome: 'accepted' };
}

function bytesOf(text: string): Uint8Array {
  return Uint8Array.from(Buffer.from(text, 'hex'));
}

function codec(): Vector[] {
  const of = (name: string, input: Uint8Array, outcome: string): Vector => ({
    name,
    check: 'cbor',
    input: [input],
    outcome,
  });
  return [
    of('CBOR: an integer longer than needed', bytesOf('1817'), 'cbor-not-deterministic'),
    of('CBOR: an indefinite list', bytesOf('9f01ff'), 'cbor-not-deterministic'),
    of('CBOR: map keys out of order', bytesOf('a202000100'), 'cbor-not-deterministic'),
    of('CBOR: a key twice', bytesOf('a201000100'), 'cbor-duplicate-key'),
    of('CBOR: a float', bytesOf('f93c00'), 'cbor-malformed'),
    of('CBOR: bytes after the item', bytesOf('0000'), 'cbor-malformed'),
    of('CBOR: nested too deep', bytesOf('81'.repeat(20) + '00'), 'cbor-too-deep'),
    of('CBOR: too large', concat([bytesOf('5a00040001'), new Uint8Array(0x40001)]), 'cbor-too-large'),
  ];
}

/** The last bit of the authenticator, and the last bit of the payload, of one message of each type. */
function altered(world: World): Vector[] {
  const authentic: [string, Uint8Array][] = [
    ['confirmation', world.confirmations.first],
    ['attestation', world.attestations.first],
    ['enrolment-request', world.enrolmentRequest],
    ['rotation-request', world.rotationRequest],
    ['device-certificate', world.certificates.signing],
    ['funds-request', world.fundsRequest],
    ['funds-grant', world.fundsGrant],
    ['policy', world.policy],
    ['signed-time', world.signedTime],
    ['suspension', world.suspension],
    ['discount-grant', world.discountGrant],
    ['credit-grant', world.creditGrant],
    ['batch-statistics', world.records.first.bytes],
    ['key-rotation', world.records.rotation.bytes],
    ['final-statement', world.records.finalStatement.bytes],
    ['role-certificate', world.roleCertificate('confirming', 2)],
    ['granting-certificate', world.grantingCertificate(2)],
  ];
  return authentic.flatMap(([type, bytes]): Vector[] => {
    const forged = flip(bytes, bytes.length - 1);
    const cut = bytes.subarray(0, bytes.length - 1);
    return [
      {
        name: `a ${type} whose authenticator has one bit changed`,
        check: 'message',
        type,
        input: [forged],
        outcome: 'bad-authenticator',
      },
      { name: `a ${type} cut off by a byte`, check: 'message', type, input: [cut], outcome: 'cbor-malformed' },
    ];
  });
}

function flip(bytes: Uint8Array, at: number): Uint8Array {
  const changed = Uint8Array.from(bytes);
  changed[at] = (changed[at] as number) ^ 1;
  return changed;
}

/** A payload altered under its old signature: one bit of a digest inside. */
function alteredPayload(bytes: Uint8Array): Uint8Array {
  const parsed = parseEnvelope(bytes);
  if (!parsed.ok) throw new Error('not an envelope');
  const payload = flip(parsed.value.payload, parsed.value.payload.length - 1);
  return seal({ ...parsed.value, payload }, parsed.value.authenticator);
}

function envelopes(world: World): Vector[] {
  const { records, attestations, confirmations } = world;
  const confirmation = {
    device: SIGNING_DEVICE,
    licensee: world.first.licensee,
    sequence: 1,
    digest: records.first.digest,
    confirmedAtMs: NOW_MS,
  };
  const signedAs = (
    type: string,
    version: number,
    holder: string,
    epoch: number,
    payload: Uint8Array,
    key = holder,
  ): Uint8Array => {
    const raw = unsealed('signature', type, version, { holder, epoch }, payload);
    return seal(raw, world.sign(key, toBeAuthenticated(raw)));
  };
  const payload = encodeWith(CONFIRMATION.schema, confirmation);
  const withUnknownField = encode(
    new Map<CborValue, CborValue>([
      [1, SIGNING_DEVICE],
      [2, world.first.licensee],
      [3, 1],
      [4, records.first.digest],
      [5, NOW_MS],
      [6, 0],
    ]),
  );
  const withBadField = encode(
    new Map<CborValue, CborValue>([
      [1, SIGNING_DEVICE],
      [2, world.first.licensee],
      [3, 0],
      [4, records.first.digest],
      [5, NOW_MS],
    ]),
  );
  const asConfirmation = (name: string, bytes: Uint8Array, outcome: string): Vector => ({
    name,
    check: 'message',
    type: 'confirmation',
    input: [bytes],
    outcome,
  });
  const stranger = 'psd_ffffffffffffffff' as DeviceId;
  const foreignRecord = world.byDevice(BATCH_STATISTICS, { ...world.first, device: stranger }, 'signature').bytes;
  const otherHolder = signedAs(
    'batch-statistics',
    1,
    SIGNING_DEVICE,
    1,
    encodeWith(BATCH_STATISTICS.schema, { ...world.first, device: stranger }),
    `${SIGNING_DEVICE}#1`,
  );
  const attestation = (changes: object): Uint8Array =>
    world.byRole(ATTESTATION, {
      device: SIGNING_DEVICE,
      licensee: world.first.licensee,
      sequence: 1,
      digest: records.first.digest,
      recordType: 'batch-statistics',
      authentication: 'signature',
      epoch: 1,
      attestedAtMs: NOW_MS,
      ...changes,
    });
  const mismatched = (name: string, changes: object): Vector => ({
    name,
    check: 'attested',
    input: [records.first.bytes, attestation(changes)],
    outcome: 'attestation-mismatch',
  });
  return [
    asConfirmation('an attestation in place of a confirmation', attestations.first, 'wrong-type'),
    asConfirmation(
      'the payload of a confirmation under the type of an attestation',
      signedAs('attestation', 1, 'attesting', 1, payload),
      'wrong-type',
    ),
    asConfirmation(
      'a confirmation of version 2',
      signedAs('confirmation', 2, 'confirming', 1, payload),
      'unsupported-version',
    ),
    asConfirmation(
      'a confirmation under an unknown epoch',
      signedAs('confirmation', 1, 'confirming', 2, payload, 'confirming'),
      'unknown-key',
    ),
    asConfirmation(
      'a confirmation signed with the attesting key',
      signedAs('confirmation', 1, 'confirming', 1, payload, 'attesting'),
      'bad-authenticator',
    ),
    asConfirmation(
      'a confirmation that names the attesting key',
      signedAs('confirmation', 1, 'attesting', 1, payload),
      'unknown-key',
    ),
    asConfirmation(
      'a confirmation with an unknown field',
      signedAs('confirmation', 1, 'confirming', 1, withUnknownField),
      'unknown-field',
    ),
    asConfirmation(
      'a confirmation for sequence 0',
      signedAs('confirmation', 1, 'confirming', 1, withBadField),
      'malformed',
    ),
    asConfirmation(
      'a confirmation with another payload under its signature',
      alteredPayload(confirmations.first),
      'bad-authenticator',
    ),
    asConfirmation('a confirmation without its tag', confirmations.first.subarray(1), 'envelope-malformed'),
    asConfirmation('nothing', new Uint8Array(0), 'envelope-malformed'),
    {
      name: 'a rotation request for the epoch that is in use',
      check: 'message',
      type: 'rotation-request',
      input: [world.badRotationRequests.sameEpoch],
      outcome: 'enrolment-mismatch',
    },
    {
      name: 'a rotation request that the new key has not signed',
      check: 'message',
      type: 'rotation-request',
      input: [world.badRotationRequests.notProven],
      outcome: 'bad-authenticator',
    },
    {
      name: 'a record of version 2',
      check: 'record',
      input: [signedAs('batch-statistics', 2, SIGNING_DEVICE, 1, Uint8Array.of(0xa0), `${SIGNING_DEVICE}#1`)],
      outcome: 'unsupported-version',
    },
    { name: 'a record of an unknown device', check: 'record', input: [foreignRecord], outcome: 'unknown-device' },
    {
      name: 'a record that names another device than its key',
      check: 'record',
      input: [otherHolder],
      outcome: 'wrong-device',
    },
    {
      name: 'a record with another payload under its signature',
      check: 'record',
      input: [alteredPayload(records.first.bytes)],
      outcome: 'bad-authenticator',
    },
    {
      name: 'a record with a code, checked without the key',
      check: 'record',
      input: [records.coded.bytes],
      outcome: 'mac-needs-attestation',
    },
    {
      name: 'a record with an altered code',
      check: 'coded-record',
      input: [flip(records.coded.bytes, records.coded.bytes.length - 1)],
      outcome: 'bad-authenticator',
    },
    {
      name: 'a signed record of a device that is enrolled with a code',
      check: 'record',
      input: [world.byDevice(BATCH_STATISTICS, world.coded, 'signature').bytes],
      outcome: 'wrong-algorithm',
    },
    {
      name: 'a coded record of a device that is enrolled with a signature',
      check: 'coded-record',
      input: [world.byDevice(BATCH_STATISTICS, world.first, 'mac').bytes],
      outcome: 'wrong-algorithm',
    },
    mismatched('an attestation of another digest', { digest: records.coded.digest }),
    mismatched('an attestation of another sequence', { sequence: 2 }),
    mismatched('an attestation of another device', { device: CODING_DEVICE }),
    mismatched('an attestation of another procedure', { authentication: 'mac' }),
    mismatched('an attestation of another epoch', { epoch: 2 }),
    {
      name: 'a coded record with another payload under its attestation',
      check: 'attested',
      input: [alteredPayload(records.coded.bytes), attestations.coded],
      outcome: 'attestation-mismatch',
    },
    {
      name: 'a record with an altered attestation',
      check: 'attested',
      input: [records.first.bytes, flip(attestations.first, attestations.first.length - 1)],
      outcome: 'bad-authenticator',
    },
    {
      name: 'an altered record with its attestation',
      check: 'attested',
      input: [flip(records.first.bytes, records.first.bytes.length - 1), attestations.first],
      outcome: 'bad-authenticator',
    },
  ];
}

/** Messages by later keys of roles, with the certificates that lead there, and with such as do not. */
function rotated(world: World): Vector[] {
  const { first, records, roleCertificate, byLaterKey } = world;
  const confirmation = {
    device: SIGNING_DEVICE,
    licensee: first.licensee,
    sequence: 1,
    digest: records.first.digest,
    confirmedAtMs: NOW_MS,
  };
  const confirmed = (
    name: string,
    outcome: string,
    certificates: readonly Uint8Array[],
    epoch = 2,
    key = `confirming#${epoch}`,
  ): Vector => ({
    name: `a confirmation ${name}`,
    check: 'message',
    type: 'confirmation',
    input: [byLaterKey(CONFIRMATION, confirmation, epoch, certificates, key)],
    outcome,
  });
  const second = roleCertificate('confirming', 2);
  const issuing = roleCertificate('issuing', 2);
  const third = roleCertificate('confirming', 3, 2);
  const unknownIssuing = roleCertificate('issuing', 5, 4);
  const nested = byLaterKey(
    ROLE_CERTIFICATE,
    { role: 'confirming', epoch: 3, publicKey: testPublicKey('confirming#3'), issuedAtMs: NOW_MS },
    2,
    [Uint8Array.of(0)],
  );
  const attested = byLaterKey(
    ATTESTATION,
    {
      device: SIGNING_DEVICE,
      licensee: first.licensee,
      sequence: 1,
      digest: records.first.digest,
      recordType: 'batch-statistics',
      authentication: 'signature',
      epoch: 1,
      attestedAtMs: NOW_MS,
    },
    2,
    [roleCertificate('attesting', 2)],
  );
  const { grantingCertificate } = world;
  const granted = (
    name: string,
    outcome: string,
    certificates: readonly Uint8Array[],
    epoch = 2,
    key = `granting#${epoch}`,
  ): Vector => ({
    name: `a discount-grant ${name}`,
    check: 'message',
    type: 'discount-grant',
    input: [byLaterKey(DISCOUNT_GRANT, world.discount, epoch, certificates, key)],
    outcome,
  });
  const granting = grantingCertificate(2);
  const certified = byLaterKey(DEVICE_CERTIFICATE, deviceCertificateOf(world), 2, [issuing]);
  const record = parseEnvelope(records.first.bytes);
  if (!record.ok) throw new Error('not an envelope');
  return [
    confirmed("by its role's second key", 'accepted', [second]),
    confirmed('by a key that a second issuing key certified', 'accepted', [issuing, third], 3),
    confirmed('with a certificate before those that lead to its key', 'accepted', [unknownIssuing, issuing, third], 3),
    confirmed('by the first key, with the certificate of the second', 'accepted', [second], 1, 'confirming'),
    {
      name: 'a record and an attestation by a second key',
      check: 'attested',
      input: [records.first.bytes, attested],
      outcome: 'accepted',
    },
    { ...message('device-certificate', certified), name: 'a device-certificate by a second issuing key' },
    confirmed('by a second key, without its certificate', 'unknown-key', []),
    confirmed('with the certificate of another role', 'unknown-key', [
      roleCertificate('attesting', 2, 1, 'confirming#2'),
    ]),
    confirmed('with the certificate of another epoch', 'unknown-key', [
      roleCertificate('confirming', 3, 1, 'confirming#2'),
    ]),
    confirmed('by another key than is certified', 'bad-authenticator', [
      roleCertificate('confirming', 2, 1, 'policy#2'),
    ]),
    confirmed('with a certificate that the issuing key did not sign', 'unknown-key', [
      roleCertificate('confirming', 2, 1, 'confirming#2', 'confirming'),
    ]),
    confirmed('with a certificate of which one bit is changed', 'unknown-key', [flip(second, second.length - 1)]),
    confirmed('whose certificate is by an issuing key that nobody certified', 'unknown-key', [third], 3),
    confirmed('whose certificates do not end with that of its key', 'unknown-key', [second, issuing]),
    confirmed('with certificates in the wrong order', 'unknown-key', [third, issuing], 3),
    confirmed(
      'by a key that an issuing key certified which certified itself',
      'unknown-key',
      [roleCertificate('issuing', 2, 2), third],
      3,
    ),
    confirmed(
      'by a key that an issuing key of an earlier epoch certified by a later one',
      'unknown-key',
      [
        issuing,
        roleCertificate('issuing', 3, 2),
        roleCertificate('issuing', 2, 3, 'issuing#4'),
        roleCertificate('confirming', 3, 2, 'confirming#3', 'issuing#4'),
      ],
      3,
    ),
    confirmed('whose certificate carries something itself', 'unknown-key', [issuing, nested], 3),
    confirmed(
      'with more certificates than there may be',
      'envelope-malformed',
      Array.from({ length: CARRIED_MAX + 1 }, () => second),
    ),
    granted('by the second granting key', 'accepted', [granting]),
    granted('by the third, which the second certified', 'accepted', [granting, grantingCertificate(3, 2)], 3),
    granted('by the second granting key, without its certificate', 'unknown-key', []),
    granted('by a granting key that the issuing key certified', 'unknown-key', [
      grantingCertificate(2, 1, 'granting#2', 'issuing'),
    ]),
    granted('beside the certificate of a role', 'unknown-key', [second]),
    granted('by a granting key that certified itself', 'unknown-key', [grantingCertificate(2, 2)]),
    granted('with certificates in the wrong order', 'unknown-key', [grantingCertificate(3, 2), granting], 3),
    granted('by another key than is certified', 'bad-authenticator', [granting], 2, 'policy#2'),
    confirmed('by a key that the granting key certified', 'unknown-key', [grantingCertificate(2, 1, 'confirming#2')]),
    {
      name: 'a record with a role certificate beside it',
      check: 'record',
      input: [seal(record.value, record.value.authenticator, [second])],
      outcome: 'envelope-malformed',
    },
  ];
}

/** The content of a device certificate of the world. */
function deviceCertificateOf(world: World): DeviceCertificate {
  const envelope = parseEnvelope(world.certificates.signing);
  const parsed = envelope.ok ? parsePayload(DEVICE_CERTIFICATE, envelope.value) : envelope;
  if (!parsed.ok) throw new Error('not a device certificate');
  return parsed.value;
}

function chains(world: World, first: World['first']): Vector[] {
  const { records } = world;
  const bySigning = (value: World['first'], epoch = 1): Uint8Array =>
    world.byDevice(BATCH_STATISTICS, value, 'signature', epoch).bytes;
  const chain = (name: string, input: readonly Uint8Array[], outcome: string): Vector => ({
    name,
    check: 'chain',
    input,
    outcome,
  });
  const second = { ...first, sequence: 2, previous: records.first.digest };
  const other = { ...first, declaration: { ...first.declaration, preparer: 'another' } };
  const observed = (changes: object): World['first'] => ({ ...first, observed: { ...first.observed, ...changes } });
  return [
    chain('two different records for one sequence', [records.first.bytes, bySigning(other)], 'fork'),
    chain(
      'a record whose previous digest is another',
      [records.first.bytes, bySigning({ ...second, previous: records.coded.digest })],
      'fork',
    ),
    chain('a record before its predecessor', [records.incomplete.bytes], 'out-of-order'),
    chain('registers that do not continue', [records.first.bytes, bySigning(second)], 'inconsistent'),
    chain(
      'cells that are not what was debited',
      [bySigning(observed({ spoiledPostageMills: mills(741n) }))],
      'inconsistent',
    ),
    chain('a piece count that is not the counter', [bySigning(observed({ pieces: 4 }))], 'inconsistent'),
    chain(
      'funds that do not balance',
      [bySigning(observed({ funds: { ...first.observed.funds, receivedMills: mills(10_000_001n) } }))],
      'inconsistent',
    ),
    chain('cells out of order', [bySigning(observed({ cells: [...first.observed.cells].reverse() }))], 'inconsistent'),
    chain(
      'a scheme that is not known',
      [bySigning({ ...first, declaration: { ...first.declaration, scheme: 2 } })],
      'unsupported-version',
    ),
    chain(
      'a record under the old key after a rotation',
      [
        records.first.bytes,
        records.incomplete.bytes,
        records.rotation.bytes,
        bySigning({ ...first, sequence: 4, previous: records.rotation.digest }),
      ],
      'superseded-key',
    ),
    chain(
      'a record after the final statement',
      [
        records.first.bytes,
        records.finalStatement.bytes,
        bySigning({ ...first, sequence: 3, previous: records.finalStatement.digest }),
      ],
      'chain-ended',
    ),
    chain(
      'a record in the place of the final statement',
      [records.first.bytes, records.finalStatement.bytes, records.incomplete.bytes],
      'fork',
    ),
  ];
}

/** The digest of an envelope, in hex; absent for what is none. */
export function envelopeFacts(
  bytes: Uint8Array,
): { toBeAuthenticated: string; digest: string; authenticator: string } | null {
  const parsed = parseEnvelope(bytes);
  if (!parsed.ok) return null;
  const { value } = parsed;
  return {
    toBeAuthenticated: Buffer.from(toBeAuthenticated(value)).toString('hex'),
    digest: Buffer.from(sha256(encode(['Digest', value.protectedHeader, value.payload]))).toString('hex'),
    authenticator: Buffer.from(value.authenticator).toString('hex'),
  };
}
