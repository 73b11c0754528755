/**
 * Stands in for the host's way to its server over HTTP: the same calls, over the world's network.
 *
 * Guarantees what the real one does: rejections are answers, whatever else goes wrong is the fault `server-unreachable`.
 */
import { Fault } from '@countermark/node-platform/fault';
import type { ServerClient as RealServerClient } from '@countermark/host/server-client';
import type { DeviceId, LicenseeId } from '@countermark/protocol/id';
import { accept, type Result } from '@countermark/protocol/result';
import { CallBroken } from '../network.ts';
import { OPERATOR } from '../parties.ts';
import { machine } from './machine.ts';
import { SessionStream } from './tls-ends.ts';

export type { ArchivedRecord, Settlement } from '@countermark/host/server-client';

type Like = Pick<RealServerClient, keyof RealServerClient>;
type Answer<Name extends keyof Like> = Like[Name] extends (...parameters: never[]) => infer Promised ? Promised : never;

export class ServerClient implements Like {
  readonly url: string;
  readonly #credential: string;

  constructor({ url, credential }: { readonly url: string; readonly credential: string }) {
    this.url = url;
    this.#credential = credential;
  }

  async health(): Promise<void> {
    await this.#ask('health', {});
  }

  /** An operator gives every host that needs one an enrolment code, by telephone. */
  async enrol(licensee: LicenseeId, { request }: { readonly request: Uint8Array }): Answer<'enrol'> {
    const answer: Awaited<Answer<'enrol'>> = await this.#ask('enrol', { licensee, request });
    if (answer.ok || answer.rejection.code !== 'enrolment-code-needed') return answer;
    const issued: Result<{ readonly code: string }> = await this.#ask('invite', { licensee, credential: OPERATOR });
    return issued.ok ? this.#ask('enrol', { licensee, request, code: issued.value.code }) : issued;
  }

  identify(device: DeviceId, request: Uint8Array): Answer<'identify'> {
    return this.#ask('identify', { device, request });
  }

  registerCustomers(licensee: LicenseeId, customers: readonly string[]): Answer<'registerCustomers'> {
    return this.#ask('customers', { licensee, customers });
  }

  policy(device: DeviceId, above = 0): Answer<'policy'> {
    return this.#ask('policy', { device, above });
  }

  time(device: DeviceId): Answer<'time'> {
    return this.#ask('time', { device });
  }

  submit(records: readonly Uint8Array[]): Answer<'submit'> {
    return this.#ask('submit', { records });
  }

  restore(items: Parameters<Like['restore']>[0]): Answer<'restore'> {
    return this.#ask('restore', { items });
  }

  attestation(device: DeviceId, sequence: number): Answer<'attestation'> {
    return this.#ask('attestation', { device, sequence });
  }

  recordPart(device: DeviceId, sequence: number, part: Parameters<Like['recordPart']>[2]): Answer<'recordPart'> {
    return this.#ask('record-part', { device, sequence, part });
  }

  restoreCertificates(licensee: LicenseeId, certificates: readonly Uint8Array[]): Answer<'restoreCertificates'> {
    return this.#ask('restore-certificates', { licensee, certificates });
  }

  restoreFunds(grant: Uint8Array): Answer<'restoreFunds'> {
    return this.#ask('restore-funds', { grant });
  }

  fundsRequest(request: Uint8Array): Answer<'fundsRequest'> {
    return this.#ask('funds', { request });
  }

  deposit(licensee: LicenseeId): Answer<'deposit'> {
    return this.#ask('deposit-balance', { licensee });
  }

  settlement(device: DeviceId): Answer<'settlement'> {
    return this.#ask('settlement', { device });
  }

  grants(licensee: LicenseeId, after: number): Answer<'grants'> {
    return this.#ask('grants', { licensee, after });
  }

  programmes(): Answer<'programmes'> {
    return this.#ask('programmes', {});
  }

  /** A session's way: the path of the cryptographic device's end, once the server has opened it. */
  async openSession(): Answer<'openSession'> {
    const opened: Result<string> = await this.#ask('session', {});
    return opened.ok ? accept(new SessionStream(opened.value) as never) : opened;
  }

  async #ask<T>(operation: string, parameters: object): Promise<Result<T>> {
    try {
      return (await machine().network.remote(this.url, operation, {
        credential: this.#credential,
        ...parameters,
      })) as Result<T>;
    } catch (error) {
      if (!(error instanceof CallBroken)) throw error;
      throw new Fault('server-unreachable', `the server cannot be reached: ${error.message}`, {
        retry: 'later',
        cause: error,
      });
    }
  }
}
