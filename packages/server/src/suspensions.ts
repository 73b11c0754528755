/**
 * The signed word that a device is suspended, or withdrawn for good, for hosts and for the postal authority.
 *
 * Guarantees: signed once for a device and stored, and once more when it is withdrawn; asked again, the same bytes. The log marks a suspension first, in the
 * unit of work that found the fork: what a crash kept from being signed then is signed when it is asked for. It names the last record that
 * stands, as the log marked it; where the cryptographic device signed a withdrawal before this server was restored from a backup, that one's
 * record counts in the log, too, and whatever the log marked meanwhile stays marked.
 * Does not decide who is suspended (`statistics-log.ts`) or withdrawn (`withdrawals.ts`), and knows no release: a fork ends in
 * withdrawal.
 */
import { nodeVerification } from '@countermark/node-platform/verification';
import type { DeviceId } from '@countermark/protocol/id';
import { SUSPENSION } from '@countermark/protocol/messages/policy';
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { type KeySource, verifyMessage } from '@countermark/verify/verified';
import type { CryptographicDevice } from './cryptographic-device-client.ts';
import type { Registry } from './registry.ts';
import type { LogEntry, StatisticsLog } from './statistics-log.ts';

export type SuspensionParts = {
  readonly registry: Registry;
  readonly log: StatisticsLog;
  readonly cryptographicDevice: CryptographicDevice;
  readonly roleKeys: KeySource;
};

export class Suspensions {
  readonly #parts: SuspensionParts;

  constructor(parts: SuspensionParts) {
    this.#parts = parts;
  }

  /**
   * The suspension of a device that the log has suspended for the reason; its withdrawal where it was withdrawn.
   * Rejections: `unknown-device`, `try-again`, those of `verifyMessage`.
   */
  async of(device: DeviceId, reason: string): Promise<Result<Uint8Array>> {
    const { registry, log, cryptographicDevice, roleKeys } = this.#parts;
    const withdrawal = await registry.withdrawal(device);
    const stored = withdrawal === null ? await registry.suspension(device) : withdrawal.suspension;
    if (stored !== null) return accept(stored);
    const licensee = await registry.deviceLicensee(device);
    if (licensee === null) return refuse(rejection('unknown-device', { device }));
    const withdrawn = withdrawal !== null;
    const why = withdrawal?.reason ?? reason;
    const signed = await cryptographicDevice.suspend(
      device,
      licensee,
      why,
      withdrawn,
      await this.#lastStanding(device),
    );
    if (!signed.ok) return signed;
    const word = verifyMessage(SUSPENSION, signed.value, { port: nodeVerification, keys: roleKeys });
    if (!word.ok) return word;
    await log.standUntil(device, word.value.message.afterSequence ?? 0);
    await registry.setSuspension(device, signed.value, withdrawn);
    // Another request may have stored one meanwhile: the stored one counts.
    return accept((await registry.suspension(device)) ?? signed.value);
  }

  /** The last record that stands, or null where none does. */
  async #lastStanding(device: DeviceId): Promise<LogEntry | null> {
    const { log } = this.#parts;
    const { sequence, suspendedAfter } = await log.head(device);
    return log.entry(device, Math.min(sequence, suspendedAfter));
  }
}
