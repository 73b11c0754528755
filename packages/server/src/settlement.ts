/**
 * How far the records of a device have come: what a host waits for after its job.
 *
 * Guarantees that `evaluated` is said of a sequence only when its postage is booked, and every grant that rests on it.
 */
import { sha256 } from '@countermark/node-platform/verification';
import { messageDigest, parseEnvelope } from '@countermark/protocol/cose';
import { digestText } from '@countermark/protocol/digest';
import type { DeviceId, LicenseeId } from '@countermark/protocol/id';
import type { SqlDatabase } from '@countermark/sql/database';
import { DELIVERY_FOLLOWER } from './delivery-marks.ts';
import { EVALUATED_FOLLOWER, followerCursors } from './follower.ts';
import type { Funds } from './funds.ts';
import { LEDGER_FOLLOWER } from './ledger-follower.ts';
import type { Registry } from './registry.ts';
import type { StatisticsLog } from './statistics-log.ts';
import type { ServerTables } from './tables.ts';

/** Sequences up to which the device's records are logged, booked in the ledger, delivered, and evaluated by the authority. */
export type SettlementState = {
  readonly logged: number;
  readonly booked: number;
  readonly delivered: number;
  readonly evaluated: number;
  /** The authority's cursor of the licensee's last grant that is booked. */
  readonly grantsCursor: bigint;
  /** What a funds request would be paid out of drawn credits. */
  readonly drawableMills: bigint;
  readonly suspended: boolean;
  readonly reason: string;
  /** The newest policy that was signed for the device, 0 for none: whoever has an older one takes it. */
  readonly policyVersion: number;
  /** Its digest in hex, empty for none: a server that was restored may have signed another one under the same version. */
  readonly policyDigest: string;
};

export class Settlement {
  readonly #database: SqlDatabase<ServerTables>;
  readonly #log: StatisticsLog;
  readonly #funds: Funds;
  readonly #registry: Registry;

  constructor(database: SqlDatabase<ServerTables>, log: StatisticsLog, funds: Funds, registry: Registry) {
    this.#registry = registry;
    this.#database = database;
    this.#log = log;
    this.#funds = funds;
  }

  async of(device: DeviceId, licensee: LicenseeId): Promise<SettlementState> {
    const cursors = await followerCursors(this.#database, [EVALUATED_FOLLOWER, LEDGER_FOLLOWER, DELIVERY_FOLLOWER]);
    // Mostly all have come equally far: each position is looked up once.
    const sequences = new Map<bigint, number>();
    for (const cursor of new Set(cursors)) sequences.set(cursor, await this.#log.sequenceAt(device, cursor));
    const [evaluated = 0, booked = 0, delivered = 0] = cursors.map((cursor) => sequences.get(cursor) ?? 0);
    const head = await this.#log.head(device);
    const policy = await this.#registry.policy(device);
    const envelope = policy === null ? null : parseEnvelope(policy.policy);
    return {
      logged: head.sequence,
      booked,
      delivered,
      evaluated: Math.min(evaluated, booked),
      grantsCursor: await this.#lastGrant(licensee),
      drawableMills: await this.#funds.drawableMills(licensee),
      suspended: head.suspended,
      reason: head.reason,
      policyVersion: policy?.version ?? 0,
      policyDigest: envelope?.ok === true ? digestText(messageDigest(envelope.value, sha256)) : '',
    };
  }

  /** Of the licensee's own grants: what others were granted since is nothing that its hosts would ever see. */
  async #lastGrant(licensee: LicenseeId): Promise<bigint> {
    const last = await this.#database.read(async (tables) =>
      tables
        .selectFrom('booked_grant')
        .select((eb) => eb.fn.max('cursor').as('cursor'))
        .where('licensee', '=', licensee)
        .executeTakeFirst(),
    );
    return last?.cursor ?? 0n;
  }
}
