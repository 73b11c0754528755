/**
 * A device is closed between real processes, while each of them is killed again and again: its open batch is closed and reported, its
 * statement is made once, its balance is paid back once, its keys are gone, and nobody's store contradicts another's.
 */
import { execFile } from 'node:child_process';
import { readdirSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { HOST } from '@countermark/protocol/interfaces/host';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Line, root, startInstallation, type TestInstallation } from '../installation.ts';
import { countermark } from '../line-command.ts';

const FUNDS_MILLS = 10_000_000n;

let installation: TestInstallation;
beforeAll(async () => {
  installation = await startInstallation();
});
afterAll(async () => {
  await installation.stop();
});

/** A mailing whose last batch is left open. */
async function frankedAndOpen(line: Line): Promise<void> {
  const file = join(installation.folder, 'closing.csv');
  const rows = Array.from({ length: 5 }, (_, i) => `closing-${i},usps-fcm-letter,5-digit,0.95,02108`);
  writeFileSync(file, ['piece_ref,product,level,weight_oz,zip', ...rows].join('\n'));
  await line.host.call(HOST.frank, { file, job: 'closing', keepOpen: true });
}

type Shown = {
  readonly standing: string;
  readonly balanceMills: string;
  readonly closure: { readonly settled: string; readonly sequence: number; readonly returnedMills: string } | null;
  readonly acts: readonly { readonly act: string }[];
};

async function operator<T>(path: string, body?: object): Promise<T> {
  const { url, credential } = installation.operator;
  const response = await fetch(new URL(path, url), {
    method: body === undefined ? 'GET' : 'POST',
    headers: { authorization: `Bearer ${credential}`, 'content-type': 'application/json' },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  return (await response.json()) as T;
}

/** Gone on with until it answers: the process that is asked may just have been killed. */
async function insisted<T>(ask: () => Promise<T>): Promise<T> {
  for (let attempt = 0; ; attempt += 1) {
    try {
      return await ask();
    } catch (error) {
      if (attempt === 100) throw error;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
}

describe('A device that is closed', () => {
  it.each([
    ['signature', 'sessionless', 'host'],
    ['mac', 'session', 'psd'],
  ] as const)('%s, %s, memory %s, whoever is killed meanwhile', async (authentication, transport, records) => {
    const licensee = `lic_closed-${authentication}`;
    const line = await installation.line({ licensee, authentication, transport, records, pages: false });
    await frankedAndOpen(line);
    const { device, batch, registers } = await line.device();
    expect(batch?.state).toBe('open');
    const path = `/v1/devices/${device}`;
    await operator(`${path}/closure`, { reason: 'line taken down' });

    const victims = { ...line.processes, ...installation.processes };
    const order = [
      'psd',
      'host',
      'server',
      'cryptographic-device',
      'psd',
      'authority',
      'host',
      'server',
      'psd',
    ] as const;
    for (const victim of order) {
      // Each is killed with the way to the end under foot: what was begun is gone on with.
      line.host.call(HOST.send, {}).catch(() => undefined);
      await new Promise((resolve) => setTimeout(resolve, 100));
      await victims[victim].kill();
    }
    for (let attempt = 0; ; attempt += 1) {
      await insisted(() => line.host.call(HOST.send, {}));
      const shown = await insisted(() => operator<Shown>(path));
      const status = await insisted(() => line.device());
      if (status.zeroised === true && shown.closure?.settled === 'refunded') break;
      if (attempt === 300) throw new Error(JSON.stringify([shown.closure, status.state, status.finalSequence ?? null]));
      await new Promise((resolve) => setTimeout(resolve, 100));
    }

    const used = registers.ascendingMills;
    expect(await line.device()).toMatchObject({
      state: 'withdrawn',
      zeroised: true,
      finalSequence: 2,
      sequence: 2,
      unconfirmedRecords: 0,
      registers: { ascendingMills: used, descendingMills: 0n, pieces: 5 },
      funds: { receivedMills: FUNDS_MILLS, returnedMills: FUNDS_MILLS - used },
    });
    const shown = await operator<Shown>(path);
    expect(shown).toMatchObject({
      standing: 'closed',
      balanceMills: '0',
      closure: { sequence: 2, returnedMills: String(FUNDS_MILLS - used) },
    });
    expect(shown.acts.map(({ act }) => act)).toEqual(['closing', 'refunded']);
    const told = await line.host.call(HOST.statistics, {});
    expect(told.records.map(({ sequence, type, state }) => `${sequence} ${type} ${state}`)).toEqual([
      '1 batch-statistics confirmed',
      '2 final-statement confirmed',
    ]);
    // It franks no more, and what it was asks for nothing more.
    const file = join(installation.folder, 'closing.csv');
    const refused = await line.host.call(HOST.frank, { file, job: 'after' }).catch(() => null);
    expect(refused?.report.pieces ?? 0).toBe(0);
    const folder = join(line.paths.data, 'output', '_final-statement');
    const files = readdirSync(folder).map((name) => join(folder, name));
    expect(files.map((name) => basename(name))).toContain('final-statement.confirmation.cose');
    const verified = await countermark(line, 'verify', ...files);
    expect([verified.exit, verified.json.error]).toEqual([0, undefined]);
    await line.stop();
  });

  it('leaves stores in which nobody finds anything wrong, from the first record on', async () => {
    const folders = readdirSync(installation.folder).filter((name) => /^l\d+$/.test(name));
    const configs = [installation.folder, ...folders.map((name) => join(installation.folder, name))].flatMap((folder) =>
      readdirSync(join(folder, 'run'))
        .filter((name) => name.endsWith('.json'))
        .map((name) => join(folder, 'run', name)),
    );
    expect(configs.length).toBe(3 + 2 * 2);
    for (const party of Object.values(installation.processes)) await party.stop();
    for (const config of configs) expect([config, await checked(config)]).toEqual([config, { exit: 0, words: '' }]);
  });
});

/** What a party's own `check` says of its store. */
async function checked(config: string): Promise<{ readonly exit: number | null; readonly words: string }> {
  const program = join(root, 'packages', basename(config, '.json'), 'dist', 'program', 'main.js');
  return new Promise((resolve) => {
    const child = execFile(process.execPath, [program, 'check', '--config', config], (_, stdout) => {
      resolve({ exit: child.exitCode, words: stdout });
    });
  });
}
