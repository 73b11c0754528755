/**
 * The batch statistics, the product's centre (claims 1c and 13c): what was said about a batch together with what was
 * franked, authenticated inside the PSD.
 *
 * Host-entered and device-observed fields are separate types: an authority may take `observed` as the device's word,
 * `declaration` and `closing` only as the mailer's.
 */
import { cellSchema } from '../cell.ts';
import { deviceId, digest, epoch, licenseeId, pieceNumber, sequence, software } from '../fields.ts';
import type { MessageType } from '../message.ts';
import { fundsSchema, registersSchema } from '../registers.ts';
import {
  bool,
  currencySchema,
  field,
  list,
  millsSchema,
  type Of,
  oneOf,
  optional,
  struct,
  timeMs,
  uint,
} from '../schema.ts';
import { batchDeclaration } from './batch-declaration.ts';

export const MAX_CELLS = 1_024;
export const MAX_SPOILED = 10_000;

/** Where piece records lie until the batch is closed: claim 9 or claim 10. */
export const memorySchema = oneOf('psd', 'host');
export type Memory = Of<typeof memorySchema>;

/** Host-entered when the batch is closed. `spoiled`: numbers that the operator declared spoiled, ascending. */
const closingDeclaration = struct('closing-declaration', {
  spoiled: field(1, list(pieceNumber, MAX_SPOILED)),
  reprints: field(2, uint(0xffff_ffff)),
});

/** Device-observed. An incomplete record has no cells and nothing spoiled; its totals are those of the registers. */
const batchObservation = struct('batch-observation', {
  firstPieceNumber: field(1, pieceNumber),
  pieces: field(2, uint(0xffff_ffff)),
  /** RFC 6962 root over the salted piece records. */
  root: field(3, digest),
  /** Ascending by the bytes of their keys. */
  cells: field(4, list(cellSchema, MAX_CELLS)),
  spoiledPieces: field(5, uint(MAX_SPOILED)),
  spoiledPostageMills: field(6, millsSchema),
  opened: field(7, registersSchema),
  closed: field(8, registersSchema),
  funds: field(9, fundsSchema),
  incomplete: field(10, bool),
  memory: field(11, memorySchema),
  layout: field(12, uint(255, 1)),
  policyVersion: field(13, uint(0xffff_ffff, 1)),
  software: field(14, software),
  /** Whether the indicia were specimens: the device is not certified. */
  specimen: field(15, bool),
  currency: field(16, currencySchema),
  epoch: field(17, epoch),
  /** Last signed time that the device had seen at opening and closing; absent before the first. */
  openedAfterMs: optional(18, timeMs),
  closedAfterMs: optional(19, timeMs),
});

export const batchStatisticsSchema = struct('batch-statistics', {
  device: field(1, deviceId),
  licensee: field(2, licenseeId),
  sequence: field(3, sequence),
  /** Digest of the device's record before this one; 32 zero bytes in the first. */
  previous: field(4, digest),
  declaration: field(5, batchDeclaration),
  closing: field(6, closingDeclaration),
  observed: field(7, batchObservation),
});
export type BatchStatistics = Of<typeof batchStatisticsSchema>;

export const BATCH_STATISTICS: MessageType<BatchStatistics> = {
  type: 'batch-statistics',
  version: 1,
  schema: batchStatisticsSchema,
  authenticatedBy: 'device',
  purpose:
    'What a mailer declared of a batch and what its device franked, authenticated together: the evidence for discounts and credits.',
};
