/**
 * The server's way to the postal authority: deliveries out, grants and programmes in, over HTTP.
 *
 * Guarantees: answers are bounded and parsed strictly; whatever keeps the authority from answering is the rejection
 * `try-again`. Believes nothing of a grant: `grant-intake.ts` verifies it.
 */
import { errorText } from '@countermark/node-platform/fault';
import {
  type Delivery,
  deliveryAnswersSchema,
  deliverySchema,
  grantListSchema,
  type HistoryPoint,
  type RecordList,
  recordListSchema,
} from '@countermark/protocol/interfaces/delivery';
import { hex } from '@countermark/protocol/id';
import { rejection } from '@countermark/protocol/rejection';
import { type Result, accept, refuse } from '@countermark/protocol/result';
import { encodeWith, type Of, parseBytes } from '@countermark/protocol/schema';

const TIMEOUT_MS = 30_000;
const ANSWER_BYTES = 64 * 1024 * 1024;
const LIMITS = { maxBytes: ANSWER_BYTES, maxDepth: 12 };

/** The authority's cursor of a grant and the digest of its message; null where only the cursor is known. */
export type GrantPoint = { readonly cursor: bigint; readonly digest: Uint8Array | null };

export type AuthorityClient = {
  deliver(delivery: Delivery): Promise<Result<Of<typeof deliveryAnswersSchema>>>;
  /** `since`: the point of its history that it has to have come by. */
  grants(after: GrantPoint, since?: HistoryPoint): Promise<Result<Of<typeof grantListSchema>>>;
  /** Records that it has taken in after a point of its history; from the first one where none is named. */
  records(since?: HistoryPoint): Promise<Result<RecordList>>;
  /** The authority's JSON, as text. */
  programmes(): Promise<Result<string>>;
};

/** The authority at the URL, with the credential that it knows this server by. */
export function connectAuthority(url: string, credential: string): AuthorityClient {
  const ask = async (path: string, body?: Uint8Array): Promise<Result<Uint8Array>> => {
    const unavailable = (reason: string) =>
      refuse(rejection('try-again', { reason: `the authority: ${reason}`.slice(0, 200) }));
    try {
      const response = await fetch(new URL(path, url), {
        method: body === undefined ? 'GET' : 'POST',
        headers: {
          authorization: `Bearer ${credential}`,
          ...(body === undefined ? {} : { 'content-type': 'application/cbor' }),
        },
        ...(body === undefined ? {} : { body: Buffer.from(body) }),
        redirect: 'error',
        signal: AbortSignal.timeout(TIMEOUT_MS),
      });
      if (Number(response.headers.get('content-length') ?? 0) > ANSWER_BYTES)
        return unavailable('its answer is too large');
      const answer = new Uint8Array(await response.arrayBuffer());
      return response.ok ? accept(answer) : unavailable(`status ${response.status}`);
    } catch (error) {
      return unavailable(errorText(error instanceof Error ? (error.cause ?? error) : error));
    }
  };
  return {
    deliver: async (delivery) => {
      const answer = await ask('/v1/records', encodeWith(deliverySchema, delivery));
      return answer.ok ? parseBytes(deliveryAnswersSchema, answer.value, LIMITS) : answer;
    },
    grants: async (after, since) => {
      const point = since === undefined ? '' : `&since=${since.cursor}:${hex(since.digest)}`;
      const last = after.digest === null ? after.cursor : `${after.cursor}:${hex(after.digest)}`;
      const answer = await ask(`/v1/grants?after=${last}${point}`);
      return answer.ok ? parseBytes(grantListSchema, answer.value, LIMITS) : answer;
    },
    records: async (since) => {
      const answer = await ask(
        `/v1/records${since === undefined ? '' : `?since=${since.cursor}:${hex(since.digest)}`}`,
      );
      return answer.ok ? parseBytes(recordListSchema, answer.value, LIMITS) : answer;
    },
    programmes: async () => {
      const answer = await ask('/v1/programmes');
      return answer.ok ? accept(Buffer.from(answer.value).toString('utf8')) : answer;
    },
  };
}
