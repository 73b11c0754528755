/**
 * Policies: the limits within which devices frank, and for whom, signed for each device.
 *
 * Guarantees that versions rise, one policy each; a policy that would say what the newest says is not signed again. The policy of
 * a withdrawn device allows no unconfirmed postage, which locks it: it can close, send and be confirmed, and frank no more.
 * The values are the operator's configuration; the defaults are here.
 */
import { sameBytes } from '@countermark/protocol/digest';
import { parseEnvelope } from '@countermark/protocol/cose';
import type { CustomerId, DeviceId, LicenseeId } from '@countermark/protocol/id';
import { type Policy, policySchema } from '@countermark/protocol/messages/policy';
import { type Currency, mills } from '@countermark/protocol/money';
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import { encodeWith, parseBytes } from '@countermark/protocol/schema';
import type { CryptographicDevice } from './cryptographic-device-client.ts';
import type { Registry } from './registry.ts';

/** What every policy of this server says, but for device and customers. */
export type PolicyValues = Omit<Policy, 'device' | 'licensee' | 'version' | 'customers'>;

const USD: Currency = { code: 'USD', exponent: 3 };

export const DEFAULT_POLICY: PolicyValues = {
  currency: USD,
  lowestPostageMills: mills(1n),
  highestPostageMills: mills(100_000n),
  highestFundsMills: mills(50_000_000n),
  maxUnconfirmedBatches: 1_000,
  maxUnconfirmedPostageMills: mills(1_000_000_000n),
  warnAfterDays: 28,
  lockAfterDays: 90,
  maxPiecesPerBatch: 2_000_000,
  maxCellsPerBatch: 1_024,
  memoryPieces: 2_000_000,
};

const ATTEMPTS = 8;
/** So many versions at most a restored server believes to have forgotten: nobody uses versions up by asking. */
const FORGOTTEN_MOST = 10_000;

export class Policies {
  readonly #registry: Registry;
  readonly #cryptographicDevice: CryptographicDevice;
  readonly #values: PolicyValues;

  constructor(registry: Registry, cryptographicDevice: CryptographicDevice, values: PolicyValues) {
    this.#registry = registry;
    this.#cryptographicDevice = cryptographicDevice;
    this.#values = values;
  }

  /**
   * The device's policy as it has to be now, signed; a new version where the newest says something else. `above`: the version that
   * the device has; a server that was restored from a backup may have forgotten it, and what it signs under an older one no
   * device takes.
   */
  async renewed(
    device: DeviceId,
    licensee: LicenseeId,
    customers: readonly CustomerId[],
    above = 0,
  ): Promise<Result<Uint8Array>> {
    const withdrawn = (await this.#registry.withdrawal(device)) !== null;
    const values = withdrawn ? { ...this.#values, maxUnconfirmedPostageMills: mills(0n) } : this.#values;
    for (let attempt = 0; attempt < ATTEMPTS; attempt += 1) {
      const newest = await this.#registry.policy(device);
      const policy = (version: number): Uint8Array =>
        encodeWith(policySchema, { ...values, device, licensee, customers, version });
      const last = newest?.version ?? 0;
      if (newest !== null && last >= above) {
        const envelope = parseEnvelope(newest.policy);
        if (envelope.ok && sameBytes(envelope.value.payload, policy(newest.version))) return accept(newest.policy);
      }
      const version = Math.max(last, Math.min(above, last + FORGOTTEN_MOST)) + 1;
      const signed = await this.#cryptographicDevice.signPolicy(policy(version));
      if (!signed.ok) return signed;
      // Another request may have made this version meanwhile: then it is looked at again.
      if (await this.#registry.addPolicy(device, version, signed.value)) return signed;
    }
    return refuse(rejection('try-again', { reason: 'the policy is being changed by others' }));
  }
}

/** Policy values from the configuration: amounts as texts, the rest as numbers; what is not given is the default. */
export function policyValues(given: Readonly<Record<string, unknown>>): Result<PolicyValues> {
  const invalid = (name: string) =>
    refuse(rejection('config-invalid', { file: 'of the server', reason: `the policy's ${name} is not valid` }));
  const values: Record<string, unknown> = { ...DEFAULT_POLICY };
  for (const [name, value] of Object.entries(given)) {
    if (!Object.hasOwn(DEFAULT_POLICY, name)) return invalid(name);
    if (name.endsWith('Mills')) {
      if (typeof value !== 'string' || !/^\d{1,18}$/.test(value)) return invalid(name);
      values[name] = mills(BigInt(value));
    } else values[name] = value;
  }
  const probe = {
    ...(values as PolicyValues),
    device: 'psd_0000000000000000',
    licensee: 'lic_x',
    version: 1,
    customers: [],
  };
  try {
    const parsed = parseBytes(policySchema, encodeWith(policySchema, probe as unknown as Policy));
    return parsed.ok ? accept(values as PolicyValues) : invalid(String(parsed.rejection.detail['path']));
  } catch {
    return invalid('form');
  }
}
