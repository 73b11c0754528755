/**
 * Funds that end in the middle of a batch: what was franked stays franked and accounted, the rest waits for a refill and is then
 * franked by the same command, to the same totals as if there had always been enough.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { HOST, type JobReport } from '@countermark/protocol/interfaces/host';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { expectAccounted, expectSampleResult } from '../accounting.ts';
import { readSample, startInstallation, type TestInstallation } from '../installation.ts';
import { countermark } from '../line-command.ts';

let installation: TestInstallation;

beforeAll(async () => {
  installation = await startInstallation();
});
afterAll(async () => {
  await installation.stop();
});

describe('Funds that end in the middle of a batch', () => {
  it.each(['host', 'psd'] as const)(
    '(records in the %s) stop the mailing at the last piece they suffice for',
    async (records) => {
      const file = join(installation.folder, 'mailing.csv');
      writeFileSync(file, readSample());
      const refillMills = 1_500_000n;
      const line = await installation.line(
        { licensee: `lic_funds-${records}`, customers: 'many', records, pages: false },
        { refillMills },
      );
      const frank = () => countermark(line, 'batch', 'frank', file, '--job', 'autumn', '--mailing-date', '2026-11-22');

      const first = await frank();
      expect([first.exit, first.json.error?.code]).toEqual([4, 'insufficient-funds']);
      expect(first.stderr).toMatch(/countermark funds refill/);
      const device = await line.device();
      const { ascendingMills, descendingMills, pieces } = device.registers;
      expect(ascendingMills + descendingMills).toBe(refillMills);
      // Not one more piece of this batch of flats could be paid.
      expect(descendingMills).toBeLessThan(2_440n);
      expect(device.batch).toMatchObject({ state: 'open' });
      expect([first.json.pieces, first.json.postageMills]).toEqual([pieces, String(ascendingMills)]);
      expect(first.json.pending).toContainEqual(expect.objectContaining({ what: 'pieces', count: 2_699 - pieces }));

      // Asked again without a refill nothing moves.
      const again = await frank();
      expect([again.exit, again.json.error?.code, again.json.pieces]).toEqual([4, 'insufficient-funds', pieces]);
      expect(await line.device()).toMatchObject({ registers: device.registers, batch: device.batch });

      const refilled = await countermark(line, 'funds', 'refill', '8500.00');
      expect(refilled.exit).toBe(0);
      const rest = await frank();
      expect([rest.exit, rest.json.pieces, rest.json.resumed]).toEqual([0, 2_699, true]);
      const settled = await line.host.call(HOST.wait, { job: 'autumn', timeoutMs: 60_000 });
      expect(settled.outcome).toBe('settled');
      const report = settled.report as JobReport;
      expectSampleResult(report);
      expect(report.batches.length).toBe(4);
      expect(report.registers.controlTotalMills).toBe(String(refillMills + 8_500_000n));
      await expectAccounted(line, report);
      await line.stop();
    },
  );

  it('may be closed there by the operator: the rest is not forgotten, but franked in a batch of its own', async () => {
    const file = join(installation.folder, 'closed.csv');
    writeFileSync(file, readSample());
    const refillMills = 1_500_000n;
    const line = await installation.line(
      { licensee: 'lic_funds-closed', customers: 'many', records: 'psd', pages: false },
      { refillMills },
    );
    const frank = () => countermark(line, 'batch', 'frank', file, '--job', 'autumn', '--mailing-date', '2026-11-22');
    const first = await frank();
    expect([first.exit, first.json.error?.code]).toEqual([4, 'insufficient-funds']);
    expect((await countermark(line, 'batch', 'close')).exit).toBe(0);
    expect((await countermark(line, 'funds', 'refill', '8500.00')).exit).toBe(0);
    const rest = await frank();
    expect([rest.exit, rest.json.pieces, rest.json.resumed]).toEqual([0, 2_699, true]);
    const settled = await line.host.call(HOST.wait, { job: 'autumn', timeoutMs: 60_000 });
    expect(settled.outcome).toBe('settled');
    const report = settled.report as JobReport;
    expect(report.batches.length).toBe(5);
    expect(report.registers.pieces).toBe(2_699);
    const merged = readFileSync(report.files.merge ?? '', 'utf8')
      .trimEnd()
      .split('\r\n');
    expect(merged).toHaveLength(2_700);
    await line.stop();
  });

  it('cannot be refilled beyond the deposit, and are told so', async () => {
    const line = await installation.line({ licensee: 'lic_funds-deposit', customers: 'one' }, { refillMills: 0n });
    const refused = await countermark(line, 'funds', 'refill', '2000000.00');
    expect(refused.exit).toBe(4);
    expect(refused.json.error?.message).toMatch(/\d/);
    expect((await line.device()).registers.descendingMills).toBe(0n);
    // The number of the refused request is spent; the next one is granted.
    expect((await countermark(line, 'funds', 'refill', '100.00')).exit).toBe(0);
    expect((await line.device()).registers.descendingMills).toBe(100_000n);
    await line.stop();
  });
});
