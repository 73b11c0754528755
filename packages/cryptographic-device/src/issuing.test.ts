/** What is issued stands on signed bytes of an enrolled device, never on the word of whoever asks. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ManualClock } from '@countermark/node-platform/manual-clock';
import { generateSigningKey, publicKeyBytes, signP1363 } from '@countermark/node-platform/signing';
import { seal, toBeAuthenticated } from '@countermark/protocol/cose';
import { digestOf } from '@countermark/protocol/digest';
import type { DeviceId, LicenseeId } from '@countermark/protocol/id';
import { type MessageType, unsealedMessage } from '@countermark/protocol/message';
import { ENROLMENT_REQUEST } from '@countermark/protocol/messages/enrolment';
import { FUNDS_REQUEST } from '@countermark/protocol/messages/funds';
import { mills } from '@countermark/protocol/money';
import { NO_FUNDS, ZERO_REGISTERS } from '@countermark/protocol/registers';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type DeviceRegister, openDeviceRegister } from './device-register.ts';
import { Issuing } from './issuing.ts';
import type { KeyStore } from './key-store.ts';
import { openSoftwareKeys } from './software-keys.ts';

const DEVICE = 'psd_0123456789abcdef' as DeviceId;
const OURS = 'lic_ours' as LicenseeId;
const THEIRS = 'lic_theirs' as LicenseeId;
const NOTHING = { depositMills: 0n, draws: [] };

let folder: string;
let keys: KeyStore;
let register: DeviceRegister;
let issuing: Issuing;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'issuing-'));
  const opened = openSoftwareKeys(join(folder, 'keys'), 1);
  if (!opened.ok) throw new Error(opened.rejection.code);
  keys = opened.value;
  const store = openDeviceRegister(
    folder,
    ({ holder }) =>
      holder === 'issuing' ? { publicKey: keys.publicKey('issuing'), authentication: 'signature' } : null,
    () => undefined,
  );
  if (!store.ok) throw new Error(store.rejection.code);
  register = store.value;
  issuing = new Issuing(keys, register, Uint8Array.of(1), new ManualClock(Date.UTC(2026, 0, 1)));
});
afterEach(async () => {
  register.close();
  await keys.close();
  rmSync(folder, { recursive: true });
});

type Pair = ReturnType<typeof generateSigningKey>;

function signed<T>(of: MessageType<T>, pair: Pair, epoch: number, value: T): Uint8Array {
  const unsealed = unsealedMessage(of, 'signature', { holder: DEVICE, epoch }, value);
  return seal(unsealed, signP1363(pair.privateKey, toBeAuthenticated(unsealed)));
}

function enrolmentRequest(pair: Pair, epoch = 1): Uint8Array {
  const point = publicKeyBytes(pair.publicKey);
  return signed(ENROLMENT_REQUEST, pair, epoch, {
    device: DEVICE,
    epoch,
    authentication: 'signature',
    memory: 'psd',
    publicKey: point,
    agreementKey: point,
    sessionKey: point,
    software: { version: '1', measurement: digestOf(new Uint8Array(32)) },
    nonce: new Uint8Array(16),
  });
}

function fundsRequest(pair: Pair, licensee: LicenseeId): Uint8Array {
  return signed(FUNDS_REQUEST, pair, 1, {
    device: DEVICE,
    licensee,
    number: 1,
    amountMills: mills(1_000n),
    registers: ZERO_REGISTERS,
    funds: NO_FUNDS,
    currency: { code: 'USD', exponent: 3 },
  });
}

describe('A device that is enrolled', () => {
  it('is not enrolled again with a key of somebody else, under whatever epoch and licensee', async () => {
    const pair = generateSigningKey();
    const certificate = await issuing.enrol(enrolmentRequest(pair), OURS, false);
    expect(certificate.ok).toBe(true);
    for (const epoch of [1, 2]) {
      for (const licensee of [OURS, THEIRS]) {
        expect(await issuing.enrol(enrolmentRequest(generateSigningKey(), epoch), licensee, false)).toMatchObject({
          ok: false,
          rejection: { code: 'device-enrolled' },
        });
      }
    }
    expect(await issuing.enrol(enrolmentRequest(pair), OURS, false)).toEqual(certificate);
  });

  it('is enrolled once where two ask at the same moment', async () => {
    const asked = await Promise.all([
      issuing.enrol(enrolmentRequest(generateSigningKey(), 1), OURS, false),
      issuing.enrol(enrolmentRequest(generateSigningKey(), 2), THEIRS, false),
    ]);
    expect(asked.filter(({ ok }) => ok)).toHaveLength(1);
  });

  it('is granted funds only for the licensee of its certificate', async () => {
    const pair = generateSigningKey();
    await issuing.enrol(enrolmentRequest(pair), OURS, false);
    expect(await issuing.fund(fundsRequest(pair, THEIRS), NOTHING)).toMatchObject({
      ok: false,
      rejection: { code: 'enrolment-mismatch' },
    });
    expect(await issuing.fund(fundsRequest(pair, OURS), NOTHING)).toMatchObject({ ok: true });
  });

  it('is granted no more from the deposit than it asks, and once for a number', async () => {
    const pair = generateSigningKey();
    await issuing.enrol(enrolmentRequest(pair), OURS, false);
    const request = fundsRequest(pair, OURS);
    expect(await issuing.fund(request, { ...NOTHING, depositMills: 1_001n })).toMatchObject({
      ok: false,
      rejection: { code: 'limit-exceeded' },
    });
    const [one, other] = await Promise.all([
      issuing.fund(request, { ...NOTHING, depositMills: 1_000n }),
      issuing.fund(request, { ...NOTHING, depositMills: 500n }),
    ]);
    expect(one.ok).toBe(true);
    expect(other).toEqual(one);
  });
});
