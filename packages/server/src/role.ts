/**
 * Roles: what somebody may ask, beside whose data it is.
 *
 * `bootstrap` is the credential that the server's configuration begins with; `host` a licensee's machine. The others are people's.
 */
import type { CustomerId, LicenseeId } from '@countermark/protocol/id';
import type { Actor } from './audit-trail.ts';

export const ROLES = ['bootstrap', 'operator', 'officer', 'auditor', 'customer', 'host'] as const;
export type Role = (typeof ROLES)[number];

/** Roles that a person can have. */
export const PERSON_ROLES = ['operator', 'officer', 'auditor', 'customer'] as const;
export type PersonRole = (typeof PERSON_ROLES)[number];

/** What the configured credentials may: they were there before there were people, and go on as they did. */
export const CONFIGURED_ROLES: readonly Role[] = ['operator', 'officer'];
export const BOOTSTRAP_ROLES: readonly Role[] = ['bootstrap', ...CONFIGURED_ROLES];

/** Who asks, as its credential says. */
export type Caller = {
  readonly actor: Actor;
  readonly roles: readonly Role[];
  /** Whose data alone they get; null: everybody's. */
  readonly licensee: LicenseeId | null;
  /** Of that licensee, whose data alone they get; null: all of it. */
  readonly customer: CustomerId | null;
};
