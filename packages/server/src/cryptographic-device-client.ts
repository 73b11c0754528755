/**
 * The server's way to its cryptographic device: the operations of protocol/interfaces, typed, over its local socket.
 *
 * Guarantees: answers are parsed strictly; calls of many records are divided so that each fits in a frame; a device that
 * cannot be reached is the rejection `try-again`, never a fault of the caller.
 * Believes what the device says: the socket lies in a directory that only this user enters.
 */
import { Fault } from '@countermark/node-platform/fault';
import { lazyRpc, type RpcClient } from '@countermark/node-platform/rpc';
import type { Digest } from '@countermark/protocol/digest';
import type { CeremonyId, DeviceId, LicenseeId } from '@countermark/protocol/id';
import { CRYPTOGRAPHIC_DEVICE } from '@countermark/protocol/interfaces/cryptographic-device';
import type { Operation } from '@countermark/protocol/interfaces/operation';
import type { RotatedKey } from '@countermark/protocol/message';
import type { Draw } from '@countermark/protocol/messages/funds';
import { mills } from '@countermark/protocol/money';
import { type Rejection, rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { parseValue } from '@countermark/protocol/schema';

/** Room for heads and answers beside the records of one frame of 4 MiB. */
const CALL_BYTES = 3 * 1024 * 1024;
const TIMEOUT_MS = 20_000;

/** What the server asks of the cryptographic device. */
/** An X.509 certificate, its authority's, and those that lead to that one from older authorities, the newest first (DER). */
export type IssuedIdentity = {
  readonly certificate: Uint8Array;
  readonly authority: Uint8Array;
  readonly chain: readonly Uint8Array[];
};

export type CryptographicDevice = {
  /** An attestation, or why not, for each record. */
  authenticate(records: readonly Uint8Array[]): Promise<readonly Result<Uint8Array>[]>;
  /** A confirmation, or why not, for each record with its attestation. */
  confirm(
    items: readonly { readonly record: Uint8Array; readonly attestation: Uint8Array }[],
  ): Promise<readonly Result<Uint8Array>[]>;
  /**
   * `onlyKnown`: a certificate only for keys that were certified before, and for rotations. `identity`: the certificate request for the same
   * key, and what of a code it must bear.
   */
  enrol(
    request: Uint8Array,
    licensee: LicenseeId,
    onlyKnown: boolean,
    identity: { readonly certificateRequest?: Uint8Array; readonly codeDigest?: Digest },
  ): Promise<Result<Uint8Array>>;
  /** An X.509 certificate for the key that signed this PKCS#10 request, with the policy's products, and who issued it. */
  identify(request: Uint8Array, policy: Uint8Array): Promise<Result<IssuedIdentity>>;
  fund(
    request: Uint8Array,
    decision: { readonly depositMills: bigint; readonly draws: readonly Draw[]; readonly refusal?: string | undefined },
  ): Promise<Result<Uint8Array>>;
  signPolicy(policy: Uint8Array): Promise<Result<Uint8Array>>;
  signTime(device: DeviceId): Promise<Result<Uint8Array>>;
  /** `last`: the last record that stands, null for none. */
  suspend(
    device: DeviceId,
    licensee: LicenseeId,
    reason: string,
    withdrawn: boolean,
    last: { readonly record: Uint8Array; readonly attestation: Uint8Array } | null,
  ): Promise<Result<Uint8Array>>;
  /** The certificate of the role's next key, the same at every repeat of the ceremony. */
  rotateRoleKey(role: RotatedKey, ceremony: CeremonyId): Promise<Result<Uint8Array>>;
  /** The certificates of all keys that are not a role's first. */
  roleCertificates(): Promise<Result<readonly Uint8Array[]>>;
  /** Revokes the session keys of the device that are certified by now; the epoch of the last. */
  revokeSessions(device: DeviceId, licensee: LicenseeId): Promise<Result<number>>;
  close(): void;
};

/** The device behind the socket; connects at the first call. */
export function connectCryptographicDevice(socket: string): CryptographicDevice {
  const rpc = lazyRpc(socket, { timeoutMs: TIMEOUT_MS });
  const {
    authenticate,
    confirm,
    enrol,
    identify,
    fund,
    signPolicy,
    signTime,
    suspend,
    rotateRoleKey,
    publicKeys,
    revokeSessions,
  } = CRYPTOGRAPHIC_DEVICE;
  return {
    authenticate: async (records) =>
      inCalls(
        records,
        (record) => record.length,
        async (part) => {
          const answer = await call(rpc, authenticate, { records: part });
          return answer.ok
            ? answer.value.results.map((result) => given(result.attestation, result.rejection))
            : part.map(() => answer);
        },
      ),
    confirm: async (items) =>
      inCalls(
        items,
        (item) => item.record.length + item.attestation.length,
        async (part) => {
          const answer = await call(rpc, confirm, { items: part });
          return answer.ok
            ? answer.value.results.map((result) => given(result.confirmation, result.rejection))
            : part.map(() => answer);
        },
      ),
    enrol: async (request, licensee, onlyKnown, identity) => {
      const asked = { request, licensee, certified: false, ...identity };
      const answer = await call(rpc, enrol, onlyKnown ? { ...asked, known: true } : asked);
      return answer.ok ? accept(answer.value.certificate) : answer;
    },
    identify: (request, policy) => call(rpc, identify, { request, policy }),
    fund: async (request, { depositMills, draws, refusal }) => {
      const answer = await call(rpc, fund, {
        request,
        depositMills: mills(depositMills),
        draws,
        ...(refusal === undefined ? {} : { refusal }),
      });
      return answer.ok ? accept(answer.value.grant) : answer;
    },
    signPolicy: async (policy) => {
      const answer = await call(rpc, signPolicy, { policy });
      return answer.ok ? accept(answer.value.policy) : answer;
    },
    signTime: async (device) => {
      const answer = await call(rpc, signTime, { device });
      return answer.ok ? accept(answer.value.time) : answer;
    },
    suspend: async (device, licensee, reason, withdrawn, last) => {
      const words = { device, licensee, suspended: true, reason, ...(last === null ? {} : { last }) };
      const answer = await call(rpc, suspend, withdrawn ? { ...words, withdrawn } : words);
      return answer.ok ? accept(answer.value.suspension) : answer;
    },
    rotateRoleKey: async (role, ceremony) => {
      const answer = await call(rpc, rotateRoleKey, { role, ceremony });
      return answer.ok ? accept(answer.value.certificate) : answer;
    },
    roleCertificates: async () => {
      const answer = await call(rpc, publicKeys, {});
      return answer.ok ? accept(answer.value.certificates) : answer;
    },
    revokeSessions: async (device, licensee) => {
      const answer = await call(rpc, revokeSessions, { device, licensee });
      return answer.ok ? accept(answer.value.epoch) : answer;
    },
    close: () => {
      rpc.close();
    },
  };
}

async function call<Request, Answer>(
  rpc: RpcClient,
  operation: Operation<Request, Answer>,
  request: Request,
): Promise<Result<Answer>> {
  try {
    const answer = await rpc.call(operation.name, operation.request.toCbor(request));
    return answer.ok ? parseValue(operation.answer, answer.value) : answer;
  } catch (error) {
    if (!(error instanceof Fault)) throw error;
    // The code alone: the text may name a path of this machine, and hosts read the reason.
    return refuse(rejection('try-again', { reason: `the cryptographic device does not answer (${error.code})` }));
  }
}

function given(bytes: Uint8Array | undefined, refused: Rejection | undefined): Result<Uint8Array> {
  if (bytes !== undefined) return accept(bytes);
  return refuse(refused ?? rejection('try-again', { reason: 'the cryptographic device gave no answer' }));
}

/** Calls with as many items as fit in a frame, one after the other; all results in order. */
async function inCalls<Item, Outcome>(
  items: readonly Item[],
  size: (item: Item) => number,
  callWith: (part: readonly Item[]) => Promise<readonly Result<Outcome>[]>,
): Promise<readonly Result<Outcome>[]> {
  const results: Result<Outcome>[] = [];
  let first = 0;
  while (first < items.length) {
    let last = first;
    let bytes = 0;
    for (const item of items.slice(first)) {
      bytes += size(item);
      if (last > first && bytes > CALL_BYTES) break;
      last += 1;
    }
    const part = items.slice(first, last);
    const given = await callWith(part);
    part.forEach((_, index) => {
      results.push(given[index] ?? refuse(rejection('try-again', { reason: 'an answer is missing' })));
    });
    first = last;
  }
  return results;
}
