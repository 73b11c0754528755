/**
 * What the cryptographic device issues besides attestations and confirmations: certificates, funds, policies, time,
 * suspensions.
 *
 * Guarantees: a certificate only for a request that proves possession of its key, one per device and epoch for ever, and for a
 * further epoch only if the key of the last one speaks for the request (key rotation); a funds
 * grant only for an authentic request of an enrolled device and its licensee, never more from the deposit than it asks, at most one per
 * (device, number), the same bytes at every repeat, within the caps (funds-caps.ts), and none to a withdrawn device, whatever the server says; policies, time and
 * suspensions only for enrolled devices; no suspension is lifted that was a withdrawal, and each names a record that was attested here, or none.
 * Whose money it is, and whether there is enough, is the server's ledger's.
 */
import type { Clock } from '@countermark/node-platform/clock';
import { nodeVerification } from '@countermark/node-platform/verification';
import { parseEnvelope } from '@countermark/protocol/cose';
import { type Digest, sameBytes } from '@countermark/protocol/digest';
import { type DeviceId, hex, type LicenseeId } from '@countermark/protocol/id';
import {
  DEVICE_CERTIFICATE,
  type DeviceCertificate,
  type EnrolmentRequest,
} from '@countermark/protocol/messages/enrolment';
import { type Draw, FUNDS_GRANT, FUNDS_REQUEST } from '@countermark/protocol/messages/funds';
import { ROTATION_REQUEST } from '@countermark/protocol/messages/key-rotation';
import { POLICY, policySchema, SIGNED_TIME, SUSPENSION } from '@countermark/protocol/messages/policy';
import { MAX_MILLS, mills } from '@countermark/protocol/money';
import { type Rejection, rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { parseBytes } from '@countermark/protocol/schema';
import { ENDED_EPOCH } from '@countermark/verify/chain';
import { verifyAttestedRecord } from '@countermark/verify/attested-record';
import { recordIdentity } from '@countermark/verify/record';
import { type VerifiedRotationRequest, verifyRotationRequest } from '@countermark/verify/rotation-request';
import { type KeySource, verifyEnrolmentRequest, verifyMessage } from '@countermark/verify/verified';
import type { DeviceRegister } from './device-register.ts';
import { beyondCaps, type FundsCaps } from './funds-caps.ts';
import type { RoleKeys } from './role-keys.ts';
import { signMessage } from './role-messages.ts';
import { deviceIdentityCertificate, openCertificateRequest } from './identity-certificates.ts';
import type { SessionAuthority } from './session-authority.ts';
import { certifiedSessionKey, deviceSessionCertificate } from './session-certificates.ts';

/** What the server decided about a funds request; `refusal` makes it a grant of zero. */
export type FundsDecision = {
  readonly depositMills: bigint;
  readonly draws: readonly Draw[];
  readonly refusal?: string | undefined;
};

/** The PKCS#10 request that comes with an enrolment, and what of a one-time code it must bear. */
export type IdentityRequest = {
  readonly certificateRequest?: Uint8Array | undefined;
  readonly codeDigest?: Digest | undefined;
};

type AttestedBytes = { readonly record: Uint8Array; readonly attestation: Uint8Array };

/** What the server says of a device's standing; `last`: the last record that stands, none where it is absent. */
export type SuspensionRequest = {
  readonly suspended: boolean;
  readonly reason: string;
  readonly withdrawn?: boolean | undefined;
  readonly last?: AttestedBytes | undefined;
};

/** Begins with a code of the catalogue, as every refusal does. */
const WITHDRAWN = 'device-withdrawn: the device was withdrawn for good';

export class Issuing {
  readonly #roleKeys: RoleKeys;
  readonly #register: DeviceRegister;
  readonly #sessionAuthority: SessionAuthority;
  readonly #clock: Clock;

  readonly #caps: FundsCaps | undefined;

  constructor(
    roleKeys: RoleKeys,
    register: DeviceRegister,
    sessionAuthority: SessionAuthority,
    clock: Clock,
    caps?: FundsCaps,
  ) {
    this.#caps = caps;
    this.#roleKeys = roleKeys;
    this.#register = register;
    this.#sessionAuthority = sessionAuthority;
    this.#clock = clock;
  }

  /**
   * The device certificate: for an enrolment request that of a device's first keys, for a rotation request that of its next ones.
   * Asked again for the same keys, be it in another request, it is the same certificate. A certificate request beside it must be of the same
   * device and key, and bear the code's digest, where that is given.
   * Rejections: those of `verifyEnrolmentRequest`, `verifyRotationRequest` and `openCertificateRequest`, `enrolment-mismatch`,
   * `enrolment-code-refused`, `device-enrolled`, `device-withdrawn`; `enrolment-code-needed` for a new device where only known ones are
   * asked for.
   */
  async enrol(
    requestBytes: Uint8Array,
    licensee: LicenseeId,
    certified: boolean,
    onlyKnown = false,
    identity: IdentityRequest = {},
  ): Promise<Result<Uint8Array>> {
    const asked = this.#asked(requestBytes);
    if (!asked.ok) return asked;
    const apart = await identityMismatch(asked.value.request.message, identity);
    if (apart !== null) return refuse(apart);
    const { usedEpoch } = asked.value;
    const { message, digest } = asked.value.request;
    const { device, epoch } = message;
    const taken = refuse(rejection('device-enrolled', { device }));
    const known = this.#register.certificate(device, epoch);
    if (known !== null) return isOf(known.message, message, licensee) ? accept(known.bytes) : taken;
    // A further epoch needs the word of the key before it: without it, whoever can ask here could give a device a second key
    // that is his.
    const last = this.#register.lastEpoch(device);
    if (last !== usedEpoch) return taken;
    if (last === 0 && onlyKnown) return refuse(rejection('enrolment-code-needed', { device }));
    if (last > 0) {
      const refused = this.#rotationRefusal(message, last, licensee);
      if (refused !== null) return refuse(refused);
    }
    const issuedAtMs = this.#clock.nowMs();
    const certificate = await signMessage(this.#roleKeys, DEVICE_CERTIFICATE, {
      device,
      licensee,
      epoch,
      authentication: message.authentication,
      memory: message.memory,
      publicKey: message.publicKey,
      agreementKey: message.agreementKey,
      agreementPeer: this.#roleKeys.agreementKey,
      sessionCertificate: await this.#sessionAuthority.issuing((issuer) =>
        deviceSessionCertificate(issuer, device, message.sessionKey, issuedAtMs),
      ),
      sessionAuthority: this.#sessionAuthority.certificate,
      certified,
      measurement: message.software.measurement,
      issuedAtMs,
    });
    this.#register.enrol(device, epoch, licensee, digest, certificate, last);
    // Another request may have been first.
    const stored = this.#register.certificate(device, epoch);
    return stored !== null && isOf(stored.message, message, licensee) ? accept(stored.bytes) : taken;
  }

  /**
   * An X.509 certificate that names the device of a certified signature key, for programs that know X.509 and not COSE. Each is another
   * one, of the same content. Nothing here is believed by it. The products are those of a policy that was signed here.
   * Rejections: those of `openCertificateRequest` and `verifyMessage`, `enrolment-mismatch`, `unknown-device`, `device-withdrawn`.
   */
  async identify(request: Uint8Array, policyBytes: Uint8Array): Promise<Result<Uint8Array>> {
    const asked = await openCertificateRequest(request);
    if (!asked.ok) return asked;
    const { device, publicKey } = asked.value;
    for (let epoch = this.#register.lastEpoch(device); epoch > 0; epoch -= 1) {
      const certificate = this.#register.certificate(device, epoch)?.message;
      if (certificate === undefined || !sameBytes(certificate.publicKey, publicKey)) continue;
      if (this.#register.withdrawal(device) !== null) return refuse(rejection('device-withdrawn', { device }));
      const policy = verifyMessage(POLICY, policyBytes, { port: nodeVerification, keys: this.#roleKeys.source });
      if (!policy.ok) return policy;
      if (policy.value.message.device !== device) {
        return refuse(rejection('enrolment-mismatch', { type: 'policy', what: 'device' }));
      }
      const { products } = policy.value.message;
      const identity = await this.#sessionAuthority.issuing((issuer) =>
        deviceIdentityCertificate(issuer, certificate, products, this.#clock.nowMs()),
      );
      return accept(identity);
    }
    return refuse(rejection('unknown-device', { device }));
  }

  /** What is asked for, with both signatures verified where it is a further epoch; `usedEpoch` is 0 where it is the first. */
  #asked(bytes: Uint8Array): Result<VerifiedRotationRequest> {
    const envelope = parseEnvelope(bytes);
    if (envelope.ok && envelope.value.type === ROTATION_REQUEST.type) {
      return verifyRotationRequest(bytes, { port: nodeVerification, keys: this.#deviceKeys });
    }
    const request = verifyEnrolmentRequest(bytes, nodeVerification);
    return request.ok ? accept({ request: request.value, usedEpoch: 0 }) : request;
  }

  /** What stands against the next epoch of an enrolled device, or null. */
  #rotationRefusal(request: EnrolmentRequest, last: number, licensee: LicenseeId): Rejection | null {
    const { device, authentication, memory } = request;
    if (this.#register.withdrawal(device) !== null || this.#hasEnded(device)) {
      return rejection('device-withdrawn', { device });
    }
    const before = this.#register.certificate(device, last)?.message;
    if (before?.licensee !== licensee) return rejection('device-enrolled', { device });
    const type = 'rotation-request';
    if (authentication !== before.authentication) {
      return rejection('enrolment-mismatch', { type, what: 'procedure of authentication' });
    }
    return memory === before.memory ? null : rejection('enrolment-mismatch', { type, what: 'memory' });
  }

  /** The funds grant. Rejections: those of `verifyMessage`, `enrolment-mismatch`, `funds-request-conflict`, `limit-exceeded`. */
  async fund(requestBytes: Uint8Array, decision: FundsDecision): Promise<Result<Uint8Array>> {
    const request = verifyMessage(FUNDS_REQUEST, requestBytes, { port: nodeVerification, keys: this.#deviceKeys });
    if (!request.ok) return request;
    const { message, digest } = request.value;
    const { device, licensee, number } = message;
    if (this.#register.licenseeOf(device) !== licensee) {
      return refuse(rejection('enrolment-mismatch', { type: 'funds-request', what: 'licensee' }));
    }
    const conflict = refuse(rejection('funds-request-conflict', { device, number }));
    const stored = this.#register.fundsGrant(device, number);
    if (stored !== null) return sameBytes(stored.requestDigest, digest) ? accept(stored.grant) : conflict;
    if (number <= this.#register.lastFundsNumber(device)) return conflict;
    // A device goes over to another key only when no request of its is pending: this one is not its own.
    if (this.#hasEnded(device)) return refuse(rejection('device-withdrawn', { device }));
    const current = this.#register.epochInUse(device);
    const { epoch } = request.value.envelope.key;
    if (epoch < current) return refuse(rejection('superseded-key', { type: 'funds-request', device, epoch, current }));
    // Whatever the server remembers: one that was restored from an older backup may have forgotten the withdrawal.
    const withdrawn = this.#register.withdrawal(device) !== null;
    const { depositMills, draws } = decision;
    if (depositMills > message.amountMills) {
      return refuse(
        rejection('limit-exceeded', {
          what: 'the amount from the deposit',
          value: depositMills.toString(),
          limit: message.amountMills.toString(),
        }),
      );
    }
    const decidedMills = draws.reduce((sum, draw) => sum + draw.amountMills, depositMills);
    const receivedMills = message.funds.receivedMills + decidedMills;
    const refusal = withdrawn ? WITHDRAWN : (decision.refusal ?? this.#beyondCaps(device, decidedMills));
    if (refusal === undefined && receivedMills > MAX_MILLS) {
      const limit = MAX_MILLS.toString();
      return refuse(
        rejection('limit-exceeded', { what: 'all that it received', value: receivedMills.toString(), limit }),
      );
    }
    const amountMills = mills(refusal === undefined ? decidedMills : 0n);
    const grant = await signMessage(this.#roleKeys, FUNDS_GRANT, {
      device,
      licensee,
      number,
      amountMills,
      draws: refusal === undefined ? draws : [],
      receivedMills: mills(message.funds.receivedMills + amountMills),
      ...(refusal === undefined ? {} : { refusal }),
      currency: message.currency,
      grantedAtMs: this.#clock.nowMs(),
    });
    const kept = this.#register.addFundsGrant(device, number, digest, grant);
    return sameBytes(kept.requestDigest, digest) ? accept(kept.grant) : conflict;
  }

  #beyondCaps(device: DeviceId, decidedMills: bigint): string | undefined {
    if (this.#caps === undefined) return undefined;
    return beyondCaps(this.#caps, this.#register, device, decidedMills, this.#clock.nowMs());
  }

  /** A signed policy from the unsigned deterministic bytes. Rejections: those of its schema, `unknown-device`. */
  async signPolicy(policyBytes: Uint8Array): Promise<Result<Uint8Array>> {
    const policy = parseBytes(policySchema, policyBytes);
    if (!policy.ok) return policy;
    const { device, licensee } = policy.value;
    if (this.#register.licenseeOf(device) !== licensee) return refuse(rejection('unknown-device', { device }));
    return accept(await signMessage(this.#roleKeys, POLICY, policy.value));
  }

  /** The time, for one device. Rejection: `unknown-device`. */
  async signTime(device: DeviceId): Promise<Result<Uint8Array>> {
    if (this.#register.licenseeOf(device) === null) return refuse(rejection('unknown-device', { device }));
    return accept(await signMessage(this.#roleKeys, SIGNED_TIME, { device, timeMs: this.#clock.nowMs() }));
  }

  /**
   * A suspension, its end, or a withdrawal, which has none: signed once, and answered at every repeat, whatever is asked for then. It names
   * the last record that stands, and only one that was attested here: no server can have a suspension stand behind what is franked after it.
   * Rejections: `unknown-device`, `device-withdrawn` for its end; those of `verifyAttestedRecord` and `wrong-device` for the record.
   */
  async suspend(
    device: DeviceId,
    licensee: LicenseeId,
    { suspended, reason, withdrawn = false, last }: SuspensionRequest,
  ): Promise<Result<Uint8Array>> {
    if (this.#register.licenseeOf(device) !== licensee) return refuse(rejection('unknown-device', { device }));
    const stored = this.#register.withdrawal(device);
    if (stored !== null) return suspended ? accept(stored) : refuse(rejection('device-withdrawn', { device }));
    const sinceMs = this.#clock.nowMs();
    const said = { device, licensee, reason, sinceMs };
    if (!suspended && !withdrawn) {
      return accept(await signMessage(this.#roleKeys, SUSPENSION, { ...said, suspended }));
    }
    const after = last === undefined ? accept(0) : this.#attestedSequence(device, last);
    if (!after.ok) return after;
    const words = { ...said, suspended: true, afterSequence: after.value };
    if (!withdrawn) return accept(await signMessage(this.#roleKeys, SUSPENSION, words));
    const withdrawal = await signMessage(this.#roleKeys, SUSPENSION, { ...words, withdrawn });
    return accept(this.#register.withdraw(device, withdrawal));
  }

  /** Which record of the device it is that was attested here. */
  #attestedSequence(device: DeviceId, { record, attestation }: AttestedBytes): Result<number> {
    const keys: KeySource = (key) => this.#roleKeys.source(key) ?? this.#deviceKeys(key);
    const attested = verifyAttestedRecord(record, attestation, { port: nodeVerification, keys });
    if (!attested.ok) return attested;
    const { device: of, sequence } = recordIdentity(attested.value.record);
    if (of === device) return accept(sequence);
    return refuse(rejection('wrong-device', { type: attested.value.record.type, device: of, expected: device }));
  }

  /**
   * Revokes the session keys of all epochs that the device has certificates for, and answers the last one: it has a session again with the
   * keys of a further one. On the server's word: that only takes away. Rejection: `unknown-device`.
   */
  revokeSessions(device: DeviceId, licensee: LicenseeId): Result<number> {
    if (this.#register.licenseeOf(device) !== licensee) return refuse(rejection('unknown-device', { device }));
    const epoch = this.#register.lastEpoch(device);
    this.#register.revokeSessions(device, epoch);
    return accept(epoch);
  }

  /** Whether its final statement was attested. */
  #hasEnded(device: DeviceId): boolean {
    return this.#register.epochInUse(device) === ENDED_EPOCH;
  }

  readonly #deviceKeys: KeySource = ({ holder, epoch }) => this.#register.certificate(holder, epoch)?.message ?? null;
}

/** In what the certificate request is not one for the same key and with the code, or null. */
async function identityMismatch(
  { device, publicKey }: EnrolmentRequest,
  { certificateRequest, codeDigest }: IdentityRequest,
): Promise<Rejection | null> {
  if (certificateRequest === undefined) return null;
  const asked = await openCertificateRequest(certificateRequest);
  if (!asked.ok) return asked.rejection;
  const differs = (what: string) => rejection('enrolment-mismatch', { type: 'certificate-request', what });
  if (asked.value.device !== device) return differs('device');
  if (!sameBytes(asked.value.publicKey, publicKey)) return differs('signature key');
  if (codeDigest === undefined || asked.value.challenge === hex(codeDigest)) return null;
  return rejection('enrolment-code-refused', { device, reason: 'the certificate request was not made for this code' });
}

/** Whether the certificate is one of exactly these keys, for the licensee. */
function isOf(certificate: DeviceCertificate, request: EnrolmentRequest, licensee: LicenseeId): boolean {
  return (
    certificate.licensee === licensee &&
    certificate.authentication === request.authentication &&
    certificate.memory === request.memory &&
    sameBytes(certificate.publicKey, request.publicKey) &&
    sameBytes(certificate.agreementKey, request.agreementKey) &&
    sameBytes(certifiedSessionKey(certificate.sessionCertificate), request.sessionKey)
  );
}
