/**
 * What a mailing would earn by the programmes that the authority publishes, if it were the only one of its period.
 *
 * The authority grants by the same reckoning (`tariff`), over everything that it has accepted of the period: a customer's earlier
 * batches can only raise what is shown here.
 */
import type { CustomerId, LicenseeId } from '@countermark/protocol/id';
import type { Currency } from '@countermark/protocol/money';
import { parseProgramme, type Programme } from '@countermark/tariff/programme';
import { type ProgrammeCell, reckon } from '@countermark/tariff/programme-reckoning';
import type { RunCell } from './journal-rows.ts';
import type { GroupTotal } from './staging.ts';

export type MailingCells = {
  readonly groups: readonly GroupTotal[];
  readonly cells: readonly RunCell[];
  readonly mailingDate: string;
  readonly licensee: LicenseeId;
  readonly submitter: string;
  readonly preparer: string;
  readonly authentication: 'signature' | 'mac';
  readonly specimen: boolean;
  readonly currency: Currency;
};

/** Programmes of the answer of `GET /v1/programmes`; those that this version cannot read are left out. */
export function programmesOf(answer: unknown): Programme[] {
  const { programmes } = (answer ?? {}) as { programmes?: unknown };
  if (!Array.isArray(programmes)) return [];
  return programmes.flatMap((one) => {
    const parsed = parseProgramme(JSON.stringify(one));
    return parsed.ok ? [parsed.programme] : [];
  });
}

/** Discounts by customer (null: the licensee), in mills. */
export function expectedDiscounts(
  programmes: readonly Programme[],
  mailing: MailingCells,
): ReadonlyMap<string | null, bigint> {
  const cells = mailing.groups.flatMap((group) =>
    [...group.cells].map(([number, pieces]): ProgrammeCell => {
      const cell = mailing.cells[number] as RunCell;
      const { licensee, mailingDate, submitter, preparer, authentication, specimen, currency } = mailing;
      return {
        key: cell.key,
        licensee,
        customer: group.customer as CustomerId | null,
        mailingDate,
        submitter,
        preparer,
        authentication,
        specimen,
        currency,
        pieces,
        postageMills: cell.affixedMills * BigInt(pieces),
        declaredMills: cell.declaredMills * BigInt(pieces),
      };
    }),
  );
  const sums = new Map<string | null, bigint>();
  for (const programme of programmes) {
    if (programme.kind !== 'discount') continue;
    for (const { customer, entitlementMills } of reckon(programme, cells)) {
      sums.set(customer, (sums.get(customer) ?? 0n) + entitlementMills);
    }
  }
  return sums;
}
