/**
 * Enrolment: a device's own signed request becomes its certificate, in the registry, with its first policy.
 *
 * Guarantees: the certificate was verified before it is stored or handed out; enrolling again changes nothing and is
 * answered alike. A device that is new, here and to the cryptographic device, comes in with an enrolment code only; one that was
 * certified before (after a lost answer, or where this server was restored from an older backup) needs none, and a rotation has
 * the word of the key before it. Who may enrol for a licensee is decided before (`http.ts`).
 */
import { nodeVerification, sha256 } from '@countermark/node-platform/verification';
import type { DeviceId, LicenseeId } from '@countermark/protocol/id';
import { enrolmentCodeDigest } from '@countermark/protocol/identity-name';
import { DEVICE_CERTIFICATE, type DeviceCertificate } from '@countermark/protocol/messages/enrolment';
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { type KeySource, type Verified, verifyEnrolmentRequest, verifyMessage } from '@countermark/verify/verified';
import type { Actor } from './audit-trail.ts';
import type { CryptographicDevice, IssuedIdentity } from './cryptographic-device-client.ts';
import type { EnrolmentCodes } from './enrolment-codes.ts';
import type { Policies } from './policies.ts';
import type { Registry } from './registry.ts';

export type EnrolmentParts = {
  readonly registry: Registry;
  readonly policies: Policies;
  readonly cryptographicDevice: CryptographicDevice;
  readonly codes: EnrolmentCodes;
  readonly roleKeys: KeySource;
  readonly nowMs: () => number;
};

/** A device's own requests: for its certificate, and, beside it, for an X.509 certificate of the same key (PKCS#10). */
export type EnrolmentRequests = { readonly request: Uint8Array; readonly certificateRequest?: Uint8Array };

/** What an enrolled device installs; and its X.509 certificate (DER), where it asked for one. */
export type Enrolled = {
  readonly certificate: Uint8Array;
  readonly policy: Uint8Array;
  readonly identityCertificate?: Uint8Array;
};

export class Enrolment {
  readonly #parts: EnrolmentParts;

  constructor(parts: EnrolmentParts) {
    this.#parts = parts;
  }

  /**
   * Asked again after any failure it comes to the same certificate; a withdrawn device has no X.509 certificate any more. A certificate
   * request that comes with a code bears its digest.
   * Rejections: `unknown-licensee`, `enrolment-code-needed`, `enrolment-code-refused`, those of the cryptographic device's
   * `enrol` and `identify`, `try-again`.
   */
  async enrol(licensee: LicenseeId, requests: EnrolmentRequests, by: Actor, code?: string): Promise<Result<Enrolled>> {
    const { registry, policies, cryptographicDevice, roleKeys, nowMs } = this.#parts;
    const { request, certificateRequest } = requests;
    if ((await registry.licensee(licensee)) === null) return refuse(rejection('unknown-licensee', { licensee }));
    const issued = await this.#issued(licensee, requests, code);
    if (!issued.ok) return issued;
    const certificate = verifyMessage(DEVICE_CERTIFICATE, issued.value, { port: nodeVerification, keys: roleKeys });
    if (!certificate.ok) return certificate;
    await registry.addDevice(request, certificate.value, by, nowMs());
    const policy = await policies.renewed(
      certificate.value.message.device,
      licensee,
      await registry.customersOf(licensee),
    );
    if (!policy.ok) return policy;
    const enrolled = { certificate: issued.value, policy: policy.value };
    if (certificateRequest === undefined) return accept(enrolled);
    const identity = await cryptographicDevice.identify(certificateRequest, policy.value);
    if (identity.ok) return accept({ ...enrolled, identityCertificate: identity.value.certificate });
    // A withdrawn device shows itself to nobody any more; its records are still verified by its certificate.
    return identity.rejection.code === 'device-withdrawn' ? accept(enrolled) : identity;
  }

  /** An X.509 certificate of the device's signature key, with the products of its policy now, and who issued it. */
  async identify(
    device: DeviceId,
    licensee: LicenseeId,
    certificateRequest: Uint8Array,
  ): Promise<Result<IssuedIdentity>> {
    const { registry, policies, cryptographicDevice } = this.#parts;
    const policy = await policies.renewed(device, licensee, await registry.customersOf(licensee));
    return policy.ok ? cryptographicDevice.identify(certificateRequest, policy.value) : policy;
  }

  /** The certificate. A code is taken only for a request that its own key signed, and only where the device is new. */
  async #issued(
    licensee: LicenseeId,
    { request, certificateRequest }: EnrolmentRequests,
    code: string | undefined,
  ): Promise<Result<Uint8Array>> {
    const { cryptographicDevice, codes } = this.#parts;
    const codeDigest = code === undefined ? {} : { codeDigest: enrolmentCodeDigest(code, sha256) };
    const identity = certificateRequest === undefined ? {} : { certificateRequest, ...codeDigest };
    const known = await cryptographicDevice.enrol(request, licensee, true, identity);
    if (known.ok || known.rejection.code !== 'enrolment-code-needed' || code === undefined) return known;
    const verified = verifyEnrolmentRequest(request, nodeVerification);
    if (!verified.ok) return verified;
    const { device } = verified.value.message;
    const taken = await codes.take(code, licensee, device);
    if (!taken.ok) return taken;
    const issued = await cryptographicDevice.enrol(request, licensee, false, identity);
    // Where it may have been certified all the same, the code stays the device's.
    if (!issued.ok && issued.rejection.code !== 'try-again') await codes.giveBack(code, device);
    return issued;
  }

  /**
   * Takes certificates back that this server issued and lost, because it was restored from an older backup: those of epochs that are
   * over cannot be asked for again, since the keys which spoke for them are gone. None is taken where one is not good.
   * Rejections: `unknown-licensee`, those of `verifyMessage`, `enrolment-mismatch`.
   */
  async restore(licensee: LicenseeId, certificates: readonly Uint8Array[], by: Actor): Promise<Result<void>> {
    const { registry, roleKeys, nowMs } = this.#parts;
    if ((await registry.licensee(licensee)) === null) return refuse(rejection('unknown-licensee', { licensee }));
    const verified: Verified<DeviceCertificate>[] = [];
    for (const bytes of certificates) {
      const certificate = verifyMessage(DEVICE_CERTIFICATE, bytes, { port: nodeVerification, keys: roleKeys });
      if (!certificate.ok) return certificate;
      if (certificate.value.message.licensee !== licensee) {
        return refuse(rejection('enrolment-mismatch', { type: 'device-certificate', what: 'licensee' }));
      }
      verified.push(certificate.value);
    }
    for (const certificate of verified) await registry.addDevice(new Uint8Array(0), certificate, by, nowMs());
    return accept(undefined);
  }
}
