/** The key stores of the cryptographic device through one suite, and what is a token's own. */
import { execFileSync, spawnSync } from 'node:child_process';
import { chmodSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
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
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { openHsmKeys } from '@countermark/cryptographic-device/hsm-keys';
import type { HsmConfig } from '@countermark/node-platform/hsm-access';
import { KEY_ROLES, type KeyStore, type MacCheck } from '@countermark/cryptographic-device/key-store';
import { openSoftwareKeys } from '@countermark/cryptographic-device/software-keys';
import { type SoftHsm, softHsm } from '../../bench/src/soft-hsm.ts';
import { value } from './server-parties.ts';

const DEVICE = 'psd_0123456789abcdef' as DeviceId;

const hsm = softHsm('suite', 'fresh', 'partly', 'used', 'retired');
const skipped = typeof hsm === 'string';
/** With which somebody else changes a token. */
const withoutTool = spawnSync('pkcs11-tool', ['--version']).error !== undefined;
afterAll(() => {
  if (!skipped) hsm.stop();
});

type Implementation = {
  readonly name: string;
  readonly open: (folder: string) => Promise<KeyStore>;
  readonly isThere: boolean;
};

/** Every implementation of the port goes through the same suite. */
const IMPLEMENTATIONS: readonly Implementation[] = [
  {
    name: 'software keys',
    open: async (folder) => value(openSoftwareKeys(join(folder, 'keys'), 1)),
    isThere: true,
  },
  {
    name: 'a token, by PKCS#11',
    open: async () => value(await openHsmKeys((hsm as SoftHsm).of('suite'), true)),
    isThere: !skipped,
  },
];

/** A code of the device under the key that it agrees with the store's. */
function coded(device: ReturnType<typeof generateSigningKey>, agreementPeer: Uint8Array, input: Uint8Array): MacCheck {
  const info = macKeyInfo(DEVICE, 1, 'statistics');
  const peer = importPublicKey(agreementPeer)!;
  const key = agreedKey(device.privateKey, peer, { salt: new Uint8Array(0), info, bytes: 32 });
  return {
    device: DEVICE,
    epoch: 1,
    purpose: 'statistics',
    agreementKey: publicKeyBytes(device.publicKey),
    agreementPeer,
    input,
    code: hmacSha256(key, input),
  };
}

describe.each(IMPLEMENTATIONS)('A key store: $name', ({ open, isThere }) => {
  const it = test.skipIf(!isThere);
  let folder: string;
  let keys: KeyStore;
  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), 'keys-'));
    if (isThere) keys = await open(folder);
  });
  afterAll(async () => {
    if (isThere) await keys.close();
    rmSync(folder, { recursive: true });
  });

  const inputs = (count: number): Uint8Array[] => Array.from({ length: count }, (_, i) => Uint8Array.of(i, i >> 8, 7));

  it('has another key for each role, and for agreement', () => {
    const points = KEY_ROLES.map((role) => keys.publicKey(role, 1));
    expect(new Set(points.map((point) => Buffer.from(point).toString('hex'))).size).toBe(KEY_ROLES.length);
    for (const point of points) expect(importPublicKey(point)).toBeDefined();
  });

  it.each(KEY_ROLES.filter((role) => role !== 'agreement'))('signs by the key of the role %s alone', async (role) => {
    const [signature] = await keys.sign(role, 1, [Uint8Array.of(1, 2, 3)]);
    for (const other of KEY_ROLES) {
      expect(verifySignature(keys.publicKey(other, 1), Uint8Array.of(1, 2, 3), signature!)).toBe(other === role);
    }
  });

  it('signs many at once, in order', async () => {
    const many = inputs(300);
    const signatures = await keys.sign('attesting', 1, many);
    expect(signatures).toHaveLength(300);
    expect(signatures.every((one, i) => verifySignature(keys.publicKey('attesting', 1), many[i]!, one))).toBe(true);
    expect(await keys.sign('attesting', 1, [])).toEqual([]);
  });

  it('checks many signatures at once, in order, and finds exactly the false ones', async () => {
    const many = inputs(300);
    const signatures = await keys.sign('funds', 1, many);
    const publicKey = keys.publicKey('funds', 1);
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
    const [signature] = await keys.sign('funds', 1, [Uint8Array.of(1)]);
    const publicKey = keys.publicKey('funds', 1);
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
    const input = Uint8Array.of(9, 9);
    const check = (changes: Partial<MacCheck> = {}): MacCheck => ({
      ...coded(device, keys.publicKey('agreement', 1), input),
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
      check({ agreementPeer: publicKeyBytes(generateSigningKey().publicKey) }),
      check({ agreementPeer: keys.publicKey('attesting', 1) }),
      check(),
    ]);
    expect(verdicts).toEqual([true, ...Array.from({ length: 10 }, () => false), true]);
  });

  it('has the same keys when it is opened again', async () => {
    const again = await open(folder);
    expect(KEY_ROLES.map((role) => again.publicKey(role, 1))).toEqual(KEY_ROLES.map((role) => keys.publicKey(role, 1)));
    await again.close();
  });
});

describe.each(IMPLEMENTATIONS)('Further keys of a role: $name', ({ open, isThere }) => {
  const it = test.skipIf(!isThere);
  let folder: string;
  let keys: KeyStore;
  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), 'keys-'));
    if (isThere) keys = await open(folder);
  });
  afterAll(async () => {
    if (isThere) await keys.close();
    rmSync(folder, { recursive: true });
  });
  const input = Uint8Array.of(5, 5);
  const signs = async (from: KeyStore, epoch: number): Promise<boolean> => {
    const [signature] = await from.sign('confirming', epoch, [input]);
    return verifySignature(from.publicKey('confirming', epoch), input, signature!);
  };

  it('sign beside those before until these are retired, of which the public part stays', async () => {
    const first = keys.publicKey('confirming', 1);
    const second = await keys.make('confirming', 2);
    expect(second).not.toEqual(first);
    expect(keys.epochs('confirming')).toEqual([1, 2]);
    expect([await signs(keys, 1), await signs(keys, 2)]).toEqual([true, true]);
    await keys.retire('confirming', 1);
    await keys.retire('confirming', 1);
    expect([keys.canUse('confirming', 1), keys.canUse('confirming', 2)]).toEqual([false, true]);
    await expect(keys.sign('confirming', 1, [input])).rejects.toThrow('signs nothing any more');
    const again = await open(folder);
    expect([again.publicKey('confirming', 1), again.publicKey('confirming', 2)]).toEqual([first, second]);
    expect([again.canUse('confirming', 1), again.canUse('confirming', 2)]).toEqual([false, true]);
    expect(await signs(again, 2)).toBe(true);
    expect(again.epochs('attesting')).toEqual([1]);
    await again.close();
  });

  it('that have signed nothing are made anew, and the newest is there when the store is opened again', async () => {
    const waiting = await keys.make('confirming', 3);
    const renewed = await keys.make('confirming', 3);
    expect(renewed).not.toEqual(waiting);
    const again = await open(folder);
    expect(again.publicKey('confirming', 3)).toEqual(renewed);
    expect([await signs(keys, 3), await signs(again, 3), await signs(again, 2)]).toEqual([true, true, true]);
    await again.close();
  });

  it('of key agreement check codes beside those before, each those that were agreed with it', async () => {
    const first = keys.publicKey('agreement', 1);
    const second = await keys.make('agreement', 2);
    const [one, other] = [generateSigningKey(), generateSigningKey()];
    const checks = [coded(one, first, input), coded(other, second, input), coded(one, second, input)];
    const crossed = { ...coded(one, first, input), agreementPeer: second };
    expect(await keys.verifyMacs([...checks, crossed])).toEqual([true, true, true, false]);
    const again = await open(folder);
    expect(again.epochs('agreement')).toEqual([1, 2]);
    expect(await again.verifyMacs([crossed, ...checks])).toEqual([false, true, true, true]);
    await again.close();
  });

  it('are made and retired while others sign: nothing in hand is lost', async () => {
    const many = Array.from({ length: 300 }, (_, i) => Uint8Array.of(i, i >> 8, 9));
    const inHand = Promise.all([keys.sign('attesting', 1, many), keys.sign('funds', 1, many)]);
    await keys.make('policy', 2);
    await keys.retire('policy', 1);
    const [attested, funded] = await inHand;
    expect(many.every((one, i) => verifySignature(keys.publicKey('attesting', 1), one, attested[i]!))).toBe(true);
    expect(many.every((one, i) => verifySignature(keys.publicKey('funds', 1), one, funded[i]!))).toBe(true);
  });
});

describe('Software keys', () => {
  test('lie in files that only their user reads, and are never completed where some are missing or broken', async () => {
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

describe.skipIf(skipped)('A token', () => {
  const { of, withPin, pin, plug, unplug } = hsm as SoftHsm;
  const open = (config: HsmConfig, first = true) => openHsmKeys(config, first);

  test('gets its keys once, where none was ever used', async () => {
    expect(await open(of('fresh'), false)).toMatchObject({ ok: false, rejection: { code: 'hsm-refused' } });
    const made = value(await open(of('fresh')));
    const points = KEY_ROLES.map((role) => made.publicKey(role, 1));
    await made.close();
    const known = value(await open(of('fresh'), false));
    expect(KEY_ROLES.map((role) => known.publicKey(role, 1))).toEqual(points);
    await known.close();
  });

  test.skipIf(withoutTool)('with a key missing that there was is refused, and gets no other', async () => {
    await value(await open(of('used'))).close();
    tool('used', ['--delete-object', '--type', 'privkey', '--label', 'countermark-funds-1']);
    for (const first of [true, false]) {
      const opened = await open(of('used'), first);
      expect(opened).toMatchObject({ ok: false, rejection: { code: 'hsm-refused' } });
    }
  });

  test.skipIf(withoutTool)('keeps no private part of a key that was retired', async () => {
    const keys = value(await open(of('retired')));
    await keys.make('policy', 2);
    await keys.retire('policy', 1);
    await keys.close();
    const listed = tool('retired', ['--list-objects', '--type', 'privkey']);
    expect(listed).toContain('countermark-policy-2');
    expect(listed).not.toContain('countermark-policy-1');
    expect(tool('retired', ['--list-objects', '--type', 'pubkey'])).toContain('countermark-policy-1');
  });

  test.skipIf(withoutTool)(
    'on which the making of a further key was interrupted is opened, and gets another',
    async () => {
      const keys = value(await open(of('retired'), false));
      const waiting = await keys.make('policy', 3);
      await keys.close();
      tool('retired', ['--delete-object', '--type', 'pubkey', '--label', 'countermark-policy-3']);
      const again = value(await open(of('retired'), false));
      expect(again.epochs('policy')).toEqual([1, 2]);
      expect(await again.make('policy', 3)).not.toEqual(waiting);
      const [signature] = await again.sign('policy', 3, [Uint8Array.of(1)]);
      expect(verifySignature(again.publicKey('policy', 3), Uint8Array.of(1), signature!)).toBe(true);
      await again.close();
    },
  );

  test.skipIf(withoutTool)('on which the making of keys was interrupted gets all of them anew', async () => {
    tool('partly', ['--keypairgen', '--key-type', 'EC:prime256v1', '--label', 'countermark-issuing-1']);
    const keys = value(await open(of('partly')));
    const [signature] = await keys.sign('issuing', 1, [Uint8Array.of(1)]);
    expect(verifySignature(keys.publicKey('issuing', 1), Uint8Array.of(1), signature!)).toBe(true);
    await keys.close();
  });

  test('that is unplugged signs nothing, says so, and is found again when it is back', async () => {
    const keys = value(await open(of('suite'), false));
    unplug();
    await expect(keys.sign('funds', 1, [Uint8Array.of(1)])).rejects.toMatchObject({
      code: 'hsm-unavailable',
      retry: 'later',
    });
    await expect(keys.sign('funds', 1, [Uint8Array.of(1)])).rejects.toMatchObject({ code: 'hsm-unavailable' });
    plug();
    const [signature] = await eventually(() => keys.sign('funds', 1, [Uint8Array.of(1)]));
    expect(verifySignature(keys.publicKey('funds', 1), Uint8Array.of(1), signature!)).toBe(true);
    await keys.close();
  });

  test.each([
    ['that is not there', () => ({ ...of('suite'), token: 'nobody' }), 'hsm-unavailable', 'nobody'],
    ['of a module that is not there', () => ({ ...of('suite'), module: '/nowhere.so' }), 'hsm-unavailable', 'nowhere'],
    ['whose PIN is another', () => withPin('suite', '000000'), 'hsm-refused', 'CKR_PIN_INCORRECT'],
    ['without its PIN file', () => ({ ...of('suite'), pinFile: '/nowhere.pin' }), 'config-invalid', 'nowhere'],
    ['with an empty PIN', () => withPin('suite', ''), 'config-invalid', 'empty'],
  ])('%s is refused with what is wrong', async (_, config, code, words) => {
    const opened = await open(config(), false);
    expect(opened).toMatchObject({ ok: false, rejection: { code } });
    expect(JSON.stringify(opened)).toContain(words);
    expect(JSON.stringify(opened)).not.toContain(pin);
  });

  test('of which others can read the PIN is refused', async () => {
    const config = withPin('suite', pin);
    chmodSync(config.pinFile, 0o640);
    expect(await open(config, false)).toMatchObject({ ok: false, rejection: { code: 'config-invalid' } });
  });
});

async function eventually<T>(work: () => Promise<T>): Promise<T> {
  for (let attempt = 0; ; attempt += 1) {
    try {
      return await work();
    } catch (error) {
      if (attempt === 50) throw error;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
}

/** What somebody with the PIN does to a token. */
function tool(label: string, args: readonly string[]): string {
  const { of, pin } = hsm as SoftHsm;
  return execFileSync(
    'pkcs11-tool',
    ['--module', of(label).module, '--token-label', label, '--login', '--pin', pin, ...args],
    {
      stdio: 'pipe',
      encoding: 'utf8',
    },
  );
}
