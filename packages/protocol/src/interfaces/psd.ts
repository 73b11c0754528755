/**
 * The local interface of the PSD: what a host may ask of it over its socket.
 *
 * Every operation can be asked again after a lost answer without a second effect.
 */
import { cellKeySchema } from '../cell.ts';
import {
  batchId,
  code,
  customerId,
  deviceId,
  digest,
  epoch,
  licenseeId,
  pieceNumber,
  sequence,
  software,
} from '../fields.ts';
import { batchDeclaration } from '../messages/batch-declaration.ts';
import { authenticationSchema } from '../messages/attestation.ts';
import { MAX_SPOILED, memorySchema } from '../messages/batch-statistics.ts';
import { fundsSchema, registersSchema } from '../registers.ts';
import {
  bool,
  bytes,
  currencySchema,
  field,
  list,
  millsSchema,
  type Of,
  oneOf,
  optional,
  struct,
  text,
  timeMs,
  uint,
} from '../schema.ts';
import { MAX_RECORD_BYTES, rejectionSchema } from './answer.ts';
import { operation } from './operation.ts';

/** Pieces in one chunk. */
export const MAX_CHUNK = 1_024;
/**
 * How many of a batch's last chunks the device can be asked for again, until the record is sealed. A host may so ask for a
 * chunk while the answer to the one before is still on its way; asking for it acknowledges that the host has stored the
 * answer to the one before that.
 */
export const HELD_CHUNKS = 2;
/** One piece of a chunk request, big-endian: index into the chunk's cells u16, postage mills u32, reference 16 bytes. */
export const CHUNK_ENTRY_BYTES = 22;
/** Code beside a piece record in host memory: HMAC-SHA256 over salt and record, first 16 bytes, under a key of the PSD alone. */
export const RECORD_CODE_BYTES = 16;

const nothing = struct('nothing', {});
const message = bytes(1, MAX_RECORD_BYTES);
/** PKCS#10, DER. */
const certificateRequest = bytes(1, 2_048);

export const batchStateSchema = struct('batch-state', {
  batch: field(1, batchId),
  customer: optional(2, customerId),
  /** `open`: franking; `closed`: franking refused, not yet sealed. */
  state: field(3, oneOf('open', 'closed')),
  firstPieceNumber: field(4, pieceNumber),
  pieces: field(5, uint(0xffff_ffff)),
  postageMills: field(6, millsSchema),
  spoiled: field(7, uint(MAX_SPOILED)),
  /** How far a recount from host memory has come. */
  recounted: field(8, uint(0xffff_ffff)),
});
export type BatchState = Of<typeof batchStateSchema>;

export const deviceStatusSchema = struct('device-status', {
  device: field(1, deviceId),
  state: field(2, oneOf('uninitialised', 'keyed', 'authorised', 'operational', 'locked', 'withdrawn')),
  licensee: optional(3, licenseeId),
  epoch: field(4, epoch),
  authentication: field(5, authenticationSchema),
  memory: field(6, memorySchema),
  certified: field(7, bool),
  registers: field(8, registersSchema),
  funds: field(9, fundsSchema),
  currency: optional(10, currencySchema),
  /** Sequence and digest of the last sealed record, 0 and zero bytes before the first. */
  sequence: field(11, uint(0xffff_ffff)),
  head: field(12, digest),
  batch: optional(13, batchStateSchema),
  unconfirmedRecords: field(14, uint(1_000_000)),
  unconfirmedPostageMills: field(15, millsSchema),
  recordCapacity: field(16, uint(1_000_000)),
  policyVersion: optional(17, uint(0xffff_ffff)),
  customers: field(18, list(customerId, 4_096)),
  /** Why it is locked, or warns that it will be; in words. */
  lock: optional(19, text(200)),
  warning: optional(20, text(200)),
  signedTimeMs: optional(21, timeMs),
  pendingFundsRequest: optional(22, uint(0xffff_ffff)),
  software: field(23, software),
  piecesInMemory: field(24, uint(0xffff_ffff)),
  /** Confirmations for another digest that were refused: each is an alarm. */
  alarms: field(25, uint(0xffff_ffff)),
  /** By signed time: when the oldest unconfirmed record warns and locks. */
  warnsAtMs: optional(26, timeMs),
  locksAtMs: optional(27, timeMs),
  /** The epoch of the keys that were made for a rotation and are not in use yet. */
  pendingEpoch: optional(28, epoch),
  /** What lifts the lock, in words. */
  lockLifts: optional(29, text(200)),
  /** By signed time: when the device warns of its inspection, and locks without it. */
  inspectionWarnsAtMs: optional(30, timeMs),
  inspectionLocksAtMs: optional(31, timeMs),
  /** Of the policy: products and statistics scheme that a batch may have; absent: no restriction. */
  products: optional(32, list(code, 256, 1)),
  scheme: optional(33, uint(65_535, 1)),
  /** Of the policy: after how many days what is not confirmed warns and locks. */
  warnAfterDays: optional(34, uint(3_650)),
  lockAfterDays: optional(35, uint(3_650)),
  /** Its policy closes it: it makes its final statement when it is asked and nothing stands against it. */
  closing: optional(36, bool),
  /** Of the final statement, once it is made. */
  finalSequence: optional(37, sequence),
  /** The final statement is confirmed, and every key erased. */
  zeroised: optional(38, bool),
  /** Of the policy that it has. */
  policyDigest: optional(39, digest),
});
export type DeviceStatus = Of<typeof deviceStatusSchema>;

export const frankChunkSchema = struct('frank-chunk', {
  batch: field(1, batchId),
  /** Index in the batch of the chunk's first piece. */
  firstIndex: field(2, uint(0xffff_ffff)),
  cells: field(3, list(cellKeySchema, MAX_CHUNK, 1)),
  /** Entries of {@link CHUNK_ENTRY_BYTES}, in list order. */
  pieces: field(4, bytes(CHUNK_ENTRY_BYTES, CHUNK_ENTRY_BYTES * MAX_CHUNK)),
});
export type FrankChunk = Of<typeof frankChunkSchema>;

/** Columns: as many entries as pieces in each, in order. `codes` is empty where the memory is inside the PSD. */
export const frankedChunkSchema = struct('franked-chunk', {
  firstPieceNumber: field(1, pieceNumber),
  indicia: field(2, bytes(1, 128 * MAX_CHUNK)),
  salts: field(3, bytes(16, 16 * MAX_CHUNK)),
  codes: field(4, bytes(0, RECORD_CODE_BYTES * MAX_CHUNK)),
  registers: field(5, registersSchema),
});
export type FrankedChunk = Of<typeof frankedChunkSchema>;

const recordStateSchema = struct('record-state', {
  sequence: field(1, sequence),
  digest: field(2, digest),
  batch: optional(3, batchId),
  bytes: field(4, uint(MAX_RECORD_BYTES)),
});

export const PSD = {
  status: operation('status', nothing, deviceStatusSchema),
  /** `codeDigest`: of the enrolment code (`identity-name.ts`), which the certificate request then bears, signed. */
  enrolmentRequest: operation(
    'enrolment-request',
    struct('ask-enrolment', { codeDigest: optional(1, digest) }),
    struct('enrolment-request-answer', {
      request: field(1, message),
      certificateRequest: field(2, certificateRequest),
    }),
  ),
  /** A PKCS#10 request (DER) for an X.509 certificate of the signature key in use. */
  certificateRequest: operation(
    'certificate-request',
    nothing,
    struct('certificate-request-answer', { request: field(1, certificateRequest) }),
  ),
  /** Installs certificate and policy, whose signatures the PSD checks against the trust bundle pinned at its initialisation. */
  install: operation(
    'install',
    struct('install', { certificate: field(1, message), policy: field(2, message) }),
    deviceStatusSchema,
  ),
  policy: operation('policy', struct('policy-message', { policy: field(1, message) }), deviceStatusSchema),
  signedTime: operation('signed-time', struct('signed-time-message', { time: field(1, message) }), deviceStatusSchema),
  openBatch: operation(
    'open-batch',
    struct('open-batch', { declaration: field(1, batchDeclaration) }),
    batchStateSchema,
  ),
  frankChunk: operation('frank-chunk', frankChunkSchema, frankedChunkSchema),
  spoil: operation(
    'spoil',
    struct('spoil', { batch: field(1, batchId), pieceNumbers: field(2, list(pieceNumber, MAX_SPOILED, 1)) }),
    batchStateSchema,
  ),
  closeBatch: operation(
    'close-batch',
    struct('close-batch', { batch: field(1, batchId), reprints: field(2, uint(0xffff_ffff)) }),
    batchStateSchema,
  ),
  /** Streams piece records back from host memory, from index 0 in order. At index 0 a recount starts afresh. */
  recount: operation(
    'recount',
    struct('recount', {
      batch: field(1, batchId),
      firstIndex: field(2, uint(0xffff_ffff)),
      records: field(3, list(bytes(1, 512), MAX_CHUNK, 1)),
      salts: field(4, bytes(16, 16 * MAX_CHUNK)),
      codes: field(5, bytes(RECORD_CODE_BYTES, RECORD_CODE_BYTES * MAX_CHUNK)),
    }),
    batchStateSchema,
  ),
  /** Seals a closed batch into its record. With memory in the host, after the whole recount, or incomplete. */
  seal: operation(
    'seal',
    struct('seal', { batch: field(1, batchId), incomplete: field(2, bool) }),
    struct('sealed', { sequence: field(1, sequence), digest: field(2, digest), record: field(3, message) }),
  ),
  /**
   * Makes the keys of the next epoch, durable before the answer, and asks a certificate for them: a `rotation-request`. Asked
   * again it makes no others.
   */
  rotateBegin: operation(
    'rotate-begin',
    nothing,
    struct('rotate-begin-answer', {
      epoch: field(1, epoch),
      request: field(2, message),
      /** For an X.509 certificate of the new signature key. */
      certificateRequest: field(3, certificateRequest),
    }),
  ),
  /** Goes over to the new keys: seals the `key-rotation` record under the old ones, and stands under the new ones from then on. */
  rotate: operation(
    'rotate',
    struct('rotate', { certificate: field(1, message) }),
    struct('rotated', {
      epoch: field(1, epoch),
      sequence: field(2, sequence),
      digest: field(3, digest),
      record: field(4, message),
    }),
  ),
  /** Ends the device, whose policy closes it: seals its final statement. Asked again it answers the same record while that is held. */
  finalStatement: operation(
    'final-statement',
    nothing,
    struct('final-statement-answer', {
      sequence: field(1, sequence),
      digest: field(2, digest),
      record: field(3, message),
    }),
  ),
  /** Unconfirmed records; one without a batch is a key rotation or the final statement. */
  records: operation(
    'records',
    nothing,
    // As many as a device may be configured for, and the one key rotation that has room beside them.
    struct('record-list', { records: field(1, list(recordStateSchema, 100_001)) }),
  ),
  record: operation(
    'record',
    struct('record-request', { sequence: field(1, sequence) }),
    struct('record-answer', { record: field(1, message) }),
  ),
  /** The only way to delete a record. */
  confirm: operation(
    'confirm',
    struct('confirm', { confirmation: field(1, message) }),
    struct('confirmed', { sequence: field(1, sequence), digest: field(2, digest) }),
  ),
  /** Asked while one is pending, it answers the pending request's bytes again. */
  fundsRequest: operation(
    'funds-request',
    struct('funds-request-parameters', { amountMills: field(1, millsSchema) }),
    struct('funds-request-answer', { number: field(1, uint(0xffff_ffff, 1)), request: field(2, message) }),
  ),
  fundsGrant: operation('funds-grant', struct('funds-grant-message', { grant: field(1, message) }), deviceStatusSchema),
  /**
   * Sends records in a session over the next connection to the session socket. A `record` supplied from host memory must
   * equal the PSD's own. Answers when the session has ended; confirmations have been applied by then.
   */
  send: operation(
    'send',
    struct('send', {
      items: field(
        1,
        list(struct('send-item', { sequence: field(1, sequence), record: optional(2, message) }), 256, 1),
      ),
    }),
    struct('sent', {
      results: field(
        1,
        list(
          struct('send-result', {
            sequence: field(1, sequence),
            confirmation: optional(2, bytes(1, 4_096)),
            attestation: optional(3, bytes(1, 4_096)),
            rejection: optional(4, rejectionSchema),
          }),
          256,
        ),
      ),
    }),
  ),
} as const;
