/** A rotation in the running device: durable at each step, the old keys gone from the store, what is held unchanged. */
import type { KeyObject } from 'node:crypto';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { nodeVerification } from '@countermark/node-platform/verification';
import {
  agreedKey,
  equalMacs,
  generateSigningKey,
  hmacSha256,
  importPublicKey,
  publicKeyBytes,
} from '@countermark/node-platform/signing';
import { type Authentication, type KeyId, parseEnvelope } from '@countermark/protocol/cose';
import { type Digest, digestText, sameBytes } from '@countermark/protocol/digest';
import { LAYOUTS, parseIndicium } from '@countermark/protocol/layout';
import { macKeyInfo, type MacPurpose } from '@countermark/protocol/mac-key';
import type { Memory } from '@countermark/protocol/messages/batch-statistics';
import { DEVICE_CERTIFICATE, type DeviceCertificate } from '@countermark/protocol/messages/enrolment';
import { mills } from '@countermark/protocol/money';
import type { Result } from '@countermark/protocol/result';
import { CHAIN_START, judge } from '@countermark/verify/chain';
import { verifyRecord } from '@countermark/verify/record';
import { verifyRotationRequest } from '@countermark/verify/rotation-request';
import { parseTrustBundle, trustedKeys } from '@countermark/verify/trust-bundle';
import { type Trust, type Verified, verifyMessage } from '@countermark/verify/verified';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { START_MS, TestAuthority } from '../../testing/authority.ts';
import { batchNumbered, chunkOf, declarationOf, pieces } from '../../testing/mailing.ts';
import { checkStore } from './check.ts';
import { type Device, type DeviceOptions, openDevice } from './device.ts';
import { keyBytes } from './keys.ts';
import { openStore } from './store.ts';

const code = (result: { ok: boolean; rejection?: { code: string } }) => (result.ok ? 'ok' : result.rejection?.code);

function value<T>(result: Result<T>): T {
  if (!result.ok) throw new Error(JSON.stringify(result.rejection));
  return result.value;
}

let directory: string;
let authority: TestAuthority;
let certificates: Verified<DeviceCertificate>[];
let device: Device;
/** The agreement keys of the cryptographic device by the epoch of the device's, where it has had another. */
let agreements: Map<number, KeyObject>;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'psd-'));
  authority = new TestAuthority();
  certificates = [];
  agreements = new Map();
});
afterEach(async () => {
  await device.close();
  rmSync(directory, { recursive: true });
});

function optionsOf(over: Partial<DeviceOptions>): DeviceOptions {
  return {
    path: join(directory, 'psd.db'),
    authentication: 'signature',
    memory: 'host',
    recordCapacity: 100,
    trustBundle: authority.trustBundle,
    software: { version: '0.1.0', measurement: new Uint8Array(32) as Digest },
    onBroken: () => undefined,
    ...over,
  };
}

function certified(request: Parameters<TestAuthority['certificate']>[0]): Uint8Array {
  return certifiedAs(request, {});
}

function certifiedAs(
  request: Parameters<TestAuthority['certificate']>[0],
  over: Partial<DeviceCertificate>,
): Uint8Array {
  const bytes = authority.bytes.certificate(authority.certificate(request, over));
  certificates.push(value(verifyMessage(DEVICE_CERTIFICATE, bytes, authority.trust)));
  return bytes;
}

function ready(over: Partial<DeviceOptions>): void {
  device = value(openDevice(optionsOf(over)));
  const certificate = certified(authority.enrolling(value(device.enrolmentRequest())));
  value(device.install(certificate, authority.bytes.policy(authority.policy(device.id))));
  value(device.signedTime(authority.bytes.time(device.id, START_MS)));
  const { request } = value(device.fundsRequest(mills(100_000_000n)));
  value(device.fundsGrant(authority.bytes.grant(authority.grant(request))));
}

async function restart(over: Partial<DeviceOptions>): Promise<void> {
  await device.close();
  expect(checkStore(optionsOf(over).path)).toEqual({ ok: true, value: [] });
  device = value(openDevice(optionsOf(over)));
}

/** Franks and seals a batch (closed incomplete where the host would recount); answers its indicia and its record. */
async function frank(number: number, memory: Memory): Promise<{ indicia: Uint8Array; record: Uint8Array }> {
  const batch = batchNumbered(number);
  value(device.openBatch(declarationOf(batch, { expectedPieces: 100 })));
  const { indicia } = value(await device.frankChunk(chunkOf(batch, 0, pieces(5))));
  value(device.closeBatch(batch, 0));
  const { record } = value(await device.seal(batch, memory === 'host'));
  return { indicia, record };
}

/** What server and cryptographic device know: the certificates of all epochs, and the codes' keys. */
function trust(): Trust {
  const bundle = value(parseTrustBundle(authority.trustBundle));
  return {
    port: nodeVerification,
    keys: trustedKeys(bundle, certificates),
    macs: { verifyMac: (key, purpose, input, code) => equalMacs(hmacSha256(agreed(key, purpose), input), code) },
  };
}

function agreed({ epoch }: Pick<KeyId, 'epoch'>, purpose: MacPurpose): Uint8Array {
  const certificate = certificates.find(({ message }) => message.epoch === epoch)!.message;
  return agreedKey(agreements.get(epoch) ?? authority.agreement, importPublicKey(certificate.agreementKey)!, {
    salt: new Uint8Array(0),
    info: macKeyInfo(certificate.device, epoch, purpose),
    bytes: 32,
  });
}

function expectIndicia(indicia: Uint8Array, authentication: Authentication, epoch: number): void {
  const { bodyBytes, authenticatorBytes } = LAYOUTS[authentication];
  const each = bodyBytes + authenticatorBytes;
  for (let at = 0; at < indicia.length; at += each) {
    const { indicium, input, authenticator } = value(parseIndicium(indicia.subarray(at, at + each)));
    expect(indicium.epoch).toBe(epoch);
    const { publicKey } = certificates.find(({ message }) => message.epoch === epoch)!.message;
    expect(
      authentication === 'mac'
        ? equalMacs(hmacSha256(agreed({ epoch }, 'indicium'), input), authenticator)
        : nodeVerification.verifySignature(publicKey, input, authenticator),
    ).toBe(true);
  }
}

/** The private keys in the store, each as it lies there, by name. */
async function secrets(over: Partial<DeviceOptions>): Promise<Map<string, Uint8Array>> {
  await device.close();
  const store = value(openStore({ path: optionsOf(over).path }));
  const { keys } = value(store.load(1));
  if (keys === null) throw new Error('the keys are erased');
  store.close();
  device = value(openDevice(optionsOf(over)));
  return new Map([...keyBytes(keys), ['signing scalar', keys.signing.stored.subarray(36, 68)]]);
}

/** Whether the bytes stand anywhere in the store's files. */
function onDisk(bytes: Uint8Array): boolean {
  return readdirSync(directory).some((name) => readFileSync(join(directory, name)).includes(Buffer.from(bytes)));
}

const WAYS: [Authentication, Memory][] = [
  ['signature', 'host'],
  ['signature', 'psd'],
  ['mac', 'host'],
  ['mac', 'psd'],
];

describe('a rotation', () => {
  it.each(WAYS)(
    'survives a restart after each of its steps; held records stay as sealed, new ones are under the new key: %s, memory %s',
    async (authentication, memory) => {
      const over = { authentication, memory };
      ready(over);
      const first = await frank(1, memory);
      const { registers, funds } = device.status();
      const asked = value(device.rotateBegin());
      const verified = value(verifyRotationRequest(asked.request, trust()));
      expect(verified).toMatchObject({ usedEpoch: 1, request: { message: { epoch: 2, authentication, memory } } });
      await restart(over);
      expect(device.status()).toMatchObject({ epoch: 1, pendingEpoch: 2 });
      const again = authority.rotating(value(device.rotateBegin()).request);
      expect(Buffer.from(again.publicKey)).toEqual(Buffer.from(verified.request.message.publicKey));
      const certificate = certified(again);
      await restart(over);
      const rotated = value(device.rotate(certificate));
      expect(rotated).toMatchObject({ epoch: 2, sequence: 2 });
      await restart(over);
      expect(device.status()).toMatchObject({ epoch: 2, sequence: 2, unconfirmedRecords: 2, registers, funds });
      expect(device.status().pendingEpoch).toBeUndefined();
      const second = await frank(2, memory);
      expectIndicia(first.indicia, authentication, 1);
      expectIndicia(second.indicia, authentication, 2);

      let head = CHAIN_START;
      for (const [i, bytes] of [first.record, rotated.record, second.record].entries()) {
        expect(Buffer.from(value(device.record(i + 1)))).toEqual(Buffer.from(bytes));
        const verdict = judge(head, value(verifyRecord(bytes, trust())), () => null);
        if (verdict.outcome !== 'continues') throw new Error(JSON.stringify(verdict));
        ({ head } = verdict);
      }
      expect(head.epoch).toBe(2);
      // The device with its new keys, asked to be enrolled, asks for what it has.
      expect(authority.enrolling(value(device.enrolmentRequest()))).toMatchObject({
        epoch: 2,
        publicKey: again.publicKey,
      });
      expect(value(parseEnvelope(value(device.fundsRequest(mills(1n))).request)).key.epoch).toBe(2);
      await restart(over);
    },
  );

  it('agrees codes with the key that the new certificate names, and goes on holding records of the one before', async () => {
    const over = { authentication: 'mac', memory: 'host' } as const;
    ready(over);
    const first = await frank(1, 'host');
    const before = authority.agreement;
    agreements.set(1, before);
    const { privateKey, publicKey } = generateSigningKey();
    agreements.set(2, privateKey);
    const request = authority.rotating(value(device.rotateBegin()).request);
    const noPoint = certifiedAs(request, { agreementPeer: new Uint8Array(65) });
    expect(code(device.rotate(noPoint))).toBe('enrolment-mismatch');
    certificates.pop();
    const rotated = value(device.rotate(certifiedAs(request, { agreementPeer: publicKeyBytes(publicKey) })));
    const second = await frank(2, 'host');
    await restart(over);
    const third = await frank(3, 'host');
    for (const [{ indicia }, epoch] of [
      [first, 1],
      [second, 2],
      [third, 2],
    ] as const) {
      expectIndicia(indicia, 'mac', epoch);
    }
    for (const [i, record] of [first.record, rotated.record, second.record, third.record].entries()) {
      expect(sameBytes(value(device.record(i + 1)), record)).toBe(true);
      expect(code(verifyRecord(record, trust()))).toBe('ok');
    }
    // Under the other key none of them is authentic.
    agreements.set(1, privateKey);
    agreements.set(2, before);
    expect(code(verifyRecord(first.record, trust()))).toBe('bad-authenticator');
    expect(code(verifyRecord(third.record, trust()))).toBe('bad-authenticator');
  });

  it('is possible in a store from before there were any', async () => {
    ready({});
    const first = await frank(1, 'host');
    await device.close();
    const store = value(openStore({ path: optionsOf({}).path }));
    store.embedded.database.exec(
      `DROP TABLE retired_epoch;
       DROP TABLE mark;
       ALTER TABLE device DROP COLUMN final_sequence;
       ALTER TABLE record RENAME TO newer;
       CREATE TABLE record (
         sequence INTEGER PRIMARY KEY, digest BLOB NOT NULL, batch TEXT NOT NULL UNIQUE, pieces INTEGER NOT NULL,
         postage INTEGER NOT NULL, aged_from INTEGER, payload_bytes INTEGER NOT NULL, bytes BLOB) STRICT;
       INSERT INTO record SELECT * FROM newer;
       DROP TABLE newer;
       PRAGMA user_version = 1;`,
    );
    store.close();
    device = value(openDevice(optionsOf({})));
    expect(sameBytes(value(device.record(1)), first.record)).toBe(true);
    value(device.rotate(certified(authority.rotating(value(device.rotateBegin()).request))));
    await frank(2, 'host');
    await restart({});
    expect(device.status()).toMatchObject({ epoch: 2, sequence: 3, unconfirmedRecords: 3 });
  });

  it('asked again answers the same record, then that it is confirmed', () => {
    ready({});
    const certificate = certified(authority.rotating(value(device.rotateBegin()).request));
    const rotated = value(device.rotate(certificate));
    const again = value(device.rotate(certificate));
    expect({ ...again, record: digestText(again.record) }).toMatchObject({
      epoch: 2,
      sequence: 1,
      record: digestText(rotated.record),
    });
    expect(code(device.rotateBegin())).toBe('rotation-unconfirmed');
    value(device.confirm(authority.bytes.confirmation(device.id, 1, rotated.digest)));
    expect(code(device.rotate(certificate))).toBe('already-confirmed');
    expect(code(device.rotateBegin())).toBe('ok');
  });

  it('begun makes nobody else’s certificate good, and the old one is no new one', () => {
    ready({});
    const enrolled = authority.bytes.certificate(certificates[0]!.message);
    expect(code(device.rotate(enrolled))).toBe('enrolment-mismatch');
    const request = authority.rotating(value(device.rotateBegin()).request);
    const forged = new TestAuthority();
    expect(code(device.rotate(forged.bytes.certificate(forged.certificate(request))))).toBe('bad-authenticator');
    expect(device.status()).toMatchObject({ epoch: 1, pendingEpoch: 2, sequence: 0 });
  });

  it.each(['signature', 'mac'] as const)(
    'leaves none of the old private keys in the store: %s',
    async (authentication) => {
      const over = { authentication };
      ready(over);
      const first = await frank(1, 'host');
      const old = await secrets(over);
      const certificate = certified(authority.rotating(value(device.rotateBegin()).request));
      const { digest } = value(device.rotate(certificate));
      const kept = [...old].filter(([, bytes]) => onDisk(bytes)).map(([name]) => name);
      // The codes of what is held are still checked with the old agreement key; the key of record codes is no epoch's.
      expect(kept).toEqual(authentication === 'mac' ? ['agreement', 'record'] : ['record']);
      await restart(over);
      value(device.confirm(authority.bytes.confirmation(device.id, 2, digest)));
      expect([...old].filter(([, bytes]) => onDisk(bytes)).map(([name]) => name)).toEqual(['record']);
      // The record before it is held all the same, and the store is whole.
      await restart(over);
      expect(sameBytes(value(device.record(1)), first.record)).toBe(true);
    },
  );

  it('lets what is being signed under the old key come to its end', async () => {
    ready({ memory: 'psd' });
    const batch = batchNumbered(1);
    value(device.openBatch(declarationOf(batch, { expectedPieces: 1_000 })));
    const signing = device.frankChunk(chunkOf(batch, 0, pieces(500)));
    value(device.closeBatch(batch, 0));
    value(await device.seal(batch, false));
    const certificate = certified(authority.rotating(value(device.rotateBegin()).request));
    value(device.rotate(certificate));
    expectIndicia(value(await signing).indicia, 'signature', 1);
    const next = batchNumbered(2);
    value(device.openBatch(declarationOf(next, { expectedPieces: 100 })));
    expectIndicia(value(await device.frankChunk(chunkOf(next, 0, pieces(50)))).indicia, 'signature', 2);
  });
});
