/**
 * Grants of the postal authority (claims 7, 8, 19, 20): a discount, or a credit for future franking, for the licensee or
 * for the customer of the batches that it rests on.
 *
 * A grant pays the entitlement so far minus what was granted before, under (programme version, beneficiary, period,
 * revision). Each revision names the digests that it counted for the first time and the grant before it, so that the
 * list of all evidence is a chain and every grant is bounded.
 */
import { customerId, digest, licenseeId, programmeId } from '../fields.ts';
import type { MessageType } from '../message.ts';
import {
  bool,
  currencySchema,
  field,
  list,
  millsSchema,
  type Of,
  optional,
  pattern,
  struct,
  text,
  timeMs,
  uint,
} from '../schema.ts';

export const MAX_EVIDENCE = 4_096;

const grantFields = {
  programme: field(1, programmeId),
  programmeVersion: field(2, uint(65_535, 1)),
  licensee: field(3, licenseeId),
  /** The beneficiary; absent where it is the licensee. */
  customer: optional(4, customerId),
  /** Of the programme: a posting (`2026-11-22`) or a calendar period (`2026`). */
  period: field(5, pattern(/^[a-z0-9-]{1,64}$/)),
  revision: field(6, uint(0xffff_ffff, 1)),
  amountMills: field(7, millsSchema),
  /** Entitlement so far, and what earlier revisions granted: `amountMills` is the difference. */
  entitlementMills: field(8, millsSchema),
  grantedBeforeMills: field(9, millsSchema),
  /** The reckoning, in sentences that a clerk can follow. */
  reasons: field(10, list(text(300), 64, 1)),
  evidence: field(11, list(digest, MAX_EVIDENCE, 1)),
  /** Digest of the revision before. */
  previous: optional(12, digest),
  currency: field(13, currencySchema),
  /** The programme is marked as a demonstration. */
  demonstration: field(14, bool),
  grantedAtMs: field(15, timeMs),
} as const;

export const discountGrantSchema = struct('discount-grant', grantFields);
const creditGrantSchema = struct('credit-grant', grantFields);
export type Grant = Of<typeof discountGrantSchema>;

export const DISCOUNT_GRANT: MessageType<Grant> = {
  type: 'discount-grant',
  version: 1,
  schema: discountGrantSchema,
  authenticatedBy: 'granting',
  purpose: 'A discount on the strength of authenticated statistics.',
};

export const CREDIT_GRANT: MessageType<Grant> = {
  type: 'credit-grant',
  version: 1,
  schema: creditGrantSchema,
  authenticatedBy: 'granting',
  purpose: 'A credit for future franking on the strength of authenticated statistics.',
};
