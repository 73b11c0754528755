import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { writeFileSync } from 'node:fs';
import { rejection } from '@countermark/protocol/rejection';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type PartyExit, type PartySpec, Supervisor, type SupervisorOptions } from './supervision.ts';

let directory: string;
const supervisors: Supervisor[] = [];

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'up-'));
});
afterEach(async () => {
  for (const supervisor of supervisors.splice(0)) await supervisor.stopAll(200);
  rmSync(directory, { recursive: true });
});

function supervisor(options: Partial<SupervisorOptions> = {}): Supervisor {
  const made = new Supervisor({ logDirectory: join(directory, 'logs'), restartMs: { first: 1, most: 2 }, ...options });
  supervisors.push(made);
  return made;
}
function log(name: string): string {
  return readFileSync(join(directory, 'logs', `${name}.log`), 'utf8');
}
function script(name: string, text: string): PartySpec {
  return { name, args: ['-e', text] };
}

const READY = 'console.log(JSON.stringify({ ready: true, port: 4711, pid: process.pid }));';
// Ready comes last: a SIGINT may follow it at once.
const OBEDIENT = `process.on('SIGINT', () => {}); process.stdin.resume();
  process.stdin.on('end', () => { console.error('ended by stdin'); process.exit(0); }); ${READY}`;

describe('supervision', () => {
  it('starts a party, publishes its addresses, logs its stderr, and ends it by its stdin', async () => {
    const up = supervisor();
    const addresses = await up.start(script('psd', `console.error('hello'); ${OBEDIENT}`));
    expect(addresses).toMatchObject({ port: 4711, pid: up.pid('psd') });
    process.kill(up.pid('psd') ?? 0, 'SIGINT');
    await up.stopAll();
    expect(log('psd')).toBe('hello\nended by stdin\n');
  });

  it('stops in the reverse order, and kills what does not listen', async () => {
    const up = supervisor();
    const note = (name: string): string =>
      `require('fs').appendFileSync(${JSON.stringify(join(directory, 'order'))}, '${name} ')`;
    for (const name of ['one', 'two']) {
      await up.start(
        script(
          name,
          `${READY} process.stdin.resume(); process.stdin.on('end', () => { ${note(name)}; process.exit(0); })`,
        ),
      );
    }
    await up.start(
      script('deaf', `process.on('SIGTERM', () => { ${note('deaf')} }); setInterval(() => {}, 1000); ${READY}`),
    );
    await up.stopAll(150);
    expect(readFileSync(join(directory, 'order'), 'utf8')).toBe('deaf two one ');
    expect(up.pid('deaf')).toBeUndefined();
  });

  it.each([
    [
      'ends',
      `console.error('{"msg":"no room","error":{"message":"disk is full"}}'); process.exit(70)`,
      /ended while starting \(exit code 70\)[^]*no room: disk is full/,
    ],
    [
      'prints something else',
      `console.log('hello'); setInterval(() => {}, 1000)`,
      /printed something else than its ready line: hello/,
    ],
    ['says nothing', 'setInterval(() => {}, 1000)', /was not ready within 300 ms/],
  ])('tells why a party that %s did not start', async (name, text, message) => {
    // Only who says nothing is waited for; the others end by themselves, however long a busy machine takes to start them.
    const up = supervisor({ readyTimeoutMs: name === 'says nothing' ? 300 : 60_000 });
    await expect(up.start(script('server', text))).rejects.toMatchObject({
      code: 'party-not-ready',
      message: expect.stringMatching(message) as string,
    });
    expect(up.pid('server')).toBeUndefined();
  });

  it('tells a party’s own rejection first, and has it for whoever branches on it', async () => {
    const refused = rejection('config-invalid', { file: 'pin', reason: 'it is empty' });
    const line = JSON.stringify({ ready: false, rejection: refused });
    const text = `console.error('{"msg":"opened"}'); console.log(${JSON.stringify(line)}); setTimeout(() => process.exit(2), 50)`;
    await expect(supervisor().start(script('server', text))).rejects.toMatchObject({
      code: 'party-not-ready',
      retry: 'never',
      message: expect.stringMatching(
        /^The configuration[^]*it is empty[^]*\(server did not start; its log: [^ ]*server\.log\)$/,
      ) as string,
      cause: { code: 2, rejection: refused },
    });
  });

  it('tells of a command that does not exist', async () => {
    await expect(supervisor().start({ name: 'x', command: join(directory, 'nothing'), args: [] })).rejects.toThrow(
      /ENOENT/,
    );
  });

  it('starts a party again that was killed, with its new addresses, until it is stopped', async () => {
    const ready: unknown[] = [];
    const exits: [PartyExit, number | undefined][] = [];
    let again: () => void = () => undefined;
    const twice = new Promise<void>((resolve) => {
      again = resolve;
    });
    const up = supervisor({
      onReady: (_name, addresses) => {
        if (ready.push(addresses.pid) === 3) again();
        else process.kill(addresses.pid as number, 'SIGKILL');
      },
      onExit: (_name, exit, restartInMs) => exits.push([exit, restartInMs]),
    });
    await up.start(script('host', OBEDIENT));
    await twice;
    expect(new Set(ready).size).toBe(3);
    expect(exits).toMatchObject([
      [{ signal: 'SIGKILL' }, expect.any(Number)],
      [{ signal: 'SIGKILL' }, expect.any(Number)],
    ]);
    await up.stopAll();
    expect(exits).toHaveLength(2);
  });

  it('does not start a party again whose store is broken', async () => {
    const told = new Promise<[PartyExit, number | undefined]>((resolve) => {
      const up = supervisor({
        onExit: (_name, exit, restartInMs) => {
          resolve([exit, restartInMs]);
        },
      });
      void up.start(
        script('psd', `${READY} process.stdout.write('', () => { console.error('damaged'); process.exit(6); })`),
      );
    });
    expect(await told).toEqual([{ code: 6, signal: null, lastWords: ['damaged'] }, undefined]);
  });
});

describe("a party's main", () => {
  const partyMain = fileURLToPath(new URL('./party-main.ts', import.meta.url));
  const tsx = createRequire(import.meta.url).resolve('tsx');

  function party(serve: string, args: string[] = ['serve'], config: unknown = { depth: 1 }): PartySpec {
    const main = join(directory, 'main.mjs');
    const file = join(directory, 'config.json');
    writeFileSync(file, JSON.stringify(config));
    writeFileSync(
      main,
      `import { runParty } from ${JSON.stringify(partyMain)};
      await runParty({
        name: 'psd',
        parseConfig: (json) => json.depth === 1 ? { ok: true, value: json }
          : { ok: false, rejection: { code: 'config-invalid', detail: { file: 'config.json', reason: 'depth must be 1' } } },
        check: async () => ({ ok: true, value: ['record 3 is missing'] }),
        serve: async (config, party) => { ${serve} },
      });`,
    );
    return { name: 'psd', args: ['--conditions=source', '--import', tsx, main, ...args, '--config', file] };
  }

  it('runs its close hooks in reverse, and ends with code 0 when stdin closes', async () => {
    const up = supervisor();
    const hook = (name: string): string => `party.onClose(async () => { party.log.info('closed ${name}'); });`;
    expect(
      await up.start(party(`${hook('store')} ${hook('socket')} return { ok: true, value: { port: 1 } };`)),
    ).toEqual({ port: 1 });
    process.kill(up.pid('psd') ?? 0, 'SIGINT');
    await up.stopAll(5_000);
    expect(log('psd').match(/closed \w+/g)).toEqual(['closed socket', 'closed store']);
  });

  it('logs an exception that nobody caught, and ends with code 70', async () => {
    const told = new Promise<PartyExit>((resolve) => {
      const up = supervisor({
        restartMs: { first: 100_000, most: 100_000 },
        onExit: (_name, exit) => {
          resolve(exit);
        },
      });
      void up.start(
        party(`setTimeout(() => { throw new Error('out of the blue'); }, 50); return { ok: true, value: {} };`),
      );
    });
    const exit = await told;
    expect(exit.code).toBe(70);
    expect(exit.lastWords.join()).toContain('out of the blue');
  });

  it.each([
    [
      'a rejection of its own',
      `return { ok: false, rejection: { code: 'store-damaged', detail: { store: 'psd.db', reason: 'torn' } } };`,
      undefined,
      6,
      /psd.db is damaged: torn/,
    ],
    ['a bad config', '', { depth: 2 }, 2, /depth must be 1/],
  ])('ends with the exit code of %s', async (_name, serve, config, code, words) => {
    const started = supervisor().start(party(serve, ['serve'], config));
    await expect(started).rejects.toMatchObject({
      cause: { code },
      retry: 'never',
      message: expect.stringMatching(words) as string,
    });
  });

  it('explains its usage', async () => {
    await expect(supervisor().start(party('', ['dance']))).rejects.toMatchObject({ cause: { code: 2 } });
  });

  it('checks the store, says what is wrong, and ends with the code for it', async () => {
    await expect(supervisor().start(party('', ['check']))).rejects.toMatchObject({
      message: expect.stringMatching(/printed something else than its ready line: record 3 is missing/) as string,
    });
  });
});
