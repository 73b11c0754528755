/**
 * What reaches a party's local socket and is not of this protocol, or is authentic and wrong: the connection ends or the call is
 * refused, and the party goes on as if nothing had come. Then a second process on the PSD's store, and a clock that goes back.
 */
import { cpSync, mkdirSync, writeFileSync } from 'node:fs';
import { createConnection } from 'node:net';
import { dirname, join } from 'node:path';
import { psdConfig } from '@countermark/cli/party-configs';
import { completeSettings } from '@countermark/cli/configuration';
import { installationPaths } from '@countermark/cli/installation-paths';
import { Fault } from '@countermark/node-platform/fault';
import { lazyRpc } from '@countermark/node-platform/rpc';
import { Supervisor } from '@countermark/node-platform/supervision';
import { concat } from '@countermark/protocol/bytes';
import { type CborValue, encode } from '@countermark/protocol/cbor';
import type { Digest } from '@countermark/protocol/digest';
import type { BatchId, JobId } from '@countermark/protocol/id';
import { CRYPTOGRAPHIC_DEVICE } from '@countermark/protocol/interfaces/cryptographic-device';
import { HOST } from '@countermark/protocol/interfaces/host';
import { CHUNK_ENTRY_BYTES, PSD } from '@countermark/protocol/interfaces/psd';
import type { Operation } from '@countermark/protocol/interfaces/operation';
import { SCHEME } from '@countermark/protocol/scheme';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ask, type Line, root, startInstallation, type TestInstallation } from '../installation.ts';

const ROWS = [
  'piece_ref,product,level,weight_oz,zip',
  'A-1,usps-fcm-letter,5-digit,0.95,02108',
  'A-2,usps-fcm-letter,aadc,1.4,45402',
].join('\n');

let installation: TestInstallation;
let line: Line;
let mailing: string;

beforeAll(async () => {
  installation = await startInstallation();
  // Held: the record stays in the device for as long as the tests need it there.
  const held = { forwarding: 'hold', records: 'psd', customers: 'one', pages: false } as const;
  line = await installation.line({ ...held, licensee: 'lic_sockets' });
  mailing = join(installation.folder, 'mailing.csv');
  writeFileSync(mailing, ROWS);
});
afterAll(async () => {
  await installation.stop();
});

describe('A frame that is not of this protocol', () => {
  const request = (parameters: CborValue): Uint8Array => encode([1, 'status', parameters]);
  const deep = concat([
    Uint8Array.of(0x83, 0x01, 0x66),
    Buffer.from('status'),
    new Uint8Array(50).fill(0x81),
    Uint8Array.of(0),
  ]);
  const FRAMES: readonly (readonly [string, Uint8Array])[] = [
    ['longer than any may be', framed(new Uint8Array(0), 4 * 1024 * 1024 + 1)],
    ['cut off by the end of the connection', framed(request(new Map()).slice(0, 5), 20)],
    ['nested too deep', framed(deep)],
    ['random', framed(Uint8Array.of(0xfe, 0xdc, 0xba))],
    ['not deterministic', framed(concat([Uint8Array.of(0x98, 0x03), request(new Map()).slice(1)]))],
    [
      'with the same key twice',
      framed(concat([encode([1, 'status', 0]).slice(0, -1), Uint8Array.of(0xa2, 1, 1, 1, 1)])),
    ],
    ['that is no request', framed(encode('status'))],
    ['with a tag', framed(concat([Uint8Array.of(0xc1), request(new Map())]))],
  ];
  const SOCKETS = ['psd', 'host', 'cryptographicDevice', 'serverAcceptance'] as const;

  it.each(SOCKETS)('on %s ends its connection unanswered; others go on', async (name) => {
    const socket = name === 'psd' || name === 'host' ? line.paths.sockets[name] : installation.sockets[name];
    const other = lazyRpc(socket);
    expect(await other.call('no-such-operation', null)).toMatchObject({ rejection: { code: 'unknown-operation' } });
    for (const [what, bytes] of FRAMES) expect([what, await answerTo(socket, bytes)]).toEqual([what, 0]);
    expect(await other.call('no-such-operation', null)).toMatchObject({ rejection: { code: 'unknown-operation' } });
    other.close();
  });

  /** What the device says, but for the signed time that its host brings it by itself, and what hangs on that. */
  const untimed = async (): Promise<unknown> =>
    Object.fromEntries(Object.entries(await line.device()).filter(([name]) => !/(?:Time|At)Ms$/.test(name)));

  it('and calls whose parameters are not those of the operation, are refused by name', async () => {
    const before = await untimed();
    const rpc = lazyRpc(line.paths.sockets.psd);
    for (const { name } of [PSD.frankChunk, PSD.openBatch, PSD.confirm, PSD.recount, PSD.send]) {
      expect(await rpc.call(name, new Map())).toMatchObject({ rejection: { code: 'malformed' } });
      expect(await rpc.call(name, new Map([[99, 1]]))).toMatchObject({ ok: false });
      expect(await rpc.call(name, [])).toMatchObject({ rejection: { code: 'malformed' } });
    }
    const chunk = { batch: BATCH, firstIndex: 0, cells: [CELL], pieces: new Uint8Array(CHUNK_ENTRY_BYTES * 1_025) };
    expect(await rpc.call('frank-chunk', PSD.frankChunk.request.toCbor(chunk))).toMatchObject({
      rejection: { code: 'chunk-too-large' },
    });
    rpc.close();
    expect(await untimed()).toEqual(before);
  });
});

describe('A device whose store was copied', () => {
  it('does not delete its record on a confirmation of the copy’s, and raises an alarm', async () => {
    await line.processes.host.stop();
    await line.processes.psd.stop();
    const copy = await startCopy();
    await line.processes.psd.start();
    await line.processes.host.start();
    const { job } = await line.host.call(HOST.frank, { file: mailing });
    const before = await line.device();
    expect(before).toMatchObject({ unconfirmedRecords: 1, sequence: 1, alarms: 0 });

    // The copy franks something else under the same sequence, and its record is as authentic as the original's.
    const record = await copy.recordOfOnePiece();
    const confirmation = await confirmed(record);
    await expect(ask(line.paths.sockets.psd, PSD.confirm, { confirmation })).rejects.toThrow(/another digest/);
    expect(await line.device()).toEqual({ ...before, alarms: 1 });

    // Altered, or of another type, it is not even an alarm.
    const altered = confirmation.slice();
    altered[altered.length - 1] = (altered.at(-1) ?? 0) ^ 1;
    await expect(ask(line.paths.sockets.psd, PSD.confirm, { confirmation: altered })).rejects.toThrow(/not authentic/);
    await expect(ask(line.paths.sockets.psd, PSD.confirm, { confirmation: record })).rejects.toThrow(/was expected/);
    expect(await line.device()).toEqual({ ...before, alarms: 1 });

    // Its own it takes, and answers the same when it is given again; the alarm stays.
    const own = await ask(line.paths.sockets.psd, PSD.record, { sequence: 1 });
    const right = await confirmed(own.record);
    const deleted = await ask(line.paths.sockets.psd, PSD.confirm, { confirmation: right });
    expect(await ask(line.paths.sockets.psd, PSD.confirm, { confirmation: right })).toEqual(deleted);
    expect(await line.device()).toMatchObject({ unconfirmedRecords: 0, alarms: 1 });
    expect((await line.host.call(HOST.job, { job })).pieces).toBe(2);
    await copy.stop();
  });

  it('cannot run twice on one store', async () => {
    const second = new Supervisor({ logDirectory: join(installation.folder, 'logs', 'second') });
    const paths = installationPaths(line.paths.data, join(installation.folder, 'second'));
    const fault = await second.start(psdSpec({ ...paths, trustBundle: installation.trustBundle })).then(
      () => undefined,
      (error: unknown) => error,
    );
    expect(fault).toBeInstanceOf(Fault);
    expect((fault as Fault).message).toMatch(/in use by another process/);
    expect((fault as Fault).cause).toMatchObject({ code: 6 });
    // The first one has not noticed.
    expect((await line.device()).state).toBe('operational');
  });
});

describe('A clock that goes back', () => {
  it('does not take the device’s time with it: a signed time before the last is refused', async () => {
    const { device } = await line.device();
    const [early, late] = [await signedTime(device), await signedTime(device)];
    const { signedTimeMs } = await ask(line.paths.sockets.psd, PSD.signedTime, { time: late });
    await expect(ask(line.paths.sockets.psd, PSD.signedTime, { time: early })).rejects.toThrow(/Time never goes back/);
    expect((await line.device()).signedTimeMs).toBe(signedTimeMs);
  });

  it('of the host neither loses a record nor sends one that is held', async () => {
    const moved = await installation.line(
      { licensee: 'lic_clock', customers: 'one', forwarding: 'hold', holdFor: 86_400_000, pages: false },
      { clock: true },
    );
    const { job } = await moved.host.call(HOST.frank, { file: mailing, mailingDate: '2026-11-22' });
    moved.moveClock(-3 * 86_400_000);
    await moved.host.call(HOST.send, {});
    expect((await moved.host.call(HOST.wait, { job, timeoutMs: 10_000 })).outcome).toBe('hold');
    // With the clock wrong the next mailing is franked like any other: money and order are the device's.
    const next = await moved.host.call(HOST.frank, { file: mailing, job: 'second', mailingDate: '2026-11-22' });
    expect(next.report.pieces).toBe(2);
    expect(await moved.device()).toMatchObject({ sequence: 2, unconfirmedRecords: 2 });
    moved.moveClock(2 * 86_400_000);
    const settled = await moved.host.call(HOST.wait, { timeoutMs: 30_000 });
    expect(settled).toMatchObject({ outcome: 'settled', pending: [] });
    expect(await moved.device()).toMatchObject({ unconfirmedRecords: 0, alarms: 0 });
    await moved.stop();
  });
});

const BATCH = `bat_${'c0'.repeat(16)}` as BatchId;
const CELL = {
  product: 'usps-fcm-letter',
  shape: 'letter',
  affixed: 'single-piece-metered',
  level: '5-digit',
  entry: 'none',
  weightStep: 10,
} as const;

function framed(body: Uint8Array, length = body.length): Uint8Array {
  const head = Buffer.alloc(4);
  head.writeUInt32BE(length);
  return concat([head, body]);
}

/** How many bytes come back before the other end closes. */
async function answerTo(path: string, bytes: Uint8Array): Promise<number> {
  const socket = createConnection(path);
  let received = 0;
  socket.on('error', () => undefined);
  socket.on('data', (chunk: Buffer) => {
    received += chunk.length;
  });
  socket.end(bytes);
  await new Promise((resolve) => socket.once('close', resolve));
  return received;
}

type PsdPaths = Parameters<typeof psdConfig>[0];

function psdSpec(paths: PsdPaths) {
  const settings = completeSettings({ records: 'psd', customers: 'one' }, 'of the test');
  if (!settings.ok) throw new Error(settings.rejection.code);
  const file = `${paths.sockets.psd}.json`;
  mkdirSync(dirname(file), { recursive: true, mode: 0o700 });
  writeFileSync(file, JSON.stringify(psdConfig(paths, settings.value)));
  return {
    name: 'psd',
    args: [join(root, 'packages', 'psd', 'dist', 'program', 'main.js'), 'serve', '--config', file],
  };
}

/** A second PSD on a copy of the stopped line's store. */
async function startCopy() {
  const data = join(installation.folder, 'copy');
  mkdirSync(data, { mode: 0o700 });
  cpSync(line.paths.parties.psd, join(data, 'psd'), { recursive: true });
  const paths = { ...installationPaths(data, data), trustBundle: installation.trustBundle };
  const supervisor = new Supervisor({ logDirectory: join(data, 'logs') });
  await supervisor.start(psdSpec(paths));
  const call = <Request, Answer>(operation: Operation<Request, Answer>, request: Request): Promise<Answer> =>
    ask(paths.sockets.psd, operation, request);
  return {
    recordOfOnePiece: async (): Promise<Uint8Array> => {
      const declaration = {
        batch: BATCH,
        job: 'copied' as JobId,
        submitter: 'A copy',
        preparer: 'A copy',
        product: CELL.product,
        entry: CELL.entry,
        mailingDate: '2026-11-22',
        expectedPieces: 1,
        expectedCells: 1,
        tariff: new Uint8Array(32) as Digest,
        scheme: SCHEME,
        currency: { code: 'USD', exponent: 3 },
      };
      const piece = Buffer.alloc(CHUNK_ENTRY_BYTES);
      piece.writeUInt32BE(740, 2);
      await call(PSD.openBatch, { declaration });
      await call(PSD.frankChunk, { batch: BATCH, firstIndex: 0, cells: [CELL], pieces: new Uint8Array(piece) });
      await call(PSD.closeBatch, { batch: BATCH, reprints: 0 });
      return (await call(PSD.seal, { batch: BATCH, incomplete: false })).record;
    },
    stop: () => supervisor.stopAll(),
  };
}

/** A confirmation as the cryptographic device gives it for any authentic record, asked past the server and its log. */
async function confirmed(record: Uint8Array): Promise<Uint8Array> {
  const { cryptographicDevice } = installation.sockets;
  const { results } = await ask(cryptographicDevice, CRYPTOGRAPHIC_DEVICE.authenticate, { records: [record] });
  const attestation = results[0]?.attestation ?? new Uint8Array();
  const answer = await ask(cryptographicDevice, CRYPTOGRAPHIC_DEVICE.confirm, { items: [{ record, attestation }] });
  return answer.results[0]?.confirmation ?? new Uint8Array();
}

async function signedTime(device: string): Promise<Uint8Array> {
  const response = await fetch(new URL(`/v1/devices/${device}/time`, line.server.url), {
    headers: { authorization: `Bearer ${line.server.credential}` },
  });
  return new Uint8Array(await response.arrayBuffer());
}
