/**
 * The host's PSD as a member of a licensee's fleet: enrolled, with its policy, customers and signed time.
 *
 * Guarantees: enrolling again changes nothing; certificate and policy reach the PSD as the server signed them, which checks them
 * itself. Which customers are registered is the server's to say: the device learns it from its next policy.
 */
import { Fault } from '@countermark/node-platform/fault';
import { sha256 } from '@countermark/node-platform/verification';
import { messageDigest, parseEnvelope } from '@countermark/protocol/cose';
import { sameBytes } from '@countermark/protocol/digest';
import type { DeviceId, LicenseeId } from '@countermark/protocol/id';
import { enrolmentCodeDigest } from '@countermark/protocol/identity-name';
import { type DeviceStatus, PSD } from '@countermark/protocol/interfaces/psd';
import { DEVICE_CERTIFICATE, type DeviceCertificate } from '@countermark/protocol/messages/enrolment';
import { POLICY, type Policy } from '@countermark/protocol/messages/policy';
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import type { KeySource } from '@countermark/verify/verified';
import { deviceOlder } from './device-age.ts';
import { verifiedCertificate } from './device-trust.ts';
import { chainBytes, chainOf, type Identity, identityProblem } from './identity-certificate.ts';
import type { Journal } from './journal.ts';
import { certificateName } from './journal-rows.ts';
import { type PsdClient, statusOf } from './psd-client.ts';
import type { EnrolledDevice, ServerClient } from './server-client.ts';
import { readUnverified } from './unverified-message.ts';

export class DeviceLink {
  readonly #psd: PsdClient;
  readonly #server: ServerClient;
  readonly #journal: Journal;
  readonly #licensee: LicenseeId;
  readonly #keys: KeySource;
  #enrolling: Promise<Result<DeviceStatus>> | null = null;

  /** `keys`: of the trust bundle. */
  constructor(psd: PsdClient, server: ServerClient, journal: Journal, licensee: LicenseeId, keys: KeySource) {
    this.#psd = psd;
    this.#server = server;
    this.#journal = journal;
    this.#licensee = licensee;
    this.#keys = keys;
  }

  /**
   * The status of a device that is enrolled; enrols it where it is not, a new one with a code. One enrolment at a time. Rejections:
   * `device-older`, those of enrolling.
   */
  enrolled(code?: string): Promise<Result<DeviceStatus>> {
    const before = this.#enrolling;
    // Who has a code is not answered with what was refused for want of one.
    if (before !== null && code === undefined) return before;
    const enrolling = (before ?? Promise.resolve()).catch(() => undefined).then(() => this.#enrol(code));
    this.#enrolling = enrolling;
    return enrolling.finally(() => {
      if (this.#enrolling === enrolling) this.#enrolling = null;
    });
  }

  /** Registers customers at the server and takes the new policy to the device. */
  async register(device: DeviceId, customers: readonly string[]): Promise<Result<DeviceStatus>> {
    const registered = await this.#server.registerCustomers(this.#licensee, customers);
    return registered.ok ? this.refreshPolicy(device) : registered;
  }

  /** Takes the server's policy to the device; an older one, or the same, changes nothing. */
  async refreshPolicy(device: DeviceId): Promise<Result<DeviceStatus>> {
    const { policyVersion = 0 } = await statusOf(this.#psd);
    const refreshed = await this.#takePolicy(device, policyVersion);
    if (!refreshed.ok) return refreshed;
    // A server that was restored may say something else under a version that the device has: it says it again, under a higher one.
    const status = await (refreshed.value === 'other'
      ? this.#statusAfter(await this.#takePolicy(device, policyVersion + 1))
      : this.#statusAfter(accept(null)));
    if (status.ok && this.#journal.kept('identity') !== undefined) {
      // Other products: it is shown with them. Where that fails, whoever looks at it is told, and franking goes on.
      await unlessBroken(this.identity(status.value));
    }
    return status;
  }

  /**
   * The X.509 certificate of the device's signature key (DER), and those that vouch for it, the authority that the device knows first: the one
   * that is kept, or another, where the device's keys or products are others by now. Rejections: those of asking for it, `identity-refused`.
   */
  async identity(
    status: DeviceStatus,
  ): Promise<Result<{ readonly certificate: Uint8Array; readonly authorities: readonly Uint8Array[] }>> {
    const certificate = this.#certificate(status.epoch);
    if (certificate === null) {
      const needs = 'an enrolled device';
      const cure = 'Enrol it first (countermark device enrol).';
      return refuse(rejection('wrong-state', { state: status.state, operation: 'identity', needs, cure }));
    }
    const authority = certificate.sessionAuthority;
    const shown = (identity: Identity) =>
      accept({ certificate: identity.certificate, authorities: [authority, ...identity.chain] });
    const bytes = this.#journal.kept('identity');
    if (bytes !== undefined) {
      const kept = { certificate: bytes, chain: chainOf(this.#journal.kept('identity-chain')) };
      if (identityProblem(kept, certificate, status) === null) return shown(kept);
    }
    const request = await this.#psd.call(PSD.certificateRequest, {});
    if (!request.ok) return request;
    const issued = await this.#server.identify(status.device, request.value.request);
    if (!issued.ok) return issued;
    const problem = identityProblem(issued.value, certificate, status);
    if (problem !== null) return refuse(rejection('identity-refused', { device: status.device, reason: problem }));
    this.#journal.keep('identity', issued.value.certificate);
    this.#journal.keep('identity-chain', chainBytes(issued.value.chain));
    return shown(issued.value);
  }

  /** `other`: the device did not take it, and has another one, of that version or a higher one. */
  async #takePolicy(device: DeviceId, above: number): Promise<Result<'taken' | 'other'>> {
    const policy = await this.#server.policy(device, above);
    if (!policy.ok) return policy;
    const taken = await this.#psd.call(PSD.policy, { policy: policy.value });
    if (taken.ok) this.#journal.keep('policy', policy.value);
    if (!taken.ok && taken.rejection.code !== 'stale-policy') return taken;
    const envelope = parseEnvelope(policy.value);
    const { policyDigest } = await statusOf(this.#psd);
    // Over all that it says: a server that was restored may say other limits, too.
    const same =
      envelope.ok && policyDigest !== undefined && sameBytes(messageDigest(envelope.value, sha256), policyDigest);
    return accept(same ? 'taken' : 'other');
  }

  async #statusAfter(done: Result<unknown>): Promise<Result<DeviceStatus>> {
    return done.ok ? accept(await statusOf(this.#psd)) : done;
  }

  /** Takes the server's time to the device. A time that the device has seen already is no failure. */
  async refreshTime(device: DeviceId): Promise<Result<unknown>> {
    const time = await this.#server.time(device);
    if (!time.ok) return time;
    const taken = await this.#psd.call(PSD.signedTime, { time: time.value });
    return !taken.ok && taken.rejection.code === 'stale-time' ? accept(null) : taken;
  }

  /** The policy that the device was given last, as far as this host knows; for planning only, the device decides. */
  policy(): Policy | null {
    const bytes = this.#journal.kept('policy');
    if (bytes === undefined) return null;
    const policy = readUnverified(POLICY, bytes);
    return policy.ok ? policy.value : null;
  }

  /** Asks the server for the certificates of the keys that the device goes over to. */
  certify(requests: Parameters<ServerClient['enrol']>[1]): Promise<Result<EnrolledDevice>> {
    return this.#server.enrol(this.#licensee, requests);
  }

  /** The device that this host has enrolled, as its certificate says; null before that. */
  lastKnown(): DeviceId | null {
    const last = this.#journal.certificates().at(-1);
    const certificate = last === undefined ? null : readUnverified(DEVICE_CERTIFICATE, last.bytes);
    return certificate?.ok === true ? certificate.value.device : null;
  }

  /**
   * Gives a server that does not know the device any more, or not all of its keys, the certificates that it issued. A host that was itself
   * put back to before a rotation lacks the one that matters: it is asked for first, and the asking gives it to the server, too.
   */
  async reintroduce(): Promise<Result<unknown>> {
    await unlessBroken(this.enrolled());
    const certificates = this.#journal.certificates().map(({ bytes }) => bytes);
    return certificates.length === 0 ? accept(null) : this.#server.restoreCertificates(this.#licensee, certificates);
  }

  /**
   * Keeps a certificate under its epoch, for planning and for the archive, and the X.509 certificate that came with it, to be shown. One that
   * the issuing key did not sign as it is here (what leads to that key may have been altered on the way) is not kept, but asked for again:
   * this host's own check would find its store damaged.
   */
  keepCertificate({ certificate: bytes, identityCertificate }: Omit<EnrolledDevice, 'policy'>): void {
    const certificate = verifiedCertificate(bytes, this.#keys);
    if (certificate.ok) this.#journal.keep(certificateName(certificate.value.epoch), bytes);
    if (identityCertificate !== undefined) this.#journal.keep('identity', identityCertificate);
  }

  /** What the device's certificate of an epoch says, as far as this host has it. */
  #certificate(epoch: number): DeviceCertificate | null {
    const bytes = this.#journal.kept(certificateName(epoch));
    const certificate = bytes === undefined ? null : readUnverified(DEVICE_CERTIFICATE, bytes);
    return certificate?.ok === true ? certificate.value : null;
  }

  async #enrol(code: string | undefined): Promise<Result<DeviceStatus>> {
    const status = await statusOf(this.#psd);
    const older = deviceOlder(this.#journal, status);
    if (older !== null) return refuse(older);
    if (isEnrolled(status)) {
      const certificate = this.#journal.kept(certificateName(status.epoch));
      if (this.#journal.kept('policy') === undefined || certificate === undefined) {
        // Franking goes on without them: they are for planning and for the archive.
        await unlessBroken(this.#fetchAgain(status));
      }
      return accept(status);
    }
    const codeDigest = code === undefined ? {} : { codeDigest: enrolmentCodeDigest(code, sha256) };
    const requests = await this.#psd.call(PSD.enrolmentRequest, codeDigest);
    if (!requests.ok) return requests;
    const answer = await this.#server.enrol(this.#licensee, requests.value, code);
    if (!answer.ok) return answer;
    const { certificate, policy } = answer.value;
    const installed = await this.#psd.call(PSD.install, { certificate, policy });
    if (!installed.ok) return installed;
    this.#keep(answer.value);
    const { device } = installed.value;
    const timed = await this.refreshTime(device);
    return timed.ok ? accept(await statusOf(this.#psd)) : accept(installed.value);
  }

  #keep(enrolled: EnrolledDevice): void {
    this.keepCertificate(enrolled);
    this.#journal.keep('policy', enrolled.policy);
  }

  /** A host that lost its store asks for the certificate by enrolling the same keys again, which the server answers alike. */
  async #fetchAgain(status: DeviceStatus): Promise<void> {
    const requests = await this.#psd.call(PSD.enrolmentRequest, {});
    if (requests.ok) {
      const answer = await this.#server.enrol(this.#licensee, requests.value);
      if (answer.ok) {
        this.#keep(answer.value);
        return;
      }
    }
    const policy = await this.#server.policy(status.device);
    if (policy.ok) this.#journal.keep('policy', policy.value);
  }
}

/** Waits for what may fail: a party that does not answer is asked again another time. */
async function unlessBroken(work: Promise<unknown>): Promise<void> {
  try {
    await work;
  } catch (error) {
    if (!(error instanceof Fault)) throw error;
  }
}

/** Whether the device has its certificate and its first policy. */
export function isEnrolled({ state }: Pick<DeviceStatus, 'state'>): boolean {
  return state !== 'uninitialised' && state !== 'keyed' && state !== 'authorised';
}
