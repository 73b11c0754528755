import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { equalMacs, hmacSha256, importPublicKey, agreedKey } from '@countermark/node-platform/signing';
import { nodeVerification } from '@countermark/node-platform/verification';
import type { Authentication } from '@countermark/protocol/cose';
import { type Digest, digestText } from '@countermark/protocol/digest';
import type { FrankedChunk } from '@countermark/protocol/interfaces/psd';
import { LAYOUTS, parseIndicium } from '@countermark/protocol/layout';
import { macKeyInfo } from '@countermark/protocol/mac-key';
import type { Memory } from '@countermark/protocol/messages/batch-statistics';
import { mills } from '@countermark/protocol/money';
import type { Result } from '@countermark/protocol/result';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { START_MS, TestAuthority } from '../../testing/authority.ts';
import { batchNumbered, chunkOf, declarationOf, pieces } from '../../testing/mailing.ts';
import { checkStore } from './check.ts';
import { type Device, type DeviceOptions, openDevice } from './device.ts';

const BATCH = batchNumbered(1);
const code = (result: { ok: boolean; rejection?: { code: string } }) => (result.ok ? 'ok' : result.rejection?.code);

function value<T>(result: Result<T>): T {
  if (!result.ok) throw new Error(JSON.stringify(result.rejection));
  return result.value;
}

let directory: string;
let authority: TestAuthority;
let faults: unknown[];
const open: Device[] = [];

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'psd-'));
  authority = new TestAuthority();
  faults = [];
});
afterEach(async () => {
  for (const device of open.splice(0)) await device.close();
  rmSync(directory, { recursive: true });
});

function optionsOf(over: Partial<DeviceOptions> = {}): DeviceOptions {
  return {
    path: join(directory, 'psd.db'),
    authentication: 'signature',
    memory: 'host',
    recordCapacity: 100,
    trustBundle: authority.trustBundle,
    software: { version: '0.1.0', measurement: new Uint8Array(32) as Digest },
    onBroken: (fault) => faults.push(fault),
    ...over,
  };
}

function started(over: Partial<DeviceOptions> = {}): Device {
  const device = value(openDevice(optionsOf(over)));
  open.push(device);
  return device;
}

async function restarted(device: Device, over: Partial<DeviceOptions> = {}): Promise<Device> {
  open.splice(open.indexOf(device), 1);
  await device.close();
  return started(over);
}

/** Enrolled, with time, funds and an open batch. */
function ready(over: Partial<DeviceOptions> = {}, fundsMills = 100_000_000n, expectedPieces = 1_000): Device {
  const device = started(over);
  const enrolling = authority.enrolling(value(device.enrolmentRequest()));
  value(
    device.install(
      authority.bytes.certificate(authority.certificate(enrolling)),
      authority.bytes.policy(authority.policy(device.id)),
    ),
  );
  value(device.signedTime(authority.bytes.time(device.id, START_MS)));
  const { request } = value(device.fundsRequest(mills(fundsMills)));
  value(device.fundsGrant(authority.bytes.grant(authority.grant(request))));
  value(device.openBatch(declarationOf(BATCH, { expectedPieces })));
  return device;
}

function bodies(franked: FrankedChunk, authentication: Authentication): string[] {
  const { bodyBytes, authenticatorBytes } = LAYOUTS[authentication];
  const each = bodyBytes + authenticatorBytes;
  return Array.from({ length: franked.indicia.length / each }, (_, i) =>
    Buffer.from(franked.indicia.subarray(i * each, i * each + bodyBytes)).toString('hex'),
  );
}

const WAYS: [Authentication, Memory][] = [
  ['signature', 'host'],
  ['signature', 'psd'],
  ['mac', 'host'],
  ['mac', 'psd'],
];

describe('a restart', () => {
  it.each(WAYS)('resumes the open batch in the middle: %s, memory %s', async (authentication, memory) => {
    let device = ready({ authentication, memory });
    await device.frankChunk(chunkOf(BATCH, 0, pieces(5)));
    const first = value(await device.frankChunk(chunkOf(BATCH, 5, pieces(20, 690, 1))));
    const second = value(await device.frankChunk(chunkOf(BATCH, 25, pieces(2, 700, 2))));
    value(device.spoil(BATCH, [3]));
    const status = device.status();
    device = await restarted(device, { authentication, memory });
    expect(device.status()).toEqual(status);
    for (const [before, request] of [
      [first, chunkOf(BATCH, 5, pieces(20, 690, 1))],
      [second, chunkOf(BATCH, 25, pieces(2, 700, 2))],
    ] as const) {
      const again = value(await device.frankChunk(request));
      expect(again.firstPieceNumber).toBe(before.firstPieceNumber);
      expect(Buffer.from(again.salts)).toEqual(Buffer.from(before.salts));
      expect(Buffer.from(again.codes)).toEqual(Buffer.from(before.codes));
      expect(bodies(again, authentication)).toEqual(bodies(before, authentication));
    }
    expect(device.status()).toEqual(status);
    expect(code(await device.frankChunk(chunkOf(BATCH, 0, pieces(5))))).toBe('chunk-no-longer-held');
    const third = value(await device.frankChunk(chunkOf(BATCH, 27, pieces(1))));
    expect(third.firstPieceNumber).toBe(28);
    value(device.closeBatch(BATCH, 1));
    device = await restarted(device, { authentication, memory });
    expect(device.status().batch).toMatchObject({ state: 'closed', pieces: 28, spoiled: 1 });
    expect(code(await device.frankChunk(chunkOf(BATCH, 28, pieces(1))))).toBe('no-open-batch');
    const sealed = value(await device.seal(BATCH, memory === 'host'));
    device = await restarted(device, { authentication, memory });
    expect(digestText(value(await device.seal(BATCH, false)).record)).toBe(digestText(sealed.record));
    expect(device.status()).toMatchObject({ sequence: 1, unconfirmedRecords: 1 });
    const confirmation = authority.bytes.confirmation(device.id, 1, sealed.digest);
    expect(value(device.confirm(confirmation)).sequence).toBe(1);
    device = await restarted(device, { authentication, memory });
    expect(value(device.confirm(confirmation)).sequence).toBe(1);
    expect(code(await device.seal(BATCH, false))).toBe('already-confirmed');
    expect(code(device.record(1))).toBe('already-confirmed');
    expect(code(device.openBatch(declarationOf(BATCH)))).toBe('batch-exists');
    expect(device.status()).toMatchObject({ sequence: 1, unconfirmedRecords: 0, piecesInMemory: 0 });
    open.splice(0);
    await device.close();
    expect(checkStore(optionsOf().path)).toEqual({ ok: true, value: [] });
  });

  it('goes on with a pending funds request, the same bytes', async () => {
    let device = ready();
    const { request, number } = value(device.fundsRequest(mills(5n)));
    device = await restarted(device);
    const again = value(device.fundsRequest(mills(77n)));
    expect([again.number, Buffer.from(again.request)]).toEqual([number, Buffer.from(request)]);
  });

  it('is refused with another procedure, memory or trust bundle, and while another has the store', async () => {
    const device = started();
    expect(openDevice(optionsOf())).toMatchObject({ ok: false, rejection: { code: 'store-in-use' } });
    open.splice(0);
    await device.close();
    expect(code(openDevice(optionsOf({ authentication: 'mac' })))).toBe('config-invalid');
    expect(code(openDevice(optionsOf({ memory: 'psd' })))).toBe('config-invalid');
    expect(code(openDevice(optionsOf({ trustBundle: new TestAuthority().trustBundle })))).toBe('config-invalid');
    expect(statSync(optionsOf().path).mode & 0o777).toBe(0o600);
    started();
  });
});

describe('a damaged store', () => {
  it('is refused with its reason, whichever page is damaged, and not written to', async () => {
    const device = ready();
    open.splice(0);
    await device.close();
    const { path } = optionsOf();
    const whole = readFileSync(path);
    const pages = whole.length / 4_096;
    const outcomes = new Set<string | undefined>();
    for (let page = 1; page < pages; page++) {
      const damaged = Buffer.from(whole);
      damaged.fill(0xa5, page * 4_096, (page + 1) * 4_096);
      writeFileSync(path, damaged);
      const opened = openDevice(optionsOf());
      outcomes.add(code(opened));
      // A page of an index that is not read at the start is found by `check`.
      if (opened.ok) await opened.value.close();
      else expect(readFileSync(path).equals(damaged)).toBe(true);
    }
    expect(outcomes.has('store-damaged')).toBe(true);
    expect([...outcomes].filter((outcome) => outcome !== 'ok' && outcome !== 'store-damaged')).toEqual([]);
  });
});

describe('what is released', () => {
  it('is signed by the device’s key', async () => {
    const device = ready();
    const { publicKey } = authority.enrolling(value(device.enrolmentRequest()));
    for (const [index, count] of [
      [0, 1],
      [1, 40],
    ] as const) {
      const { indicia } = value(await device.frankChunk(chunkOf(BATCH, index, pieces(count))));
      expect(indicia.length).toBe(count * 92);
      for (let i = 0; i < count; i++) {
        const { input, authenticator } = value(parseIndicium(indicia.subarray(i * 92, (i + 1) * 92)));
        expect(nodeVerification.verifySignature(publicKey, input, authenticator)).toBe(true);
      }
    }
  });

  it('is coded by the key that the cryptographic device derives', async () => {
    const device = ready({ authentication: 'mac' });
    const { agreementKey } = authority.enrolling(value(device.enrolmentRequest()));
    const key = agreedKey(authority.agreement, importPublicKey(agreementKey)!, {
      salt: new Uint8Array(0),
      info: macKeyInfo(device.id, 1, 'indicium'),
      bytes: 32,
    });
    const { indicia } = value(await device.frankChunk(chunkOf(BATCH, 0, pieces(3))));
    for (let i = 0; i < 3; i++) {
      const { input, authenticator } = value(parseIndicium(indicia.subarray(i * 60, (i + 1) * 60)));
      expect(equalMacs(hmacSha256(key, input), authenticator)).toBe(true);
    }
  });

  it.each(['host', 'psd'] as const)(
    'is nothing of what a full disk did not take: the device stops, and the next start knows what was answered (%s)',
    async (memory) => {
      let device = ready({ memory, pagesMax: 28 }, 100_000_000n, 10_000);
      let answered = 0;
      let fault: unknown;
      for (let size = 8; fault === undefined; size = Math.min(size * 2, 1_024)) {
        try {
          value(await device.frankChunk(chunkOf(BATCH, answered, pieces(size))));
          answered += size;
        } catch (error) {
          fault = error;
        }
      }
      expect(fault).toMatchObject({ code: 'device-broken' });
      expect(faults).toMatchObject([{ code: 'store-full' }]);
      expect(() => device.status()).toThrow(/starts anew/);
      await expect(device.frankChunk(chunkOf(BATCH, answered, pieces(1)))).rejects.toMatchObject({
        code: 'device-broken',
      });
      device = await restarted(device, { memory });
      expect(device.status().registers.pieces).toBe(answered);
      const next = value(await device.frankChunk(chunkOf(BATCH, answered, pieces(50))));
      expect(next.firstPieceNumber).toBe(answered + 1);
      value(device.closeBatch(BATCH, 0));
      expect(value(await device.seal(BATCH, memory === 'host')).sequence).toBe(1);
      open.splice(0);
      await device.close();
      expect(checkStore(optionsOf().path)).toEqual({ ok: true, value: [] });
    },
  );

  it('keeps its order when chunks are asked before the answers to those before', async () => {
    const device = ready({ memory: 'psd' });
    const asked = [0, 1, 2, 3].map((n) => device.frankChunk(chunkOf(BATCH, n * 30, pieces(30, 700 + n, n))));
    const numbers = (await Promise.all(asked)).map((result) => value(result).firstPieceNumber);
    expect(numbers).toEqual([1, 31, 61, 91]);
    value(device.closeBatch(BATCH, 0));
    const [one, other] = await Promise.all([device.seal(BATCH, false), device.seal(BATCH, false)]);
    expect(digestText(value(one).record)).toBe(digestText(value(other).record));
  });
});

describe('a confirmation', () => {
  it('is refused when altered in any byte, and of another digest is an alarm that survives a restart', async () => {
    let device = ready();
    value(device.closeBatch(BATCH, 0));
    const { digest } = value(await device.seal(BATCH, false));
    const good = authority.bytes.confirmation(device.id, 1, digest);
    for (let at = 0; at < good.length; at++) {
      const altered = good.slice();
      altered[at]! ^= 1;
      expect(device.confirm(altered).ok).toBe(false);
    }
    expect(device.records()).toHaveLength(1);
    const alarmsBefore = device.status().alarms;
    expect(alarmsBefore).toBe(0);
    const other = authority.bytes.confirmation(device.id, 1, new Uint8Array(32) as Digest);
    expect(code(device.confirm(other))).toBe('confirmation-mismatch');
    device = await restarted(device);
    expect(device.status().alarms).toBe(1);
    expect(device.records()).toHaveLength(1);
    expect(code(device.confirm(good))).toBe('ok');
  });
});
