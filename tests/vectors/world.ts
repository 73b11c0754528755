/**
 * The world of the protocol's vectors: keys that are published and therefore worthless, two devices, and one message
 * of every type, in a chain that holds.
 *
 * Deterministic but for ECDSA signatures, which `keep` takes over from the committed vectors as long as they verify.
 */
import { createPrivateKey, type KeyObject } from 'node:crypto';
import {
  hmacSha256,
  agreedKey,
  importPrivateKey,
  importPublicKey,
  publicKeyBytes,
  signP1363,
  verifyP1363,
} from '@countermark/node-platform/signing';
import { sha256 } from '@countermark/node-platform/verification';
import { concat, utf8 } from '@countermark/protocol/bytes';
import { cellKeyBytes, type Cell } from '@countermark/protocol/cell';
import { type Authentication, messageDigest, seal, toBeAuthenticated, type Unsealed } from '@countermark/protocol/cose';
import { type Digest, NO_DIGEST } from '@countermark/protocol/digest';
import {
  type BatchId,
  type CustomerId,
  type DeviceId,
  type JobId,
  type LicenseeId,
  type ProgrammeId,
  unhex,
} from '@countermark/protocol/id';
import {
  indiciumBytes,
  indiciumFrame,
  indiciumInputBytes,
  LAYOUTS,
  writeIndiciumInput,
} from '@countermark/protocol/layout';
import { macKeyInfo } from '@countermark/protocol/mac-key';
import { append, auditPath, EMPTY_FRONTIER, leafDigest, root } from '@countermark/protocol/merkle';
import { type CertifiedRole, type MessageType, type Role, ROLES, unsealedMessage } from '@countermark/protocol/message';
import { ATTESTATION, type Attestation } from '@countermark/protocol/messages/attestation';
import { BATCH_STATISTICS, type BatchStatistics } from '@countermark/protocol/messages/batch-statistics';
import { CONFIRMATION } from '@countermark/protocol/messages/confirmation';
import {
  type DeviceCertificate,
  DEVICE_CERTIFICATE,
  ENROLMENT_REQUEST,
} from '@countermark/protocol/messages/enrolment';
import { FUNDS_GRANT, FUNDS_REQUEST } from '@countermark/protocol/messages/funds';
import { CREDIT_GRANT, DISCOUNT_GRANT } from '@countermark/protocol/messages/grant';
import { FINAL_STATEMENT } from '@countermark/protocol/messages/final-statement';
import { KEY_ROTATION, ROTATION_REQUEST } from '@countermark/protocol/messages/key-rotation';
import { pieceRecordBytes, pieceRecordHead } from '@countermark/protocol/messages/piece-record';
import { POLICY, SIGNED_TIME, SUSPENSION } from '@countermark/protocol/messages/policy';
import { GRANTING_CERTIFICATE } from '@countermark/protocol/messages/granting-certificate';
import { ROLE_CERTIFICATE } from '@countermark/protocol/messages/role-certificate';
import { mills } from '@countermark/protocol/money';

export const NOW_MS = Date.UTC(2026, 10, 22, 9, 0, 0);
export const LICENSEE = 'lic_vector-bureau' as LicenseeId;
const CUSTOMER = 'alder-press' as CustomerId;
const CURRENCY = { code: 'USD', exponent: 3 } as const;
/** One device signs, the other codes. */
export const SIGNING_DEVICE = 'psd_0011223344556677' as DeviceId;
export const CODING_DEVICE = 'psd_8899aabbccddeeff' as DeviceId;

/** The published keys: PKCS8 from the scalar SHA-256("countermark test key " + name), reduced below the group's order. */
export function testKey(name: string): KeyObject {
  const scalar = sha256(utf8(`countermark test key ${name}`));
  scalar[0] = (scalar[0] as number) & 0x7f; // below n, which starts with 0xffffffff00000000
  // RFC 5915 inside PKCS8, without the public part: OpenSSL derives it.
  const der = concat([
    unhex('3041020100301306072a8648ce3d020106082a8648ce3d030107042730250201010420') as Uint8Array,
    scalar,
  ]);
  const key = createPrivateKey({ key: Buffer.from(der), format: 'der', type: 'pkcs8' });
  return importPrivateKey(key.export({ format: 'der', type: 'pkcs8' }));
}

export function testPublicKey(name: string): Uint8Array {
  return publicKeyBytes(testKey(name));
}

/** The name of a role's test key: that of its first key is the role's. */
function roleKeyName(role: Role, epoch: number): string {
  return epoch === 1 ? role : `${role}#${epoch}`;
}

/** Signatures that were made before over the same bytes; ECDSA signatures are random, so one that fits is taken over. */
export type Keep = (toBeSigned: Uint8Array) => readonly Uint8Array[];

export type World = ReturnType<typeof buildWorld>;

export function buildWorld(keep: Keep) {
  const sign = (name: string, input: Uint8Array): Uint8Array => {
    const publicKey = importPublicKey(testPublicKey(name));
    const kept = keep(input).find((signature) => publicKey !== undefined && verifyP1363(publicKey, input, signature));
    return kept ?? signP1363(testKey(name), input);
  };
  const byRole = <T>(of: MessageType<T>, value: T): Uint8Array => {
    const message = unsealedMessage(of, 'signature', { holder: of.authenticatedBy, epoch: 1 }, value);
    return seal(message, sign(of.authenticatedBy, toBeAuthenticated(message)));
  };
  const byDevice = <T extends { readonly device: DeviceId }>(
    of: MessageType<T>,
    value: T,
    authentication: Authentication,
    epoch = 1,
  ) => {
    const message = unsealedMessage(of, authentication, { holder: value.device, epoch }, value);
    const input = toBeAuthenticated(message);
    const code =
      authentication === 'mac'
        ? hmacSha256(macKey(value.device, epoch, 'statistics'), input)
        : sign(`${value.device}#${epoch}`, input);
    return { bytes: seal(message, code), digest: digest(message) };
  };
  const digest = (message: Unsealed): Digest => messageDigest(message, sha256);
  /** By an issuing key; `signer`: its epoch, `key`: the name of the test key that is certified, `signs`: the one that signs. */
  const roleCertificate = (
    role: CertifiedRole,
    epoch: number,
    signer = 1,
    key = `${role}#${epoch}`,
    signs = roleKeyName('issuing', signer),
  ): Uint8Array => {
    const value = { role, epoch, publicKey: testPublicKey(key), issuedAtMs: NOW_MS };
    const message = unsealedMessage(ROLE_CERTIFICATE, 'signature', { holder: 'issuing', epoch: signer }, value);
    return seal(message, sign(signs, toBeAuthenticated(message)));
  };
  /** By a granting key, as above. */
  const grantingCertificate = (
    epoch: number,
    signer = 1,
    key = `granting#${epoch}`,
    signs = roleKeyName('granting', signer),
  ): Uint8Array => {
    const value = { epoch, publicKey: testPublicKey(key), issuedAtMs: NOW_MS };
    const message = unsealedMessage(GRANTING_CERTIFICATE, 'signature', { holder: 'granting', epoch: signer }, value);
    return seal(message, sign(signs, toBeAuthenticated(message)));
  };
  /** Of a later epoch of its role, with certificates; `key`: the name of the test key that signs. */
  const byLaterKey = <T>(
    of: MessageType<T>,
    value: T,
    epoch: number,
    certificates: readonly Uint8Array[],
    key = `${of.authenticatedBy}#${epoch}`,
  ): Uint8Array => {
    const message = unsealedMessage(of, 'signature', { holder: of.authenticatedBy, epoch }, value);
    return seal(message, sign(key, toBeAuthenticated(message)), certificates);
  };

  const certificateOf = (device: DeviceId, authentication: Authentication, epoch: number): DeviceCertificate => ({
    device,
    licensee: LICENSEE,
    epoch,
    authentication,
    memory: authentication === 'mac' ? 'psd' : 'host',
    publicKey: testPublicKey(`${device}#${epoch}`),
    agreementKey: testPublicKey(`${device} agreement`),
    agreementPeer: testPublicKey('agreement'),
    sessionCertificate: Uint8Array.of(0x30, 0x00),
    sessionAuthority: Uint8Array.of(0x30, 0x00),
    certified: false,
    measurement: sha256(utf8('code')) as Digest,
    issuedAtMs: NOW_MS,
  });
  const rotatedCertificate = byRole(DEVICE_CERTIFICATE, certificateOf(SIGNING_DEVICE, 'signature', 2));
  const rotatedDigest = digest(
    unsealedMessage(
      DEVICE_CERTIFICATE,
      'signature',
      { holder: 'issuing', epoch: 1 },
      certificateOf(SIGNING_DEVICE, 'signature', 2),
    ),
  );
  const certificates = {
    signing: byRole(DEVICE_CERTIFICATE, certificateOf(SIGNING_DEVICE, 'signature', 1)),
    rotated: rotatedCertificate,
    coding: byRole(DEVICE_CERTIFICATE, certificateOf(CODING_DEVICE, 'mac', 1)),
  };

  const batch = piecesOf(SIGNING_DEVICE);
  const first = statistics(SIGNING_DEVICE, 1, NO_DIGEST, batch);
  const firstRecord = byDevice(BATCH_STATISTICS, first, 'signature');
  const second: BatchStatistics = incomplete(first, firstRecord.digest);
  const secondRecord = byDevice(BATCH_STATISTICS, second, 'signature');
  const rotation = byDevice(
    KEY_ROTATION,
    {
      device: SIGNING_DEVICE,
      licensee: LICENSEE,
      sequence: 3,
      previous: secondRecord.digest,
      newEpoch: 2,
      newCertificate: rotatedDigest,
      registers: second.observed.closed,
      funds: second.observed.funds,
    },
    'signature',
  );
  /** The device's end after its first record: another end of the chain than the one with the rotation. */
  const { closed, funds } = first.observed;
  const finalStatement = byDevice(
    FINAL_STATEMENT,
    {
      device: SIGNING_DEVICE,
      licensee: LICENSEE,
      sequence: 2,
      previous: firstRecord.digest,
      registers: { ...closed, descendingMills: mills(0n) },
      funds: { ...funds, returnedMills: mills(funds.returnedMills + closed.descendingMills) },
      returnedMills: closed.descendingMills,
      order: rotatedDigest,
      software: first.observed.software,
      currency: CURRENCY,
    },
    'signature',
  );
  const coded = statistics(CODING_DEVICE, 1, NO_DIGEST, piecesOf(CODING_DEVICE));
  const codedRecord = byDevice(BATCH_STATISTICS, coded, 'mac');

  const attested = (
    device: DeviceId,
    sequence: number,
    of: Digest,
    recordType: Attestation['recordType'],
    authentication: Authentication,
  ) =>
    byRole(ATTESTATION, {
      device,
      licensee: LICENSEE,
      sequence,
      digest: of,
      recordType,
      authentication,
      epoch: 1,
      attestedAtMs: NOW_MS,
    });
  const confirmed = (device: DeviceId, sequence: number, of: Digest): Uint8Array =>
    byRole(CONFIRMATION, { device, licensee: LICENSEE, sequence, digest: of, confirmedAtMs: NOW_MS });

  /** `signer`: the epoch of the key that signs, that of the request itself unless told. */
  const enrolmentRequest = (epoch: number, signer = epoch): Uint8Array => {
    const value = {
      device: SIGNING_DEVICE,
      epoch,
      authentication: 'signature' as const,
      memory: 'host' as const,
      publicKey: testPublicKey(`${SIGNING_DEVICE}#${epoch}`),
      agreementKey: testPublicKey(`${SIGNING_DEVICE} agreement`),
      sessionKey: testPublicKey(`${SIGNING_DEVICE} session`),
      software: first.observed.software,
      nonce: new Uint8Array(16).fill(7),
    };
    const message = unsealedMessage(ENROLMENT_REQUEST, 'signature', { holder: SIGNING_DEVICE, epoch }, value);
    return seal(message, sign(`${SIGNING_DEVICE}#${signer}`, toBeAuthenticated(message)));
  };
  const rotationRequest = (request: Uint8Array): Uint8Array =>
    byDevice(ROTATION_REQUEST, { device: SIGNING_DEVICE, request }, 'signature').bytes;
  const fundsRequest = byDevice(
    FUNDS_REQUEST,
    {
      device: CODING_DEVICE,
      licensee: LICENSEE,
      number: 2,
      amountMills: mills(0n),
      registers: coded.observed.closed,
      funds: coded.observed.funds,
      currency: CURRENCY,
    },
    'signature',
  );
  const grantFields = {
    programmeVersion: 1,
    licensee: LICENSEE,
    customer: CUSTOMER,
    revision: 1,
    grantedBeforeMills: mills(0n),
    evidence: [firstRecord.digest],
    currency: CURRENCY,
    demonstration: true,
    grantedAtMs: NOW_MS,
  };
  const discount = {
    ...grantFields,
    programme: 'vector-discount' as ProgrammeId,
    period: '2026-11-22',
    amountMills: mills(147n),
    entitlementMills: mills(147n),
    reasons: ['1 piece at 5-digit: affixed USD 0.740, declared level USD 0.593.'],
  };
  return {
    sign,
    byRole,
    byDevice,
    byLaterKey,
    roleCertificate,
    grantingCertificate,
    certificates,
    batch,
    first,
    coded,
    records: { first: firstRecord, incomplete: secondRecord, rotation, finalStatement, coded: codedRecord },
    attestations: {
      first: attested(SIGNING_DEVICE, 1, firstRecord.digest, 'batch-statistics', 'signature'),
      incomplete: attested(SIGNING_DEVICE, 2, secondRecord.digest, 'batch-statistics', 'signature'),
      rotation: attested(SIGNING_DEVICE, 3, rotation.digest, 'key-rotation', 'signature'),
      finalStatement: attested(SIGNING_DEVICE, 2, finalStatement.digest, 'final-statement', 'signature'),
      coded: attested(CODING_DEVICE, 1, codedRecord.digest, 'batch-statistics', 'mac'),
    },
    confirmations: {
      first: confirmed(SIGNING_DEVICE, 1, firstRecord.digest),
      coded: confirmed(CODING_DEVICE, 1, codedRecord.digest),
    },
    enrolmentRequest: enrolmentRequest(1),
    rotationRequest: rotationRequest(enrolmentRequest(2)),
    /** The old key speaks for a request of its own epoch, and for one that the new key did not sign. */
    badRotationRequests: {
      sameEpoch: rotationRequest(enrolmentRequest(1)),
      notProven: rotationRequest(enrolmentRequest(2, 1)),
    },
    fundsRequest: fundsRequest.bytes,
    fundsGrant: byRole(FUNDS_GRANT, {
      device: CODING_DEVICE,
      licensee: LICENSEE,
      number: 2,
      amountMills: mills(58_285n),
      draws: [{ customer: CUSTOMER, amountMills: mills(58_285n) }],
      receivedMills: mills(10_058_285n),
      currency: CURRENCY,
      grantedAtMs: NOW_MS,
    }),
    policy: byRole(POLICY, {
      device: SIGNING_DEVICE,
      licensee: LICENSEE,
      version: 1,
      currency: CURRENCY,
      lowestPostageMills: mills(1n),
      highestPostageMills: mills(100_000n),
      highestFundsMills: mills(50_000_000n),
      maxUnconfirmedBatches: 1_000,
      maxUnconfirmedPostageMills: mills(1_000_000_000n),
      warnAfterDays: 28,
      lockAfterDays: 90,
      maxPiecesPerBatch: 2_000_000,
      maxCellsPerBatch: 1_024,
      memoryPieces: 2_000_000,
      customers: [CUSTOMER],
    }),
    signedTime: byRole(SIGNED_TIME, { device: SIGNING_DEVICE, timeMs: NOW_MS }),
    suspension: byRole(SUSPENSION, {
      device: SIGNING_DEVICE,
      licensee: LICENSEE,
      suspended: true,
      reason: 'two records for sequence 1',
      sinceMs: NOW_MS,
    }),
    suspensionAfter: byRole(SUSPENSION, {
      device: SIGNING_DEVICE,
      licensee: LICENSEE,
      suspended: true,
      reason: 'stolen',
      sinceMs: NOW_MS,
      afterSequence: 17,
    }),
    withdrawal: byRole(SUSPENSION, {
      device: SIGNING_DEVICE,
      licensee: LICENSEE,
      suspended: true,
      reason: 'its store was copied',
      sinceMs: NOW_MS,
      withdrawn: true,
    }),
    discount,
    discountGrant: byRole(DISCOUNT_GRANT, discount),
    creditGrant: byRole(CREDIT_GRANT, {
      ...grantFields,
      programme: 'vector-credit' as ProgrammeId,
      period: '2026',
      amountMills: mills(222n),
      entitlementMills: mills(222n),
      reasons: ['30 % of USD 0.740 for 1 piece above the baseline of 2.'],
    }),
  };
}

/** MAC keys as `mac-key.ts` derives them, from the published agreement keys. */
export function macKey(device: DeviceId, epoch: number, purpose: 'statistics' | 'indicium'): Uint8Array {
  const peer = importPublicKey(testPublicKey(`${device} agreement`));
  if (peer === undefined) throw new Error('not a key');
  return agreedKey(testKey('agreement'), peer, {
    salt: new Uint8Array(0),
    info: macKeyInfo(device, epoch, purpose),
    bytes: 32,
  });
}

const BATCH = `bat_${'0123456789abcdef'.repeat(2)}` as BatchId;
const KEYS = [
  {
    product: 'usps-fcm-letter',
    shape: 'letter',
    affixed: 'single-piece-metered',
    level: '5-digit',
    entry: 'none',
    weightStep: 10,
  },
  {
    product: 'usps-fcm-letter',
    shape: 'letter',
    affixed: 'single-piece-metered',
    level: 'aadc',
    entry: 'none',
    weightStep: 20,
  },
] as const;

/** Three pieces, the second of which is spoiled later. */
function piecesOf(device: DeviceId) {
  const head = pieceRecordHead(device, BATCH);
  const pieces = [0, 1, 2].map((index) => {
    const key = KEYS[index === 2 ? 1 : 0];
    const postageMills = mills(index === 2 ? 1_030n : 740n);
    const reference = new Uint8Array(16).fill(index);
    const salt = sha256(utf8(`salt ${index}`)).slice(0, 16);
    const record = Uint8Array.from(
      pieceRecordBytes(head, index, index + 1, postageMills, cellKeyBytes(key), reference),
    );
    return { salt, record, leaf: leafDigest(salt, record, sha256), postageMills };
  });
  const leaves = pieces.map((piece) => piece.leaf);
  return {
    pieces,
    leaves,
    root: root(append(EMPTY_FRONTIER, leaves, sha256), sha256),
    path: auditPath(leaves, 1, sha256),
  };
}

function statistics(
  device: DeviceId,
  sequence: number,
  previous: Digest,
  batch: ReturnType<typeof piecesOf>,
): BatchStatistics {
  const cells: Cell[] = [
    { key: KEYS[1], pieces: 1, postageMills: mills(1_030n) },
    { key: KEYS[0], pieces: 1, postageMills: mills(740n) },
  ];
  cells.sort((a, b) => Buffer.compare(cellKeyBytes(a.key), cellKeyBytes(b.key)));
  return {
    device,
    licensee: LICENSEE,
    sequence,
    previous,
    declaration: {
      batch: BATCH,
      job: 'spring-mailing' as JobId,
      customer: CUSTOMER,
      submitter: 'Vector Bureau',
      preparer: 'Vector Bureau, line 1',
      product: 'usps-fcm-letter',
      entry: 'none',
      mailingDate: '2026-11-22',
      expectedPieces: 3,
      expectedCells: 2,
      tariff: sha256(utf8('a tariff')) as Digest,
      scheme: 1,
      currency: CURRENCY,
    },
    closing: { spoiled: [2], reprints: 1 },
    observed: {
      firstPieceNumber: 1,
      pieces: 3,
      root: batch.root,
      cells,
      spoiledPieces: 1,
      spoiledPostageMills: mills(740n),
      opened: { ascendingMills: mills(0n), descendingMills: mills(10_000_000n), pieces: 0 },
      closed: { ascendingMills: mills(2_510n), descendingMills: mills(9_997_490n), pieces: 3 },
      funds: { receivedMills: mills(10_000_000n), returnedMills: mills(0n), lastGrant: 1 },
      incomplete: false,
      memory: device === CODING_DEVICE ? 'psd' : 'host',
      layout: LAYOUTS[device === CODING_DEVICE ? 'mac' : 'signature'].number,
      policyVersion: 1,
      software: { version: '0.1.0', measurement: sha256(utf8('code')) as Digest },
      specimen: true,
      currency: CURRENCY,
      epoch: 1,
      openedAfterMs: NOW_MS,
      closedAfterMs: NOW_MS,
    },
  };
}

/** The next record: ten pieces whose records the host lost, closed incomplete. */
function incomplete(before: BatchStatistics, previous: Digest): BatchStatistics {
  const opened = before.observed.closed;
  return {
    ...before,
    sequence: before.sequence + 1,
    previous,
    declaration: { ...before.declaration, batch: `bat_${'f'.repeat(32)}` as BatchId, expectedPieces: 10 },
    closing: { spoiled: [], reprints: 0 },
    observed: {
      ...before.observed,
      firstPieceNumber: opened.pieces + 1,
      pieces: 10,
      root: sha256(utf8('a root')) as Digest,
      cells: [],
      spoiledPieces: 0,
      spoiledPostageMills: mills(0n),
      opened,
      closed: {
        ascendingMills: mills(opened.ascendingMills + 7_400n),
        descendingMills: mills(opened.descendingMills - 7_400n),
        pieces: opened.pieces + 10,
      },
      incomplete: true,
    },
  };
}

/** An indicium of either device. */
export function indicium(world: World, device: DeviceId): Uint8Array {
  const authentication: Authentication = device === CODING_DEVICE ? 'mac' : 'signature';
  const layout = LAYOUTS[authentication];
  const input = new Uint8Array(indiciumInputBytes(layout));
  writeIndiciumInput(input, 0, indiciumFrame(layout, true, device, 1, '2026-11-22'), 3, 1_030n, 2_510n);
  return indiciumBytes(
    input,
    authentication === 'mac' ? hmacSha256(macKey(device, 1, 'indicium'), input) : world.sign(`${device}#1`, input),
  );
}

/** The public keys of all roles, as a trust bundle has them. */
export function trustedRoleKeys(): { role: Role; epoch: number; publicKey: Uint8Array }[] {
  return ROLES.map((role) => ({ role, epoch: 1, publicKey: testPublicKey(role) }));
}
