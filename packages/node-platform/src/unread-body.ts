/**
 * The rest of a request's body that is refused unread.
 *
 * A connection that is closed while the client still writes shows it a broken pipe, and hides the answer that says why. So the rest
 * is read and dropped first. Guarantees bounds, of bytes and of time: beyond either the connection may as well break.
 */
import type { Readable } from 'node:stream';

const BYTES_MAX = 64 * 1024 * 1024;
const WAIT_MS = 10_000;

/** Reads and drops what is still to come; true where its end was seen. Never rejects. */
export function dropUnread(body: Readable, bytesMax = BYTES_MAX, waitMs = WAIT_MS): Promise<boolean> {
  if (body.readableEnded || body.destroyed) return Promise.resolve(body.readableEnded);
  return new Promise((resolve) => {
    let bytes = 0;
    const done = (whole: boolean) => () => {
      clearTimeout(timer);
      // Nothing flows on unread: whoever sends without end is not read without end.
      body.off('data', count).pause();
      resolve(whole);
    };
    const count = (chunk: Uint8Array): void => {
      bytes += chunk.length;
      if (bytes > bytesMax) done(false)();
    };
    const timer = setTimeout(done(false), waitMs);
    body.on('data', count).once('end', done(true)).once('error', done(false)).once('close', done(false));
  });
}
