/**
 * What must hold of credits at every moment (invariants 7 and 10): each is booked to the customer that the authority granted it to, and
 * drawn by that customer's own postage only, each mill of postage and of credit once, in batches opened after it was booked.
 *
 * Guarantees that the ledger's entries, which nothing ever changes, are compared with what the authority signed, with the records as their
 * devices sealed them, and with when batches were opened in the world's own time, never with the ledger's other tables.
 */
import { parseEnvelope } from '@countermark/protocol/cose';
import { parsePayload } from '@countermark/protocol/message';
import { CREDIT_GRANT } from '@countermark/protocol/messages/grant';
import type { Observation } from './observation.ts';
import { STORE } from './parties.ts';
import type { World } from './world.ts';

type Credit = { readonly account: string; readonly bookedAtMs: number; leftMills: bigint };
type LineRow = {
  readonly number: bigint;
  readonly ref: string;
  readonly account: string;
  readonly amount_mills: bigint;
  readonly at_ms: bigint;
};

export class Credits {
  readonly #world: World;
  readonly #seen: Observation;
  #entry = 0n;
  /** By the digest of the grant. */
  readonly #credits = new Map<string, Credit>();
  /** Postage that has drawn nothing yet, by the digest of the record. */
  readonly #postageMills = new Map<string, bigint>();

  constructor(world: World, seen: Observation) {
    this.#world = world;
    this.#seen = seen;
  }

  /** The server's database was replaced by an older copy: its entries are read again. */
  putBack(): void {
    this.#entry = 0n;
    this.#credits.clear();
    this.#postageMills.clear();
  }

  /** Looks at the entries that are new. */
  look(): void {
    const rows = this.#world.disks.rows<LineRow>(
      STORE.server,
      `SELECT e.number, e.ref, e.at_ms, l.account, l.amount_mills FROM entry e JOIN entry_line l ON l.entry = e.number
       WHERE e.number > ? AND e.kind IN ('credit', 'draw') AND l.account LIKE 'credit:%' ORDER BY e.number`,
      this.#entry,
    );
    for (const row of rows) {
      this.#entry = row.number;
      const [what, digest = '', grant = ''] = row.ref.split(':');
      if (what === 'grant') this.#booked(digest, row);
      else this.#drawn(digest, grant, row);
    }
  }

  #booked(digest: string, { account, amount_mills: amountMills, at_ms: atMs }: LineRow): void {
    const [stored] = this.#world.disks.rows<{ readonly grant_bytes: Buffer }>(
      STORE.server,
      'SELECT grant_bytes FROM booked_grant WHERE digest = ?',
      Buffer.from(digest, 'hex'),
    );
    const envelope = parseEnvelope(stored?.grant_bytes ?? new Uint8Array());
    const grant = envelope.ok ? parsePayload(CREDIT_GRANT, envelope.value) : envelope;
    if (!grant.ok) {
      this.#violated(`${account} was credited without a grant`);
      return;
    }
    const own = accountOf(grant.value);
    if (account !== own) this.#violated(`${account} was credited what ${own} was granted`);
    if (amountMills > grant.value.entitlementMills)
      this.#violated(`${account} was credited more than it is entitled to`);
    this.#world.count('credit: granted');
    this.#credits.set(digest, { account: own, bookedAtMs: Number(atMs), leftMills: amountMills });
  }

  #drawn(digest: string, grant: string, { account, amount_mills: amountMills }: LineRow): void {
    const drawnMills = -amountMills;
    const credit = this.#credits.get(grant);
    const statistics = this.#seen.sealed.get(digest)?.statistics;
    if (credit === undefined || statistics == null || drawnMills <= 0n) {
      this.#violated(
        `${account} drew ${drawnMills} of ${grant.slice(0, 12)} by ${digest.slice(0, 12)}, which is nothing`,
      );
      return;
    }
    this.#world.count('credit: drawn');
    const { licensee, declaration, observed } = statistics;
    const own = accountOf({ licensee, customer: declaration.customer });
    if (account !== own || credit.account !== own) {
      this.#violated(`the credit of ${credit.account} was drawn from ${account} by the postage of ${own}`);
    }
    credit.leftMills -= drawnMills;
    if (credit.leftMills < 0n) this.#violated(`${account} drew ${-credit.leftMills} more than it was credited`);
    const { opened, closed, openedAfterMs } = observed;
    const postageMills = this.#postageMills.get(digest) ?? closed.ascendingMills - opened.ascendingMills;
    this.#postageMills.set(digest, postageMills - drawnMills);
    if (postageMills < drawnMills) this.#violated(`the postage of ${digest.slice(0, 12)} drew more than it is`);
    // Where a clock is wrong the parties cannot know better; without the device's word, when it was logged stands for when it was opened.
    const openedAtMs = this.#seen.opened.get(declaration.batch);
    if (openedAfterMs === undefined || openedAtMs === undefined || this.#clocksWrong()) return;
    this.#world.count('credit: drawn by a batch whose opening was seen');
    if (openedAtMs < credit.bookedAtMs)
      this.#violated(`${account} drew by ${declaration.batch}, which was opened before`);
  }

  #clocksWrong(): boolean {
    const { counts } = this.#world;
    return counts.has('fault: clocks skewed') || counts.has('fault: clocks jump by years');
  }

  #violated(what: string): void {
    this.#world.violated('credits', what);
  }
}

function accountOf({
  licensee,
  customer,
}: {
  readonly licensee: string;
  readonly customer?: string | undefined;
}): string {
  return customer === undefined ? `credit:${licensee}` : `credit:${licensee}:${customer}`;
}
