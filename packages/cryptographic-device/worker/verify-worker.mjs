/**
 * One thread that checks ES256 signatures (see src/verify-workers.ts, which starts it). Plain JavaScript outside `src`, so that
 * sources under vitest and built files start the same file. It holds no secret.
 *
 * In: {id, count, batch}: for each check the public point (65 bytes) and the signature (64), then `count` lengths (u32, the
 * machine's byte order), then the inputs. Out: {id, verdicts}, a byte 0 or 1 each, in the same order, or {id, error}.
 */
import { createPublicKey, verify } from 'node:crypto';
import { parentPort } from 'node:worker_threads';

const POINT_BYTES = 65;
const SIGNATURE_BYTES = 64;
const KEYS_MAX = 4096;
/** SubjectPublicKeyInfo of P-256 up to the point (RFC 5480). */
const SPKI_PREFIX = Buffer.from('3059301306072a8648ce3d020106082a8648ce3d030107034200', 'hex');

/** @type {Map<string, import('node:crypto').KeyObject | null>} */
const keys = new Map();

function keyOf(point) {
  const name = point.toString('base64');
  const known = keys.get(name);
  if (known !== undefined) return known;
  let key = null;
  try {
    key = createPublicKey({ key: Buffer.concat([SPKI_PREFIX, point]), format: 'der', type: 'spki' });
  } catch {
    // No point of the curve: nothing verifies under it.
  }
  // The oldest goes first: a Map keeps the order of insertion.
  if (keys.size >= KEYS_MAX) keys.delete(keys.keys().next().value);
  keys.set(name, key);
  return key;
}

parentPort.on('message', ({ id, count, batch }) => {
  try {
    const verdicts = new Uint8Array(count);
    const fixed = count * (POINT_BYTES + SIGNATURE_BYTES);
    const lengths = new Uint32Array(batch.slice(fixed, fixed + count * 4));
    let offset = fixed + count * 4;
    for (let index = 0; index < count; index += 1) {
      const at = index * (POINT_BYTES + SIGNATURE_BYTES);
      const key = keyOf(Buffer.from(batch, at, POINT_BYTES));
      const input = new Uint8Array(batch, offset, lengths[index]);
      offset += lengths[index];
      if (key === null) continue;
      const signature = new Uint8Array(batch, at + POINT_BYTES, SIGNATURE_BYTES);
      verdicts[index] = verify('sha256', input, { key, dsaEncoding: 'ieee-p1363' }, signature) ? 1 : 0;
    }
    parentPort.postMessage({ id, verdicts: verdicts.buffer }, [verdicts.buffer]);
  } catch (error) {
    parentPort.postMessage({ id, error: String(error) });
  }
});
