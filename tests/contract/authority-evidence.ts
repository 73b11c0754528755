/**
 * What the authority is given in its tests: devices with certificates, their chains of records, and attestations, made with
 * real keys; and whatever should be wrong with them.
 */
import { createHash } from 'node:crypto';
import { generateSigningKey, hmacSha256, publicKeyBytes, signP1363 } from '@countermark/node-platform/signing';
import { nodeVerification } from '@countermark/node-platform/verification';
import { type Cell, cellKeyBytes } from '@countermark/protocol/cell';
import { messageDigest, parseEnvelope, seal, toBeAuthenticated, type Unsealed } from '@countermark/protocol/cose';
import { type Digest, digestOf, NO_DIGEST } from '@countermark/protocol/digest';
import type { BatchId, CustomerId, DeviceId, JobId, LicenseeId } from '@countermark/protocol/id';
import type { Delivery } from '@countermark/protocol/interfaces/delivery';
import { type MessageType, type Role, unsealedMessage } from '@countermark/protocol/message';
import { ATTESTATION, type Attestation } from '@countermark/protocol/messages/attestation';
import { BATCH_STATISTICS, type BatchStatistics } from '@countermark/protocol/messages/batch-statistics';
import { DEVICE_CERTIFICATE } from '@countermark/protocol/messages/enrolment';
import { FINAL_STATEMENT } from '@countermark/protocol/messages/final-statement';
import { KEY_ROTATION } from '@countermark/protocol/messages/key-rotation';
import { SUSPENSION } from '@countermark/protocol/messages/policy';
import { mills } from '@countermark/protocol/money';
import { type Registers, ZERO_REGISTERS } from '@countermark/protocol/registers';
import { SHIPPED_TARIFFS } from '@countermark/tariff/shipped';
import { compareBytes } from '@countermark/verify/statistics';
import type { TrustBundle } from '@countermark/verify/trust-bundle';

const sha256 = (bytes: Uint8Array): Digest => digestOf(createHash('sha256').update(bytes).digest());

const USD = { code: 'USD', exponent: 3 } as const;
const TARIFF = sha256(SHIPPED_TARIFFS[0]!.bytes);

/** Keys of the roles of the cryptographic device. */
export class Roles {
  readonly #keys = new Map<Role, ReturnType<typeof generateSigningKey>>();

  constructor() {
    for (const role of ['issuing', 'attesting', 'policy', 'confirming', 'funds'] as const) {
      this.#keys.set(role, generateSigningKey());
    }
  }

  sign<T>(of: MessageType<T>, message: T, role = of.authenticatedBy as Role): Uint8Array {
    const unsealed = unsealedMessage(of, 'signature', { holder: of.authenticatedBy, epoch: 1 }, message);
    return seal(unsealed, signP1363(this.#keys.get(role)!.privateKey, toBeAuthenticated(unsealed)));
  }

  /** Without `after` as it was before the field. */
  suspension(device: TestDevice, suspended: boolean, sinceMs: number, after?: number): Uint8Array {
    const { id, licensee } = device;
    const words = { device: id, licensee, suspended, reason: suspended ? 'lost' : '', sinceMs };
    return this.sign(SUSPENSION, { ...words, ...(after === undefined ? {} : { afterSequence: after }) });
  }

  /** A withdrawal for good. */
  withdrawal(device: TestDevice, sinceMs: number, after?: number): Uint8Array {
    const { id, licensee } = device;
    const words = { device: id, licensee, suspended: true, reason: 'gone', sinceMs, withdrawn: true };
    return this.sign(SUSPENSION, { ...words, ...(after === undefined ? {} : { afterSequence: after }) });
  }

  get bundle(): TrustBundle {
    return {
      keys: [...this.#keys].map(([role, { publicKey }]) => ({ role, epoch: 1, publicKey: publicKeyBytes(publicKey) })),
      agreementKey: publicKeyBytes(this.#keys.get('funds')!.publicKey),
      sessionAuthority: new Uint8Array([1]),
    };
  }
}

export type Franked = Delivery['items'][number] & { readonly digest: Digest; readonly statistics: BatchStatistics };

export type BatchOptions = {
  readonly customer?: string;
  readonly product?: string;
  readonly mailingDate?: string;
  readonly incomplete?: boolean;
  readonly spoiled?: number;
  readonly tariff?: Digest;
  /** Changes the message before it is authenticated. */
  readonly alter?: (statistics: BatchStatistics) => BatchStatistics;
  readonly alterAttestation?: (attestation: Attestation) => Attestation;
  /** Another procedure than the one that the device is enrolled with; another holder in the key id. */
  readonly by?: 'signature' | 'mac';
  readonly holder?: string;
  /** The chain does not move on: what comes next forks. */
  readonly branch?: boolean;
  /** The epoch whose key it is under; default the one in use. */
  readonly under?: number;
};

/** One cell of a batch. */
export type Pieces = {
  readonly level: string;
  readonly pieces: number;
  /** Default: the tariff's. */
  readonly affixedMills?: bigint;
  /** Default: the tariff's first. */
  readonly weightStep?: number;
};

const FUNDS = { receivedMills: mills(1_000_000_000n), returnedMills: mills(0n), lastGrant: 1 };
let devices = 0;

/** A device and its chain. */
export class TestDevice {
  readonly id: DeviceId;
  readonly licensee: LicenseeId;
  readonly authentication: 'signature' | 'mac';
  readonly certificate: Uint8Array;
  readonly #roles: Roles;
  /** By epoch, from 1. */
  readonly #keys = [generateSigningKey()];
  #sequence = 0;
  #previous: Digest = NO_DIGEST;
  #registers: Registers = { ...ZERO_REGISTERS, descendingMills: mills(1_000_000_000n) };

  constructor(roles: Roles, licensee = 'lic_test-bureau', authentication: 'signature' | 'mac' = 'signature') {
    this.#roles = roles;
    devices += 1;
    this.id = `psd_${devices.toString(16).padStart(16, '0')}` as DeviceId;
    this.licensee = licensee as LicenseeId;
    this.authentication = authentication;
    this.certificate = this.certificateBy('issuing');
  }

  /** Of the keys in use. */
  get epoch(): number {
    return this.#keys.length;
  }

  certificateBy(role: Role, epoch = this.epoch): Uint8Array {
    const publicKey = publicKeyBytes(this.#keyOf(epoch).publicKey);
    return this.#roles.sign(
      DEVICE_CERTIFICATE,
      {
        device: this.id,
        licensee: this.licensee,
        epoch,
        authentication: this.authentication,
        memory: 'psd',
        publicKey,
        agreementKey: publicKey,
        agreementPeer: publicKey,
        sessionCertificate: new Uint8Array([1]),
        sessionAuthority: new Uint8Array([1]),
        certified: false,
        measurement: NO_DIGEST,
        issuedAtMs: 1,
      },
      role,
    );
  }

  /** Goes over to new keys: the record, its attestation, and the new certificate. */
  rotate(): Delivery['items'][number] & { readonly certificate: Uint8Array } {
    const { epoch } = this;
    this.#keys.push(generateSigningKey());
    const certificate = this.certificateBy('issuing');
    const envelope = parseEnvelope(certificate);
    if (!envelope.ok) throw new Error(envelope.rejection.code);
    const rotation = {
      device: this.id,
      licensee: this.licensee,
      sequence: this.#sequence + 1,
      previous: this.#previous,
      newEpoch: epoch + 1,
      newCertificate: messageDigest(envelope.value, nodeVerification.sha256),
      registers: this.#registers,
      funds: FUNDS,
    };
    const unsealed = unsealedMessage(KEY_ROTATION, this.authentication, { holder: this.id, epoch }, rotation);
    const digest = messageDigest(unsealed, nodeVerification.sha256);
    this.#sequence += 1;
    this.#previous = digest;
    const attestation = this.#attestation('key-rotation', rotation.sequence, digest, this.authentication, epoch);
    return {
      record: this.#sealed(unsealed, epoch),
      attestation: this.#roles.sign(ATTESTATION, attestation),
      certificate,
    };
  }

  /** The last record: everything that is left is given back. */
  end(): Delivery['items'][number] {
    const { epoch } = this;
    const returnedMills = this.#registers.descendingMills;
    const statement = {
      device: this.id,
      licensee: this.licensee,
      sequence: this.#sequence + 1,
      previous: this.#previous,
      registers: { ...this.#registers, descendingMills: mills(0n) },
      funds: { ...FUNDS, returnedMills },
      returnedMills,
      order: NO_DIGEST,
      software: { version: '0', measurement: NO_DIGEST },
      currency: { code: 'USD', exponent: 3 },
    };
    const unsealed = unsealedMessage(FINAL_STATEMENT, this.authentication, { holder: this.id, epoch }, statement);
    const digest = messageDigest(unsealed, nodeVerification.sha256);
    this.#sequence += 1;
    this.#previous = digest;
    const said = this.#attestation('final-statement', statement.sequence, digest, this.authentication, epoch);
    return { record: this.#sealed(unsealed, epoch), attestation: this.#roles.sign(ATTESTATION, said) };
  }

  #keyOf(epoch: number): ReturnType<typeof generateSigningKey> {
    const key = this.#keys[epoch - 1];
    if (key === undefined) throw new Error(`no key of epoch ${epoch}`);
    return key;
  }

  #sealed(unsealed: Unsealed, epoch: number): Uint8Array {
    const input = toBeAuthenticated(unsealed);
    return seal(
      unsealed,
      unsealed.authentication === 'signature'
        ? signP1363(this.#keyOf(epoch).privateKey, input)
        : hmacSha256(new Uint8Array(32), input),
    );
  }

  #attestation(
    recordType: Attestation['recordType'],
    sequence: number,
    digest: Digest,
    authentication: 'signature' | 'mac',
    epoch: number,
  ): Attestation {
    const { id: device, licensee } = this;
    return { device, licensee, sequence, digest, recordType, authentication, epoch, attestedAtMs: 1 };
  }

  /** Franks a batch: its record and attestation. */
  frank(pieces: readonly Pieces[], options: BatchOptions = {}): Franked {
    const {
      customer,
      product = 'usps-fcm-letter',
      mailingDate = '2026-03-02',
      incomplete = false,
      spoiled = 0,
      under: epoch = this.epoch,
    } = options;
    const tariffProduct = SHIPPED_TARIFFS[0]!.tariff.products.get(product)!;
    const { usualAffixed, shape, weightSteps } = tariffProduct;
    const priceAt = (weightStep: number): bigint =>
      tariffProduct.affixed.get(usualAffixed)![weightSteps.indexOf(weightStep)]!;
    const affixedMills = priceAt(weightSteps[0]!);
    const cells = pieces
      .map(({ level, pieces: many, weightStep = weightSteps[0]!, affixedMills: each = priceAt(weightStep) }): Cell => {
        const key = { product, shape, affixed: usualAffixed, level, entry: 'none', weightStep };
        return { key, pieces: many, postageMills: mills(each * BigInt(many)) };
      })
      .sort((a, b) => compareBytes(cellKeyBytes(a.key), cellKeyBytes(b.key)));
    const spoiledPostageMills = mills(affixedMills * BigInt(spoiled));
    const count = cells.reduce((sum, cell) => sum + cell.pieces, 0) + spoiled;
    const postageMills = cells.reduce((sum, cell) => sum + cell.postageMills, 0n) + spoiledPostageMills;
    const opened = this.#registers;
    const closed: Registers = {
      ascendingMills: mills(opened.ascendingMills + postageMills),
      descendingMills: mills(opened.descendingMills - postageMills),
      pieces: opened.pieces + count,
    };
    const plain: BatchStatistics = {
      device: this.id,
      licensee: this.licensee,
      sequence: this.#sequence + 1,
      previous: this.#previous,
      declaration: {
        batch: `bat_${'0'.repeat(24)}${this.#sequence.toString(16).padStart(8, '0')}` as BatchId,
        job: 'job' as JobId,
        ...(customer === undefined ? {} : { customer: customer as CustomerId }),
        submitter: 'Test Bureau',
        preparer: 'Test Bureau',
        product,
        entry: 'none',
        mailingDate,
        expectedPieces: Math.max(1, count),
        expectedCells: 64,
        tariff: options.tariff ?? TARIFF,
        scheme: 1,
        currency: USD,
      },
      closing: {
        spoiled: incomplete ? [] : Array.from({ length: spoiled }, (_, i) => closed.pieces - spoiled + 1 + i),
        reprints: 0,
      },
      observed: {
        firstPieceNumber: opened.pieces + 1,
        pieces: count,
        root: NO_DIGEST,
        cells: incomplete ? [] : cells,
        spoiledPieces: incomplete ? 0 : spoiled,
        spoiledPostageMills: incomplete ? mills(0n) : spoiledPostageMills,
        opened,
        closed,
        funds: FUNDS,
        incomplete,
        memory: 'psd',
        layout: 1,
        policyVersion: 1,
        software: { version: '1', measurement: NO_DIGEST },
        specimen: true,
        currency: USD,
        epoch,
      },
    };
    const statistics = options.alter?.(plain) ?? plain;
    const authentication = options.by ?? this.authentication;
    const holder = options.holder ?? this.id;
    const unsealed = unsealedMessage(BATCH_STATISTICS, authentication, { holder, epoch }, statistics);
    const record = this.#sealed(unsealed, epoch);
    const digest = messageDigest(unsealed, nodeVerification.sha256);
    if (options.branch !== true) {
      this.#sequence += 1;
      this.#previous = digest;
      this.#registers = closed;
    }
    const attestation = this.#attestation('batch-statistics', statistics.sequence, digest, authentication, epoch);
    return {
      record,
      attestation: this.#roles.sign(ATTESTATION, options.alterAttestation?.(attestation) ?? attestation),
      digest,
      statistics,
    };
  }
}

/** A delivery of these items, with the certificates of the devices. */
export function delivery(from: readonly TestDevice[], items: readonly Franked[], suspensions?: Uint8Array[]): Delivery {
  return {
    certificates: from.map(({ certificate }) => certificate),
    items: items.map(({ record, attestation }) => ({ record, attestation })),
    ...(suspensions === undefined ? {} : { suspensions }),
  };
}
