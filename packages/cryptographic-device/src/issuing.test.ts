/** What is issued stands on signed bytes of an enrolled device, never on the word of whoever asks. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ManualClock } from '@countermark/node-platform/manual-clock';
import { generateSigningKey, publicKeyBytes, signP1363 } from '@countermark/node-platform/signing';
import { parseEnvelope, seal, toBeAuthenticated } from '@countermark/protocol/cose';
import { digestOf, NO_DIGEST } from '@countermark/protocol/digest';
import type { DeviceId, LicenseeId } from '@countermark/protocol/id';
import { type MessageType, parsePayload, unsealedMessage } from '@countermark/protocol/message';
import { DEVICE_CERTIFICATE, ENROLMENT_REQUEST, type EnrolmentRequest } from '@countermark/protocol/messages/enrolment';
import { FUNDS_GRANT, FUNDS_REQUEST } from '@countermark/protocol/messages/funds';
import { KEY_ROTATION, ROTATION_REQUEST } from '@countermark/protocol/messages/key-rotation';
import { MAX_MILLS, type Mills, mills } from '@countermark/protocol/money';
import { NO_FUNDS, ZERO_REGISTERS } from '@countermark/protocol/registers';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Authentication } from './authentication.ts';
import { type DeviceRegister, openDeviceRegister } from './device-register.ts';
import { Issuing } from './issuing.ts';
import type { KeyStore } from './key-store.ts';
import { openRoleKeys, publicKeysOf, type RoleKeys } from './role-keys.ts';
import { openSessionAuthority, type SessionAuthority } from './session-authority.ts';
import { openSoftwareKeys } from './software-keys.ts';

const DEVICE = 'psd_0123456789abcdef' as DeviceId;
const OURS = 'lic_ours' as LicenseeId;
const THEIRS = 'lic_theirs' as LicenseeId;
const NOTHING = { depositMills: 0n, draws: [] };

let folder: string;
let keys: KeyStore;
let roleKeys: RoleKeys;
let register: DeviceRegister;
let issuing: Issuing;
let sessionAuthority: SessionAuthority;
let clock: ManualClock;

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'issuing-'));
  const opened = openSoftwareKeys(join(folder, 'keys'), 1);
  if (!opened.ok) throw new Error(opened.rejection.code);
  keys = opened.value;
  const store = openDeviceRegister(folder, publicKeysOf(keys), () => undefined);
  if (!store.ok) throw new Error(store.rejection.code);
  register = store.value;
  clock = new ManualClock(Date.UTC(2026, 0, 1));
  const opening = openRoleKeys(keys, register, clock);
  if (!opening.ok) throw new Error(opening.rejection.code);
  roleKeys = opening.value;
  const authority = await openSessionAuthority({ keys, roleKeys, register, clock });
  if (!authority.ok) throw new Error(authority.rejection.code);
  sessionAuthority = authority.value;
  issuing = new Issuing(roleKeys, register, sessionAuthority, clock);
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

function enrolmentRequest(pair: Pair, epoch = 1, over: Partial<EnrolmentRequest> = {}): Uint8Array {
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
    ...over,
  });
}

/** The request for the next epoch's certificate: `used` speaks for the request that `next` has signed. */
function rotationRequest(used: Pair, next: Pair, epoch = 2, over: Partial<EnrolmentRequest> = {}): Uint8Array {
  return signed(ROTATION_REQUEST, used, epoch - 1, { device: DEVICE, request: enrolmentRequest(next, epoch, over) });
}

function fundsRequest(pair: Pair, licensee: LicenseeId, number = 1, epoch = 1): Uint8Array {
  return signed(FUNDS_REQUEST, pair, epoch, {
    device: DEVICE,
    licensee,
    number,
    amountMills: mills(1_000n),
    registers: ZERO_REGISTERS,
    funds: NO_FUNDS,
    currency: { code: 'USD', exponent: 3 },
  });
}

describe('A device that is enrolled', () => {
  it('is answered where only known ones are asked for; a new one is not, and is not registered by that', async () => {
    const pair = generateSigningKey();
    const refused = await issuing.enrol(enrolmentRequest(pair), OURS, false, true);
    expect(refused).toMatchObject({ ok: false, rejection: { code: 'enrolment-code-needed' } });
    const other = await issuing.enrol(enrolmentRequest(generateSigningKey()), OURS, false, true);
    expect(other).toMatchObject({ ok: false, rejection: { code: 'enrolment-code-needed' } });
    const certificate = await issuing.enrol(enrolmentRequest(pair), OURS, false);
    expect(await issuing.enrol(enrolmentRequest(pair), OURS, false, true)).toEqual(certificate);
    expect(await issuing.enrol(enrolmentRequest(pair), THEIRS, false, true)).toMatchObject({
      rejection: { code: 'device-enrolled' },
    });
  });

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
    // A device whose answer was lost asks with another nonce.
    const again = enrolmentRequest(pair, 1, { nonce: new Uint8Array(16).fill(9) });
    expect(await issuing.enrol(again, OURS, false)).toEqual(certificate);
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
    const draw = { amountMills: MAX_MILLS as Mills };
    expect(await issuing.fund(request, { ...NOTHING, draws: [draw, draw] })).toMatchObject({
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

describe('The caps that the device keeps itself', () => {
  const DAY_MS = 86_400_000;
  const granted = async (pair: Pair, number: number, draws: readonly bigint[], depositMills = 0n) => {
    const decision = { depositMills, draws: draws.map((amountMills) => ({ amountMills: amountMills as Mills })) };
    const grant = await issuing.fund(fundsRequest(pair, OURS, number), decision);
    if (!grant.ok) throw new Error(grant.rejection.code);
    const envelope = parseEnvelope(grant.value);
    const message = envelope.ok ? parsePayload(FUNDS_GRANT, envelope.value) : envelope;
    if (!message.ok) throw new Error(message.rejection.code);
    const { amountMills, refusal } = message.value;
    return refusal === undefined ? amountMills : refusal.split(':', 1)[0];
  };

  it('bound one grant and those of a day, whatever the server decides, and are over after a day', async () => {
    issuing = new Issuing(roleKeys, register, sessionAuthority, clock, {
      highestGrantMills: 900n,
      highestDailyMills: 1_500n,
    });
    const pair = generateSigningKey();
    await issuing.enrol(enrolmentRequest(pair), OURS, false);
    expect(await granted(pair, 1, [], 901n)).toBe('funds-limit');
    expect(await granted(pair, 2, [], 900n)).toBe(900n);
    clock.advance(1_000);
    // Credits count, too; numbers may be left out.
    expect(await granted(pair, 5, [301n], 300n)).toBe('funds-limit');
    expect(await granted(pair, 6, [300n], 300n)).toBe(600n);
    expect(await granted(pair, 7, [], 1n)).toBe('funds-limit');
    clock.advance(DAY_MS - 1_000);
    expect(await granted(pair, 8, [], 901n)).toBe('funds-limit');
    expect(await granted(pair, 9, [], 900n)).toBe(900n);
    expect(await granted(pair, 10, [], 1n)).toBe('funds-limit');
  });
});

describe('A device that is withdrawn', () => {
  it('gets the same word at every repeat, and no funds, no release and no further key, whatever the server says', async () => {
    const [pair, next] = [generateSigningKey(), generateSigningKey()];
    await issuing.enrol(enrolmentRequest(pair), OURS, false);
    const suspended = await issuing.suspend(DEVICE, OURS, { suspended: true, reason: 'a fork' });
    expect(await issuing.suspend(DEVICE, OURS, { suspended: false, reason: '' })).toMatchObject({ ok: true });
    const copied = { suspended: true, reason: 'copied', withdrawn: true };
    const withdrawn = await issuing.suspend(DEVICE, OURS, copied);
    expect(withdrawn.ok).toBe(true);
    expect(withdrawn).not.toEqual(suspended);
    expect(await issuing.suspend(DEVICE, OURS, { ...copied, reason: 'something else' })).toEqual(withdrawn);
    expect(await issuing.suspend(DEVICE, OURS, { suspended: true, reason: 'a fork' })).toEqual(withdrawn);
    const refused = { ok: false, rejection: { code: 'device-withdrawn' } };
    expect(await issuing.suspend(DEVICE, OURS, { suspended: false, reason: '' })).toMatchObject(refused);
    expect(await issuing.enrol(rotationRequest(pair, next), OURS, false)).toMatchObject(refused);
    const granted = await issuing.fund(fundsRequest(pair, OURS), { ...NOTHING, depositMills: 1_000n });
    const envelope = granted.ok ? parseEnvelope(granted.value) : granted;
    const grant = envelope.ok ? parsePayload(FUNDS_GRANT, envelope.value) : envelope;
    expect(grant).toMatchObject({
      value: { amountMills: 0n, refusal: expect.stringMatching(/^device-withdrawn: /) as string },
    });
  });
});

describe('The certificate of a further epoch', () => {
  const ours = generateSigningKey();
  const next = generateSigningKey();
  const code = (result: { ok: boolean; rejection?: { code: string } }) => (result.ok ? 'ok' : result.rejection?.code);
  const enrol = (request: Uint8Array, licensee = OURS) => issuing.enrol(request, licensee, false);

  beforeEach(async () => {
    expect(code(await enrol(enrolmentRequest(ours)))).toBe('ok');
  });

  it('is issued on the word of the key in use and of the new one, and says so of the new one', async () => {
    const issued = await enrol(rotationRequest(ours, next));
    if (!issued.ok) throw new Error(issued.rejection.code);
    const envelope = parseEnvelope(issued.value);
    const certificate = envelope.ok ? parsePayload(DEVICE_CERTIFICATE, envelope.value) : envelope;
    expect(certificate).toMatchObject({ ok: true, value: { device: DEVICE, licensee: OURS, epoch: 2 } });
    expect(register.certificate(DEVICE, 1)).not.toBeNull();
    expect(Buffer.from(register.certificate(DEVICE, 2)?.message.publicKey ?? [])).toEqual(
      Buffer.from(publicKeyBytes(next.publicKey)),
    );
  });

  it('is the same for the same keys, in whatever request they are asked for again', async () => {
    const issued = await enrol(rotationRequest(ours, next));
    expect(await enrol(rotationRequest(ours, next, 2, { nonce: new Uint8Array(16).fill(1) }))).toEqual(issued);
    // The old key may be gone by then: nothing new is certified.
    expect(await enrol(enrolmentRequest(next, 2))).toEqual(issued);
    expect(code(await enrol(rotationRequest(ours, generateSigningKey())))).toBe('device-enrolled');
    expect(code(await enrol(rotationRequest(ours, next, 2, { sessionKey: publicKeyBytes(ours.publicKey) })))).toBe(
      'device-enrolled',
    );
  });

  it('is refused where either key did not sign, or the two do not belong together', async () => {
    const stranger = generateSigningKey();
    const inner = enrolmentRequest(next, 2);
    const forged = enrolmentRequest(next, 2).slice();
    forged[forged.length - 1]! ^= 1;
    const others = 'psd_ffffffffffffffff' as DeviceId;
    for (const [request, refusal] of [
      [inner, 'device-enrolled'],
      [rotationRequest(stranger, next), 'bad-authenticator'],
      [signed(ROTATION_REQUEST, ours, 1, { device: DEVICE, request: forged }), 'bad-authenticator'],
      [signed(ROTATION_REQUEST, ours, 2, { device: DEVICE, request: enrolmentRequest(next, 3) }), 'unknown-device'],
      [signed(ROTATION_REQUEST, ours, 1, { device: DEVICE, request: enrolmentRequest(next, 3) }), 'enrolment-mismatch'],
      [signed(ROTATION_REQUEST, ours, 1, { device: DEVICE, request: enrolmentRequest(next, 1) }), 'enrolment-mismatch'],
      [signed(ROTATION_REQUEST, ours, 1, { device: others, request: inner }), 'wrong-device'],
      [rotationRequest(ours, next, 2, { memory: 'host' }), 'enrolment-mismatch'],
      [rotationRequest(ours, next, 2, { authentication: 'mac' }), 'enrolment-mismatch'],
    ] as const) {
      expect(code(await enrol(request))).toBe(refusal);
    }
    expect(code(await enrol(rotationRequest(ours, next), THEIRS))).toBe('device-enrolled');
    expect(register.lastEpoch(DEVICE)).toBe(1);
    expect(code(await enrol(rotationRequest(ours, next)))).toBe('ok');
  });

  it('follows the last epoch only: a key that gave way speaks for no other', async () => {
    await enrol(rotationRequest(ours, next));
    const third = generateSigningKey();
    expect(code(await enrol(rotationRequest(ours, third, 2)))).toBe('device-enrolled');
    expect(code(await enrol(rotationRequest(next, third, 3)))).toBe('ok');
    expect(register.lastEpoch(DEVICE)).toBe(3);
  });

  it('is issued once where two ask at the same moment', async () => {
    const asked = await Promise.all([
      enrol(rotationRequest(ours, next)),
      enrol(rotationRequest(ours, generateSigningKey())),
    ]);
    expect(asked.map(code).sort()).toEqual(['device-enrolled', 'ok']);
  });

  it('takes from the old key the right to ask for funds once the rotation to it was attested, and not before', async () => {
    await enrol(rotationRequest(ours, next));
    const authentication = new Authentication(keys, roleKeys, register, new ManualClock(Date.UTC(2026, 0, 1)));
    expect(code(await issuing.fund(fundsRequest(ours, OURS, 1), NOTHING))).toBe('ok');
    const rotation = (newCertificate = register.certificate(DEVICE, 2)!.digest) =>
      signed(KEY_ROTATION, ours, 1, {
        device: DEVICE,
        licensee: OURS,
        sequence: 1,
        previous: NO_DIGEST,
        newEpoch: 2,
        newCertificate,
        registers: ZERO_REGISTERS,
        funds: NO_FUNDS,
      });
    // To another certificate than that of its epoch nobody goes over.
    await authentication.authenticate([rotation(NO_DIGEST)]);
    expect(register.epochInUse(DEVICE)).toBe(0);
    const [attested] = await authentication.authenticate([rotation()]);
    expect(attested?.ok).toBe(true);
    expect(code(await issuing.fund(fundsRequest(ours, OURS, 2), NOTHING))).toBe('superseded-key');
    // What was granted before is answered as before, and the new key goes on with the numbers.
    expect(code(await issuing.fund(fundsRequest(ours, OURS, 1), NOTHING))).toBe('ok');
    expect(code(await issuing.fund(fundsRequest(next, OURS, 2, 2), NOTHING))).toBe('ok');
  });
});
