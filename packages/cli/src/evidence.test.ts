/**
 * Offline verification of files, on messages made here with keys made here: good ones, altered ones, and those that are not what
 * they seem.
 */
import type { KeyObject } from 'node:crypto';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { generateSigningKey, hmacSha256, publicKeyBytes, signP1363 } from '@countermark/node-platform/signing';
import { nodeVerification } from '@countermark/node-platform/verification';
import { messageDigest, parseEnvelope, seal, toBeAuthenticated } from '@countermark/protocol/cose';
import { type Digest, digestText, NO_DIGEST } from '@countermark/protocol/digest';
import type { BatchId, CustomerId, DeviceId, JobId, LicenseeId, ProgrammeId } from '@countermark/protocol/id';
import { type MessageType, ROLES, type Role, unsealedMessage } from '@countermark/protocol/message';
import { ATTESTATION } from '@countermark/protocol/messages/attestation';
import { BATCH_STATISTICS, type BatchStatistics } from '@countermark/protocol/messages/batch-statistics';
import { CONFIRMATION } from '@countermark/protocol/messages/confirmation';
import { DEVICE_CERTIFICATE } from '@countermark/protocol/messages/enrolment';
import { DISCOUNT_GRANT } from '@countermark/protocol/messages/grant';
import { mills } from '@countermark/protocol/money';
import { formatTrustBundle, type TrustBundle } from '@countermark/verify/trust-bundle';
import { afterAll, beforeEach, describe, expect, test } from 'vitest';
import { contentText } from './content.ts';
import { certifiedDevices, Evidence, findTrustBundle } from './evidence.ts';

const root = mkdtempSync(join(tmpdir(), 'countermark-evidence-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));

const device = 'psd_00112233445566aa' as DeviceId;
const licensee = 'lic_test' as LicenseeId;
const keys = Object.fromEntries(ROLES.map((role) => [role, generateSigningKey()])) as Record<
  Role,
  ReturnType<typeof generateSigningKey>
>;
const deviceKey = generateSigningKey();
const point = (key: KeyObject): Uint8Array => publicKeyBytes(key);
const bundle: TrustBundle = {
  keys: ROLES.map((role) => ({ role, epoch: 1, publicKey: point(keys[role].publicKey) })),
  agreementKey: point(generateSigningKey().publicKey),
  sessionAuthority: Uint8Array.of(1),
};

function signed<T>(of: MessageType<T>, holder: string, key: KeyObject, value: T): Uint8Array {
  const message = unsealedMessage(of, 'signature', { holder, epoch: 1 }, value);
  return seal(message, signP1363(key, toBeAuthenticated(message)));
}

function byRole<T>(of: MessageType<T>, value: T): Uint8Array {
  const role = of.authenticatedBy as Role;
  return signed(of, role, keys[role].privateKey, value);
}

const currency = { code: 'USD', exponent: 3 };
const cellKey = {
  product: 'usps-fcm-letter',
  shape: 'letter',
  affixed: 'single-piece-metered',
  level: '5-digit',
  entry: 'none',
  weightStep: 10,
};

/** A record of two pieces; the registers go on from the record before. */
function statistics(sequence: number, previous: Digest, pieces = 2): BatchStatistics {
  const before = BigInt(sequence - 1);
  const opened = {
    ascendingMills: mills(1_480n * before),
    descendingMills: mills(10_000n - 1_480n * before),
    pieces: 2 * (sequence - 1),
  };
  return {
    device,
    licensee,
    sequence,
    previous,
    declaration: {
      batch: `bat_${String(sequence).padStart(32, '0')}` as BatchId,
      job: 'job' as JobId,
      customer: 'alder-press' as CustomerId,
      submitter: 'Someone',
      preparer: 'Someone',
      product: 'usps-fcm-letter',
      entry: 'none',
      mailingDate: '2026-11-22',
      expectedPieces: 10,
      expectedCells: 4,
      tariff: new Uint8Array(32) as Digest,
      scheme: 1,
      currency,
    },
    closing: { spoiled: [], reprints: 0 },
    observed: {
      firstPieceNumber: opened.pieces + 1,
      pieces,
      root: new Uint8Array(32) as Digest,
      cells: [{ key: cellKey, pieces, postageMills: mills(1_480n) }],
      spoiledPieces: 0,
      spoiledPostageMills: mills(0n),
      opened,
      closed: {
        ascendingMills: mills(opened.ascendingMills + 1_480n),
        descendingMills: mills(opened.descendingMills - 1_480n),
        pieces: opened.pieces + 2,
      },
      funds: { receivedMills: mills(10_000n), returnedMills: mills(0n), lastGrant: 1 },
      incomplete: false,
      memory: 'host',
      layout: 1,
      policyVersion: 1,
      software: { version: '0.1.0', measurement: new Uint8Array(32) as Digest },
      specimen: true,
      currency,
      epoch: 1,
    },
  };
}

function certificate(authentication: 'signature' | 'mac', certified = false): Uint8Array {
  return byRole(DEVICE_CERTIFICATE, {
    device,
    licensee,
    epoch: 1,
    authentication,
    memory: 'host',
    publicKey: point(deviceKey.publicKey),
    agreementKey: point(deviceKey.publicKey),
    agreementPeer: point(deviceKey.publicKey),
    sessionCertificate: Uint8Array.of(1),
    sessionAuthority: Uint8Array.of(1),
    certified,
    measurement: new Uint8Array(32) as Digest,
    issuedAtMs: 1_700_000_000_000,
  });
}

function digestOf(bytes: Uint8Array): Digest {
  const envelope = parseEnvelope(bytes);
  if (!envelope.ok) throw new Error('the fixture is no envelope');
  return messageDigest(envelope.value, nodeVerification.sha256);
}

function attestationOf(record: Uint8Array, authentication: 'signature' | 'mac'): Uint8Array {
  return byRole(ATTESTATION, {
    device,
    licensee,
    sequence: 1,
    digest: digestOf(record),
    recordType: 'batch-statistics',
    authentication,
    epoch: 1,
    attestedAtMs: 1_700_000_000_000,
  });
}

const signedRecord = signed(BATCH_STATISTICS, device, deviceKey.privateKey, statistics(1, NO_DIGEST));
const macMessage = unsealedMessage(BATCH_STATISTICS, 'mac', { holder: device, epoch: 1 }, statistics(1, NO_DIGEST));
const macRecord = seal(macMessage, hmacSha256(new Uint8Array(32), toBeAuthenticated(macMessage)));

let count = 0;
let folder = '';
beforeEach(() => {
  folder = join(root, String(count++));
  mkdirSync(folder);
});

/** Writes the files and examines those that are named. */
function examine(files: Readonly<Record<string, Uint8Array | string>>, ...named: string[]) {
  for (const [name, content] of Object.entries(files)) writeFileSync(join(folder, name), content);
  const paths = named.map((name) => join(folder, name));
  const evidence = new Evidence(bundle, paths);
  return { findings: paths.map((path) => evidence.examine(path)), broken: evidence.brokenLinks() };
}

describe('a signed record', () => {
  test('is verified with the certificate beside it, and told in words', () => {
    const { findings } = examine({ 'a.cose': signedRecord, 'device.cose': certificate('signature') }, 'a.cose');
    expect(findings[0]).toMatchObject({
      outcome: 'verified',
      type: 'batch-statistics',
      digest: digestText(digestOf(signedRecord)),
    });
    const words = contentText(findings[0]?.message);
    expect(words).toMatch(/declaration\.customer +alder-press/);
    expect(words).toMatch(/observed\.opened\.descendingMills +USD 10\.000/);
    expect(words).toMatch(/usps-fcm-letter +letter .* 2 +USD 1\.480/);
  });

  test('is refused without a certificate, with one of another issuer, and with any bit changed', () => {
    expect(examine({ 'a.cose': signedRecord }, 'a.cose').findings[0]?.code).toBe('unknown-device');
    const stranger = signed(
      DEVICE_CERTIFICATE,
      'issuing',
      generateSigningKey().privateKey,
      // The same words under another key.
      (() => {
        const evidence = examine({ 'c.cose': certificate('signature') }, 'c.cose').findings[0];
        return evidence?.message as never;
      })(),
    );
    rmSync(join(folder, 'c.cose'));
    expect(examine({ 'a.cose': signedRecord, 'd.cose': stranger }, 'a.cose').findings[0]?.code).toBe('unknown-device');
    writeFileSync(join(folder, 'd.cose'), certificate('signature'));
    for (const at of [0, 3, 60, 200, signedRecord.length - 1]) {
      const altered = Uint8Array.from(signedRecord);
      altered[at] = (altered[at] ?? 0) ^ 1;
      expect(examine({ 'b.cose': altered }, 'b.cose').findings[0]?.outcome, `bit of byte ${at}`).toBe('refused');
    }
    expect(examine({ 'b.cose': signedRecord.subarray(0, 300) }, 'b.cose').findings[0]?.outcome).toBe('refused');
  });

  test('that contradicts itself is refused though its signature is good', () => {
    const wrong = signed(BATCH_STATISTICS, device, deviceKey.privateKey, statistics(1, NO_DIGEST, 3));
    const { findings } = examine({ 'a.cose': wrong, 'device.cose': certificate('signature') }, 'a.cose');
    expect(findings[0]).toMatchObject({ outcome: 'refused', code: 'inconsistent' });
  });
});

describe('a record with a MAC', () => {
  test('is attested by its attestation beside it, and that is said', () => {
    const files = { 'a.cose': macRecord, 'at.cose': attestationOf(macRecord, 'mac'), 'd.cose': certificate('mac') };
    const { findings } = examine(files, 'a.cose');
    expect(findings[0]).toMatchObject({ outcome: 'attested' });
    expect(findings[0]?.words).toContain('only its attestation was verified');
  });

  test('is refused without an attestation, and with that of another record', () => {
    const files = { 'a.cose': macRecord, 'd.cose': certificate('mac') };
    expect(examine(files, 'a.cose').findings[0]).toMatchObject({ outcome: 'refused', code: 'mac-needs-attestation' });
    const other = examine({ 'at.cose': attestationOf(signedRecord, 'mac') }, 'a.cose');
    // Signature and MAC have different protected headers, so even the same statistics have another digest.
    expect(other.findings[0]).toMatchObject({ outcome: 'refused', code: 'mac-needs-attestation' });
  });

  test('is refused where its device is enrolled with signatures', () => {
    const files = {
      'a.cose': macRecord,
      'at.cose': attestationOf(macRecord, 'mac'),
      'd.cose': certificate('signature'),
    };
    expect(examine(files, 'a.cose').findings[0]).toMatchObject({ outcome: 'refused', code: 'wrong-algorithm' });
  });
});

describe('other files', () => {
  const confirmation = byRole(CONFIRMATION, {
    device,
    licensee,
    sequence: 1,
    digest: digestOf(signedRecord),
    confirmedAtMs: 1_700_000_000_000,
  });

  test('a confirmation, a certificate, a bundle', () => {
    const files = {
      'c.cose': confirmation,
      'd.cose': certificate('signature'),
      'trust-bundle.json': formatTrustBundle(bundle),
    };
    const { findings } = examine(files, 'c.cose', 'd.cose', 'trust-bundle.json');
    expect(findings.map(({ outcome }) => outcome)).toEqual(['verified', 'verified', 'skipped']);
    expect(contentText(findings[0]?.message)).toMatch(/confirmedAtMs +2023-11-14 22:13:20 UTC/);
  });

  test('a confirmation under another role of the same party is refused', () => {
    const wrong = signed(CONFIRMATION, 'attesting', keys.attesting.privateKey, {
      device,
      licensee,
      sequence: 1,
      digest: digestOf(signedRecord),
      confirmedAtMs: 1,
    });
    expect(examine({ 'c.cose': wrong }, 'c.cose').findings[0]).toMatchObject({
      outcome: 'refused',
      code: 'unknown-key',
    });
  });

  test('a grant of more than its entitlement less what was granted before is refused though it is signed', () => {
    const grant = (amount: bigint): Uint8Array =>
      byRole(DISCOUNT_GRANT, {
        programme: 'demo-bands-on-number' as ProgrammeId,
        programmeVersion: 1,
        licensee,
        period: '2026-11-22',
        revision: 2,
        amountMills: mills(amount),
        entitlementMills: mills(300n),
        grantedBeforeMills: mills(100n),
        reasons: ['Because.'],
        evidence: [digestOf(signedRecord)],
        previous: digestOf(signedRecord),
        currency,
        demonstration: true,
        grantedAtMs: 1,
      });
    const { findings } = examine({ 'a.cose': grant(200n), 'b.cose': grant(300n) }, 'a.cose', 'b.cose');
    expect(findings.map(({ outcome }) => outcome)).toEqual(['verified', 'refused']);
  });

  test('what is no message, not there, or too large', () => {
    const { findings } = examine(
      { 'a.txt': 'hello', 'b.json': '{}', 'c.bin': new Uint8Array(1_100_000) },
      'a.txt',
      'b.json',
      'c.bin',
      'missing',
    );
    expect(findings.map(({ outcome, code }) => `${outcome} ${code ?? ''}`)).toEqual([
      'refused envelope-malformed',
      'refused envelope-malformed',
      'refused file-unreadable',
      'refused file-unreadable',
    ]);
  });
});

describe('records given together', () => {
  test('must form the chain of their device', () => {
    const second = signed(BATCH_STATISTICS, device, deviceKey.privateKey, statistics(2, digestOf(signedRecord)));
    const stray = signed(BATCH_STATISTICS, device, deviceKey.privateKey, statistics(2, NO_DIGEST));
    const files = { 'd.cose': certificate('signature'), '1.cose': signedRecord, '2.cose': second, '2b.cose': stray };
    expect(examine(files, '1.cose', '2.cose').broken).toEqual([]);
    expect(examine(files, '1.cose', '2b.cose').broken).toHaveLength(1);
    expect(examine(files, '1.cose', '2.cose', '2b.cose').broken).toHaveLength(2);
  });
});

test('the bundle beside the files comes before that of the data folder', () => {
  const data = join(folder, 'data');
  mkdirSync(data);
  writeFileSync(join(data, 'trust-bundle.json'), formatTrustBundle(bundle));
  const beside = findTrustBundle(undefined, [join(folder, 'a.cose')], data);
  expect(beside.ok && beside.value.file).toBe(join(data, 'trust-bundle.json'));
  writeFileSync(join(folder, 'trust-bundle.json'), formatTrustBundle(bundle));
  const nearer = findTrustBundle(undefined, [join(folder, 'a.cose')], data);
  expect(nearer.ok && nearer.value.file).toBe(join(folder, 'trust-bundle.json'));
  expect(findTrustBundle(join(folder, 'none.json'), [], data).ok).toBe(false);
});

test('a certified device is found wherever its certificate lies', () => {
  mkdirSync(join(folder, 'host', 'deep'), { recursive: true });
  writeFileSync(join(folder, 'host', 'deep', 'd.cose'), certificate('signature'));
  expect(certifiedDevices(folder)).toEqual([]);
  writeFileSync(join(folder, 'host', 'deep', 'e.cose'), certificate('signature', true));
  expect(certifiedDevices(folder)).toEqual([device]);
});
