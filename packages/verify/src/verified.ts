/**
 * `Verified<T>`: a message whose authenticator was checked against a key that the verifier trusts, and whose payload
 * then parsed strictly. Nothing else in the product makes one.
 *
 * Order: bounds and envelope; type and version; key; algorithm; authenticator; payload; holder. The payload is not
 * parsed before its authenticator is verified.
 * Does not say that a record continues its chain (`chain.ts`) or agrees with itself (`statistics.ts`).
 */
import {
  type Authentication,
  type Envelope,
  type KeyId,
  keyIdText,
  messageDigest,
  parseEnvelope,
  toBeAuthenticated,
} from '@countermark/protocol/cose';
import type { Digest } from '@countermark/protocol/digest';
import { checkType, type MessageType, parsePayload } from '@countermark/protocol/message';
import { type EnrolmentRequest, ENROLMENT_REQUEST } from '@countermark/protocol/messages/enrolment';
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { certifiedRoleKey, type CertifyingKeys } from './role-certificate.ts';
import type { MacPort, VerificationPort } from './verification-port.ts';

declare const mark: unique symbol;

export type Verified<T> = {
  readonly message: T;
  readonly envelope: Envelope;
  /** The exact bytes that were verified: what is stored and carried. */
  readonly bytes: Uint8Array;
  readonly digest: Digest;
  readonly [mark]: true;
};

/** What a verifier knows of a key: its public part, and for a device which procedure it is enrolled with. */
export type KnownKey = { readonly publicKey: Uint8Array; readonly authentication: Authentication };

/** Finds the key of an id, or says that none is known. */
export type KeySource = (key: KeyId) => KnownKey | null;

/** What verification stands on. `macs` only where MAC keys are held behind a port. */
export type Trust = { readonly port: VerificationPort; readonly keys: KeySource; readonly macs?: MacPort };

function make<T>(message: T, envelope: Envelope, bytes: Uint8Array, port: VerificationPort): Verified<T> {
  return { message, envelope, bytes, digest: messageDigest(envelope, port.sha256) } as Verified<T>;
}

/**
 * The key of a role: by the certificates that the message carries, else from the trust bundle. Certificates come first, because a
 * cryptographic device that was restored may certify another key for an epoch that a bundle has already.
 */
function roleKey(envelope: Envelope, { port, keys }: Pick<Trust, 'port' | 'keys'>): KnownKey | null {
  if (envelope.certificates.length === 0) return keys(envelope.key);
  const trusted: CertifyingKeys = (holder, epoch) => keys({ holder, epoch })?.publicKey ?? null;
  const publicKey = certifiedRoleKey(envelope, trusted, port);
  return publicKey === null ? keys(envelope.key) : { publicKey, authentication: 'signature' };
}

/** What is to be checked before a message is believed. */
export type AuthenticatorCheck = {
  readonly key: KeyId;
  readonly known: KnownKey;
  /** By which procedure; for a device the one that it is enrolled with. */
  readonly authentication: Authentication;
  /** The exact bytes that signature or code were made over. */
  readonly input: () => Uint8Array;
  readonly authenticator: Uint8Array;
};

/** A message up to its authenticator: what to check, by whatever means, and what follows from the answer. */
export type Opened<T> = {
  readonly check: AuthenticatorCheck;
  readonly finish: (authentic: boolean) => Result<Verified<T>>;
};

/**
 * The first half of {@link verifyMessage}, for verifiers whose port is asynchronous (an HSM, threads): all that is done
 * before the authenticator is checked. The payload is parsed in `finish`, after the check.
 */
export function openMessage<T>(
  of: MessageType<T>,
  bytes: Uint8Array,
  parsed: Result<Envelope>,
  trust: Pick<Trust, 'port' | 'keys'>,
  required: 'signature' | 'enrolled',
): Result<Opened<T>> {
  if (!parsed.ok) return parsed;
  const envelope = parsed.value;
  const wrong = checkType(of, envelope);
  if (wrong !== null) return refuse(wrong);
  const byDevice = of.authenticatedBy === 'device';
  const { holder, epoch } = envelope.key;
  // A role's key must not authenticate another role's message, whatever the header claims.
  if (!byDevice && holder !== of.authenticatedBy) return refuse(rejection('unknown-key', { holder, epoch }));
  const known = byDevice ? trust.keys(envelope.key) : roleKey(envelope, trust);
  if (known === null) {
    return refuse(
      byDevice
        ? rejection('unknown-device', { device: keyIdText(envelope.key) })
        : rejection('unknown-key', { holder, epoch }),
    );
  }
  const expected = required === 'signature' ? 'signature' : known.authentication;
  if (envelope.authentication !== expected) {
    return refuse(
      rejection('wrong-algorithm', { type: of.type, holder, algorithm: envelope.authentication, expected }),
    );
  }
  return accept({
    check: {
      key: envelope.key,
      known,
      authentication: expected,
      input: () => toBeAuthenticated(envelope),
      authenticator: envelope.authenticator,
    },
    finish: (authentic) => {
      if (!authentic) return refuse(rejection('bad-authenticator', { type: of.type, holder }));
      const payload = parsePayload(of, envelope);
      if (!payload.ok) return payload;
      const named = (payload.value as { readonly device?: string }).device;
      if (byDevice && named !== holder) {
        return refuse(rejection('wrong-device', { type: of.type, device: named ?? '(none)', expected: holder }));
      }
      return accept(make(payload.value, envelope, bytes, trust.port));
    },
  });
}

/**
 * Verifies a message of one type. `required`: messages of roles and everything but records are always signatures; a
 * record is whatever the device is enrolled with (`enrolled`).
 * Rejections: those of `parseEnvelope`, `wrong-type`, `unsupported-version`, `unknown-key` (for a device:
 * `unknown-device`), `wrong-algorithm`, `mac-needs-attestation`, `bad-authenticator`, those of the schema, `wrong-device`.
 */
export function verifyMessage<T>(
  of: MessageType<T>,
  bytes: Uint8Array,
  trust: Trust,
  required: 'signature' | 'enrolled' = 'signature',
): Result<Verified<T>> {
  const opened = openMessage(of, bytes, parseEnvelope(bytes), trust, required);
  return opened.ok ? finishWith(opened.value, trust) : opened;
}

/** The second half, with a synchronous port. Rejections: `mac-needs-attestation`, those of `finish`. */
export function finishWith<T>(
  { check, finish }: { readonly check: AuthenticatorCheck; readonly finish: (authentic: boolean) => Result<T> },
  trust: Trust,
): Result<T> {
  if (check.authentication === 'signature') {
    return finish(trust.port.verifySignature(check.known.publicKey, check.input(), check.authenticator));
  }
  if (trust.macs === undefined) return refuse(rejection('mac-needs-attestation', {}));
  return finish(trust.macs.verifyMac(check.key, 'statistics', check.input(), check.authenticator));
}

/**
 * Verifies an enrolment request with the key that it carries: proof of possession, not of identity; who enrols it
 * decides that.
 */
export function verifyEnrolmentRequest(bytes: Uint8Array, port: VerificationPort): Result<Verified<EnrolmentRequest>> {
  const parsed = parseEnvelope(bytes);
  if (!parsed.ok) return parsed;
  const claimed = parsePayload(ENROLMENT_REQUEST, parsed.value);
  if (!claimed.ok) return claimed;
  const { publicKey, device, epoch } = claimed.value;
  const keys: KeySource = (key) =>
    key.holder === device && key.epoch === epoch ? { publicKey, authentication: 'signature' } : null;
  return verifyMessage(ENROLMENT_REQUEST, bytes, { port, keys });
}
