/**
 * Caps on funds that the cryptographic device keeps itself: what a server could have signed for an authentic request, whatever its ledger says.
 *
 * Guarantees that one grant, and the grants to one device within a day by this device's clock, stay within them; they are in this device's own
 * configuration and register, which the server cannot change. Does not bound what all devices get together: each needs its own
 * authentic request.
 */
import { parseEnvelope } from '@countermark/protocol/cose';
import type { DeviceId } from '@countermark/protocol/id';
import { parsePayload } from '@countermark/protocol/message';
import { FUNDS_GRANT } from '@countermark/protocol/messages/funds';
import type { DeviceRegister } from './device-register.ts';

export type FundsCaps = {
  /** In one grant, credits included. */
  readonly highestGrantMills: bigint;
  /** To one device within 24 hours. */
  readonly highestDailyMills: bigint;
};

const DAY_MS = 86_400_000;

/** Why a grant of this amount to the device would be beyond the caps, beginning with its code; undefined where it is within. */
export function beyondCaps(
  { highestGrantMills, highestDailyMills }: FundsCaps,
  register: Pick<DeviceRegister, 'fundsGrant' | 'lastFundsNumber'>,
  device: DeviceId,
  amountMills: bigint,
  nowMs: number,
): string | undefined {
  if (amountMills > highestGrantMills) {
    return `funds-limit: the cryptographic device signs at most ${highestGrantMills} mills in one grant`;
  }
  let grantedMills = amountMills;
  for (let number = register.lastFundsNumber(device); number > 0; number -= 1) {
    const stored = register.fundsGrant(device, number);
    const envelope = stored === null ? null : parseEnvelope(stored.grant);
    const grant = envelope?.ok === true ? parsePayload(FUNDS_GRANT, envelope.value) : null;
    // Numbers that were refused by other means have none.
    if (grant?.ok !== true) continue;
    if (grant.value.grantedAtMs <= nowMs - DAY_MS) break;
    grantedMills += grant.value.amountMills;
    if (grantedMills > highestDailyMills) {
      return `funds-limit: the cryptographic device signs at most ${highestDailyMills} mills a day for one device`;
    }
  }
  return undefined;
}
