/**
 * A port that nobody listens on, for a party that needs the same one at each of its starts.
 *
 * Guarantees that it lies below those that the system gives to connections by itself: between two starts of a party such a connection would
 * take its port away (it did, once). Somebody who chooses in the same way can be first; they are few, and the range is large.
 */
import { randomInt } from 'node:crypto';
import { createServer } from 'node:net';

const LEAST = 10_000;
/** Linux gives out 32,768 and above by itself, others 49,152 and above. */
const BELOW = 32_000;

export async function freePort(): Promise<number> {
  for (;;) {
    const port = randomInt(LEAST, BELOW);
    if (await isFree(port)) return port;
  }
}

function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once('error', () => {
      resolve(false);
    });
    server.listen(port, '127.0.0.1', () => {
      server.close(() => {
        resolve(true);
      });
    });
  });
}
