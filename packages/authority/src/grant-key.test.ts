/**
 * The granting key and its successors: what is durable when, and what a start finds after each step of a rotation that was cut off.
 */
import {
  copyFileSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { generateSigningKey, privateKeyBytes } from '@countermark/node-platform/signing';
import { nodeVerification } from '@countermark/node-platform/verification';
import { CARRIED_MAX, seal, toBeAuthenticated } from '@countermark/protocol/cose';
import { hex } from '@countermark/protocol/id';
import { unsealedMessage } from '@countermark/protocol/message';
import { DISCOUNT_GRANT, type Grant } from '@countermark/protocol/messages/grant';
import type { Result } from '@countermark/protocol/result';
import { type KeySource, verifyMessage } from '@countermark/verify/verified';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { GrantSigner } from './grant.ts';
import { certificatesPath, openSoftwareGrantKey, rotateGrantKey } from './grant-key.ts';

let folder: string;
let path: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'grant-key-'));
  path = join(folder, 'authority', 'grant-key.pkcs8');
});
afterEach(() => {
  rmSync(folder, { recursive: true });
});

function value<T>(result: Result<T>): T {
  if (!result.ok) throw new Error(`${result.rejection.code}: ${JSON.stringify(result.rejection.detail)}`);
  return result.value;
}

/** A grant by the key in use, as whoever knows only these keys takes it. */
async function grantedBy(signer: GrantSigner, known: KeySource): Promise<string> {
  const grant = {
    programme: 'test',
    programmeVersion: 1,
    licensee: 'lic_test',
    period: '2026',
    revision: 1,
    amountMills: 1n,
    entitlementMills: 1n,
    grantedBeforeMills: 0n,
    reasons: ['a test'],
    evidence: [new Uint8Array(32)],
    currency: { code: 'USD', exponent: 3 },
    demonstration: true,
    grantedAtMs: 1,
  } as unknown as Grant;
  const unsealed = unsealedMessage(DISCOUNT_GRANT, 'signature', { holder: 'granting', epoch: signer.epoch }, grant);
  const bytes = seal(unsealed, await signer.sign(toBeAuthenticated(unsealed)), signer.certificates);
  const verified = verifyMessage(DISCOUNT_GRANT, bytes, { port: nodeVerification, keys: known });
  return verified.ok ? 'accepted' : verified.rejection.code;
}

it('Is made once, and is for this user only', async () => {
  const first = value(await openSoftwareGrantKey(path));
  expect(first).toMatchObject({ epoch: 1, certificates: [] });
  expect(statSync(path).mode & 0o777).toBe(0o600);
  expect(value(await openSoftwareGrantKey(path)).publicKey).toEqual(first.publicKey);
});

it('Gives way to the next, whom all follow that trust the first one; what was granted before stays good', async () => {
  const first = value(await openSoftwareGrantKey(path));
  const onlyFirst: KeySource = (key) => (key.epoch === 1 ? first.keys(key) : null);
  const old = readFileSync(path);
  const second = value(await rotateGrantKey(path, 1));
  const third = value(await rotateGrantKey(path, 2));
  expect([second.epoch, third.epoch]).toEqual([2, 3]);
  for (const signer of [first, second, third]) expect(await grantedBy(signer, onlyFirst)).toBe('accepted');
  expect(await grantedBy({ ...third, certificates: [] }, onlyFirst)).toBe('unknown-key');
  // All that went before are known to the authority itself; their private parts are not.
  for (const { epoch, publicKey } of [first, second, third]) {
    expect(third.keys({ holder: 'granting', epoch })?.publicKey).toEqual(publicKey);
    expect(third.keys({ holder: 'issuing', epoch })).toBeNull();
  }
  expect(readFileSync(path).equals(old)).toBe(false);
  expect(existsSync(`${path}.next`)).toBe(false);
  const again = value(await openSoftwareGrantKey(path));
  expect([again.epoch, hex(again.publicKey)]).toEqual([3, hex(third.publicKey)]);
});

describe('A rotation that was cut off', () => {
  it('before the next key is certified has changed nothing, and is gone on with the same key', async () => {
    const first = value(await openSoftwareGrantKey(path));
    const next = privateKeyBytes(generateSigningKey().privateKey);
    writeFileSync(`${path}.next`, next);
    expect(value(await openSoftwareGrantKey(path))).toMatchObject({ epoch: 1, publicKey: first.publicKey });
    value(await rotateGrantKey(path, 1));
    expect(readFileSync(path).equals(next)).toBe(true);
  });

  it('after that is finished by the next start', async () => {
    value(await openSoftwareGrantKey(path));
    copyFileSync(path, `${path}.old`);
    const second = value(await rotateGrantKey(path, 1));
    renameSync(path, `${path}.next`);
    renameSync(`${path}.old`, path);
    const opened = value(await openSoftwareGrantKey(path));
    expect([opened.epoch, hex(opened.publicKey)]).toEqual([2, hex(second.publicKey)]);
    expect(existsSync(`${path}.next`)).toBe(false);
  });
});

it('Ends where a grant could carry no more certificates', { timeout: 30_000 }, async () => {
  const first = value(await openSoftwareGrantKey(path));
  for (let n = 0; n < CARRIED_MAX; n += 1) value(await rotateGrantKey(path, n));
  const last = value(await openSoftwareGrantKey(path));
  expect(await grantedBy(last, (key) => (key.epoch === 1 ? first.keys(key) : null))).toBe('accepted');
  expect(await rotateGrantKey(path, 99)).toMatchObject({ ok: false, rejection: { code: 'limit-exceeded' } });
  expect(value(await openSoftwareGrantKey(path)).epoch).toBe(CARRIED_MAX + 1);
});

it.each<readonly [string, () => void, RegExp]>([
  ['is no key', () => writeFileSync(path, 'x'), /no P-256 private key/],
  [
    'is another than is certified',
    () => writeFileSync(path, privateKeyBytes(generateSigningKey().privateKey)),
    /not the key that the newest certificate names/,
  ],
  ['has no certificates that can be read', () => writeFileSync(certificatesPath(path), '{'), /does not hold the first/],
  [
    'has a certificate that was altered',
    () => {
      const kept = JSON.parse(readFileSync(certificatesPath(path), 'utf8')) as { certificates: string[] };
      const last = kept.certificates.pop() ?? '';
      kept.certificates.push(`${last.slice(0, -2)}${last.endsWith('00') ? '01' : '00'}`);
      writeFileSync(certificatesPath(path), JSON.stringify(kept));
    },
    /of epoch 2 is none of the key before it/,
  ],
])('One that %s is damaged, and no other is made in its place', async (_, damage, words) => {
  value(await openSoftwareGrantKey(path));
  value(await rotateGrantKey(path, 1));
  damage();
  const before = readFileSync(path);
  for (const opened of [await openSoftwareGrantKey(path), await rotateGrantKey(path, 2)]) {
    expect(opened).toMatchObject({
      rejection: { code: 'store-damaged', detail: { reason: expect.stringMatching(words) as string } },
    });
  }
  expect(readFileSync(path).equals(before)).toBe(true);
});
