import { publicKeyBytes, generateSigningKey } from '@countermark/node-platform/signing';
import type { CustomerId, DeviceId, LicenseeId } from '@countermark/protocol/id';
import { DEVICE_CERTIFICATE, type DeviceCertificate } from '@countermark/protocol/messages/enrolment';
import { POLICY, type Policy, SIGNED_TIME } from '@countermark/protocol/messages/policy';
import { describe, expect, it } from 'vitest';
import { START_MS } from '../../testing/authority.ts';
import { CoreDevice, readyDevice } from '../../testing/core-device.ts';
import { stateName } from './policy.ts';

const code = (result: { ok: boolean; rejection?: { code: string } }) => (result.ok ? 'ok' : result.rejection?.code);
const otherPoint = () => publicKeyBytes(generateSigningKey().privateKey);

function installing(device: CoreDevice, certificate: Partial<DeviceCertificate>, policy: Partial<Policy> = {}) {
  const { authority, identity } = device;
  return device.try({
    kind: 'install',
    certificate: authority.verified(DEVICE_CERTIFICATE, authority.certificate(identity, certificate)),
    policy: authority.verified(POLICY, authority.policy(identity.device, policy)),
  });
}

describe('enrolment', () => {
  it('goes from keyed to operational, and is initialised once', () => {
    const device = new CoreDevice();
    expect(stateName(device.state)).toBe('keyed');
    device.enrol();
    expect(stateName(device.state)).toBe('operational');
    expect(stateName({ ...device.state, policy: null })).toBe('authorised');
    expect(() => device.do({ kind: 'initialise', identity: device.identity })).toThrow(/once/);
  });

  it.each<[string, Partial<DeviceCertificate>]>([
    ['wrong-device', { device: 'psd_ffffffffffffffff' as DeviceId }],
    ['enrolment-mismatch', { epoch: 2 }],
    ['enrolment-mismatch', { authentication: 'mac' }],
    ['enrolment-mismatch', { memory: 'psd' }],
    ['enrolment-mismatch', { publicKey: otherPoint() }],
    ['enrolment-mismatch', { agreementKey: otherPoint() }],
  ])('refuses with %s a certificate of %o', (expected, over) => {
    const device = new CoreDevice();
    expect(code(installing(device, over))).toBe(expected);
    expect(device.state.certificate).toBeNull();
  });

  it('takes from its certificate with whom it agrees codes, and keeps to that as long as its keys are in use', () => {
    const device = new CoreDevice();
    const named = { agreementPeer: otherPoint(), sessionAuthority: Uint8Array.of(0x31) };
    expect(code(installing(device, named))).toBe('ok');
    expect(device.state.certificate?.message).toMatchObject(named);
    expect(code(installing(device, { ...named, agreementPeer: otherPoint() }))).toBe('enrolment-mismatch');
    expect(code(installing(device, { ...named, sessionAuthority: Uint8Array.of(0x32) }))).toBe('ok');
  });

  it('keeps its licensee, takes the same again without effect, and a newer policy with new customers', () => {
    const device = readyDevice();
    const { certificate, policy } = device.state;
    const { state } = device;
    if (certificate === null || policy === null) throw new Error('not enrolled');
    device.do({ kind: 'install', certificate, policy });
    expect(device.state).toBe(state);
    const licensee = 'lic_other' as LicenseeId;
    expect(code(installing(device, { licensee }, { licensee }))).toBe('enrolment-mismatch');
    expect(code(installing(device, {}, { version: 2, customers: ['new'] as CustomerId[] }))).toBe('ok');
    expect(device.state.policy?.message.customers).toEqual(['new']);
    expect(code(installing(device, {}, { version: 1 }))).toBe('stale-policy');
    expect(code(installing(device, {}, { version: 2, warnAfterDays: 1 }))).toBe('stale-policy');
    expect(code(installing(device, {}, { version: 3, licensee }))).toBe('enrolment-mismatch');
    expect(code(installing(device, {}, { version: 3, currency: { code: 'EUR', exponent: 3 } }))).toBe(
      'enrolment-mismatch',
    );
    const device2 = 'psd_ffffffffffffffff' as DeviceId;
    expect(code(installing(device, {}, { version: 3, device: device2 }))).toBe('wrong-device');
  });
});

describe('signed time', () => {
  it('moves forward only; the same again is without effect', () => {
    const device = readyDevice();
    expect(code(device.time(START_MS - 1))).toBe('stale-time');
    const { state } = device;
    expect(code(device.time(START_MS))).toBe('ok');
    expect(device.state).toBe(state);
    expect(code(device.time(START_MS + 1))).toBe('ok');
    const time = device.authority.verified(SIGNED_TIME, {
      device: 'psd_ffffffffffffffff' as DeviceId,
      timeMs: START_MS + 9,
    });
    expect(code(device.try({ kind: 'time', time }))).toBe('wrong-device');
    expect(device.state.signedTimeMs).toBe(START_MS + 1);
  });
});
