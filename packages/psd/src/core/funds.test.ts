import type { DeviceId, LicenseeId } from '@countermark/protocol/id';
import { FUNDS_GRANT, type FundsGrant } from '@countermark/protocol/messages/funds';
import { mills } from '@countermark/protocol/money';
import { balanced } from '@countermark/protocol/registers';
import { describe, expect, it } from 'vitest';
import { CoreDevice } from '../../testing/core-device.ts';
import { batchNumbered, pieces } from '../../testing/mailing.ts';

const code = (result: { ok: boolean; rejection?: { code: string } }) => (result.ok ? 'ok' : result.rejection?.code);

function asked(device: CoreDevice, amountMills: bigint): Uint8Array {
  const [effect] = device.do({ kind: 'request-funds', amountMills: mills(amountMills) });
  if (effect?.kind !== 'request-funds') throw new Error('no request');
  return device.sealed(effect.unsealed);
}

function booking(device: CoreDevice, request: Uint8Array, over: Partial<FundsGrant> = {}) {
  const { authority } = device;
  return device.try({ kind: 'book-funds', grant: authority.verified(FUNDS_GRANT, authority.grant(request, over)) });
}

describe('funds', () => {
  it('are asked by one pending number, whatever is asked meanwhile, and granted once', () => {
    const device = new CoreDevice().enrol();
    const request = asked(device, 5_000n);
    const { state } = device;
    expect(device.do({ kind: 'request-funds', amountMills: mills(9n) })).toEqual([]);
    expect(device.state).toBe(state);
    expect(state.pendingFunds).toEqual({ number: 1, amountMills: 5_000n });
    const { authority } = device;
    const grant = authority.verified(FUNDS_GRANT, authority.grant(request));
    for (let i = 0; i < 3; i++) device.do({ kind: 'book-funds', grant });
    expect(device.state.registers.descendingMills).toBe(5_000n);
    expect(device.state.funds).toEqual({ receivedMills: 5_000n, returnedMills: 0n, lastGrant: 1 });
    expect(device.state.pendingFunds).toBeNull();
    asked(device, 0n);
    expect(device.state.pendingFunds?.number).toBe(2);
    device.do({ kind: 'book-funds', grant });
    expect(device.state.pendingFunds?.number).toBe(2);
    expect(balanced(device.state.registers, device.state.funds)).toBe(true);
  });

  it('that are refused clear the number and add nothing', () => {
    const device = new CoreDevice().enrol();
    const request = asked(device, 5_000n);
    const refusal = { amountMills: mills(0n), receivedMills: mills(0n), refusal: 'The deposit is empty.' };
    expect(code(booking(device, request, refusal))).toBe('ok');
    expect(device.state).toMatchObject({ pendingFunds: null, funds: { receivedMills: 0n, lastGrant: 0 } });
    asked(device, 1n);
    expect(device.state.pendingFunds?.number).toBe(2);
  });

  it.each<[string, Partial<FundsGrant>]>([
    ['wrong-device', { device: 'psd_ffffffffffffffff' as DeviceId }],
    ['enrolment-mismatch', { licensee: 'lic_other' as LicenseeId }],
    ['enrolment-mismatch', { currency: { code: 'EUR', exponent: 3 } }],
    ['wrong-funds-grant', { number: 2 }],
    ['funds-total-mismatch', { receivedMills: mills(5_001n) }],
    ['funds-total-mismatch', { amountMills: mills(4_999n) }],
    ['funds-total-mismatch', { refusal: 'no' }],
    ['funds-limit', { amountMills: mills(1_000_000_001n), receivedMills: mills(1_000_000_001n) }],
  ])('are refused with %s and stay pending', (expected, over) => {
    const device = new CoreDevice().enrol();
    const request = asked(device, 5_000n);
    const { state } = device;
    expect(code(booking(device, request, over))).toBe(expected);
    expect(device.state).toBe(state);
    expect(code(booking(device, request))).toBe('ok');
  });

  it('stay below the policy’s ceiling already when they are asked for; nothing asked is never too much', () => {
    const device = new CoreDevice().enrol({ highestFundsMills: mills(5_000n) });
    expect(code(device.try({ kind: 'request-funds', amountMills: mills(5_001n) }))).toBe('funds-limit');
    device.refill(5_000n);
    expect(code(device.try({ kind: 'request-funds', amountMills: mills(1n) }))).toBe('funds-limit');
    device.refill(0n);
    expect(device.state.funds.lastGrant).toBe(2);
  });

  it('need an enrolled device', () => {
    const device = new CoreDevice();
    expect(code(device.try({ kind: 'request-funds', amountMills: mills(1n) }))).toBe('wrong-state');
  });

  it('may come while a batch is open', () => {
    const device = new CoreDevice().enrol().refill(1_000n);
    device.open(batchNumbered(1));
    device.frank(batchNumbered(1), 0, pieces(1));
    device.refill(10_000n);
    device.frank(batchNumbered(1), 1, pieces(2));
    expect(device.finish(batchNumbered(1)).type).toBe('batch-statistics');
  });
});
