/**
 * What operators choose for one device: its profile of reporting deadlines, and that it was inspected.
 *
 * Guarantees: the choice and the operator's act are one unit of work; the policy that says it is signed at once where the
 * cryptographic device answers, and otherwise the next time that a host asks for it. A device learns it from that policy: no choice
 * here moves a device before its host brings it. Does not inspect anything: an operator says that somebody has.
 */
import type { DeviceId, LicenseeId } from '@countermark/protocol/id';
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import type { SqlDatabase } from '@countermark/sql/database';
import { type Actor, type NewAct, recordAct } from './audit-trail.ts';
import { OWN_PROFILE, type Policies, PROFILES } from './policies.ts';
import type { DeviceSetting, Registry } from './registry.ts';
import type { ServerTables } from './tables.ts';

export type DeviceSettingsParts = {
  readonly database: SqlDatabase<ServerTables>;
  readonly registry: Registry;
  readonly policies: Policies;
  readonly nowMs: () => number;
};

/** A setting as it stands; `policySigned` false: it is signed when the device's host asks. */
export type Chosen = DeviceSetting & { readonly policySigned: boolean };

export class DeviceSettings {
  readonly #parts: DeviceSettingsParts;

  constructor(parts: DeviceSettingsParts) {
    this.#parts = parts;
  }

  /** Chooses the deadlines of the device; `standard` is the server's own. Rejections: `usage`, `unknown-device`. */
  async choose(device: DeviceId, profile: string, by: Actor): Promise<Result<Chosen>> {
    if (profile !== OWN_PROFILE && !Object.hasOwn(PROFILES, profile)) {
      const known = [OWN_PROFILE, ...Object.keys(PROFILES)].join(', ');
      return refuse(rejection('usage', { reason: `The profile ${profile} is unknown; there are ${known}.` }));
    }
    const named = profile === OWN_PROFILE ? '' : profile;
    return this.#set(device, { profile: named }, { act: 'profile-chosen', by, words: profile });
  }

  /** Notes that the device was inspected now. Rejection: `unknown-device`. */
  async inspected(device: DeviceId, words: string, by: Actor): Promise<Result<Chosen>> {
    const inspected_at_ms = BigInt(this.#parts.nowMs());
    return this.#set(device, { inspected_at_ms }, { act: 'inspected', by, words });
  }

  async #set(
    device: DeviceId,
    change: { readonly profile: string } | { readonly inspected_at_ms: bigint },
    act: Pick<NewAct, 'act' | 'by' | 'words'>,
  ): Promise<Result<Chosen>> {
    const { database, registry, policies, nowMs } = this.#parts;
    const licensee: LicenseeId | null = await registry.deviceLicensee(device);
    if (licensee === null) return refuse(rejection('unknown-device', { device }));
    await database.transaction(async (tables) => {
      await tables
        .insertInto('device_setting')
        .values({ profile: '', inspected_at_ms: null, ...change, device })
        .onConflict((conflict) => conflict.column('device').doUpdateSet(change))
        .execute();
      await recordAct(tables, { ...act, subject: device, atMs: nowMs() });
    });
    const signed = await policies.renewed(device, licensee, await registry.customersOf(licensee));
    return accept({ ...(await registry.setting(device)), policySigned: signed.ok });
  }
}
