/**
 * `accept-hsm`: the same as `accept` with the keys on a token (SoftHSM2), against a direct loop on that token: two signatures a record, by as
 * many sessions as the cryptographic device has.
 *
 * Inside the token: attesting and confirming. Outside, as in `accept`: checking what devices signed (their keys are public, and the token is
 * slower at it), parsing, logging. A software token takes its processor time from the same cores.
 */
import { softHsm } from './soft-hsm.ts';
import { recordsPerSecond } from './accept.ts';
import { startAcceptanceParties } from './acceptance-parties.ts';
import { type BenchmarkRun, type Figure, figureOfLimit } from './figure.ts';
import { signaturesPerSecond } from './token-rate.ts';

const SIGNATURES_A_RECORD = 2;
const CALLS = { smoke: 2, standard: 40, full: 100 } as const;

/** Measures. @throws Error without a token, or if a record is not accepted. */
export async function benchmark({ size, folder }: BenchmarkRun): Promise<readonly Figure[]> {
  const hsm = softHsm('direct', 'bench');
  if (typeof hsm === 'string') throw new Error(hsm);
  try {
    const limit = (await signaturesPerSecond(hsm, 'direct', CALLS[size])) / SIGNATURES_A_RECORD;
    const rate = await recordsPerSecond(size, await startAcceptanceParties(folder, { hsm: hsm.of('bench') }));
    return [figureOfLimit('accept-hsm', rate, 'records/s', limit, { atLeast: 0.6 })];
  } finally {
    hsm.stop();
  }
}
