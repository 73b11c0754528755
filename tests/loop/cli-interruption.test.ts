/**
 * What `up` does when it is stopped, killed, started twice, or runs out of funds: nothing is lost and nothing franked twice.
 */
import { readFileSync } from 'node:fs';
import { HOST, type JobReport } from '@countermark/protocol/interfaces/host';
import { askSupervisor, type SupervisorReport, withHost } from '@countermark/cli/host-client';
import { afterAll, describe, expect, test } from 'vitest';
import { json, type Running, sample, sampleOf, Workshop } from './command.ts';

const workshop = new Workshop();
afterAll(() => workshop.stopAll());

/** Many copies of one customer's letters, each with a key of its own. */
function manyRows(count: number): string[] {
  const letters = sampleOf('alder-press').filter((row) => row.includes(',usps-fcm-letter,'));
  return Array.from({ length: count }, (_, i) => {
    const [, ...rest] = (letters[i % letters.length] ?? '').split(',');
    return [`many-${i}`, ...rest].join(',');
  });
}

/** Asked at the sockets themselves: a command would take as long as some of the mailing. */
async function processes(data: string): Promise<SupervisorReport['processes']> {
  return (await askSupervisor(data))?.processes ?? [];
}

/** Resolves when the device has franked at least so many pieces, with how many. */
async function franked(data: string, running: Running, pieces: number): Promise<number> {
  return withHost(data, async (host) => {
    for (;;) {
      const { registers } = await host.call(HOST.device, {});
      if (registers.pieces >= pieces) return registers.pieces;
      if (running.child.exitCode !== null) throw new Error(`it ended:\n${running.stderr}`);
    }
  });
}

describe('in the middle of a mailing', () => {
  const rows = manyRows(10_000);
  const refill = ['--refill', '40000.00', '--no-pages'];

  test('Ctrl-C finishes the chunk in hand and says how to go on; the same command franks the rest, once each', async () => {
    const data = workshop.path('stopped');
    const file = workshop.mailing('stopped.csv', rows);
    const first = workshop.start('up', '--once', '--json', '--data', data, '--mailing', file, ...refill);
    await first.says(/Franking/);
    first.child.kill('SIGINT');
    const stopped = await first.ended;
    expect(stopped.code, stopped.stderr).toBe(5);
    expect(stopped.stderr).toContain(`--mailing ${file} --no-pages --once --data ${data} --json`);
    expect(stopped.stderr).toContain('Every process has ended');
    const before = json<JobReport>(stopped);
    expect(before.registers.pieces).toBeLessThan(rows.length);

    const second = await workshop.run('up', '--once', '--json', '--data', data, '--mailing', file, '--no-pages');
    expect(second.code, second.stderr).toBe(0);
    const after = json<JobReport>(second);
    expect(after).toMatchObject({ resumed: before.pieces > 0, pieces: rows.length, pending: [] });
    expect(after.registers.pieces).toBe(rows.length);
  });

  test.each(['psd', 'host', 'server'])('a killed %s comes back and the job goes on by itself', async (victim) => {
    const data = workshop.path(`killed-${victim}`);
    const file = workshop.mailing(`killed-${victim}.csv`, rows);
    const running = workshop.start('up', '--once', '--json', '--data', data, '--mailing', file, ...refill);
    await running.says(/Franking/);
    expect(await franked(data, running, 1)).toBeLessThan(rows.length);
    const pid = (await processes(data)).find(({ name }) => name === victim)?.pid;
    process.kill(pid ?? 0, 'SIGKILL');
    const ended = await running.ended;
    expect(ended.stderr).toContain(`${victim} ended (signal SIGKILL`);
    expect(ended.code, ended.stderr).toBe(0);
    const report = json<JobReport>(ended);
    expect(report).toMatchObject({ pieces: rows.length, pending: [] });
    expect(report.registers.pieces).toBe(rows.length);
  });

  test('a killed supervisor leaves nothing running, and the next start resumes', async () => {
    const data = workshop.path('killed');
    const file = workshop.mailing('killed.csv', rows);
    const first = workshop.start('up', '--once', '--json', '--data', data, '--mailing', file, ...refill);
    await first.says(/Franking/);
    expect(await franked(data, first, 1)).toBeLessThan(rows.length);
    first.child.kill('SIGKILL');
    await first.ended;
    const second = await workshop.run('up', '--once', '--json', '--data', data, '--mailing', file, '--no-pages');
    expect(second.code, second.stderr).toBe(0);
    const report = json<JobReport>(second);
    expect(report).toMatchObject({ resumed: true, pieces: rows.length, pending: [] });
    expect(report.registers.pieces).toBe(rows.length);
  });
});

describe('two at once', () => {
  test('on one data folder: the second is refused, and says why', async () => {
    const data = workshop.path('two');
    const first = workshop.start('up', '--data', data, '--no-mailing');
    await first.says(/is up/);
    const second = await workshop.run('up', '--once', '--json', '--data', data);
    expect(second.code).toBe(6);
    expect(json(second)).toMatchObject({ error: { code: 'store-in-use' } });
    const reset = await workshop.run('reset', '--demo', '--yes', '--data', data);
    expect(reset.code).toBe(6);
    first.child.kill('SIGINT');
    const ended = await first.ended;
    expect(ended.code, ended.stderr).toBe(0);
    expect((await workshop.run('reset', '--demo', '--yes', '--data', data)).code).toBe(0);
    expect((await workshop.run('status', '--data', data)).code).toBe(5);
  });
});

describe('funds that end in the middle', () => {
  test('exit 4; what was franked stays, and a refill franks the rest', async () => {
    const data = workshop.path('funds');
    const file = workshop.mailing('funds.csv', sampleOf('alder-press'));
    const short = ['up', '--once', '--json', '--data', data, '--mailing', file];
    const first = await workshop.run(...short, '--refill', '300.00');
    expect(first.code, first.stderr).toBe(4);
    const before = json<JobReport & { error: { code: string; message: string } }>(first);
    expect(before.error.code).toBe('insufficient-funds');
    expect(before.error.message).toContain('funds refill');
    expect(before.registers.pieces).toBeGreaterThan(0);
    expect(before.registers.controlTotalMills).toBe('300000');
    expect(before.pending).not.toEqual([]);

    const second = await workshop.run(...short, '--refill', '700.00');
    expect(second.code, second.stderr).toBe(0);
    const after = json<JobReport>(second);
    expect(after).toMatchObject({ resumed: true, pieces: 749, postageMills: '584420', pending: [] });
    expect(after.registers).toMatchObject({ pieces: 749, controlTotalMills: '1000000' });
  });
});

describe('a hold', () => {
  test('ends --once with exit 5, the rest under pending, and keeps the record in the PSD', async () => {
    const data = workshop.path('held');
    const file = workshop.mailing('held.csv', sample().slice(1, 101));
    const held = await workshop.run(
      ...['up', '--once', '--json', '--data', data, '--mailing', file, '--authentication', 'mac'],
      ...['--transport', 'session', '--records', 'psd', '--forwarding', 'hold', '--hold-for', '1d'],
    );
    expect(held.code, held.stderr).toBe(5);
    const report = json<JobReport>(held);
    expect(report.batches.map(({ state, deletedFromPsd }) => `${state} ${deletedFromPsd}`)).toEqual(
      report.batches.map(() => 'held false'),
    );
    expect(report.pending.some(({ reason }) => reason === 'held')).toBe(true);
    expect(readFileSync(`${data}/countermark.toml`, 'utf8')).toMatch(/^holdFor = "1d"$/m);
  });
});
