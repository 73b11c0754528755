/**
 * The desk of the grants: what the authority granted, as it was archived.
 *
 * Guarantees: only grants whose signature was checked are told of. Fetches none: `settlement` does.
 */
import { unhex } from '@countermark/protocol/id';
import type { GrantReport } from '@countermark/protocol/interfaces/host';
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import type { Journal } from './journal.ts';
import { grantReport } from './report.ts';

export class GrantsDesk {
  readonly #journal: Journal;

  constructor(journal: Journal) {
    this.#journal = journal;
  }

  list(): { readonly grants: readonly GrantReport[] } {
    return { grants: this.#journal.grants.all().map(grantReport) };
  }

  /** The grant with this digest, in hex. Rejection: `unknown-grant`. */
  show(digest: string): Result<GrantReport> {
    const bytes = unhex(digest);
    const row = bytes === null ? undefined : this.#journal.grants.get(bytes);
    return row === undefined ? refuse(rejection('unknown-grant', { grant: digest })) : accept(grantReport(row));
  }
}
