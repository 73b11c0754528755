/**
 * Enrolment: a device's own signed request becomes its certificate, in the registry, with its first policy.
 *
 * Guarantees: the certificate was verified before it is stored or handed out; enrolling again changes nothing and is
 * answered alike. Who may enrol for a licensee is decided before (`http.ts`).
 */
import { nodeVerification } from '@countermark/node-platform/verification';
import type { LicenseeId } from '@countermark/protocol/id';
import { DEVICE_CERTIFICATE } from '@countermark/protocol/messages/enrolment';
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { type KeySource, verifyMessage } from '@countermark/verify/verified';
import type { CryptographicDevice } from './cryptographic-device-client.ts';
import type { Policies } from './policies.ts';
import type { Registry } from './registry.ts';

export type EnrolmentParts = {
  readonly registry: Registry;
  readonly policies: Policies;
  readonly cryptographicDevice: CryptographicDevice;
  readonly roleKeys: KeySource;
};

/** What an enrolled device installs. */
export type Enrolled = { readonly certificate: Uint8Array; readonly policy: Uint8Array };

export class Enrolment {
  readonly #parts: EnrolmentParts;

  constructor(parts: EnrolmentParts) {
    this.#parts = parts;
  }

  /** Rejections: `unknown-licensee`, those of the cryptographic device's `enrol`, `try-again`. */
  async enrol(licensee: LicenseeId, request: Uint8Array): Promise<Result<Enrolled>> {
    const { registry, policies, cryptographicDevice, roleKeys } = this.#parts;
    if ((await registry.licensee(licensee)) === null) return refuse(rejection('unknown-licensee', { licensee }));
    const issued = await cryptographicDevice.enrol(request, licensee);
    if (!issued.ok) return issued;
    const certificate = verifyMessage(DEVICE_CERTIFICATE, issued.value, { port: nodeVerification, keys: roleKeys });
    if (!certificate.ok) return certificate;
    await registry.addDevice(request, certificate.value);
    const policy = await policies.renewed(
      certificate.value.message.device,
      licensee,
      await registry.customersOf(licensee),
    );
    return policy.ok ? accept({ certificate: issued.value, policy: policy.value }) : policy;
  }
}
