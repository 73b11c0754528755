/**
 * Errors of the HTTP interface: problem+json (RFC 9457) with a code of the catalogue and the request's id.
 *
 * Guarantees that a rejection always has the same status, and that a fault shows nothing of its inside: its id leads to the log.
 */
import { CATALOGUE } from '@countermark/protocol/rejection-catalogue';
import {
  describeRejection,
  type Rejection,
  type RejectionCode,
  type RejectionDetail,
} from '@countermark/protocol/rejection';

export const PROBLEM_TYPE = 'application/problem+json';

/** One defect of the input, where there are several. */
export type Defect = { readonly path: string; readonly reason: string };

export type Problem = {
  readonly type: string;
  readonly title: string;
  readonly status: number;
  readonly detail: string;
  readonly code: RejectionCode;
  /** What the sentences of the code name: clients put them into their own. */
  readonly details: RejectionDetail;
  readonly request_id: string;
  readonly errors?: readonly Defect[];
};

const STATUS: Partial<Record<RejectionCode, number>> = {
  unauthorised: 401,
  'enrolment-code-needed': 403,
  'enrolment-code-refused': 403,
  'unknown-enrolment-code': 404,
  'unknown-operation': 404,
  'unknown-licensee': 404,
  'unknown-record': 404,
  'unknown-person': 404,
  'unknown-ceremony': 404,
  'idempotency-conflict': 409,
  'device-enrolled': 409,
  'ceremony-conflict': 409,
  'ceremony-cancelled': 409,
  'ceremony-confirmed': 409,
  'person-exists': 409,
  'funds-request-conflict': 409,
  'spoiled-refunded': 409,
  fork: 409,
  'out-of-order': 409,
  'cbor-too-large': 413,
  'limit-exceeded': 413,
  'too-many-requests': 429,
  'internal-fault': 500,
  'not-available': 501,
  'try-again': 503,
};

/** The HTTP status of a code: 400 where nothing of the input was believed, 422 where it was authentic and refused. */
function statusOf(code: RejectionCode): number {
  const { verified } = CATALOGUE[code];
  return STATUS[code] ?? (verified === 'nothing' || verified === 'form' ? 400 : 422);
}

/** The body of an error answer. */
export function problemOf(
  refused: Rejection,
  requestId: string,
  errors: readonly Defect[] = [],
  status?: number,
): Problem {
  return {
    type: `urn:countermark:error:${refused.code}`,
    title: refused.code.replaceAll('-', ' '),
    status: status ?? statusOf(refused.code),
    detail: describeRejection(refused),
    code: refused.code,
    details: refused.detail,
    request_id: requestId,
    ...(errors.length === 0 ? {} : { errors }),
  };
}
