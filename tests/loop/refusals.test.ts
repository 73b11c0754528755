/** What a host refuses over its socket, and what keeps it from starting, through real processes. */
import { HOST } from '@countermark/protocol/interfaces/host';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Line, startInstallation, type TestInstallation } from '../installation.ts';

describe('A host', () => {
  let installation: TestInstallation;
  let line: Line;

  beforeAll(async () => {
    installation = await startInstallation();
    line = await installation.line({ licensee: 'lic_refusals' });
  });
  afterAll(async () => {
    await line.stop();
    await installation.stop();
  });

  it.each([
    ['a job', () => line.host.call(HOST.job, { job: 'spring' }), 'unknown-job'],
    ['a batch', () => line.host.call(HOST.batch, { batch: `bat_${'0'.repeat(32)}` }), 'unknown-batch'],
    ['a grant', () => line.host.call(HOST.grant, { digest: '0'.repeat(64) }), 'unknown-grant'],
  ])('does not know %s that there is not', async (_, asked, code) => {
    await expect(asked()).rejects.toMatchObject({ rejection: { code } });
  });

  it('does not start where the device keeps too few records for the time that they are held', async () => {
    const started = installation.line({
      licensee: 'lic_small',
      forwarding: 'hold',
      holdFor: 30 * 86_400_000,
      recordCapacity: 10,
    });
    await expect(started).rejects.toThrow(/memory-too-small|keeps 10 records; holding for 30 days needs at least/);
  });
});
