/**
 * A port that nobody listens on, chosen before the party that will: others are told of it first.
 *
 * Guarantees that it lies below those that the system gives to connections by itself: between the choice and the start, or two starts, of a
 * party such a connection would take its port away (it did, twice). Somebody who chooses in the same way can be first; they are few, and the
 * range is large.
 */
import { randomInt } from 'node:crypto';
import { createServer } from 'node:net';
import { errorCode } from '@countermark/node-platform/fault';

const LEAST = 10_000;
/** Linux gives out 32,768 and above by itself, others 49,152 and above. */
const BELOW = 32_000;

/** A port of this machine's address. @throws what listening there says but that a port is taken: there is no such address. */
export async function freePort(address = '127.0.0.1'): Promise<number> {
  for (;;) {
    const port = randomInt(LEAST, BELOW);
    if (await isFree(port, address)) return port;
  }
}

function isFree(port: number, address: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', (error) => {
      if (errorCode(error) === 'EADDRINUSE') resolve(false);
      else reject(error);
    });
    server.listen(port, address, () => {
      server.close(() => {
        resolve(true);
      });
    });
  });
}
