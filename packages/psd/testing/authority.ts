/**
 * The server side of tests: keys of every role, and messages that verify under their trust bundle.
 *
 * Real keys and real verification: what enters the core in tests is `Verified<T>` as in the product.
 */
import type { KeyObject } from 'node:crypto';
import { generateSigningKey, publicKeyBytes, signP1363 } from '@countermark/node-platform/signing';
import { nodeVerification } from '@countermark/node-platform/verification';
import { type Authentication, seal, toBeAuthenticated } from '@countermark/protocol/cose';
import type { Digest } from '@countermark/protocol/digest';
import type { CustomerId, DeviceId, LicenseeId } from '@countermark/protocol/id';
import { type MessageType, parsePayload, type Role, ROLES, unsealedMessage } from '@countermark/protocol/message';
import type { Memory } from '@countermark/protocol/messages/batch-statistics';
import { CONFIRMATION } from '@countermark/protocol/messages/confirmation';
import {
  DEVICE_CERTIFICATE,
  type DeviceCertificate,
  ENROLMENT_REQUEST,
  type EnrolmentRequest,
} from '@countermark/protocol/messages/enrolment';
import { FUNDS_GRANT, FUNDS_REQUEST, type FundsGrant } from '@countermark/protocol/messages/funds';
import { ROTATION_REQUEST } from '@countermark/protocol/messages/key-rotation';
import { POLICY, type Policy, SIGNED_TIME } from '@countermark/protocol/messages/policy';
import { mills } from '@countermark/protocol/money';
import { parseEnvelope } from '@countermark/protocol/cose';
import { formatTrustBundle, parseTrustBundle, trustedKeys } from '@countermark/verify/trust-bundle';
import { type Trust, type Verified, verifyMessage } from '@countermark/verify/verified';

export const USD = { code: 'USD', exponent: 3 } as const;
export const START_MS = Date.UTC(2026, 10, 22);
const LICENSEE = 'lic_test' as LicenseeId;

/** What a certificate is made from: an enrolment request, or the same said by a test. */
export type Enrolling = {
  readonly device: DeviceId;
  readonly epoch: number;
  readonly authentication: Authentication;
  readonly memory: Memory;
  readonly publicKey: Uint8Array;
  readonly agreementKey: Uint8Array;
};

export class TestAuthority {
  readonly agreement: KeyObject = generateSigningKey().privateKey;
  readonly trustBundle: string;
  readonly trust: Trust;
  readonly sessionAuthority: Uint8Array;
  readonly #keys = new Map<Role, KeyObject>(ROLES.map((role) => [role, generateSigningKey().privateKey]));

  constructor(sessionAuthority: Uint8Array = Uint8Array.of(0x30)) {
    this.sessionAuthority = sessionAuthority;
    this.trustBundle = formatTrustBundle({
      keys: [...this.#keys].map(([role, key]) => ({ role, epoch: 1, publicKey: publicKeyBytes(key) })),
      agreementKey: publicKeyBytes(this.agreement),
      sessionAuthority,
    });
    const bundle = parseTrustBundle(this.trustBundle);
    if (!bundle.ok) throw new Error(JSON.stringify(bundle.rejection));
    this.trust = { port: nodeVerification, keys: trustedKeys(bundle.value) };
  }

  /** A sealed message of a role. */
  message<T>(of: MessageType<T>, value: T, role: Role = of.authenticatedBy as Role): Uint8Array {
    const unsealed = unsealedMessage(of, 'signature', { holder: role, epoch: 1 }, value);
    return seal(unsealed, signP1363(this.#keys.get(role) as KeyObject, toBeAuthenticated(unsealed)));
  }

  /** The same, verified. */
  verified<T>(of: MessageType<T>, value: T): Verified<T> {
    const result = verifyMessage(of, this.message(of, value), this.trust);
    if (!result.ok) throw new Error(JSON.stringify(result.rejection));
    return result.value;
  }

  /** The enrolment request in these bytes; its signature is not looked at. */
  enrolling(request: Uint8Array): EnrolmentRequest {
    return payload(ENROLMENT_REQUEST, request);
  }

  /** The enrolment request of the next epoch, in these bytes of a rotation request. */
  rotating(request: Uint8Array): EnrolmentRequest {
    return this.enrolling(payload(ROTATION_REQUEST, request).request);
  }

  certificate(of: Enrolling, over: Partial<DeviceCertificate> = {}): DeviceCertificate {
    const { device, epoch, authentication, memory, publicKey, agreementKey } = of;
    return {
      device,
      licensee: LICENSEE,
      epoch,
      authentication,
      memory,
      publicKey,
      agreementKey,
      agreementPeer: publicKeyBytes(this.agreement),
      sessionCertificate: Uint8Array.of(0x30),
      sessionAuthority: this.sessionAuthority,
      certified: false,
      measurement: new Uint8Array(32) as Digest,
      issuedAtMs: START_MS,
      ...over,
    };
  }

  policy(device: DeviceId, over: Partial<Policy> = {}): Policy {
    return {
      device,
      licensee: LICENSEE,
      version: 1,
      currency: USD,
      lowestPostageMills: mills(100n),
      highestPostageMills: mills(10_000n),
      highestFundsMills: mills(1_000_000_000n),
      maxUnconfirmedBatches: 100,
      maxUnconfirmedPostageMills: mills(1_000_000_000n),
      warnAfterDays: 28,
      lockAfterDays: 90,
      maxPiecesPerBatch: 1_000_000,
      maxCellsPerBatch: 64,
      memoryPieces: 10_000,
      customers: ['acme', 'zenith'] as CustomerId[],
      ...over,
    };
  }

  /** The grant that answers a request in full. */
  grant(request: Uint8Array, over: Partial<FundsGrant> = {}): FundsGrant {
    const { device, licensee, number, amountMills, funds } = payload(FUNDS_REQUEST, request);
    return {
      device,
      licensee,
      number,
      amountMills,
      draws: [],
      receivedMills: mills(funds.receivedMills + amountMills),
      currency: USD,
      grantedAtMs: START_MS,
      ...over,
    };
  }

  confirmationOf(device: DeviceId, sequence: number, digest: Digest) {
    return { device, licensee: LICENSEE, sequence, digest, confirmedAtMs: START_MS };
  }

  /** Bytes of what a device is given. */
  readonly bytes = {
    certificate: (value: DeviceCertificate) => this.message(DEVICE_CERTIFICATE, value),
    policy: (value: Policy) => this.message(POLICY, value),
    time: (device: DeviceId, timeMs: number) => this.message(SIGNED_TIME, { device, timeMs }),
    grant: (value: FundsGrant) => this.message(FUNDS_GRANT, value),
    confirmation: (device: DeviceId, sequence: number, digest: Digest) =>
      this.message(CONFIRMATION, this.confirmationOf(device, sequence, digest)),
  };
}

/** The payload of a message, unverified. */
export function payload<T>(of: MessageType<T>, bytes: Uint8Array): T {
  const envelope = parseEnvelope(bytes);
  if (!envelope.ok) throw new Error(JSON.stringify(envelope.rejection));
  const parsed = parsePayload(of, envelope.value);
  if (!parsed.ok) throw new Error(JSON.stringify(parsed.rejection));
  return parsed.value;
}
