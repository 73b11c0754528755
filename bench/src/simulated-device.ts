/**
 * A device without a PSD: keys, an enrolment request, and a valid chain of records, as many as a test or a benchmark wants.
 *
 * Guarantees records that verify and continue their chain. It frank nothing, keeps nothing, and protects no key: for tests
 * and benchmarks only.
 */
import { type KeyObject, randomBytes } from 'node:crypto';
import {
  agreedKey,
  generateSigningKey,
  hmacSha256,
  importPublicKey,
  publicKeyBytes,
  signP1363,
} from '@countermark/node-platform/signing';
import { sha256 } from '@countermark/node-platform/verification';
import { type Authentication, messageDigest, seal, toBeAuthenticated, type Unsealed } from '@countermark/protocol/cose';
import { type Digest, digestOf, NO_DIGEST } from '@countermark/protocol/digest';
import { type BatchId, type CustomerId, deviceIdOf, hex, type JobId, type LicenseeId } from '@countermark/protocol/id';
import { macKeyInfo } from '@countermark/protocol/mac-key';
import { type MessageType, unsealedMessage } from '@countermark/protocol/message';
import { BATCH_STATISTICS, type BatchStatistics } from '@countermark/protocol/messages/batch-statistics';
import { ENROLMENT_REQUEST, type EnrolmentRequest } from '@countermark/protocol/messages/enrolment';
import { FUNDS_REQUEST, type FundsRequest } from '@countermark/protocol/messages/funds';
import { FINAL_STATEMENT } from '@countermark/protocol/messages/final-statement';
import { KEY_ROTATION, ROTATION_REQUEST } from '@countermark/protocol/messages/key-rotation';
import { mills } from '@countermark/protocol/money';
import { type Funds, NO_FUNDS, type Registers, ZERO_REGISTERS } from '@countermark/protocol/registers';

const EPOCH = 1;
const CURRENCY = { code: 'USD', exponent: 3 } as const;
const ZERO = digestOf(new Uint8Array(32));

type KeyPair = ReturnType<typeof generateSigningKey>;

/** What a batch of the simulated device is like; all of it has a default. */
export type SimulatedBatch = {
  readonly pieces?: number;
  readonly pieceMills?: bigint;
  readonly customer?: CustomerId;
  readonly openedAfterMs?: number;
  /** How many of the pieces are spoiled. */
  readonly spoiled?: number;
  readonly incomplete?: boolean;
};

export class SimulatedDevice {
  device = deviceIdOf(randomBytes(8));
  readonly licensee: LicenseeId;
  readonly authentication: Authentication;
  registers: Registers = ZERO_REGISTERS;
  funds: Funds = NO_FUNDS;
  sequence = 0;
  /** Of its key. */
  epoch = EPOCH;
  head: Digest = NO_DIGEST;
  session = generateSigningKey();
  #signing = generateSigningKey();
  #agreement = generateSigningKey();
  #macKey: Uint8Array | undefined;
  /** With which it agreed on the MAC key. */
  #peer: Uint8Array | undefined;
  /** Keys of the next epoch, once a certificate was asked for them. */
  #next: { readonly signing: KeyPair; readonly agreement: KeyPair } | undefined;

  constructor(licensee: LicenseeId, authentication: Authentication = 'signature') {
    this.licensee = licensee;
    this.authentication = authentication;
  }

  get #key() {
    return { holder: this.device, epoch: this.epoch };
  }

  /** A copy of the device's store: the same keys and registers, and from now on another history. */
  copy(): SimulatedDevice {
    const copy = new SimulatedDevice(this.licensee, this.authentication);
    copy.device = this.device;
    copy.registers = this.registers;
    copy.funds = this.funds;
    copy.sequence = this.sequence;
    copy.epoch = this.epoch;
    copy.head = this.head;
    copy.session = this.session;
    copy.#signing = this.#signing;
    copy.#agreement = this.#agreement;
    copy.#macKey = this.#macKey;
    copy.#peer = this.#peer;
    copy.#next = this.#next;
    return copy;
  }

  /** The request, signed; `nonce` makes another request of the same keys. */
  enrolmentRequest(nonce: Uint8Array = new Uint8Array(16)): Uint8Array {
    return this.#signed(ENROLMENT_REQUEST, this.#enrolment(this.#signing, this.#agreement, this.epoch, nonce));
  }

  /** The request for the certificate of its next keys, which it makes once; the key in use and the new one sign. */
  rotationRequest(nonce: Uint8Array = new Uint8Array(16)): Uint8Array {
    this.#next ??= { signing: generateSigningKey(), agreement: generateSigningKey() };
    const { signing, agreement } = this.#next;
    const epoch = this.epoch + 1;
    const enrolment = this.#enrolment(signing, agreement, epoch, nonce);
    const unsealed = unsealedMessage(ENROLMENT_REQUEST, 'signature', { holder: this.device, epoch }, enrolment);
    const request = seal(unsealed, signP1363(signing.privateKey, toBeAuthenticated(unsealed)));
    return this.#signed(ROTATION_REQUEST, { device: this.device, request });
  }

  #enrolment(signing: KeyPair, agreement: KeyPair, epoch: number, nonce: Uint8Array): EnrolmentRequest {
    return {
      device: this.device,
      epoch,
      authentication: this.authentication,
      memory: 'psd',
      publicKey: publicKeyBytes(signing.publicKey),
      agreementKey: publicKeyBytes(agreement.publicKey),
      sessionKey: publicKeyBytes(this.session.publicKey),
      software: { version: '0', measurement: ZERO },
      nonce,
    };
  }

  /** Derives the MAC key of statistics from the certificate's other agreement key. */
  agree(peer: Uint8Array): void {
    const publicKey = importPublicKey(peer);
    if (publicKey === undefined) throw new TypeError('no key');
    this.#peer = peer;
    const info = macKeyInfo(this.device, this.epoch, 'statistics');
    this.#macKey = agreedKey(this.#agreement.privateKey, publicKey, { salt: new Uint8Array(0), info, bytes: 32 });
  }

  /** Takes funds as a funds grant would give them. */
  receive(amountMills: bigint): void {
    this.registers = { ...this.registers, descendingMills: mills(this.registers.descendingMills + amountMills) };
    this.funds = {
      ...this.funds,
      receivedMills: mills(this.funds.receivedMills + amountMills),
      lastGrant: this.funds.lastGrant + 1,
    };
  }

  /** Of the signature key in use. */
  get signatureKey(): KeyObject {
    return this.#signing.privateKey;
  }

  fundsRequest(number: number, amountMills: bigint, changes: Partial<FundsRequest> = {}): Uint8Array {
    return this.#signed(FUNDS_REQUEST, {
      device: this.device,
      licensee: this.licensee,
      number,
      amountMills: mills(amountMills),
      registers: this.registers,
      funds: this.funds,
      currency: CURRENCY,
      ...changes,
    });
  }

  /** The statistics of the next batch, not sealed, and without effect on the device. */
  statistics(batch: SimulatedBatch = {}): BatchStatistics {
    const { pieces = 1, pieceMills = 740n, customer, openedAfterMs, spoiled = 0, incomplete = false } = batch;
    const good = pieces - spoiled;
    const opened = this.registers;
    const postageMills = pieceMills * BigInt(pieces);
    const closed: Registers = {
      ascendingMills: mills(opened.ascendingMills + postageMills),
      descendingMills: mills(opened.descendingMills - postageMills),
      pieces: opened.pieces + pieces,
    };
    return {
      device: this.device,
      licensee: this.licensee,
      sequence: this.sequence + 1,
      previous: this.head,
      declaration: {
        batch: `bat_${hex(randomBytes(16))}` as BatchId,
        job: 'simulated' as JobId,
        ...(customer === undefined ? {} : { customer }),
        submitter: 'simulated',
        preparer: 'simulated',
        product: 'first-class',
        entry: 'origin',
        mailingDate: '2026-11-22',
        expectedPieces: Math.max(1, pieces),
        expectedCells: 1,
        tariff: ZERO,
        scheme: 1,
        currency: CURRENCY,
      },
      closing: {
        spoiled: incomplete ? [] : Array.from({ length: spoiled }, (_, i) => opened.pieces + 1 + i),
        reprints: 0,
      },
      observed: {
        firstPieceNumber: opened.pieces + 1,
        pieces,
        root: ZERO,
        cells:
          good === 0 || incomplete
            ? []
            : [
                {
                  key: {
                    product: 'first-class',
                    shape: 'letter',
                    affixed: 'single-piece-metered',
                    level: '5-digit',
                    entry: 'origin',
                    weightStep: 10,
                  },
                  pieces: good,
                  postageMills: mills(pieceMills * BigInt(good)),
                },
              ],
        spoiledPieces: incomplete ? 0 : spoiled,
        spoiledPostageMills: mills(incomplete ? 0n : pieceMills * BigInt(spoiled)),
        opened,
        closed,
        funds: this.funds,
        incomplete,
        memory: 'psd',
        layout: 1,
        policyVersion: 1,
        software: { version: '0', measurement: ZERO },
        specimen: true,
        currency: CURRENCY,
        epoch: this.epoch,
        ...(openedAfterMs === undefined ? {} : { openedAfterMs }),
      },
    };
  }

  /** Seals the statistics and takes them as the device's newest record. */
  seal(statistics: BatchStatistics, as: MessageType<BatchStatistics> = BATCH_STATISTICS): Uint8Array {
    const unsealed = unsealedMessage(as, this.authentication, this.#key, statistics);
    this.registers = statistics.observed.closed;
    this.sequence = statistics.sequence;
    this.head = digestOf(Uint8Array.from(messageDigest(unsealed, sha256)));
    return seal(unsealed, this.#authenticator(unsealed));
  }

  /** The next record. */
  record(batch: SimulatedBatch = {}): Uint8Array {
    return this.seal(this.statistics(batch));
  }

  /**
   * The next record, a rotation to the next epoch: to the keys that a certificate was asked for; else the keys stay the same and only
   * the certificate is another.
   */
  rotation(newCertificate: Digest): Uint8Array {
    const rotation = {
      device: this.device,
      licensee: this.licensee,
      sequence: this.sequence + 1,
      previous: this.head,
      newEpoch: this.epoch + 1,
      newCertificate,
      registers: this.registers,
      funds: this.funds,
    };
    const unsealed = unsealedMessage(KEY_ROTATION, this.authentication, this.#key, rotation);
    const sealed = seal(unsealed, this.#authenticator(unsealed));
    this.sequence += 1;
    this.epoch += 1;
    this.head = digestOf(Uint8Array.from(messageDigest(unsealed, sha256)));
    if (this.#next !== undefined) {
      this.#signing = this.#next.signing;
      this.#agreement = this.#next.agreement;
      this.#next = undefined;
      if (this.#peer !== undefined) this.agree(this.#peer);
    }
    return sealed;
  }

  /** The last record: everything that is left is given back. `order` names the policy that closes the device. */
  finalStatement(order: Digest = digestOf(new Uint8Array(32))): Uint8Array {
    const returnedMills = this.registers.descendingMills;
    this.registers = { ...this.registers, descendingMills: mills(0n) };
    this.funds = { ...this.funds, returnedMills: mills(this.funds.returnedMills + returnedMills) };
    const unsealed = unsealedMessage(FINAL_STATEMENT, this.authentication, this.#key, {
      device: this.device,
      licensee: this.licensee,
      sequence: this.sequence + 1,
      previous: this.head,
      registers: this.registers,
      funds: this.funds,
      returnedMills,
      order,
      software: { version: '0', measurement: ZERO },
      currency: { code: 'USD', exponent: 3 },
    });
    this.sequence += 1;
    this.head = digestOf(Uint8Array.from(messageDigest(unsealed, sha256)));
    return seal(unsealed, this.#authenticator(unsealed));
  }

  #authenticator(unsealed: Unsealed): Uint8Array {
    const input = toBeAuthenticated(unsealed);
    if (unsealed.authentication === 'signature') return signP1363(this.#signing.privateKey, input);
    if (this.#macKey === undefined) throw new TypeError('no MAC key was agreed');
    return hmacSha256(this.#macKey, input);
  }

  #signed<T>(of: MessageType<T>, value: T): Uint8Array {
    const unsealed = unsealedMessage(of, 'signature', this.#key, value);
    return seal(unsealed, signP1363(this.#signing.privateKey, toBeAuthenticated(unsealed)));
  }
}
