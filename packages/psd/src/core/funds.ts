/**
 * Funds: one request pending at a time, granted at most once.
 *
 * Guarantees: while a request is pending it stays the one that is asked, whatever amount is named; a grant counts only
 * for the pending number, with the cumulative total that the device reckons itself, and within the policy's ceiling; a
 * refusal clears the number and adds nothing.
 */
import { sameBytes } from '@countermark/protocol/digest';
import { unsealedMessage } from '@countermark/protocol/message';
import { FUNDS_REQUEST, type FundsGrant } from '@countermark/protocol/messages/funds';
import type { Policy } from '@countermark/protocol/messages/policy';
import { type Mills, mills } from '@countermark/protocol/money';
import { inCurrency, type Rejection, rejection } from '@countermark/protocol/rejection';
import { accept, refuse } from '@countermark/protocol/result';
import type { Verified } from '@countermark/verify/verified';
import type { DeviceState } from './state.ts';
import { notEnrolled, operational, type Stepped } from './transition.ts';

/** Asks for funds, or leaves the pending request as it is. Rejections: `wrong-state`, `funds-limit`. */
export function requestFunds(state: DeviceState, amountMills: Mills): Stepped {
  const device = operational(state);
  if (device === null) return refuse(notEnrolled(state, 'funds-request'));
  if (state.pendingFunds !== null) return accept({ state, effects: [] });
  const over = beyondCeiling(state, device.policy, amountMills);
  if (over !== null) return refuse(over);
  const number = state.lastFundsNumber + 1;
  const { identity, policy, certificate } = device;
  const unsealed = unsealedMessage(
    FUNDS_REQUEST,
    'signature',
    { holder: identity.device, epoch: identity.epoch },
    {
      device: identity.device,
      licensee: certificate.licensee,
      number,
      amountMills,
      registers: state.registers,
      funds: state.funds,
      currency: policy.currency,
    },
  );
  return accept({
    state: { ...state, lastFundsNumber: number, pendingFunds: { number, amountMills } },
    effects: [{ kind: 'request-funds', unsealed, number, amountMills }],
  });
}

/**
 * Books a grant. The last one again is without effect.
 * Rejections: `wrong-state`, `wrong-device`, `enrolment-mismatch`, `wrong-funds-grant`, `funds-total-mismatch`, `funds-limit`.
 */
export function bookFunds(state: DeviceState, grant: Verified<FundsGrant>): Stepped {
  const enrolled = operational(state);
  if (enrolled === null) return refuse(notEnrolled(state, 'funds-grant'));
  const { device, licensee, number, amountMills, receivedMills, refusal, currency } = grant.message;
  if (device !== enrolled.device) {
    return refuse(rejection('wrong-device', { type: 'funds-grant', device, expected: enrolled.device }));
  }
  if (licensee !== enrolled.certificate.licensee) return refuse(mismatch('licensee'));
  const ours = enrolled.policy.currency;
  if (currency.code !== ours.code || currency.exponent !== ours.exponent) return refuse(mismatch('currency'));
  if (state.pendingFunds?.number !== number) {
    const again = state.lastGrantDigest !== null && sameBytes(state.lastGrantDigest, grant.digest);
    if (again) return accept({ state, effects: [] });
    const expected = state.pendingFunds?.number ?? 'none';
    return refuse(rejection('wrong-funds-grant', { number, expected }));
  }
  const added = refusal === undefined ? amountMills : 0n;
  const total = state.funds.receivedMills + added;
  if (receivedMills !== total || (refusal !== undefined && amountMills !== 0n)) {
    return refuse(
      rejection('funds-total-mismatch', {
        actualMills: String(total),
        saidMills: String(receivedMills),
        ...inCurrency(ours),
      }),
    );
  }
  const over = beyondCeiling(state, enrolled.policy, added);
  if (over !== null) return refuse(over);
  const { registers, funds } = state;
  return accept({
    state: {
      ...state,
      pendingFunds: null,
      lastGrantDigest: grant.digest,
      registers: { ...registers, descendingMills: mills(registers.descendingMills + added) },
      funds: {
        ...funds,
        receivedMills: mills(total),
        lastGrant: refusal === undefined ? number : funds.lastGrant,
      },
    },
    effects: [],
  });
}

/** Nothing added is never too much, whatever the device holds. */
function beyondCeiling(
  state: DeviceState,
  { highestFundsMills, currency }: Policy,
  amountMills: bigint,
): Rejection | null {
  const total = state.registers.descendingMills + amountMills;
  if (amountMills === 0n || total <= highestFundsMills) return null;
  return rejection('funds-limit', {
    amountMills: String(amountMills),
    totalMills: String(total),
    limitMills: String(highestFundsMills),
    ...inCurrency(currency),
  });
}

function mismatch(what: string): Rejection {
  return rejection('enrolment-mismatch', { type: 'funds-grant', what });
}
