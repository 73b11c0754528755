/**
 * Server or authority down for hours: franking goes on within what the device's policy and memory allow, nothing is lost or
 * dropped, and when the party is back all is confirmed, granted and settled as if it had never been away.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { HOST, type JobReport } from '@countermark/protocol/interfaces/host';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { chainGaps, expectAccounted, expectSampleResult, sealedRecords } from '../accounting.ts';
import { readSample, startInstallation, type TestInstallation } from '../installation.ts';
import { countermark } from '../line-command.ts';

const HOUR_MS = 3_600_000;
const CUSTOMERS = ['alder-press', 'birch-mutual', 'cedar-clinic', 'dahlia-post'];
const MAILING_DATE = '2026-11-22';

let installation: TestInstallation;
let sample: string;

beforeAll(async () => {
  installation = await startInstallation();
  sample = join(installation.folder, 'mailing.csv');
  writeFileSync(sample, readSample());
});
afterAll(async () => {
  await installation.stop();
});

/** A mailing of two batches, too small to earn anything. */
function smallMailing(name: string): string {
  const file = join(installation.folder, `${name}.csv`);
  const rows = [
    'piece_ref,customer,product,level,weight_oz,zip',
    `${name}-1,dahlia-post,usps-fcm-letter,5-digit,0.95,02108`,
    `${name}-2,dahlia-post,usps-fcm-flat,3-digit,3.2,89501`,
  ];
  writeFileSync(file, rows.join('\n'));
  return file;
}

describe('The server, down for hours', () => {
  it.each(['sessionless', 'session'] as const)(
    '(%s) stops no franking before the device is full',
    async (transport) => {
      const line = await installation.line(
        { licensee: `lic_down-${transport}`, customers: 'many', transport, recordCapacity: 6, pages: false },
        { clock: true },
      );
      await line.host.call(HOST.enrol, { customers: CUSTOMERS });
      await installation.processes.server.stop();

      const first = await line.host.call(HOST.frank, { file: sample, job: 'first', mailingDate: MAILING_DATE });
      expect([first.remaining, first.rejection]).toEqual([0, undefined]);
      line.moveClock(6 * HOUR_MS);
      const second = await line.host.call(HOST.frank, { file: smallMailing('second'), job: 'second' });
      expect([second.remaining, second.rejection]).toEqual([0, undefined]);
      expect(await line.device()).toMatchObject({ state: 'operational', unconfirmedRecords: 6 });

      // Six records is all that it may keep: the next batch is refused, nothing is dropped.
      line.moveClock(12 * HOUR_MS);
      const third = smallMailing('third');
      const full = await countermark(line, 'batch', 'frank', third, '--job', 'third');
      expect([full.exit, full.json.error?.code, full.json.pieces]).toEqual([6, 'memory-full', 0]);
      expect(await line.device()).toMatchObject({ unconfirmedRecords: 6, sequence: 6 });
      const waiting = await line.host.call(HOST.wait, { job: 'first', timeoutMs: 1 });
      expect(waiting.outcome).toBe('timeout');
      expect(waiting.pending.filter(({ what }) => what === 'record' || what === 'confirmation').length).toBeGreaterThan(
        0,
      );
      const status = await line.host.call(HOST.status, {});
      expect(status.server.reachable).toBe(false);

      await installation.processes.server.start();
      await line.host.call(HOST.send, {});
      const rest = await line.host.call(HOST.frank, { file: third, job: 'third' });
      expect([rest.remaining, rest.rejection]).toEqual([0, undefined]);
      for (const job of ['second', 'third', 'first']) {
        const settled = await line.host.call(HOST.wait, { job, timeoutMs: 60_000 });
        expect({ job, outcome: settled.outcome, pending: settled.pending }).toEqual({
          job,
          outcome: 'settled',
          pending: [],
        });
      }
      const reports: JobReport[] = [];
      for (const job of ['first', 'second', 'third']) reports.push(await line.host.call(HOST.job, { job }));
      for (const report of reports) await expectAccounted(line, report);
      expectSampleResult(reports[0] as JobReport);
      expect(chainGaps(reports.flatMap(sealedRecords))).toEqual([]);
      await line.stop();
    },
  );
});

describe('The authority, down for hours', () => {
  it('stops neither franking nor confirming; the grants come when it is back', async () => {
    const line = await installation.line(
      { licensee: 'lic_down-authority', customers: 'many', pages: false },
      { clock: true },
    );
    await installation.processes.authority.stop();
    const { job, remaining } = await line.host.call(HOST.frank, { file: sample, mailingDate: MAILING_DATE });
    expect(remaining).toBe(0);
    line.moveClock(8 * HOUR_MS);
    const sent = await line.host.call(HOST.send, {});
    expect(sent.waiting).toEqual([]);
    const waiting = await line.host.call(HOST.wait, { job, timeoutMs: 1 });
    expect(waiting.outcome).toBe('timeout');
    expect(waiting.pending.map(({ what }) => what)).toEqual(['grants']);
    expect(await line.device()).toMatchObject({ unconfirmedRecords: 0 });
    expect((await line.host.call(HOST.job, { job })).discounts).toEqual([]);

    await installation.processes.authority.start();
    const settled = await line.host.call(HOST.wait, { job, timeoutMs: 60_000 });
    expect(settled).toMatchObject({ outcome: 'settled', pending: [] });
    expectSampleResult(settled.report as JobReport);
    await expectAccounted(line, settled.report as JobReport);
    await line.stop();
  });
});
