/**
 * The signed word that a device is suspended, or withdrawn for good, for hosts and for the postal authority.
 *
 * Guarantees: signed once for a device and stored, and once more when it is withdrawn; asked again, the same bytes. The log marks a suspension first, in the
 * unit of work that found the fork: what a crash kept from being signed then is signed when it is asked for.
 * Does not decide who is suspended (`statistics-log.ts`) or withdrawn (`withdrawals.ts`), and knows no release: a fork ends in
 * withdrawal.
 */
import type { DeviceId } from '@countermark/protocol/id';
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import type { CryptographicDevice } from './cryptographic-device-client.ts';
import type { Registry } from './registry.ts';

export class Suspensions {
  readonly #registry: Registry;
  readonly #cryptographicDevice: CryptographicDevice;

  constructor(registry: Registry, cryptographicDevice: CryptographicDevice) {
    this.#registry = registry;
    this.#cryptographicDevice = cryptographicDevice;
  }

  /**
   * The suspension of a device that the log has suspended for the reason; its withdrawal where it was withdrawn.
   * Rejections: `unknown-device`, `try-again`.
   */
  async of(device: DeviceId, reason: string): Promise<Result<Uint8Array>> {
    const withdrawal = await this.#registry.withdrawal(device);
    const stored = withdrawal === null ? await this.#registry.suspension(device) : withdrawal.suspension;
    if (stored !== null) return accept(stored);
    const licensee = await this.#registry.deviceLicensee(device);
    if (licensee === null) return refuse(rejection('unknown-device', { device }));
    const withdrawn = withdrawal !== null;
    const signed = await this.#cryptographicDevice.suspend(device, licensee, withdrawal?.reason ?? reason, withdrawn);
    if (!signed.ok) return signed;
    await this.#registry.setSuspension(device, signed.value, withdrawn);
    // Another request may have stored one meanwhile: the stored one counts.
    return accept((await this.#registry.suspension(device)) ?? signed.value);
  }
}
