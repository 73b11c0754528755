/**
 * Records that a host brings to the postal authority itself, each with its attestation and the confirmation that the
 * server side signed (design, invariant 4): the remedy against a server that confirmed a record and lost or withheld it.
 *
 * Whoever has the bytes may bring them, without a credential: every part of them is verified. The answer is that of a delivery.
 */
import type { CborLimits } from '../cbor.ts';
import { bytes, field, list, type Of, struct } from '../schema.ts';
import { MAX_RECORD_BYTES } from './answer.ts';

/** The largest number of records at once. */
export const MAX_EVIDENCE = 64;
/** Bounds of the body; whoever brings more records divides them. */
export const EVIDENCE_LIMITS: CborLimits = { maxBytes: 1024 * 1024, maxDepth: 8 };

/** `certificates`: the device certificates under which the records stand. */
export const evidenceSchema = struct('evidence', {
  certificates: field(1, list(bytes(1, 65_536), MAX_EVIDENCE)),
  items: field(
    2,
    list(
      struct('evidence-item', {
        record: field(1, bytes(1, MAX_RECORD_BYTES)),
        attestation: field(2, bytes(1, 4_096)),
        confirmation: field(3, bytes(1, 4_096)),
      }),
      MAX_EVIDENCE,
      1,
    ),
  ),
});
export type Evidence = Of<typeof evidenceSchema>;
