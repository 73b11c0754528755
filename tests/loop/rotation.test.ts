/**
 * The keys of a device are rotated between real processes: while records are held for days, in both procedures; and while host and
 * PSD are killed at each step. Everything is confirmed in the end, each record under the key of its time, and the old key is good
 * for nothing more.
 */
import { copyFileSync, cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect, createServer, type Server } from 'node:net';
import { join } from 'node:path';
import { ServerClient } from '@countermark/host/server-client';
import { hmacSha256 } from '@countermark/node-platform/signing';
import { type Authentication, parseEnvelope, seal, toBeAuthenticated } from '@countermark/protocol/cose';
import { unhex } from '@countermark/protocol/id';
import { HOST, type JobReport, type RotateAnswer } from '@countermark/protocol/interfaces/host';
import { type DeviceStatus } from '@countermark/protocol/interfaces/psd';
import { parseIndicium } from '@countermark/protocol/layout';
import { type MessageType, parsePayload, unsealedMessage } from '@countermark/protocol/message';
import { DEVICE_CERTIFICATE } from '@countermark/protocol/messages/enrolment';
import { FUNDS_REQUEST } from '@countermark/protocol/messages/funds';
import { KEY_ROTATION } from '@countermark/protocol/messages/key-rotation';
import { mills } from '@countermark/protocol/money';
import type { Result } from '@countermark/protocol/result';
import { macKey } from '@countermark/psd/shell/keys';
import { type Loaded, openStore } from '@countermark/psd/shell/store';
import { parse } from 'csv-parse/sync';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Line, startInstallation, type TestInstallation } from '../installation.ts';
import { countermark } from '../line-command.ts';
import { Workshop } from './command.ts';

const DAY_MS = 86_400_000;
const ROTATIONS = '_key-rotations';

let installation: TestInstallation;
const workshop = new Workshop();

beforeAll(async () => {
  installation = await startInstallation();
});
afterAll(async () => {
  workshop.stopAll();
  await installation.stop();
});

function value<T>(result: Result<T>): T {
  if (!result.ok) throw new Error(JSON.stringify(result.rejection));
  return result.value;
}

/** A mailing of one small batch. */
function mailing(name: string, pieces = 3): string {
  const file = join(installation.folder, `${name}.csv`);
  const rows = Array.from({ length: pieces }, (_, i) => `${name}-${i},usps-fcm-letter,5-digit,0.95,02108`);
  writeFileSync(file, ['piece_ref,product,level,weight_oz,zip', ...rows].join('\n'));
  return file;
}

async function franked(line: Line, job: string, pieces?: number): Promise<JobReport> {
  const { report, remaining, rejection } = await line.host.call(HOST.frank, { file: mailing(job, pieces), job });
  expect([remaining, rejection]).toEqual([0, undefined]);
  return report;
}

/** The key epochs in the indicia of a job. */
function epochsOf(report: JobReport): number[] {
  const rows = parse<Record<string, string>>(readFileSync(report.files.merge ?? '', 'utf8'), { columns: true });
  return rows.map((row) => value(parseIndicium(unhex(row['payload'] ?? '') ?? new Uint8Array())).indicium.epoch);
}

/** The sequences of all records that the host has, with their types and states. */
async function recordsOf(line: Line): Promise<string[]> {
  const { records } = await line.host.call(HOST.statistics, {});
  return records.map(({ sequence, type, state }) => `${sequence} ${type} ${state}`);
}

/** A copy of the PSD's store, as a thief of it would have it; the PSD is away for a moment. */
async function stolenStore(line: Line): Promise<Loaded> {
  await line.processes.psd.stop();
  const folder = join(line.paths.data, 'stolen');
  mkdirSync(folder);
  for (const name of readdirSync(join(line.paths.data, 'psd'))) {
    copyFileSync(join(line.paths.data, 'psd', name), join(folder, name));
  }
  await line.processes.psd.start();
  const store = value(openStore({ path: join(folder, 'psd.db') }));
  const loaded = value(store.load(1));
  store.close();
  return loaded;
}

/** A message under the stolen key of the first epoch. */
function forged<T>(
  { keys, identity, state }: Loaded,
  of: MessageType<T>,
  authentication: Authentication,
  content: T,
): Uint8Array {
  if (keys === null || state.certificate === null) throw new Error('the stolen store has no keys');
  const unsealed = unsealedMessage(of, authentication, { holder: identity.device, epoch: identity.epoch }, content);
  const input = toBeAuthenticated(unsealed);
  return authentication === 'mac'
    ? seal(unsealed, hmacSha256(macKey(keys, state.certificate.message, 'statistics'), input))
    : seal(unsealed, keys.signing.sign(input));
}

describe('A rotation between records that are held', () => {
  it.each([
    ['signature', 'sessionless', 'host'],
    ['mac', 'session', 'psd'],
  ] as const)('%s, %s, memory %s', async (authentication, transport, records) => {
    const licensee = `lic_rotated-${authentication}-${transport}`;
    const line = await installation.line(
      { licensee, authentication, transport, records, forwarding: 'hold', holdFor: DAY_MS, pages: false },
      { clock: true },
    );
    const first = await franked(line, 'first');
    const stolen = await stolenStore(line);
    const before = await line.device();

    const rotated = await countermark(line, 'device', 'rotate', '--to', '2');
    expect(rotated.exit).toBe(0);
    expect(rotated.json as unknown as RotateAnswer).toMatchObject({
      rotated: true,
      epoch: 2,
      record: { sequence: 2, type: 'key-rotation', state: 'held' },
      device: { registers: { pieces: before.registers.pieces } },
    });
    const again = await line.host.call(HOST.rotate, { to: 2 });
    expect(again).toMatchObject({ rotated: false, epoch: 2, record: { sequence: 2 } });
    // Another one has to wait for the first to be confirmed.
    const another = await countermark(line, 'device', 'rotate');
    expect([another.exit, another.json.error?.code]).toEqual([6, 'rotation-unconfirmed']);
    const second = await franked(line, 'second');
    expect([epochsOf(first), epochsOf(second)]).toEqual([
      [1, 1, 1],
      [2, 2, 2],
    ]);

    await line.host.call(HOST.send, {});
    expect(await recordsOf(line)).toEqual([
      '1 batch-statistics held',
      '2 key-rotation held',
      '3 batch-statistics held',
    ]);
    expect(await line.device()).toMatchObject({ epoch: 2, unconfirmedRecords: 3, registers: { pieces: 6 } });
    line.moveClock(DAY_MS + 60_000);
    for (const job of ['first', 'second']) {
      const settled = await line.host.call(HOST.wait, { job, timeoutMs: 60_000 });
      expect([settled.outcome, settled.pending]).toEqual(['settled', []]);
    }
    expect(await recordsOf(line)).toEqual([
      '1 batch-statistics confirmed',
      '2 key-rotation confirmed',
      '3 batch-statistics confirmed',
    ]);
    const after = await line.device();
    expect(after).toMatchObject({ sequence: 3, unconfirmedRecords: 0, alarms: 0 });

    await expectOldKeyRefused(line, stolen, after, authentication);
    // It goes on as before, in good standing, and can be rotated again.
    await line.host.call(HOST.refill, { amountMills: '1000' });
    expect(await line.host.call(HOST.rotate, {})).toMatchObject({ rotated: true, epoch: 3 });
    expect(epochsOf(await franked(line, 'third'))).toEqual([3, 3, 3]);
    line.moveClock(3 * DAY_MS);
    expect((await line.host.call(HOST.wait, { timeoutMs: 60_000 })).outcome).toBe('settled');
    await expectFiles(line, await line.host.call(HOST.job, { job: 'second' }));
    await line.stop();
  });
});

/** Neither a record that continues the chain nor a funds request is taken under the key of the first epoch. */
async function expectOldKeyRefused(
  line: Line,
  stolen: Loaded,
  { device, sequence, head, registers, funds }: DeviceStatus,
  authentication: Authentication,
): Promise<void> {
  const server = new ServerClient(line.server);
  const licensee = stolen.state.certificate?.message.licensee;
  const folder = join(line.paths.data, 'output', ROTATIONS);
  const certificate = Uint8Array.from(readFileSync(join(folder, 'device-certificate-2.cose')));
  const rotation = readdirSync(folder).find((name) => name.endsWith('.record.cose')) ?? '';
  const { newCertificate } = value(
    parsePayload(KEY_ROTATION, value(parseEnvelope(Uint8Array.from(readFileSync(join(folder, rotation)))))),
  );
  const certified = value(parsePayload(DEVICE_CERTIFICATE, value(parseEnvelope(certificate))));
  expect([certified.device, certified.epoch, licensee]).toEqual([device, 2, certified.licensee]);
  const record = forged(stolen, KEY_ROTATION, authentication, {
    device,
    licensee: certified.licensee,
    sequence: sequence + 1,
    previous: head,
    newEpoch: 2,
    newCertificate,
    registers,
    funds,
  });
  expect(value(await server.submit([record]))).toMatchObject([
    { outcome: 'rejected', rejection: { code: 'superseded-key', detail: { epoch: 1, current: 2 } } },
  ]);
  const request = forged(stolen, FUNDS_REQUEST, 'signature', {
    device,
    licensee: certified.licensee,
    number: funds.lastGrant + 1,
    amountMills: mills(1_000n),
    registers,
    funds,
    currency: { code: 'USD', exponent: 3 },
  });
  expect(await server.fundsRequest(request)).toMatchObject({ ok: false, rejection: { code: 'superseded-key' } });
}

/** What the host archived is verified by the command, with public keys alone. */
async function expectFiles(line: Line, report: JobReport): Promise<void> {
  const rotations = join(line.paths.data, 'output', ROTATIONS);
  const files = [report.files.records, rotations].flatMap((folder) =>
    readdirSync(folder).map((name) => join(folder, name)),
  );
  expect(existsSync(join(rotations, 'rotation-0000000002.confirmation.cose'))).toBe(true);
  const { code, stdout, stderr } = await workshop.run('verify', '--quiet', ...files);
  expect([code, stderr, stdout.split('\n').filter((text) => text.startsWith('refused'))]).toEqual([
    0,
    expect.any(String),
    [],
  ]);
}

/** Where the bytes between host and PSD are cut, and whom that kills. */
type Cut = {
  readonly operation: 'rotate-begin' | 'rotate';
  readonly when: 'asked' | 'answered';
  readonly kill: 'psd' | 'host';
};

/** Stands between host and PSD, and cuts where it is told, once. */
class Tap {
  #armed: { readonly cut: Cut; readonly reached: () => void } | null = null;
  #server: Server | undefined;

  /** Resolves when the bytes were held back and whoever is to die may die. */
  arm(cut: Cut): Promise<void> {
    return new Promise((resolve) => {
      this.#armed = { cut, reached: resolve };
    });
  }

  async listen(path: string, psdSocket: string): Promise<string> {
    this.#server = createServer((host) => {
      const psd = connect(psdSocket);
      let cutting: { readonly reached: () => void } | null = null;
      const end = (): void => {
        host.destroy();
        psd.destroy();
      };
      for (const socket of [host, psd]) socket.on('error', end).on('close', end);
      host.on('data', (bytes) => {
        const armed = this.#armed;
        if (armed !== null && bytes.includes(nameInCbor(armed.cut.operation))) {
          this.#armed = null;
          if (armed.cut.when === 'asked') {
            armed.reached();
            return;
          }
          cutting = armed;
        }
        psd.write(bytes);
      });
      psd.on('data', (bytes) => {
        if (cutting === null) host.write(bytes);
        else cutting.reached();
      });
    });
    await new Promise<void>((resolve) => this.#server?.listen(path, resolve));
    return path;
  }

  close(): void {
    this.#server?.close();
  }
}

/** A short text as CBOR has it: its length in front, so that `rotate` is not found in `rotate-begin`. */
function nameInCbor(name: string): Buffer {
  return Buffer.concat([Buffer.of(0x60 + name.length), Buffer.from(name)]);
}

describe('A rotation that is interrupted', () => {
  it('comes to its end once, wherever host or PSD were killed', async () => {
    const tap = new Tap();
    const line = await installation.line(
      { licensee: 'lic_interrupted', pages: false },
      { tap: (psdSocket) => tap.listen(join(installation.folder, 'tap.sock'), psdSocket) },
    );
    const cuts = (['host', 'psd'] as const).flatMap((kill) =>
      (['rotate-begin', 'rotate'] as const).flatMap((operation) =>
        (['asked', 'answered'] as const).map((when) => ({ operation, when, kill })),
      ),
    );
    const rotations = new Set<string>();
    const [data, backup] = [join(installation.paths.data, 'server'), join(installation.folder, 'server-backup')];
    for (const [i, cut] of cuts.entries()) {
      const where = `${cut.kill} killed, ${cut.operation} ${cut.when}`;
      if (i === 0) await franked(line, 'before', 1);
      expect((await line.host.call(HOST.wait, { timeoutMs: 60_000 })).outcome, where).toBe('settled');
      if (i === 0) await serverWithout(() => cpSync(data, backup, { recursive: true }));
      const { epoch, sequence, registers } = await line.device();
      const reached = tap.arm(cut);
      // It fails where the host dies; where the device does, the host asks it again.
      const asked = line.host.call(HOST.rotate, {}).catch(() => null);
      await reached;
      await line.processes[cut.kill].kill();
      await asked;
      const answer = await line.host.call(HOST.rotate, cut.kill === 'host' ? {} : { to: epoch + 1 });
      expect({ where, epoch: answer.epoch }).toEqual({ where, epoch: epoch + 1 });
      const device = await line.device();
      expect({ where, ...device }).toMatchObject({ epoch: epoch + 1, sequence: sequence + 1, registers });
      expect(device.pendingEpoch).toBeUndefined();
      rotations.add(answer.record?.digest ?? '');
    }
    expect((await line.host.call(HOST.wait, { timeoutMs: 60_000 })).outcome).toBe('settled');
    const { records } = await line.host.call(HOST.statistics, {});
    expect(records.filter(({ type }) => type === 'key-rotation').map(({ digest }) => digest)).toEqual([...rotations]);
    expect(rotations.size).toBe(cuts.length);
    expect(records.every(({ state }) => state === 'confirmed')).toBe(true);
    expect(await line.device()).toMatchObject({ epoch: cuts.length + 1, unconfirmedRecords: 0, alarms: 0 });

    // A server that was restored from before all of them gets certificates and records back from the host.
    await serverWithout(() => {
      rmSync(data, { recursive: true });
      cpSync(backup, data, { recursive: true });
    });
    await expectRefusedWhileOpen(line);
    expect((await line.host.call(HOST.wait, { timeoutMs: 60_000 })).outcome).toBe('settled');
    await line.stop();
    tap.close();
  });
});

/** Does something to the server's data while it is away. */
async function serverWithout(work: () => void): Promise<void> {
  await installation.processes.server.stop();
  work();
  await installation.processes.server.start();
}

/** With what to do about it. */
async function expectRefusedWhileOpen(line: Line): Promise<void> {
  const { epoch } = await line.device();
  await line.host.call(HOST.frank, { file: mailing('open'), job: 'open', keepOpen: true });
  const refused = await countermark(line, 'device', 'rotate');
  expect([refused.exit, refused.json.error?.code]).toEqual([3, 'batch-open']);
  expect(refused.json.error?.message).toContain('countermark batch close');
  await line.host.call(HOST.close, {});
  const far = await countermark(line, 'device', 'rotate', '--to', String(epoch + 2));
  expect([far.exit, far.json.error?.code]).toEqual([2, 'usage']);
  expect(await line.host.call(HOST.rotate, {})).toMatchObject({ rotated: true, resumed: false, epoch: epoch + 1 });
}
