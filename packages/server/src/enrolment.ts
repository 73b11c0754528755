/**
 * Enrolment: a device's own signed request becomes its certificate, in the registry, with its first policy.
 *
 * Guarantees: the certificate was verified before it is stored or handed out; enrolling again changes nothing and is
 * answered alike. Who may enrol for a licensee is decided before (`http.ts`).
 */
import { nodeVerification } from '@countermark/node-platform/verification';
import type { LicenseeId } from '@countermark/protocol/id';
import { DEVICE_CERTIFICATE, type DeviceCertificate } from '@countermark/protocol/messages/enrolment';
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { type KeySource, type Verified, verifyMessage } from '@countermark/verify/verified';
import type { Actor } from './audit-trail.ts';
import type { CryptographicDevice } from './cryptographic-device-client.ts';
import type { Policies } from './policies.ts';
import type { Registry } from './registry.ts';

export type EnrolmentParts = {
  readonly registry: Registry;
  readonly policies: Policies;
  readonly cryptographicDevice: CryptographicDevice;
  readonly roleKeys: KeySource;
  readonly nowMs: () => number;
};

/** What an enrolled device installs. */
export type Enrolled = { readonly certificate: Uint8Array; readonly policy: Uint8Array };

export class Enrolment {
  readonly #parts: EnrolmentParts;

  constructor(parts: EnrolmentParts) {
    this.#parts = parts;
  }

  /** Rejections: `unknown-licensee`, those of the cryptographic device's `enrol`, `try-again`. */
  async enrol(licensee: LicenseeId, request: Uint8Array, by: Actor): Promise<Result<Enrolled>> {
    const { registry, policies, cryptographicDevice, roleKeys, nowMs } = this.#parts;
    if ((await registry.licensee(licensee)) === null) return refuse(rejection('unknown-licensee', { licensee }));
    const issued = await cryptographicDevice.enrol(request, licensee);
    if (!issued.ok) return issued;
    const certificate = verifyMessage(DEVICE_CERTIFICATE, issued.value, { port: nodeVerification, keys: roleKeys });
    if (!certificate.ok) return certificate;
    await registry.addDevice(request, certificate.value, by, nowMs());
    const policy = await policies.renewed(
      certificate.value.message.device,
      licensee,
      await registry.customersOf(licensee),
    );
    return policy.ok ? accept({ certificate: issued.value, policy: policy.value }) : policy;
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
