/**
 * The answer to one submitted record (design, section 4): accepted with its confirmation, or a code of the catalogue.
 *
 * The bytes of confirmation and attestation are the same in a session and out of one. Everything else in an answer is
 * unsigned and only tells the host when to try again.
 */
import type { CborValue } from '../cbor.ts';
import { isRejectionCode, type Rejection, type RejectionDetail } from '../rejection.ts';
import { bytes, field, list, Misfit, type Of, oneOf, optional, type Schema, struct } from '../schema.ts';

/** The largest number of records in one submission. */
export const MAX_SUBMISSION = 256;
export const MAX_RECORD_BYTES = 256 * 1024;

/** A rejection of the catalogue as it stands in answers: [code, {detail: value}]. */
export const rejectionSchema: Schema<Rejection> = {
  cddl: '[tstr, {* tstr => tstr / int}]',
  rules: new Map(),
  parse: (value, path) => {
    const [code, detail] = Array.isArray(value) && value.length === 2 ? (value as readonly CborValue[]) : [];
    if (typeof code !== 'string' || !isRejectionCode(code))
      throw new Misfit(path, 'a code of the catalogue is expected');
    if (!(detail instanceof Map) || detail.size > 16) throw new Misfit(path, 'a map of details is expected');
    const details: [string, string | number][] = [];
    for (const [name, entry] of detail as ReadonlyMap<CborValue, CborValue>) {
      if (typeof name !== 'string' || (typeof entry !== 'string' && typeof entry !== 'number')) {
        throw new Misfit(path, 'details are texts or integers');
      }
      details.push([name, entry]);
    }
    // Not by assignment: a detail named __proto__ would vanish.
    return { code, detail: Object.fromEntries(details) };
  },
  toCbor: (value) => [value.code, detailMap(value.detail)],
};

function detailMap(detail: RejectionDetail): ReadonlyMap<string, string | number> {
  return new Map(
    Object.entries(detail).map(([name, entry]) => [
      name,
      Number.isInteger(entry) || typeof entry === 'string' ? entry : String(entry),
    ]),
  );
}

/** `accepted` now, `already-accepted` before with the same digest: both carry the stored confirmation; else a rejection. */
export const answerSchema = struct('answer', {
  outcome: field(1, oneOf('accepted', 'already-accepted', 'rejected')),
  confirmation: optional(2, bytes(1, 4_096)),
  attestation: optional(3, bytes(1, 4_096)),
  rejection: optional(4, rejectionSchema),
});
export type Answer = Of<typeof answerSchema>;

/** A submission and its answers, over HTTP and inside a session alike. */
export const submissionSchema = struct('submission', {
  records: field(1, list(bytes(1, MAX_RECORD_BYTES), MAX_SUBMISSION, 1)),
});
export const answersSchema = struct('answers', { answers: field(1, list(answerSchema, MAX_SUBMISSION)) });
