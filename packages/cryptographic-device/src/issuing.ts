/**
 * What the cryptographic device issues besides attestations and confirmations: certificates, funds, policies, time,
 * suspensions.
 *
 * Guarantees: a certificate only for a request that proves possession of its key, one per device for ever; a funds
 * grant only for an authentic request of an enrolled device and its licensee, never more from the deposit than it asks, at most one per
 * (device, number), the same bytes at every repeat; policies, time and suspensions only for enrolled devices.
 * Whose money it is, and whether there is enough, is the server's ledger's.
 */
import type { Clock } from '@countermark/node-platform/clock';
import { nodeVerification } from '@countermark/node-platform/verification';
import { sameBytes } from '@countermark/protocol/digest';
import type { DeviceId, LicenseeId } from '@countermark/protocol/id';
import { DEVICE_CERTIFICATE } from '@countermark/protocol/messages/enrolment';
import { type Draw, FUNDS_GRANT, FUNDS_REQUEST } from '@countermark/protocol/messages/funds';
import { POLICY, policySchema, SIGNED_TIME, SUSPENSION } from '@countermark/protocol/messages/policy';
import { mills, sumMills } from '@countermark/protocol/money';
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { parseBytes } from '@countermark/protocol/schema';
import { type KeySource, verifyEnrolmentRequest, verifyMessage } from '@countermark/verify/verified';
import type { DeviceRegister } from './device-register.ts';
import type { KeyStore } from './key-store.ts';
import { signMessage } from './role-messages.ts';
import { deviceSessionCertificate } from './session-certificates.ts';

/** What the server decided about a funds request; `refusal` makes it a grant of zero. */
export type FundsDecision = {
  readonly depositMills: bigint;
  readonly draws: readonly Draw[];
  readonly refusal?: string | undefined;
};

export class Issuing {
  readonly #keys: KeyStore;
  readonly #register: DeviceRegister;
  readonly #sessionAuthority: Uint8Array;
  readonly #clock: Clock;

  constructor(keys: KeyStore, register: DeviceRegister, sessionAuthority: Uint8Array, clock: Clock) {
    this.#keys = keys;
    this.#register = register;
    this.#sessionAuthority = sessionAuthority;
    this.#clock = clock;
  }

  /** The device certificate. Rejections: those of `verifyEnrolmentRequest`, `device-enrolled`. */
  async enrol(requestBytes: Uint8Array, licensee: LicenseeId, certified: boolean): Promise<Result<Uint8Array>> {
    const request = verifyEnrolmentRequest(requestBytes, nodeVerification);
    if (!request.ok) return request;
    const { message, digest } = request.value;
    const { device, epoch } = message;
    const taken = refuse(rejection('device-enrolled', { device }));
    const stored = this.#register.enrolment(device, epoch);
    if (stored !== null) {
      return sameBytes(stored.requestDigest, digest) && stored.licensee === licensee
        ? accept(stored.certificate)
        : taken;
    }
    // A further epoch needs the word of the key before it (key rotation), which no request carries: without it, whoever can
    // ask here could give a device a second key that is his.
    if (this.#register.licenseeOf(device) !== null) return taken;
    const issuedAtMs = this.#clock.nowMs();
    const certificate = await signMessage(this.#keys, DEVICE_CERTIFICATE, {
      device,
      licensee,
      epoch,
      authentication: message.authentication,
      memory: message.memory,
      publicKey: message.publicKey,
      agreementKey: message.agreementKey,
      agreementPeer: this.#keys.agreementKey,
      sessionCertificate: await deviceSessionCertificate(this.#keys, device, message.sessionKey, issuedAtMs),
      sessionAuthority: this.#sessionAuthority,
      certified,
      measurement: message.software.measurement,
      issuedAtMs,
    });
    const kept = this.#register.enrol(device, epoch, licensee, digest, certificate);
    return kept !== null && sameBytes(kept.requestDigest, digest) && kept.licensee === licensee
      ? accept(kept.certificate)
      : taken;
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
    const { depositMills, draws, refusal } = decision;
    if (depositMills > message.amountMills) {
      return refuse(
        rejection('limit-exceeded', {
          what: 'the amount from the deposit',
          value: depositMills.toString(),
          limit: message.amountMills.toString(),
        }),
      );
    }
    const amountMills =
      refusal === undefined ? sumMills([depositMills, ...draws.map((draw) => draw.amountMills)]) : mills(0n);
    const grant = await signMessage(this.#keys, FUNDS_GRANT, {
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

  /** A signed policy from the unsigned deterministic bytes. Rejections: those of its schema, `unknown-device`. */
  async signPolicy(policyBytes: Uint8Array): Promise<Result<Uint8Array>> {
    const policy = parseBytes(policySchema, policyBytes);
    if (!policy.ok) return policy;
    const { device, licensee } = policy.value;
    if (this.#register.licenseeOf(device) !== licensee) return refuse(rejection('unknown-device', { device }));
    return accept(await signMessage(this.#keys, POLICY, policy.value));
  }

  /** The time, for one device. Rejection: `unknown-device`. */
  async signTime(device: DeviceId): Promise<Result<Uint8Array>> {
    if (this.#register.licenseeOf(device) === null) return refuse(rejection('unknown-device', { device }));
    return accept(await signMessage(this.#keys, SIGNED_TIME, { device, timeMs: this.#clock.nowMs() }));
  }

  /** A suspension, or its end. Rejection: `unknown-device`. */
  async suspend(
    device: DeviceId,
    licensee: LicenseeId,
    suspended: boolean,
    reason: string,
  ): Promise<Result<Uint8Array>> {
    if (this.#register.licenseeOf(device) !== licensee) return refuse(rejection('unknown-device', { device }));
    const sinceMs = this.#clock.nowMs();
    return accept(await signMessage(this.#keys, SUSPENSION, { device, licensee, suspended, reason, sinceMs }));
  }

  readonly #deviceKeys: KeySource = ({ holder, epoch }) => this.#register.certificate(holder, epoch)?.message ?? null;
}
