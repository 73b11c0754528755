/**
 * An operation of a local interface between two processes: its name, and the schemas of what goes in and comes out.
 *
 * Guarantees that both sides parse strictly by the same description. Local interfaces are not authenticated: whoever
 * reaches the socket may ask, and only signed messages inside change what matters.
 */
import type { Schema } from '../schema.ts';

export type Operation<Request, Answer> = {
  readonly name: string;
  readonly request: Schema<Request>;
  readonly answer: Schema<Answer>;
};

/** Declares an operation. */
export function operation<Request, Answer>(
  name: string,
  request: Schema<Request>,
  answer: Schema<Answer>,
): Operation<Request, Answer> {
  return { name, request, answer };
}
