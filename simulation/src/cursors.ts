/**
 * What a cursor says has been done: the ledger has each record's postage once, the authority has what was delivered, the ledger has the
 * authority's grants (invariants 7 and 10).
 *
 * Guarantees that every record and grant that a cursor of the server passes is looked at in that commit, against what the devices sealed and
 * what the authority ever had.
 */
import { type Observation, statisticsOf } from './observation.ts';
import { STORE } from './parties.ts';
import type { World } from './world.ts';

type Follower = 'ledger' | 'delivery' | 'grants';

export class Cursors {
  readonly #world: World;
  readonly #seen: Observation;
  readonly #at = new Map<string, bigint>();

  constructor(world: World, seen: Observation) {
    this.#world = world;
    this.#seen = seen;
  }

  /**
   * The server's database was replaced by an older copy. Of which history of the authority its cursor of grants speaks shows when it asks the
   * authority; what it lacks in the end is in no balance (checkers.ts).
   */
  putBack(): void {
    this.#at.clear();
    const [copied] = this.#world.disks.rows<{ readonly cursor: bigint }>(
      STORE.server,
      "SELECT cursor FROM follower WHERE name = 'grants'",
    );
    if (copied !== undefined) this.#at.set('grants', copied.cursor);
  }

  /** Looks at what the cursors have passed since the last look. */
  look(): void {
    for (const { name, cursor } of this.#world.disks.rows<{ readonly name: string; readonly cursor: bigint }>(
      STORE.server,
      'SELECT name, cursor FROM follower',
    )) {
      const before = this.#at.get(name) ?? 0n;
      this.#at.set(name, cursor);
      if (cursor > before) this.#passed(name as Follower, before, cursor);
    }
  }

  #passed(name: Follower, after: bigint, through: bigint): void {
    if (name === 'ledger') this.#ledger(after, through);
    if (name === 'delivery') this.#delivery(after, through);
    if (name === 'grants') this.#grants(after, through);
  }

  #ledger(after: bigint, through: bigint): void {
    for (const { digest, record, booked } of this.#world.disks.rows<{
      readonly digest: Buffer;
      readonly record: Buffer;
      readonly booked: bigint | null;
    }>(
      STORE.server,
      `SELECT r.digest, r.record,
              (SELECT sum(l.amount_mills) FROM entry e JOIN entry_line l ON l.entry = e.number
               WHERE e.kind = 'postage' AND e.ref LIKE 'postage:' || hex(r.digest) || '%' AND l.account = 'device:' || r.device) AS booked
       FROM record r WHERE r.cursor > ? AND r.cursor <= ?`,
      after,
      through,
    )) {
      const observed = statisticsOf(record)?.observed;
      const postageMills =
        observed === undefined ? 0n : observed.closed.ascendingMills - observed.opened.ascendingMills;
      if (-(booked ?? 0n) !== postageMills) {
        this.#violated(`the ledger booked ${-(booked ?? 0n)} of the ${postageMills} mills of ${nameOf(digest)}`);
      }
    }
  }

  #delivery(after: bigint, through: bigint): void {
    // What the authority refuses for good is passed over.
    if (this.#world.counts.has('log: The authority refused a record')) return;
    for (const { digest } of this.#world.disks.rows<{ readonly digest: Buffer }>(
      STORE.server,
      'SELECT digest FROM record WHERE cursor > ? AND cursor <= ?',
      after,
      through,
    )) {
      const name = digest.toString('hex');
      if (!this.#seen.taken.has(name) && !this.#seen.withheld.has(name)) {
        this.#violated(`${nameOf(digest)} counts as delivered, and the authority never had it`);
      }
    }
  }

  /** An authority and a server that were both restored may have granted and booked the same entitlement under other cursors: then nothing is lost. */
  #grants(after: bigint, through: bigint): void {
    const { disks } = this.#world;
    for (const grant of disks.rows<{
      readonly digest: Buffer;
      readonly licensee: string;
      readonly customer: string;
      readonly programme: string;
      readonly version: bigint;
      readonly period: string;
      readonly entitlement_mills: bigint;
    }>(STORE.authority, 'SELECT * FROM issued_grant WHERE cursor > ? AND cursor <= ?', after, through)) {
      const [booked] = disks.rows(STORE.server, 'SELECT 1 FROM booked_grant WHERE digest = ?', grant.digest);
      if (booked !== undefined) continue;
      const { licensee, customer, programme, version, period } = grant;
      const [entitled] = disks.rows<{ readonly mills: bigint }>(
        STORE.server,
        `SELECT entitlement_mills AS mills FROM entitled
         WHERE licensee = ? AND customer = ? AND programme = ? AND version = ? AND period = ?`,
        licensee,
        customer,
        programme,
        version,
        period,
      );
      if ((entitled?.mills ?? 0n) < grant.entitlement_mills) {
        this.#violated(`the grant ${nameOf(grant.digest)} counts as booked, and is not`);
      }
    }
  }

  #violated(what: string): void {
    this.#world.violated('cursors', what);
  }
}

function nameOf(digest: Buffer): string {
  return digest.toString('hex').slice(0, 12);
}
