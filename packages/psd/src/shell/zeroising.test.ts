/**
 * The end of a device in its store: the same at every restart, and no secret left in its files.
 */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Authentication } from '@countermark/protocol/cose';
import { type Digest, digestText, sameBytes } from '@countermark/protocol/digest';
import { parseEnvelope } from '@countermark/protocol/cose';
import { parsePayload } from '@countermark/protocol/message';
import { FINAL_STATEMENT } from '@countermark/protocol/messages/final-statement';
import { mills } from '@countermark/protocol/money';
import type { Result } from '@countermark/protocol/result';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { START_MS, TestAuthority } from '../../testing/authority.ts';
import { batchNumbered, chunkOf, declarationOf, pieces } from '../../testing/mailing.ts';
import { checkStore } from './check.ts';
import { type Device, type DeviceOptions, openDevice } from './device.ts';
import { keyBytes, nextKeyBytes } from './keys.ts';
import { openStore } from './store.ts';

const SOFTWARE = { version: '0.1.0', measurement: new Uint8Array(32).fill(7) as Digest };
const code = (result: { ok: boolean; rejection?: { code: string } }) => (result.ok ? 'ok' : result.rejection?.code);

function value<T>(result: Result<T>): T {
  if (!result.ok) throw new Error(JSON.stringify(result.rejection));
  return result.value;
}

let directory: string;
let authority: TestAuthority;
let device: Device;
let options: DeviceOptions;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'psd-'));
  authority = new TestAuthority();
});
afterEach(async () => {
  await device.close();
  rmSync(directory, { recursive: true });
});

/** Enrolled, with funds, and told to close. */
function closing(authentication: Authentication): void {
  options = {
    path: join(directory, 'psd.db'),
    authentication,
    memory: 'host',
    recordCapacity: 100,
    trustBundle: authority.trustBundle,
    software: SOFTWARE,
    onBroken: () => undefined,
  };
  device = value(openDevice(options));
  const certificate = authority.bytes.certificate(
    authority.certificate(authority.enrolling(value(device.enrolmentRequest()))),
  );
  value(device.install(certificate, authority.bytes.policy(authority.policy(device.id))));
  value(device.signedTime(authority.bytes.time(device.id, START_MS)));
  const { request } = value(device.fundsRequest(mills(5_000n)));
  value(device.fundsGrant(authority.bytes.grant(authority.grant(request))));
  const none = { version: 2, maxUnconfirmedPostageMills: mills(0n), closing: true };
  value(device.policy(authority.bytes.policy(authority.policy(device.id, none))));
}

async function restart(): Promise<void> {
  await device.close();
  expect(checkStore(options.path)).toEqual({ ok: true, value: [] });
  device = value(openDevice(options));
}

async function secrets(): Promise<ReadonlyMap<string, Uint8Array>> {
  await device.close();
  const store = value(openStore({ path: options.path }));
  const { keys, nextKeys } = value(store.load(100));
  if (keys === null) throw new Error('the keys are gone already');
  store.close();
  device = value(openDevice(options));
  return new Map([...keyBytes(keys), ...(nextKeys === null ? [] : nextKeyBytes(nextKeys))]);
}

/** Whether any file of the device has the middle of these bytes. */
function onDisk(bytes: Uint8Array): boolean {
  const middle = Buffer.from(bytes.subarray(bytes.length / 4, (bytes.length * 3) / 4));
  return readdirSync(directory).some((name) => readFileSync(join(directory, name)).includes(middle));
}

describe.each(['signature', 'mac'] as const)('The end of a device (%s)', (authentication) => {
  it('is the same statement at every restart until it is confirmed, and then for good', async () => {
    closing(authentication);
    const made = value(device.finalStatement());
    await restart();
    const again = value(device.finalStatement());
    expect(digestText(again.digest)).toBe(digestText(made.digest));
    expect(sameBytes(again.record, made.record)).toBe(true);
    expect(device.status()).toMatchObject({ state: 'withdrawn', finalSequence: 1, funds: { returnedMills: 5_000n } });
    expect(device.status().zeroised).toBeUndefined();
    value(device.confirm(authority.bytes.confirmation(device.id, 1, made.digest)));
    for (const restarted of [false, true]) {
      if (restarted) await restart();
      expect(device.status()).toMatchObject({ state: 'withdrawn', zeroised: true, sequence: 1 });
      expect(code(device.finalStatement())).toBe('already-confirmed');
      expect(code(device.confirm(authority.bytes.confirmation(device.id, 1, made.digest)))).toBe('ok');
      expect(code(device.openBatch(declarationOf(batchNumbered(1))))).toBe('wrong-state');
      expect(code(await device.frankChunk(chunkOf(batchNumbered(1), 0, pieces(1))))).toBe('wrong-state');
      expect(code(device.fundsRequest(mills(1n)))).toBe('wrong-state');
      expect(code(device.rotateBegin())).toBe('wrong-state');
      expect(code(device.enrolmentRequest())).toBe('wrong-state');
      expect(code(device.sessionCredentials())).toBe('wrong-state');
    }
  });

  it('leaves no key in the files, those that wait for a rotation included', async () => {
    closing(authentication);
    value(device.rotateBegin());
    const before = await secrets();
    expect(before.size).toBe(7);
    expect([...before].every(([, bytes]) => onDisk(bytes))).toBe(true);
    const { digest } = value(device.finalStatement());
    expect([...before].every(([, bytes]) => onDisk(bytes))).toBe(true);
    value(device.confirm(authority.bytes.confirmation(device.id, 1, digest)));
    expect([...before].filter(([, bytes]) => onDisk(bytes)).map(([name]) => name)).toEqual([]);
  });

  it('says what ran: the measurement stands in the statement as in the status', () => {
    closing(authentication);
    const { record } = value(device.finalStatement());
    const statement = value(parsePayload(FINAL_STATEMENT, value(parseEnvelope(record))));
    expect(statement.software).toEqual(SOFTWARE);
    expect(device.status().software).toEqual(SOFTWARE);
  });
});

it('A store whose keys are gone before their time, or there after it, is refused as damaged', async () => {
  closing('signature');
  const { digest } = value(device.finalStatement());
  await device.close();
  const store = value(openStore({ path: options.path }));
  const kept = store.embedded.database.prepare('SELECT name, bytes FROM secret').all() as {
    name: string;
    bytes: Buffer;
  }[];
  store.embedded.database.exec('DELETE FROM secret');
  store.close();
  expect(code(openDevice(options))).toBe('store-damaged');
  const whole = value(openStore({ path: options.path }));
  const insert = whole.embedded.database.prepare('INSERT INTO secret VALUES (?, ?)');
  for (const { name, bytes } of kept) insert.run(name, bytes);
  whole.close();
  device = value(openDevice(options));
  value(device.confirm(authority.bytes.confirmation(device.id, 1, digest)));
  await device.close();
  const over = value(openStore({ path: options.path }));
  const put = over.embedded.database.prepare('INSERT INTO secret VALUES (?, ?)');
  for (const { name, bytes } of kept) put.run(name, bytes);
  over.close();
  expect(code(openDevice(options))).toBe('store-damaged');
});
