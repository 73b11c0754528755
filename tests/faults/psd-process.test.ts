/**
 * A real PSD process, killed and started again: no piece is lost, none is franked twice, nothing is released that is not
 * durable. Runs the built code over its sockets.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { connectRpc, type RpcClient } from '@countermark/node-platform/rpc';
import { digestText } from '@countermark/protocol/digest';
import type { Operation } from '@countermark/protocol/interfaces/operation';
import { type FrankChunk, type FrankedChunk, PSD } from '@countermark/protocol/interfaces/psd';
import { mills } from '@countermark/protocol/money';
import type { Result } from '@countermark/protocol/result';
import { parseValue } from '@countermark/protocol/schema';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { measured } from '../../packages/psd/src/shell/measurement.ts';
import { TestAuthority } from '../../packages/psd/testing/authority.ts';
import { batchNumbered, chunkOf, declarationOf, pieces } from '../../packages/psd/testing/mailing.ts';

const MAIN = fileURLToPath(new URL('../../packages/psd/dist/program/main.js', import.meta.url));
const BATCH = batchNumbered(1);

let directory: string;
let authority: TestAuthority;
let config: Record<string, unknown>;
let processes: ChildProcess[];

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'psd-'));
  authority = new TestAuthority();
  processes = [];
  config = {
    data: directory,
    socket: join(directory, 'psd.sock'),
    sessionSocket: join(directory, 'session.sock'),
    trustBundle: join(directory, 'trust-bundle.json'),
    authentication: 'signature',
    memory: 'psd',
  };
  writeFileSync(config.trustBundle as string, authority.trustBundle);
});
afterEach(async () => {
  for (const child of processes) {
    if (child.exitCode !== null || child.signalCode !== null) continue;
    child.kill('SIGKILL');
    await once(child, 'exit');
  }
  rmSync(directory, { recursive: true });
});

function configFile(over: Record<string, unknown> = {}): string {
  const path = join(directory, 'psd.json');
  writeFileSync(path, JSON.stringify({ ...config, ...over }));
  return path;
}

async function start(): Promise<{ child: ChildProcess; client: RpcClient; said: () => string }> {
  const child = spawn(process.execPath, [MAIN, 'serve', '--config', configFile()], { stdio: 'pipe' });
  processes.push(child);
  let said = '';
  child.stderr.on('data', (text: Buffer) => {
    said += text.toString();
  });
  const [line] = (await Promise.race([
    once(createInterface(child.stdout), 'line'),
    once(child, 'exit').then(() => [`ended: ${said}`]),
  ])) as [string];
  expect(JSON.parse(line)).toMatchObject({ ready: true, socket: config.socket, session: config.sessionSocket });
  return { child, client: await connectRpc(config.socket as string), said: () => said };
}

/** Runs a start that is expected to be refused. Its stdin stays open: closing it is how a supervisor ends a party. */
async function refusedStart(file: string): Promise<{ status: number | null; stdout: string; stderr: string }> {
  const child = spawn(process.execPath, [MAIN, 'serve', '--config', file], { stdio: 'pipe' });
  processes.push(child);
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (text: Buffer) => {
    stdout += text.toString();
  });
  child.stderr.on('data', (text: Buffer) => {
    stderr += text.toString();
  });
  const [status] = (await once(child, 'close')) as [number | null];
  return { status, stdout, stderr };
}

function value<T>(result: Result<T>): T {
  if (!result.ok) throw new Error(JSON.stringify(result.rejection));
  return result.value;
}

async function ask<Q, A>(client: RpcClient, operation: Operation<Q, A>, request: Q): Promise<A> {
  return value(
    parseValue(operation.answer, value(await client.call(operation.name, operation.request.toCbor(request)))),
  );
}

async function enrol(client: RpcClient): Promise<void> {
  const { request } = await ask(client, PSD.enrolmentRequest, {});
  const enrolling = authority.enrolling(request);
  await ask(client, PSD.install, {
    certificate: authority.bytes.certificate(authority.certificate(enrolling)),
    policy: authority.bytes.policy(authority.policy(enrolling.device, { memoryPieces: 100_000 })),
  });
  const funds = await ask(client, PSD.fundsRequest, { amountMills: mills(100_000_000n) });
  await ask(client, PSD.fundsGrant, { grant: authority.bytes.grant(authority.grant(funds.request)) });
  await ask(client, PSD.openBatch, { declaration: declarationOf(BATCH, { expectedPieces: 50_000 }) });
}

const CHUNK = 32;
const chunkAt = (n: number): FrankChunk => chunkOf(BATCH, n * CHUNK, pieces(CHUNK, 700 + (n % 50), n));

describe('SIGKILL in the middle of a batch', () => {
  it.each(['psd', 'host'])('loses no piece and franks none twice, memory %s', async (memory) => {
    config.memory = memory;
    const answers = new Map<number, FrankedChunk>();
    let { child, client } = await start();
    await enrol(client);
    for (let kill = 1; kill <= 6; kill++) {
      // Two chunks on their way, as a host has; killed after some answers, at whatever the process is doing then.
      const killAfter = answers.size + 3 + kill;
      const ended = once(child, 'exit');
      let next = answers.size;
      const frank = async (): Promise<void> => {
        for (;;) {
          const n = next++;
          const answer = await ask(client, PSD.frankChunk, chunkAt(n));
          answers.set(n, answer);
          if (answers.size >= killAfter) child.kill('SIGKILL');
        }
      };
      await Promise.allSettled([frank(), frank()]);
      await ended;
      // What a host knows is what it was answered without a gap.
      let known = 0;
      while (answers.has(known)) known += 1;
      ({ child, client } = await start());
      const { batch, registers } = await ask(client, PSD.status, {});
      const franked = registers.pieces / CHUNK;
      expect(batch).toMatchObject({ state: 'open', pieces: registers.pieces });
      // Everything answered is durable; beyond it at most the two that were on their way.
      expect(franked).toBeGreaterThanOrEqual(Math.max(...answers.keys()) + 1);
      expect(franked).toBeLessThanOrEqual(known + 2);
      for (let n = known; n < franked; n++) {
        const answer = await ask(client, PSD.frankChunk, chunkAt(n));
        expect(answer.firstPieceNumber).toBe(n * CHUNK + 1);
        const before = answers.get(n);
        if (before !== undefined) expect(digestText(answer.salts)).toBe(digestText(before.salts));
        answers.set(n, answer);
      }
      expect((await ask(client, PSD.status, {})).registers).toEqual(registers);
    }
    const total = answers.size * CHUNK;
    await ask(client, PSD.closeBatch, { batch: BATCH, reprints: 0 });
    const { sequence } = await ask(client, PSD.seal, { batch: BATCH, incomplete: memory === 'host' });
    expect(sequence).toBe(1);
    expect((await ask(client, PSD.status, {})).registers.pieces).toBe(total);
    client.close();
    const ended = once(child, 'exit');
    child.stdin?.end();
    expect(await ended).toEqual([0, null]);
    const check = spawnSync(process.execPath, [MAIN, 'check', '--config', configFile()], { encoding: 'utf8' });
    expect([check.status, check.stdout]).toEqual([0, '']);
  });
});

describe('a PSD process', () => {
  it('says at every start that its keys are unsafe, and refuses a second one on its store', async () => {
    const { client, said } = await start();
    expect(said()).toMatch(/^UNSAFE_PSD_KEYS/);
    const file = configFile({ socket: join(directory, 'other.sock'), sessionSocket: join(directory, 'other-s.sock') });
    const second = await refusedStart(file);
    expect(second.status).toBe(6);
    // For whoever started it; people read the other.
    expect(JSON.parse(second.stdout)).toMatchObject({ ready: false, rejection: { code: 'store-in-use' } });
    expect(second.stderr).toMatch(/in use by another process/);
    expect((await ask(client, PSD.status, {})).state).toBe('keyed');
    client.close();
  });

  it('measures the program that runs, and no other code of the checkout', async () => {
    const { client } = await start();
    const { software } = await ask(client, PSD.status, {});
    expect(digestText(software.measurement)).toBe(digestText(measured(dirname(MAIN), '.js')));
    client.close();
  });

  it('parses what comes in, and goes on', async () => {
    const { client } = await start();
    await enrol(client);
    const refusal = async (operation: string, parameters: Parameters<RpcClient['call']>[1]) => {
      const result = await client.call(operation, parameters);
      return result.ok ? 'ok' : result.rejection.code;
    };
    expect(await refusal('withdraw', new Map())).toBe('unknown-operation');
    expect(await refusal('status', 7)).toBe('malformed');
    expect(await refusal('status', new Map([[1, 1]]))).toBe('unknown-field');
    expect(await refusal('frank-chunk', new Map([[1, BATCH]]))).toBe('malformed');
    expect(await refusal('frank-chunk', PSD.frankChunk.request.toCbor(chunkOf(BATCH, 0, pieces(1_025))))).toBe(
      'chunk-too-large',
    );
    expect(await refusal('confirm', PSD.confirm.request.toCbor({ confirmation: Uint8Array.of(1) }))).toBe(
      'envelope-malformed',
    );
    expect((await ask(client, PSD.status, {})).registers.pieces).toBe(0);
    client.close();
  });

  it.each([
    [{ recordCapacity: 0 }, /recordCapacity/],
    [{ memory: 'disk' }, /memory/],
    [{ surprise: 1 }, /surprise/],
    [{ trustBundle: '/nowhere/trust-bundle.json' }, /nowhere/],
  ])('does not start with the setting %o', async (over, words) => {
    const run = await refusedStart(configFile(over));
    expect(run.status).toBe(2);
    expect(run.stderr).toMatch(words);
  });
});
