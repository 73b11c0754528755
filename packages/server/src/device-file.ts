/**
 * What the server knows of a device, for its operators: standing, chain, balance, evidence, declarations and acts.
 *
 * Guarantees that evidence is handed out as the exact bytes that were stored, each record with its attestation and the certificate
 * under which it stands, so that whoever looks verifies it again and believes nothing of this server. Changes nothing.
 */
import type { Digest } from '@countermark/protocol/digest';
import { parseEnvelope } from '@countermark/protocol/cose';
import type { DeviceId, LicenseeId } from '@countermark/protocol/id';
import type { SqlDatabase } from '@countermark/sql/database';
import { actsOf, type DeviceAct } from './audit-trail.ts';
import type { Closure, Closures } from './closures.ts';
import type { DeadDevices, Death } from './dead-devices.ts';
import { ACCOUNT, type Ledger } from './ledger.ts';
import type { Registry } from './registry.ts';
import type { DeviceHead, LogEntry, StatisticsLog } from './statistics-log.ts';
import type { ServerTables } from './tables.ts';

/**
 * `good`; `suspended` by a fork; `withdrawn` for good by an operator; `dead`: withdrawn, as two operators say; `closing` on its
 * owner's wish, `closed` once its final statement is in the log.
 */
export type Standing = 'good' | 'suspended' | 'withdrawn' | 'dead' | 'closing' | 'closed';

export type DeviceLine = {
  readonly device: DeviceId;
  readonly licensee: LicenseeId;
  readonly standing: Standing;
  /** Why it is not good, or empty. */
  readonly reason: string;
  readonly sequence: number;
  /** Records that were not accepted and are kept. */
  readonly evidence: number;
  /** Funds granted less confirmed postage, in mills. */
  readonly balanceMills: bigint;
};

export type DeviceFile = DeviceLine & {
  readonly head: DeviceHead;
  readonly death: Death | null;
  readonly closure: Closure | null;
  /** Of its reporting deadlines; empty for the server's own. */
  readonly profile: string;
  readonly inspectedAtMs: number | null;
  /** The newest that was signed, 0 for none; the device may have an older one. */
  readonly policyVersion: number;
  readonly acts: readonly DeviceAct[];
};

/** A record with what verifies it. */
export type Exhibit = {
  readonly sequence: number;
  readonly digest: Digest;
  readonly record: Uint8Array;
  readonly attestation: Uint8Array;
  readonly certificate: Uint8Array | null;
  readonly atMs: number;
};

/** A record that was not accepted, and the accepted one that it stands against: of its sequence, or else the one before. */
export type EvidenceCase = {
  readonly code: string;
  readonly refused: Exhibit;
  readonly accepted: Exhibit | null;
};

export type DeviceFileParts = {
  readonly database: SqlDatabase<ServerTables>;
  readonly registry: Registry;
  readonly log: StatisticsLog;
  readonly ledger: Ledger;
  readonly deadDevices: DeadDevices;
  readonly closures: Closures;
};

export class DeviceFiles {
  readonly #parts: DeviceFileParts;

  constructor(parts: DeviceFileParts) {
    this.#parts = parts;
  }

  /** Devices after an id, in the order of their ids; of one standing where it is given. */
  async list(after: string, limit: number, standing?: Standing): Promise<readonly DeviceLine[]> {
    const rows = await this.#parts.database.read(async (tables) =>
      tables
        .selectFrom('device')
        .leftJoin('head', 'head.device', 'device.device')
        .leftJoin('withdrawal', 'withdrawal.device', 'device.device')
        .leftJoin('death', 'death.device', 'device.device')
        .leftJoin('closure', 'closure.device', 'device.device')
        .select((eb) => [
          'device.device',
          'device.licensee',
          'head.sequence',
          'head.suspended',
          'head.reason as suspension_reason',
          'withdrawal.reason as withdrawal_reason',
          'death.confirmed_by',
          'closure.device as closing_device',
          'closure.sequence as final_sequence',
          eb
            .selectFrom('evidence')
            .select((count) => count.fn.countAll<bigint>().as('count'))
            .whereRef('evidence.device', '=', 'device.device')
            .as('evidence'),
        ])
        .where('device.device', '>', after)
        .$if(standing === 'good', (query) =>
          query
            .where((eb) => eb.or([eb('head.suspended', 'is', null), eb('head.suspended', '=', 0n)]))
            .where('closure.device', 'is', null),
        )
        .$if(standing === 'closing' || standing === 'closed', (query) =>
          query
            .where((eb) => eb.or([eb('head.suspended', 'is', null), eb('head.suspended', '=', 0n)]))
            .where('closure.device', 'is not', null)
            .where('closure.sequence', standing === 'closed' ? 'is not' : 'is', null),
        )
        .$if(standing === 'suspended' || standing === 'withdrawn' || standing === 'dead', (query) =>
          query.where('head.suspended', '=', 1n),
        )
        .$if(standing === 'suspended', (query) => query.where('withdrawal.device', 'is', null))
        .$if(standing === 'withdrawn', (query) =>
          query.where('withdrawal.device', 'is not', null).where('death.confirmed_by', 'is', null),
        )
        .$if(standing === 'dead', (query) => query.where('death.confirmed_by', 'is not', null))
        .orderBy('device.device')
        .limit(limit)
        .execute(),
    );
    const balances = await this.#balances(rows.map((row) => row.device as DeviceId));
    return rows.map((row) => ({
      device: row.device as DeviceId,
      licensee: row.licensee as LicenseeId,
      standing: standingOf(
        row.suspended === 1n,
        row.withdrawal_reason !== null,
        row.confirmed_by !== null,
        row.closing_device === null ? null : row.final_sequence !== null,
      ),
      reason: row.withdrawal_reason ?? (row.suspended === 1n ? (row.suspension_reason ?? '') : ''),
      sequence: Number(row.sequence ?? 0n),
      evidence: Number(row.evidence ?? 0n),
      balanceMills: balances.get(ACCOUNT.device(row.device as DeviceId)) ?? 0n,
    }));
  }

  /** All about one device. */
  async of(device: DeviceId, licensee: LicenseeId): Promise<DeviceFile> {
    const { database, registry, log, ledger, deadDevices, closures } = this.#parts;
    const head = await log.head(device);
    const withdrawal = await registry.withdrawal(device);
    const death = await deadDevices.of(device);
    const closure = await closures.of(device);
    return {
      device,
      licensee,
      standing: standingOf(
        head.suspended,
        withdrawal !== null,
        death?.confirmedBy != null,
        closure === null ? null : closure.sequence !== null,
      ),
      reason: withdrawal?.reason ?? (head.suspended ? head.reason : (closure?.reason ?? '')),
      sequence: head.sequence,
      evidence: (await log.evidence(device)).length,
      balanceMills: await ledger.balance(ACCOUNT.device(device)),
      head,
      death,
      closure,
      ...(await registry.setting(device)),
      policyVersion: (await registry.policy(device))?.version ?? 0,
      acts: await actsOf(database, device),
    };
  }

  /** The evidence against a device, oldest first. */
  async evidence(device: DeviceId): Promise<readonly EvidenceCase[]> {
    const { log } = this.#parts;
    const cases: EvidenceCase[] = [];
    for (const { code, sequence, digest, record, attestation, atMs } of await log.evidence(device)) {
      const accepted = (await log.entry(device, sequence)) ?? (await log.entry(device, sequence - 1));
      cases.push({
        code,
        refused: { sequence, digest, record, attestation, certificate: await this.#certificateOf(record), atMs },
        accepted: accepted === null ? null : await this.#exhibit(accepted),
      });
    }
    return cases;
  }

  async #balances(devices: readonly DeviceId[]): Promise<ReadonlyMap<string, bigint>> {
    if (devices.length === 0) return new Map();
    const rows = await this.#parts.database.read(async (tables) =>
      tables.selectFrom('balance').selectAll().where('account', 'in', devices.map(ACCOUNT.device)).execute(),
    );
    return new Map(rows.map((row) => [row.account, row.balance_mills]));
  }

  async #exhibit(entry: LogEntry): Promise<Exhibit> {
    const { sequence, digest, record, attestation, acceptedAtMs } = entry;
    const certificate = await this.#certificateOf(record);
    return { sequence, digest, record, attestation, certificate, atMs: acceptedAtMs };
  }

  async #certificateOf(record: Uint8Array): Promise<Uint8Array | null> {
    const envelope = parseEnvelope(record);
    if (!envelope.ok) return null;
    const { holder, epoch } = envelope.value.key;
    return (await this.#parts.registry.certificate(holder, epoch))?.bytes ?? null;
  }
}

/** `ended`: of a device that is being closed, whether its final statement is there; null of another. */
function standingOf(suspended: boolean, withdrawn: boolean, dead: boolean, ended: boolean | null): Standing {
  if (dead) return 'dead';
  if (withdrawn) return 'withdrawn';
  if (suspended) return 'suspended';
  if (ended === null) return 'good';
  return ended ? 'closed' : 'closing';
}
