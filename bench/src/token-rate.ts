/**
 * What a token can do at best: signatures a second, in a direct loop by as many sessions as who uses it has.
 */
import { openHsmKeys } from '@countermark/cryptographic-device/hsm-keys';
import { HsmThreads } from '@countermark/node-platform/hsm-threads';
import type { SoftHsm } from './soft-hsm.ts';

const SESSIONS = 2;
const DIGEST_BYTES = 32;
const KEY = 'countermark-attesting-1';
/** Signatures of one call: enough that calling costs nothing. */
const TOGETHER = 256;

/** All sessions at once, each with the next call in hand when one is done. The token is empty before. @throws Error without it */
export async function signaturesPerSecond(hsm: SoftHsm, label: string, calls: number): Promise<number> {
  const keys = await openHsmKeys(hsm.of(label), true);
  if (!keys.ok) throw new Error(keys.rejection.code);
  await keys.value.close();
  const { module, token } = hsm.of(label);
  const threads = new HsmThreads({ module, token, pin: hsm.pin }, SESSIONS);
  const call = () => threads.call('sign', { name: KEY, digests: new Uint8Array(TOGETHER * DIGEST_BYTES).fill(calls) });
  await Promise.all([call(), call()]);
  const startedMs = performance.now();
  let left = calls;
  const lane = async (): Promise<void> => {
    for (; left > 0; left -= 1) await call();
  };
  await Promise.all(Array.from({ length: 2 * SESSIONS }, lane));
  const seconds = (performance.now() - startedMs) / 1_000;
  await threads.close();
  return (calls * TOGETHER) / seconds;
}
