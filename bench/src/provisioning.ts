/**
 * What a PSD needs from the server side before it can frank, made in this process with keys of its own: trust bundle,
 * certificate, policy, funds grants, confirmations.
 *
 * So that the PSD is measured alone, as it is shipped. Not a cryptographic device: it signs whatever it is asked.
 */
import type { KeyObject } from 'node:crypto';
import type { RpcClient } from '@countermark/node-platform/rpc';
import { generateSigningKey, publicKeyBytes, signP1363 } from '@countermark/node-platform/signing';
import { seal, toBeAuthenticated } from '@countermark/protocol/cose';
import type { Digest } from '@countermark/protocol/digest';
import type { LicenseeId } from '@countermark/protocol/id';
import type { Operation } from '@countermark/protocol/interfaces/operation';
import { type DeviceStatus, PSD } from '@countermark/protocol/interfaces/psd';
import { type MessageType, parsePayload, type Role, ROLES, unsealedMessage } from '@countermark/protocol/message';
import { CONFIRMATION } from '@countermark/protocol/messages/confirmation';
import { DEVICE_CERTIFICATE, ENROLMENT_REQUEST } from '@countermark/protocol/messages/enrolment';
import { FUNDS_GRANT, FUNDS_REQUEST } from '@countermark/protocol/messages/funds';
import { POLICY, type Policy } from '@countermark/protocol/messages/policy';
import { type Mills, mills } from '@countermark/protocol/money';
import { parseEnvelope } from '@countermark/protocol/cose';
import { describeRejection } from '@countermark/protocol/rejection';
import type { Result } from '@countermark/protocol/result';
import { parseValue } from '@countermark/protocol/schema';
import { formatTrustBundle } from '@countermark/verify/trust-bundle';

const LICENSEE = 'lic_bench' as LicenseeId;
export const BENCH_CURRENCY = { code: 'USD', exponent: 3 } as const;
const NOW_MS = Date.UTC(2026, 10, 22);

/** Calls an operation of a local interface and parses its answer. @throws Error for a rejection. */
export async function ask<Request, Answer>(
  client: RpcClient,
  operation: Operation<Request, Answer>,
  request: Request,
): Promise<Answer> {
  return wanted(
    parseValue(operation.answer, wanted(await client.call(operation.name, operation.request.toCbor(request)))),
  );
}

function wanted<T>(result: Result<T>): T {
  if (!result.ok) throw new Error(describeRejection(result.rejection));
  return result.value;
}

/** The server side of one benchmark run. */
export class Provisioning {
  readonly #keys = new Map<Role, KeyObject>(ROLES.map((role) => [role, generateSigningKey().privateKey]));
  readonly #agreement = publicKeyBytes(generateSigningKey().privateKey);

  /** The text of `trust-bundle.json`. */
  get trustBundle(): string {
    return formatTrustBundle({
      keys: [...this.#keys].map(([role, key]) => ({ role, epoch: 1, publicKey: publicKeyBytes(key) })),
      agreementKey: this.#agreement,
      sessionAuthority: Uint8Array.of(0x30),
    });
  }

  /** Enrols the device behind the client and fills it. */
  async provision(client: RpcClient, fundsMills: Mills, policy: Partial<Policy> = {}): Promise<DeviceStatus> {
    const { request } = await ask(client, PSD.enrolmentRequest, {});
    const enrolment = wanted(parsePayload(ENROLMENT_REQUEST, wanted(parseEnvelope(request))));
    const { device, epoch, authentication, memory, publicKey, agreementKey, software } = enrolment;
    const certificate = this.#sign('issuing', DEVICE_CERTIFICATE, {
      device,
      licensee: LICENSEE,
      epoch,
      authentication,
      memory,
      publicKey,
      agreementKey,
      agreementPeer: this.#agreement,
      sessionCertificate: Uint8Array.of(0x30),
      sessionAuthority: Uint8Array.of(0x30),
      certified: false,
      measurement: software.measurement,
      issuedAtMs: NOW_MS,
    });
    const signed = this.#sign('policy', POLICY, {
      device,
      licensee: LICENSEE,
      version: 1,
      currency: BENCH_CURRENCY,
      lowestPostageMills: mills(0n),
      highestPostageMills: mills(100_000n),
      highestFundsMills: mills(1_000_000_000_000n),
      maxUnconfirmedBatches: 1_000,
      maxUnconfirmedPostageMills: mills(1_000_000_000_000n),
      warnAfterDays: 28,
      lockAfterDays: 90,
      maxPiecesPerBatch: 10_000_000,
      maxCellsPerBatch: 1_024,
      memoryPieces: 10_000_000,
      customers: [],
      ...policy,
    });
    await ask(client, PSD.install, { certificate, policy: signed });
    const asked = await ask(client, PSD.fundsRequest, { amountMills: fundsMills });
    const funds = wanted(parsePayload(FUNDS_REQUEST, wanted(parseEnvelope(asked.request))));
    const grant = this.#sign('funds', FUNDS_GRANT, {
      device,
      licensee: LICENSEE,
      number: funds.number,
      amountMills: funds.amountMills,
      draws: [],
      receivedMills: mills(funds.funds.receivedMills + funds.amountMills),
      currency: BENCH_CURRENCY,
      grantedAtMs: NOW_MS,
    });
    return ask(client, PSD.fundsGrant, { grant });
  }

  /** A confirmation of the record of this sequence and digest. */
  confirmation(device: DeviceStatus['device'], sequence: number, digest: Digest): Uint8Array {
    return this.#sign('confirming', CONFIRMATION, {
      device,
      licensee: LICENSEE,
      sequence,
      digest,
      confirmedAtMs: NOW_MS,
    });
  }

  #sign<T>(role: Role, of: MessageType<T>, value: T): Uint8Array {
    const unsealed = unsealedMessage(of, 'signature', { holder: role, epoch: 1 }, value);
    return seal(unsealed, signP1363(this.#keys.get(role) as KeyObject, toBeAuthenticated(unsealed)));
  }
}
