import { createHash } from 'node:crypto';
import { parseEnvelope } from '@countermark/protocol/cose';
import { generateSigningKey, publicKeyBytes, signP1363 } from '@countermark/node-platform/signing';
import { nodeVerification } from '@countermark/node-platform/verification';
import { type Digest, digestOf, digestText } from '@countermark/protocol/digest';
import type { CustomerId, LicenseeId } from '@countermark/protocol/id';
import { DISCOUNT_GRANT, MAX_EVIDENCE } from '@countermark/protocol/messages/grant';
import { mills } from '@countermark/protocol/money';
import type { Programme } from '@countermark/tariff/programme';
import type { Reckoning } from '@countermark/tariff/programme-reckoning';
import { verifyMessage } from '@countermark/verify/verified';
import { beforeAll, describe, expect, test } from 'vitest';
import { type Draft, isDue, signGrants } from './grant.ts';
import { loadProgrammes, shippedProgrammeFiles } from './programmes.ts';
import type { LastGrant } from './store/authority-store.ts';

const key = generateSigningKey();
const signer = {
  epoch: 1,
  publicKey: publicKeyBytes(key.publicKey),
  certificates: [],
  keys: () => ({ publicKey: publicKeyBytes(key.publicKey), authentication: 'signature' as const }),
  sign: (bytes: Uint8Array) => Promise.resolve(signP1363(key.privateKey, bytes)),
};
const trust = {
  port: nodeVerification,
  keys: () => ({ publicKey: signer.publicKey, authentication: 'signature' as const }),
};
let programme: Programme;

beforeAll(async () => {
  const loaded = await loadProgrammes(await shippedProgrammeFiles());
  if (!loaded.ok) throw new Error(loaded.rejection.code);
  programme = loaded.value.find(({ kind }) => kind === 'discount')!;
});

const digestNumber = (n: number): Digest => digestOf(createHash('sha256').update(String(n)).digest());
const digests = (count: number): Digest[] => Array.from({ length: count }, (_, i) => digestNumber(i));
const reckoning = (entitlementMills: bigint): Reckoning => ({
  licensee: 'lic_test' as LicenseeId,
  customer: 'alder-press' as CustomerId,
  period: '2026-03-02',
  pieces: 1,
  postageMills: mills(1n),
  declaredMills: mills(1n),
  differenceMills: mills(0n),
  entitlementMills: mills(entitlementMills),
  lines: [],
  reasons: ['Because.'],
});
const last = (entitlementMills: bigint): LastGrant => ({
  revision: 4,
  entitlementMills: mills(entitlementMills),
  through: 9,
  digest: digestNumber(-1),
});
const signed = async (draft: Omit<Draft, 'programme' | 'remarks'>) => {
  const grants = await signGrants({ programme, remarks: [], ...draft }, signer, 7);
  return grants.map(({ bytes, digest, amountMills, revision }) => {
    const verified = verifyMessage(DISCOUNT_GRANT, bytes, trust);
    if (!verified.ok) throw new Error(verified.rejection.code);
    expect(digestText(verified.value.digest)).toBe(digestText(digest));
    expect(verified.value.message).toMatchObject({ amountMills, revision });
    return verified.value;
  });
};

describe('a grant', () => {
  test('pays the entitlement minus what was granted before, and names the revision before it', async () => {
    const [first] = await signed({ reckoning: reckoning(100n), last: null, evidence: digests(2) });
    expect(first!.message).toMatchObject({ revision: 1, amountMills: 100n, grantedBeforeMills: 0n });
    expect(first!.message.previous).toBeUndefined();
    expect(first!.message.reasons).toEqual([
      'Demonstration: no real money.',
      'Because.',
      'Nothing was granted before: this grant is USD 0.100.',
    ]);
    const [next] = await signed({ reckoning: reckoning(130n), last: last(100n), evidence: digests(1) });
    expect(next!.message).toMatchObject({
      revision: 5,
      amountMills: 30n,
      grantedBeforeMills: 100n,
      entitlementMills: 130n,
      customer: 'alder-press',
    });
    expect(digestText(next!.message.previous!)).toBe(digestText(digestNumber(-1)));
  });

  test('is not due where nothing was added, or where the entitlement fell', () => {
    expect(isDue(reckoning(0n), null)).toBe(false);
    expect(isDue(reckoning(100n), last(100n))).toBe(false);
    expect(isDue(reckoning(99n), last(100n))).toBe(false);
    expect(isDue(reckoning(101n), last(100n))).toBe(true);
  });

  test('carries more evidence than one message holds in a chain of revisions', async () => {
    const evidence = digests(2 * MAX_EVIDENCE + 1);
    const chain = await signed({ reckoning: reckoning(130n), last: last(100n), evidence });
    expect(chain.map(({ message }) => [message.revision, message.amountMills, message.evidence.length])).toEqual([
      [5, 0n, MAX_EVIDENCE],
      [6, 0n, MAX_EVIDENCE],
      [7, 30n, 1],
    ]);
    expect(chain.flatMap(({ message }) => message.evidence).map(digestText)).toEqual(evidence.map(digestText));
    expect(chain.slice(1).map(({ message }) => digestText(message.previous!))).toEqual(
      chain.slice(0, -1).map(({ digest }) => digestText(digest)),
    );
    expect(chain.map(({ message }) => message.grantedBeforeMills)).toEqual([100n, 100n, 100n]);
  });

  test('carries the certificates that lead to its key', async () => {
    const certificates = [Uint8Array.of(1), Uint8Array.of(2)];
    // Not what this signer’s keys rest on: only that they come along.
    const draft = { programme, remarks: [], reckoning: reckoning(1n), last: null, evidence: digests(1) };
    const [grant] = await signGrants(draft, { ...signer, certificates }, 7);
    const envelope = parseEnvelope(grant!.bytes);
    expect(envelope.ok && envelope.value.certificates.map((one) => [...one])).toEqual([[1], [2]]);
  });

  test('without evidence, or by a signer that errs, is not made', async () => {
    await expect(signed({ reckoning: reckoning(1n), last: null, evidence: [] })).rejects.toThrow('no record');
    const publicKey = publicKeyBytes(generateSigningKey().publicKey);
    const broken = { ...signer, keys: () => ({ publicKey, authentication: 'signature' as const }) };
    const draft = { programme, remarks: [], reckoning: reckoning(1n), last: null, evidence: digests(1) };
    await expect(signGrants(draft, broken, 7)).rejects.toThrow('bad-authenticator');
  });
});
