/**
 * `accept-hsm`: the same as `accept` with the keys on a token (SoftHSM2), against a direct loop on that token: two signatures a record, by as
 * many sessions as the cryptographic device has.
 *
 * Inside the token: attesting and confirming. Outside, as in `accept`: checking what devices signed (their keys are public, and the token is
 * slower at it), parsing, logging. A software token takes its processor time from the same cores.
 */
import { HsmThreads } from '@countermark/cryptographic-device/hsm-threads';
import { openHsmKeys } from '@countermark/cryptographic-device/hsm-keys';
import { softHsm } from './soft-hsm.ts';
import { recordsPerSecond } from './accept.ts';
import { startAcceptanceParties } from './acceptance-parties.ts';
import { type BenchmarkRun, type Figure, figureOfLimit } from './figure.ts';

const SESSIONS = 2;
const SIGNATURES_A_RECORD = 2;
const DIGEST_BYTES = 32;
const KEY = 'countermark-attesting-1';
/** Signatures of one call: enough that calling costs nothing. */
const TOGETHER = 256;
const CALLS = { smoke: 2, standard: 40, full: 100 } as const;

/** Measures. @throws Error without a token, or if a record is not accepted. */
export async function benchmark({ size, folder }: BenchmarkRun): Promise<readonly Figure[]> {
  const hsm = softHsm('direct', 'bench');
  if (typeof hsm === 'string') throw new Error(hsm);
  try {
    const keys = await openHsmKeys(hsm.of('direct'), true);
    if (!keys.ok) throw new Error(keys.rejection.code);
    await keys.value.close();
    const { module, token } = hsm.of('direct');
    const limit = (await signaturesPerSecond({ module, token, pin: hsm.pin }, CALLS[size])) / SIGNATURES_A_RECORD;
    const rate = await recordsPerSecond(size, await startAcceptanceParties(folder, { hsm: hsm.of('bench') }));
    return [figureOfLimit('accept-hsm', rate, 'records/s', limit, { atLeast: 0.6 })];
  } finally {
    hsm.stop();
  }
}

/** All sessions at once, each with the next call in hand when one is done. */
async function signaturesPerSecond(
  access: ConstructorParameters<typeof HsmThreads>[0],
  calls: number,
): Promise<number> {
  const threads = new HsmThreads(access, SESSIONS);
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
