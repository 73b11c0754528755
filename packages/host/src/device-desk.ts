/**
 * The desk of the device: what it says of itself, its enrolment with the licensee's customers, and its X.509 certificate.
 *
 * Guarantees: enrolling again changes nothing. Which customers are registered is the server's to say.
 */
import { X509Certificate } from 'node:crypto';
import { CUSTOMER_ID } from '@countermark/protocol/id';
import type { CertificateAnswer, DeviceReport } from '@countermark/protocol/interfaces/host';
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import type { DeviceLink } from './device-link.ts';
import { type PsdClient, statusOf } from './psd-client.ts';
import { deviceReport } from './report.ts';

export class DeviceDesk {
  readonly #psd: PsdClient;
  readonly #link: DeviceLink;

  constructor(psd: PsdClient, link: DeviceLink) {
    this.#psd = psd;
    this.#link = link;
  }

  async show(): Promise<DeviceReport> {
    return deviceReport(await statusOf(this.#psd));
  }

  /** Enrols the device where it is not (with a code, where it is new), and registers these customers; takes the newest policy to it where none is named. */
  async enrol(customers: readonly string[], code: string | undefined): Promise<Result<DeviceReport>> {
    const wrong = customers.find((customer) => !CUSTOMER_ID.test(customer));
    if (wrong !== undefined) return refuse(rejection('usage', { reason: `${wrong} is no customer's id.` }));
    const enrolled = await this.#link.enrolled(code);
    if (!enrolled.ok) return enrolled;
    const { device } = enrolled.value;
    const updated =
      customers.length === 0 ? await this.#link.refreshPolicy(device) : await this.#link.register(device, customers);
    return updated.ok ? accept(deviceReport(updated.value)) : updated;
  }

  /** The X.509 certificate of the device's signature key, and what vouches for it: its authority's, and those that lead from there (PEM). */
  async certificate(): Promise<Result<CertificateAnswer>> {
    const status = await statusOf(this.#psd);
    const identity = await this.#link.identity(status);
    if (!identity.ok) return identity;
    const { certificate, authorities } = identity.value;
    return accept({ device: status.device, certificate: pem(certificate), authority: authorities.map(pem).join('') });
  }
}

function pem(der: Uint8Array): string {
  return new X509Certificate(der).toString();
}
