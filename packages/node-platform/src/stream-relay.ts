/**
 * Relays bytes both ways between two streams: what the host and the server do for a session whose ends they cannot read.
 *
 * Guarantees: backpressure reaches the other side; the end of one side ends the other, a failure of one destroys both; no error
 * goes unhandled. Does not look at the bytes, and does not bound how long a relay lives.
 */
import type { Duplex } from 'node:stream';
import { pipeline } from 'node:stream/promises';

const LISTENERS_MAX = 24;

/** Relays until both ways have ended. Never rejects: returns the error that ended it, if one did. */
export async function relay(one: Duplex, other: Duplex): Promise<Error | undefined> {
  const destroyBoth = (error: unknown): Error => {
    one.destroy();
    other.destroy();
    return error instanceof Error ? error : new Error(String(error));
  };
  // Two pipelines watch each stream; a TLS socket has listeners of its own besides.
  for (const stream of [one, other]) stream.setMaxListeners(LISTENERS_MAX);
  const outcomes = await Promise.all(
    [pipeline(one, other), pipeline(other, one)].map(async (way) => way.then(() => undefined, destroyBoth)),
  );
  return outcomes.find((outcome) => outcome !== undefined);
}
