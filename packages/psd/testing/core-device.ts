/**
 * A device of the core alone, for tests: real keys and messages, no store, no process.
 *
 * Plays the shell: hands in salts and time, signs what the effects ask, keeps what a host would keep.
 */
import { randomBytes } from 'node:crypto';
import {
  equalMacs,
  generateSigningKey,
  hmacSha256,
  publicKeyBytes,
  signP1363,
} from '@countermark/node-platform/signing';
import { sha256 } from '@countermark/node-platform/verification';
import { type CellKey, cellKeyBytes } from '@countermark/protocol/cell';
import { type Authentication, type KeyId, seal, toBeAuthenticated } from '@countermark/protocol/cose';
import type { Digest } from '@countermark/protocol/digest';
import { type BatchId, type DeviceId, deviceIdOf } from '@countermark/protocol/id';
import { type FrankChunk, frankChunkSchema } from '@countermark/protocol/interfaces/psd';
import type { BatchDeclaration } from '@countermark/protocol/messages/batch-declaration';
import type { Memory } from '@countermark/protocol/messages/batch-statistics';
import { CONFIRMATION } from '@countermark/protocol/messages/confirmation';
import { DEVICE_CERTIFICATE, type DeviceCertificate } from '@countermark/protocol/messages/enrolment';
import { FUNDS_GRANT } from '@countermark/protocol/messages/funds';
import { pieceRecordBytes, pieceRecordHead } from '@countermark/protocol/messages/piece-record';
import { POLICY, type Policy, SIGNED_TIME } from '@countermark/protocol/messages/policy';
import { mills } from '@countermark/protocol/money';
import type { Result } from '@countermark/protocol/result';
import { encodeWith } from '@countermark/protocol/schema';
import { trustedKeys, parseTrustBundle } from '@countermark/verify/trust-bundle';
import { type VerifiedRecord, verifyRecord } from '@countermark/verify/record';
import type { Verified } from '@countermark/verify/verified';
import { admitChunk } from '../src/core/franking.ts';
import { chunkEntries } from '../src/core/piece-columns.ts';
import type { HostRecords } from '../src/core/recount.ts';
import { type DeviceState, type Identity, type KeptChunk, UNINITIALISED } from '../src/core/state.ts';
import { type Input, step } from '../src/core/step.ts';
import type { Effect, Ports } from '../src/core/transition.ts';
import { TestAuthority, START_MS } from './authority.ts';
import { chunkOf, declarationOf, type TestPiece } from './mailing.ts';

export const SOFTWARE = { version: '0.1.0', measurement: new Uint8Array(32) as Digest };

export type CoreOptions = {
  readonly authentication?: Authentication;
  readonly memory?: Memory;
  readonly policy?: Partial<Policy>;
  readonly recordCapacity?: number;
  readonly certified?: boolean;
};

/** What a host holds of a franked chunk. */
export type HostChunk = { readonly chunk: KeptChunk; readonly codes: Uint8Array; readonly inputs: Uint8Array };

export class CoreDevice {
  readonly authority = new TestAuthority();
  readonly recordKey = randomBytes(32);
  /** By epoch, those that are over included: what is held is under them. */
  readonly secrets = new Map([[1, newSecrets()]]);
  readonly certificates: Verified<DeviceCertificate>[] = [];
  readonly ports: Ports = {
    sha256,
    recordCode: (bytes) => hmacSha256(this.recordKey, bytes).subarray(0, 16),
  };
  identity: Identity;
  /** By batch, in order. */
  readonly journal = new Map<BatchId, HostChunk[]>();
  readonly records: Uint8Array[] = [];
  state: DeviceState;

  constructor(options: CoreOptions = {}) {
    const { authentication = 'signature', memory = 'host', recordCapacity = 1_000 } = options;
    this.identity = {
      device: deviceIdOf(randomBytes(8)),
      epoch: 1,
      authentication,
      memory,
      ...this.#publicHalves(1),
    };
    this.state = { ...UNINITIALISED, recordCapacity };
    this.do({ kind: 'initialise', identity: this.identity });
  }

  get device(): DeviceId {
    return this.identity.device;
  }

  /** One input; a rejection throws. */
  do(input: Input): readonly Effect[] {
    const result = this.try(input);
    if (!result.ok) throw new Error(JSON.stringify(result.rejection));
    return result.value;
  }

  /** One input; a rejection leaves the state as it is. */
  try(input: Input): Result<readonly Effect[]> {
    const stepped = step(this.state, input, this.ports);
    if (!stepped.ok) return stepped;
    this.state = stepped.value.state;
    return { ok: true, value: stepped.value.effects };
  }

  enrol(over: Partial<Policy> = {}, certified = false): this {
    const certificate = this.authority.verified(
      DEVICE_CERTIFICATE,
      this.authority.certificate(this.identity, { certified }),
    );
    this.certificates.splice(0, 1, certificate);
    this.do({
      kind: 'install',
      certificate,
      policy: this.authority.verified(POLICY, this.authority.policy(this.device, over)),
    });
    return this;
  }

  time(timeMs: number): Result<readonly Effect[]> {
    return this.try({ kind: 'time', time: this.authority.verified(SIGNED_TIME, { device: this.device, timeMs }) });
  }

  refill(amountMills: bigint): this {
    const [effect] = this.do({ kind: 'request-funds', amountMills: mills(amountMills) });
    if (effect?.kind !== 'request-funds') throw new Error('no request');
    const grant = this.authority.grant(this.sealed(effect.unsealed));
    this.do({ kind: 'book-funds', grant: this.authority.verified(FUNDS_GRANT, grant) });
    return this;
  }

  open(batch: BatchId, over: Partial<BatchDeclaration> = {}, usedBefore = false): Result<readonly Effect[]> {
    return this.try({ kind: 'open', declaration: declarationOf(batch, over), usedBefore });
  }

  /** Asks for a chunk as a host does, and journals a new one. */
  ask(request: FrankChunk): Result<HostChunk> {
    const admission = admitChunk(this.state, request, this.ports);
    if (!admission.ok) return admission;
    if (admission.value.kind === 'again') {
      const { chunk, codes, inputs } = admission.value.repeated;
      return {
        ok: true,
        value: { chunk: { ...chunk, request, requestBytes: encodeWith(frankChunkSchema, request) }, codes, inputs },
      };
    }
    const { admitted } = admission.value;
    const salts = new Uint8Array(randomBytes(16 * admitted.entries.length));
    const [effect] = this.do({ kind: 'frank', admitted, salts });
    if (effect?.kind !== 'keep-chunk') throw new Error('no chunk');
    const franked = { chunk: effect.chunk, codes: effect.codes, inputs: admitted.inputs };
    this.journal.set(request.batch, [...(this.journal.get(request.batch) ?? []), franked]);
    return { ok: true, value: franked };
  }

  frank(batch: BatchId, firstIndex: number, list: readonly TestPiece[]): HostChunk {
    const franked = this.ask(chunkOf(batch, firstIndex, list));
    if (!franked.ok) throw new Error(JSON.stringify(franked.rejection));
    return franked.value;
  }

  /** The piece records as they lie in host memory. */
  hostRecords(batch: BatchId): HostRecords {
    const chunks = this.journal.get(batch) ?? [];
    const head = pieceRecordHead(this.device, batch);
    const records = chunks.flatMap(({ chunk }) => {
      const { request, firstPieceNumber } = chunk;
      return chunkEntries(request).map(({ cell, postageMills }, i) =>
        pieceRecordBytes(
          head,
          request.firstIndex + i,
          firstPieceNumber + i,
          BigInt(postageMills),
          cellKeyBytes(request.cells[cell] as CellKey),
          request.pieces.subarray(i * 22 + 6, (i + 1) * 22),
        ),
      );
    });
    return {
      batch,
      firstIndex: 0,
      records,
      salts: Buffer.concat(chunks.map(({ chunk }) => chunk.salts)),
      codes: Buffer.concat(chunks.map(({ codes }) => codes)),
    };
  }

  /** Recounts the closed batch from where its memory is. */
  recount(batch: BatchId): Result<readonly Effect[]> {
    if (this.identity.memory === 'host') {
      const records = this.hostRecords(batch);
      return records.records.length === 0 ? { ok: true, value: [] } : this.try({ kind: 'recount', records });
    }
    for (const { chunk } of this.journal.get(batch) ?? []) {
      const counted = this.try({ kind: 'recount-own', batch, chunk });
      if (!counted.ok) return counted;
    }
    return { ok: true, value: [] };
  }

  seal(batch: BatchId, incomplete = false): Result<VerifiedRecord> {
    const sealed = this.try({ kind: 'seal', batch, incomplete, software: SOFTWARE });
    if (!sealed.ok) return sealed;
    const [effect] = sealed.value;
    if (effect?.kind !== 'seal-record') throw new Error('no record');
    const bytes = this.sealed(effect.unsealed);
    this.records.push(bytes);
    return verifyRecord(bytes, this.recordTrust());
  }

  /** Closes, recounts and seals. */
  finish(batch: BatchId, reprints = 0): VerifiedRecord {
    this.do({ kind: 'close', batch, reprints });
    const counted = this.recount(batch);
    if (!counted.ok) throw new Error(JSON.stringify(counted.rejection));
    const sealed = this.seal(batch);
    if (!sealed.ok) throw new Error(JSON.stringify(sealed.rejection));
    return sealed.value;
  }

  confirm(sequence: number, digest: Digest, confirmedDigest: Digest | null = null): Result<readonly Effect[]> {
    const message = this.authority.confirmationOf(this.device, sequence, digest);
    return this.try({
      kind: 'confirm',
      confirmation: this.authority.verified(CONFIRMATION, message),
      confirmedDigest,
    });
  }

  /** Keys of the next epoch, waiting for their certificate. */
  beginRotation(): Result<readonly Effect[]> {
    const epoch = this.identity.epoch + 1;
    if (!this.secrets.has(epoch)) this.secrets.set(epoch, newSecrets());
    const next = { ...this.identity, epoch, ...this.#publicHalves(epoch) };
    return this.try({ kind: 'begin-rotation', next });
  }

  /** The certificate of the keys that wait. */
  nextCertificate(over: Partial<DeviceCertificate> = {}): Verified<DeviceCertificate> {
    const { nextIdentity } = this.state;
    if (nextIdentity === null) throw new Error('no keys wait');
    return this.authority.verified(DEVICE_CERTIFICATE, this.authority.certificate(nextIdentity, over));
  }

  /** Goes over to the keys of the certificate. */
  rotate(certificate: Verified<DeviceCertificate>): Result<VerifiedRecord> {
    const rotated = this.try({ kind: 'rotate', certificate });
    if (!rotated.ok) return rotated;
    const [effect] = rotated.value;
    if (effect?.kind !== 'seal-record' || this.state.identity === null) throw new Error('no record');
    this.certificates.push(certificate);
    this.identity = this.state.identity;
    const bytes = this.sealed(effect.unsealed);
    this.records.push(bytes);
    return verifyRecord(bytes, this.recordTrust());
  }

  recordTrust() {
    const bundle = parseTrustBundle(this.authority.trustBundle);
    if (!bundle.ok || this.certificates.length === 0) throw new Error('not enrolled');
    return {
      ...this.authority.trust,
      keys: trustedKeys(bundle.value, this.certificates),
      macs: {
        verifyMac: ({ epoch }: KeyId, _purpose: unknown, input: Uint8Array, code: Uint8Array) =>
          equalMacs(hmacSha256(this.#secretsOf(epoch).mac, input), code),
      },
    };
  }

  sealed(unsealed: Parameters<typeof seal>[0]): Uint8Array {
    const { mac, signing } = this.#secretsOf(unsealed.key.epoch);
    return unsealed.authentication === 'mac'
      ? seal(unsealed, hmacSha256(mac, toBeAuthenticated(unsealed)))
      : seal(unsealed, signP1363(signing, toBeAuthenticated(unsealed)));
  }

  #secretsOf(epoch: number): Secrets {
    const secrets = this.secrets.get(epoch);
    if (secrets === undefined) throw new Error(`no keys of epoch ${epoch}`);
    return secrets;
  }

  #publicHalves(epoch: number): Pick<Identity, 'publicKey' | 'agreementKey' | 'sessionKey'> {
    const { signing, agreement, session } = this.#secretsOf(epoch);
    return {
      publicKey: publicKeyBytes(signing),
      agreementKey: publicKeyBytes(agreement),
      sessionKey: publicKeyBytes(session),
    };
  }
}

type Secrets = ReturnType<typeof newSecrets>;

function newSecrets() {
  const pair = () => generateSigningKey().privateKey;
  return { signing: pair(), agreement: pair(), session: pair(), mac: randomBytes(32) };
}

/** A device that may frank: enrolled, with time and funds. */
export function readyDevice(options: CoreOptions = {}): CoreDevice {
  const device = new CoreDevice(options).enrol(options.policy, options.certified);
  device.time(START_MS);
  return device.refill(100_000_000n);
}
