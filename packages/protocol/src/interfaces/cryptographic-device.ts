/**
 * The local interface of the cryptographic device: what the server may ask of it, and what it asks of the server.
 *
 * It never signs on the server's word alone: a confirmation needs record and attestation again, a certificate needs
 * the device's own request, funds the device's own request. Keys of its roles it rotates when it is asked to, but seldom.
 */
import { CARRIED_BYTES } from '../cose.ts';
import { ceremonyId, deviceId, digest, licenseeId } from '../fields.ts';
import { CERTIFIED_ROLES, ROLE_EPOCHS_MAX, ROTATED_KEYS } from '../message.ts';
import { drawSchema } from '../messages/funds.ts';
import { bool, bytes, field, list, millsSchema, oneOf, optional, struct, text, uint } from '../schema.ts';
import { answerSchema, MAX_RECORD_BYTES, MAX_SUBMISSION, rejectionSchema } from './answer.ts';
import { operation } from './operation.ts';

const record = bytes(1, MAX_RECORD_BYTES);
const message = bytes(1, 65_536);
const certificateRequest = bytes(1, 2_048);
const nothing = struct('nothing', {});

export const CRYPTOGRAPHIC_DEVICE = {
  /** Public keys by role, of every epoch in order, the agreement key and the session's authority (DER) in use: what a trust bundle is made of. */
  publicKeys: operation(
    'public-keys',
    nothing,
    struct('public-keys', {
      keys: field(
        1,
        list(
          struct('role-key', {
            role: field(1, oneOf(...CERTIFIED_ROLES)),
            epoch: field(2, uint(ROLE_EPOCHS_MAX, 1)),
            publicKey: field(3, bytes(65)),
          }),
          CERTIFIED_ROLES.length * ROLE_EPOCHS_MAX,
        ),
      ),
      agreementKey: field(2, bytes(65)),
      sessionAuthority: field(3, bytes(1, 2_048)),
      /** Of every key that is not a role's first, in the order in which they were made. */
      certificates: field(4, list(bytes(1, CARRIED_BYTES), ROTATED_KEYS.length * ROLE_EPOCHS_MAX)),
    }),
  ),
  /**
   * Verifies the request and issues the certificate. The device's key is thereby registered in the device's own store. `known`: answers
   * only for keys that it has certified before, and for rotations. `certificateRequest`: that for the X.509 certificate of the same key,
   * which must bear `codeDigest` where that is given; nothing is certified where it does not.
   */
  enrol: operation(
    'enrol',
    struct('enrol', {
      request: field(1, record),
      licensee: field(2, licenseeId),
      certified: field(3, bool),
      known: optional(4, bool),
      certificateRequest: optional(5, certificateRequest),
      codeDigest: optional(6, digest),
    }),
    struct('enrolled', { certificate: field(1, message) }),
  ),
  /**
   * An X.509 certificate (DER) for a certified signature key, by a PKCS#10 request that this key signed; and who issued it. `chain` leads from
   * older authorities to that one: each is certified by the one before it, the newest first. Which products it
   * names is said by `policy`, which this device has signed for that one.
   */
  identify: operation(
    'identify',
    struct('identify', { request: field(1, certificateRequest), policy: field(2, message) }),
    struct('identified', {
      certificate: field(1, bytes(1, 32_768)),
      authority: field(2, bytes(1, 2_048)),
      chain: field(3, list(bytes(1, 2_048), ROLE_EPOCHS_MAX)),
    }),
  ),
  /** Claim 1e: authenticates each record and attests it. */
  authenticate: operation(
    'authenticate',
    struct('authenticate', { records: field(1, list(record, MAX_SUBMISSION, 1)) }),
    struct('authenticated', {
      results: field(
        1,
        list(
          struct('authentication', { attestation: optional(1, message), rejection: optional(2, rejectionSchema) }),
          MAX_SUBMISSION,
        ),
      ),
    }),
  ),
  /** Confirms records that the server holds durably, given record and attestation again. */
  confirm: operation(
    'confirm',
    struct('confirm-items', {
      items: field(
        1,
        list(struct('confirm-item', { record: field(1, record), attestation: field(2, message) }), MAX_SUBMISSION, 1),
      ),
    }),
    struct('confirmed-items', {
      results: field(
        1,
        list(
          struct('confirm-result', { confirmation: optional(1, message), rejection: optional(2, rejectionSchema) }),
          MAX_SUBMISSION,
        ),
      ),
    }),
  ),
  /** Grants funds for an authentic request: from the deposit, and drawn credits. `refusal` makes it a grant of zero. */
  fund: operation(
    'fund',
    struct('fund', {
      request: field(1, record),
      depositMills: field(2, millsSchema),
      draws: field(3, list(drawSchema, 1_000)),
      refusal: optional(4, text(200)),
    }),
    struct('funded', { grant: field(1, message) }),
  ),
  /** Signs a policy; `policy` is the deterministic CBOR of its schema, unsigned. */
  signPolicy: operation(
    'sign-policy',
    struct('sign-policy', { policy: field(1, message) }),
    struct('signed-policy', { policy: field(1, message) }),
  ),
  signTime: operation(
    'sign-time',
    struct('sign-time', { device: field(1, deviceId) }),
    struct('signed-time-answer', { time: field(1, message) }),
  ),
  suspend: operation(
    'suspend',
    struct('suspend', {
      device: field(1, deviceId),
      licensee: field(2, licenseeId),
      suspended: field(3, bool),
      reason: field(4, text(200)),
      /** True: for good. Signed once; the same bytes at every repeat. */
      withdrawn: optional(5, bool),
      /** The last record that stands, with its attestation; absent: none does. */
      last: optional(6, struct('last-standing', { record: field(1, message), attestation: field(2, message) })),
    }),
    struct('suspended', { suspension: field(1, message) }),
  ),
  /**
   * Gives a role its next key, once for a ceremony, and at most once an hour: uses it from now on, and answers its certificate, the
   * same however often it is asked.
   */
  rotateRoleKey: operation(
    'rotate-role-key',
    struct('rotate-role-key', { role: field(1, oneOf(...ROTATED_KEYS)), ceremony: field(2, ceremonyId) }),
    struct('rotated-role-key', { certificate: field(1, bytes(1, CARRIED_BYTES)) }),
  ),
  /** Takes no session any more with the keys of the device that are certified by now. `epoch`: of the last of them. */
  revokeSessions: operation(
    'revoke-sessions',
    struct('revoke-sessions', { device: field(1, deviceId), licensee: field(2, licenseeId) }),
    struct('revoked-sessions', { epoch: field(1, uint(65_535, 1)) }),
  ),
} as const;

/** What the cryptographic device asks of the server, out of a session (design, 2.7), on the server's acceptance socket. */
export const ACCEPTANCE = {
  accept: operation(
    'accept',
    struct('accept', {
      session: field(1, text(64)),
      device: field(2, deviceId),
      items: field(
        3,
        list(struct('accept-item', { record: field(1, record), attestation: field(2, message) }), MAX_SUBMISSION, 1),
      ),
    }),
    struct('accept-answers', { answers: field(1, list(answerSchema, MAX_SUBMISSION)) }),
  ),
} as const;
