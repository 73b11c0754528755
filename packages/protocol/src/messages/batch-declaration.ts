/**
 * What the mailer says about a batch when it is opened (claims 1a and 13a): host-entered, true only as a declaration.
 *
 * It is never sent alone: the PSD fixes it at opening and authenticates it inside the batch statistics.
 */
import { batchId, code, customerId, day, digest, jobId } from '../fields.ts';
import { currencySchema, field, type Of, optional, struct, text, uint } from '../schema.ts';

export const batchDeclaration = struct('batch-declaration', {
  batch: field(1, batchId),
  job: field(2, jobId),
  /** Which user the batch is associated with (claim 13); absent where the licensee franks its own mail. */
  customer: optional(3, customerId),
  /** Who hands the mail over, and who prepared it, in the mailer's words. */
  submitter: field(4, text(64)),
  preparer: field(5, text(64)),
  product: field(6, code),
  entry: field(7, code),
  mailingDate: field(8, day),
  /** Bounds for which the PSD reserves room; a chunk beyond either is refused. */
  expectedPieces: field(9, uint(100_000_000, 1)),
  expectedCells: field(10, uint(1_024, 1)),
  tariff: field(11, digest),
  scheme: field(12, uint(65_535, 1)),
  currency: field(13, currencySchema),
});
export type BatchDeclaration = Of<typeof batchDeclaration>;
