/**
 * One signing worker (see src/sign-workers.ts, which starts it). Plain JavaScript outside `src`, so that the sources under vitest and the built
 * files in `dist` start the same file.
 *
 * In: {id, key, count, batch}, where `batch` is an ArrayBuffer: `count` lengths (u32, the machine's byte order), then the bytes one
 * after the other. Out: {id, signatures}, an ArrayBuffer of 64 bytes each in the same order, or {id, error}. Both are transferred.
 * The keys came once, as PKCS8, when the worker was created.
 */
import { createPrivateKey, sign } from 'node:crypto';
import { parentPort, workerData } from 'node:worker_threads';

const SIGNATURE_BYTES = 64;

/** @type {Map<string, import('node:crypto').SignKeyObjectInput>} */
const keys = new Map();
for (const [name, pkcs8] of workerData.keys) {
  const key = createPrivateKey({ key: Buffer.from(pkcs8), format: 'der', type: 'pkcs8' });
  keys.set(name, { key, dsaEncoding: 'ieee-p1363' });
  pkcs8.fill(0);
}

parentPort.on('message', ({ id, key, count, batch }) => {
  try {
    const signing = keys.get(key);
    if (signing === undefined) throw new Error(`no key named ${key}`);
    const lengths = new Uint32Array(batch, 0, count);
    const signatures = new Uint8Array(count * SIGNATURE_BYTES);
    let offset = count * Uint32Array.BYTES_PER_ELEMENT;
    for (let index = 0; index < count; index += 1) {
      signatures.set(sign('sha256', new Uint8Array(batch, offset, lengths[index]), signing), index * SIGNATURE_BYTES);
      offset += lengths[index];
    }
    parentPort.postMessage({ id, signatures: signatures.buffer }, [signatures.buffer]);
  } catch (error) {
    parentPort.postMessage({ id, error: String(error) });
  }
});
