/**
 * A grant as an authority would make it, for tests that need its amount and its beneficiary only.
 */
import { digestOf } from '@countermark/protocol/digest';
import type { CustomerId, LicenseeId, ProgrammeId } from '@countermark/protocol/id';
import type { Grant } from '@countermark/protocol/messages/grant';
import { mills } from '@countermark/protocol/money';

/** A grant of all of its entitlement, under a programme of its own. */
export function grantOf(of: string, customer: CustomerId | undefined, amountMills: bigint, revision = 1): Grant {
  return {
    programme: 'test' as ProgrammeId,
    programmeVersion: 1,
    licensee: of as LicenseeId,
    ...(customer === undefined ? {} : { customer }),
    period: '2026',
    revision,
    amountMills: mills(amountMills),
    entitlementMills: mills(amountMills),
    grantedBeforeMills: mills(0n),
    reasons: ['a test'],
    evidence: [digestOf(new Uint8Array(32))],
    currency: { code: 'USD', exponent: 3 },
    demonstration: true,
    grantedAtMs: 1,
  };
}
