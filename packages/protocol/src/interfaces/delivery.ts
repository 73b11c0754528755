/**
 * Delivery of accepted records from the server to the postal authority (claims 1f and 13f).
 *
 * The authority verifies everything again; it takes from the server only bytes and their order.
 */
import type { CborLimits } from '../cbor.ts';
import { NO_DIGEST } from '../digest.ts';
import { digest } from '../fields.ts';
import { bool, bytes, field, list, type Of, oneOf, optional, struct, uint } from '../schema.ts';
import { MAX_RECORD_BYTES, MAX_SUBMISSION, rejectionSchema } from './answer.ts';

/** Bounds of a delivery's body. Whoever delivers keeps below `maxBytes` by sending fewer items. */
export const DELIVERY_LIMITS: CborLimits = { maxBytes: 16 * 1024 * 1024, maxDepth: 8 };

/**
 * A point of the authority's history: its intake cursor, and a digest over the digests of all records up to there in its order. An
 * authority that was restored from an older backup counts the same cursors again, and never the same points.
 */
export const historyPointSchema = struct('history-point', { cursor: field(1, uint()), digest: field(2, digest) });
export type HistoryPoint = Of<typeof historyPointSchema>;
/** The point before the first record. */
export const HISTORY_START: HistoryPoint = { cursor: 0, digest: NO_DIGEST };

/**
 * `certificates`: those under which the items stand and that this delivery is the first to need; repeats are harmless.
 * `items` may be empty where only suspensions are told, or the authority's cursor is asked for.
 * `suspensions`: signed suspensions and releases since the delivery before; the latest of a device by its time counts, and a
 * withdrawal for good.
 * `grantsCursor`: that of the last grant which the deliverer has booked. An authority that is restored from an older backup gives no
 * cursor a second time: nobody would ask for it again.
 * `since`: the point that an earlier answer named and that this delivery goes on from. Where it is not in the authority's history nothing is
 * taken, and `continues` is false in the answer.
 */
export const deliverySchema = struct('delivery', {
  certificates: field(1, list(bytes(1, 65_536), MAX_SUBMISSION)),
  items: field(
    2,
    list(
      struct('delivery-item', { record: field(1, bytes(1, MAX_RECORD_BYTES)), attestation: field(2, bytes(1, 4_096)) }),
      MAX_SUBMISSION,
    ),
  ),
  suspensions: optional(3, list(bytes(1, 4_096), MAX_SUBMISSION)),
  grantsCursor: optional(4, uint()),
  since: optional(5, historyPointSchema),
});
export type Delivery = Of<typeof deliverySchema>;

export const deliveryAnswersSchema = struct('delivery-answers', {
  /** The authority's intake cursor after these items; `GET /v1/grants` says through which cursor programmes were evaluated. */
  cursor: field(1, uint()),
  /** One for each item; none where the delivery does not continue. */
  results: field(
    2,
    list(
      struct('delivery-result', {
        outcome: field(1, oneOf('accepted', 'already-accepted', 'rejected')),
        rejection: optional(2, rejectionSchema),
      }),
      MAX_SUBMISSION,
    ),
  ),
  /** Of the history up to `cursor`. */
  history: field(3, digest),
  continues: field(4, bool),
});

/**
 * Records that the authority has, after a point of its history and in its order, for a server that has lost them; ask again after the last
 * one until none comes. `certificates`: those under which they stand. `cursor` and `history`: the point after the last item. `continues`
 * is false, with nothing else said, where the point asked about is not in the authority's history.
 */
export const recordListSchema = struct('record-list', {
  certificates: field(1, list(bytes(1, 65_536), 2 * MAX_SUBMISSION)),
  items: field(
    2,
    list(
      struct('record-item', { record: field(1, bytes(1, MAX_RECORD_BYTES)), attestation: field(2, bytes(1, 4_096)) }),
      MAX_SUBMISSION,
    ),
  ),
  cursor: field(3, uint()),
  history: field(4, digest),
  continues: field(5, bool),
});
export type RecordList = Of<typeof recordListSchema>;

/**
 * Grants after a cursor, oldest first; ask again after the last one until none comes. Every grant that rests on records
 * up to the intake cursor `evaluatedThrough` is in this list or before it; a list that ends early says 0. `digest` is that of the grant's message. A grant of 0 only carries
 * evidence forward, where a revision has more than fits. `continues` is false, with nothing else said, where the point asked about is not in
 * the authority's history, or the grant after which was asked is not among its grants (it was restored, and gave that cursor to another one, or to none).
 */
export const grantListSchema = struct('grant-list', {
  grants: field(
    1,
    list(
      struct('grant-item', {
        cursor: field(1, uint()),
        grant: field(2, bytes(1, MAX_RECORD_BYTES)),
        digest: field(3, digest),
      }),
      1_000,
    ),
  ),
  evaluatedThrough: field(2, uint()),
  continues: field(3, bool),
});
