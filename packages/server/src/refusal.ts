/** A rejection on its way out of a request's handler: `http.ts` answers with it. */
import type { Rejection } from '@countermark/protocol/rejection';
import type { Result } from '@countermark/protocol/result';

/** Thrown by handlers to answer with a rejection. */
export class Refusal extends Error {
  readonly rejection: Rejection;

  constructor(refused: Rejection) {
    super(refused.code);
    this.rejection = refused;
  }
}

/** The accepted value. @throws Refusal */
export function taken<T>(result: Result<T>): T {
  if (!result.ok) throw new Refusal(result.rejection);
  return result.value;
}
