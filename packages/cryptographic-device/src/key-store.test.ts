import { mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  agreedKey,
  generateSigningKey,
  hmacSha256,
  importPublicKey,
  publicKeyBytes,
} from '@countermark/node-platform/signing';
import { verifySignature } from '@countermark/node-platform/verification';
import type { DeviceId } from '@countermark/protocol/id';
import { macKeyInfo } from '@countermark/protocol/mac-key';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { KEY_ROLES, type KeyStore, type MacCheck } from './key-store.ts';
import { openSoftwareKeys } from './software-keys.ts';

const DEVICE = 'psd_0123456789abcdef' as DeviceId;

/** Every implementation of the port goes through the same suite; a PKCS#11 one is added here. */
const IMPLEMENTATIONS: readonly { readonly name: string; readonly open: (folder: string) => KeyStore }[] = [
  {
    name: 'software keys',
    open: (folder) => {
      const opened = openSoftwareKeys(join(folder, 'keys'), 1);
      if (!opened.ok) throw new Error(JSON.stringify(opened.rejection));
      return opened.value;
    },
  },
];

describe.each(IMPLEMENTATIONS)('A key store: $name', ({ open }) => {
  let folder: string;
  let keys: KeyStore;
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'keys-'));
    keys = open(folder);
  });
  afterAll(async () => {
    await keys.close();
    rmSync(folder, { recursive: true });
  });

  const inputs = (count: number): Uint8Array[] => Array.from({ length: count }, (_, i) => Uint8Array.of(i, i >> 8, 7));

  it('has another key for each role, and for agreement', () => {
    const points = [...KEY_ROLES.map((role) => keys.publicKey(role)), keys.agreementKey];
    expect(new Set(points.map((point) => Buffer.from(point).toString('hex'))).size).toBe(KEY_ROLES.length + 1);
    for (const point of points) expect(importPublicKey(point)).toBeDefined();
  });

  it.each(KEY_ROLES)('signs by the key of the role %s alone', async (role) => {
    const [signature] = await keys.sign(role, [Uint8Array.of(1, 2, 3)]);
    for (const other of KEY_ROLES) {
      expect(verifySignature(keys.publicKey(other), Uint8Array.of(1, 2, 3), signature!)).toBe(other === role);
    }
  });

  it('signs many at once, in order', async () => {
    const many = inputs(300);
    const signatures = await keys.sign('attesting', many);
    expect(signatures).toHaveLength(300);
    expect(signatures.every((one, i) => verifySignature(keys.publicKey('attesting'), many[i]!, one))).toBe(true);
    expect(await keys.sign('attesting', [])).toEqual([]);
  });

  it('checks many signatures at once, in order, and finds exactly the false ones', async () => {
    const many = inputs(300);
    const signatures = await keys.sign('funds', many);
    const publicKey = keys.publicKey('funds');
    const wrong = new Set([0, 127, 128, 299]);
    const checks = many.map((input, i) => ({
      publicKey,
      input: wrong.has(i) ? Uint8Array.of(...input, 0) : input,
      signature: signatures[i]!,
    }));
    const verdicts = await keys.verifySignatures(checks);
    expect(verdicts).toEqual(many.map((_, i) => !wrong.has(i)));
  });

  it('finds false what has the wrong form, without a fault', async () => {
    const [signature] = await keys.sign('funds', [Uint8Array.of(1)]);
    const publicKey = keys.publicKey('funds');
    const input = Uint8Array.of(1);
    const good = { publicKey, input, signature: signature! };
    const verdicts = await keys.verifySignatures([
      good,
      { ...good, signature: signature!.subarray(1) },
      { ...good, signature: new Uint8Array(64) },
      { ...good, publicKey: new Uint8Array(65) },
      { ...good, publicKey: publicKey.subarray(1) },
      { ...good, publicKey: Uint8Array.of(4, ...new Uint8Array(64).fill(1)) },
      good,
    ]);
    expect(verdicts).toEqual([true, false, false, false, false, false, true]);
  });

  it('checks codes under keys that it agrees with each device, epoch and purpose', async () => {
    const device = generateSigningKey();
    const peer = importPublicKey(keys.agreementKey)!;
    const input = Uint8Array.of(9, 9);
    const check = (changes: Partial<MacCheck> = {}): MacCheck => ({
      device: DEVICE,
      epoch: 1,
      purpose: 'statistics',
      agreementKey: publicKeyBytes(device.publicKey),
      input,
      code: hmacSha256(
        agreedKey(device.privateKey, peer, {
          salt: new Uint8Array(0),
          info: macKeyInfo(DEVICE, 1, 'statistics'),
          bytes: 32,
        }),
        input,
      ),
      ...changes,
    });
    const verdicts = await keys.verifyMacs([
      check(),
      check({ epoch: 2 }),
      check({ purpose: 'indicium' }),
      check({ device: 'psd_0000000000000000' as DeviceId }),
      check({ agreementKey: publicKeyBytes(generateSigningKey().publicKey) }),
      check({ input: Uint8Array.of(9, 8) }),
      check({ code: new Uint8Array(32) }),
      check({ code: new Uint8Array(0) }),
      check({ agreementKey: new Uint8Array(65) }),
      check(),
    ]);
    expect(verdicts).toEqual([true, false, false, false, false, false, false, false, false, true]);
  });

  it('has the same keys when it is opened again', async () => {
    const again = open(folder);
    expect(KEY_ROLES.map((role) => again.publicKey(role))).toEqual(KEY_ROLES.map((role) => keys.publicKey(role)));
    expect(again.agreementKey).toEqual(keys.agreementKey);
    await again.close();
  });
});

describe('Software keys', () => {
  it('lie in files that only their user reads, and are never completed where some are missing or broken', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'keys-'));
    const directory = join(folder, 'keys');
    const first = openSoftwareKeys(directory, 1);
    if (first.ok) await first.value.close();
    expect(statSync(directory).mode & 0o777).toBe(0o700);
    for (const name of readdirSync(directory)) expect(statSync(join(directory, name)).mode & 0o777).toBe(0o600);
    writeFileSync(join(directory, 'funds.key'), 'not a key');
    expect(openSoftwareKeys(directory)).toMatchObject({ ok: false, rejection: { code: 'store-damaged' } });
    rmSync(join(directory, 'funds.key'));
    expect(openSoftwareKeys(directory)).toMatchObject({ ok: false, rejection: { code: 'store-damaged' } });
    rmSync(folder, { recursive: true });
  });
});
