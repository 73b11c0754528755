/**
 * Policies: the limits within which devices frank, and for whom, signed for each device.
 *
 * Guarantees that versions rise, one policy each; a policy that would say what the newest says is not signed again. The policy of
 * a withdrawn device allows no unconfirmed postage, which locks it: it can close, send and be confirmed, and frank no more.
 * The values are the operator's configuration; the defaults, and the profiles that an operator may choose for one device, are here.
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

/** What every policy of this server says, but for device, customers and the date of the device's last inspection. */
export type PolicyValues = Omit<Policy, 'device' | 'licensee' | 'version' | 'customers' | 'inspection' | 'closing'> & {
  readonly inspection?: Omit<NonNullable<Policy['inspection']>, 'inspectedAtMs'>;
};

/** Reporting deadlines by name, in days from the oldest record that is not confirmed: warn, then lock. */
export const PROFILES: Readonly<Record<string, Pick<Policy, 'warnAfterDays' | 'lockAfterDays'>>> = {
  '72h': { warnAfterDays: 2, lockAfterDays: 3 },
  '21+7': { warnAfterDays: 21, lockAfterDays: 28 },
  '90+30': { warnAfterDays: 90, lockAfterDays: 120 },
};
/** The profile of a device for which none was chosen: what the server's configuration says. */
export const OWN_PROFILE = 'standard';

const USD: Currency = { code: 'USD', exponent: 3 };

export const DEFAULT_POLICY = {
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
} satisfies PolicyValues;

/** Settings that have no default: absent, the policy does not say anything of it. */
const OPTIONAL: readonly string[] = ['inspection', 'products', 'scheme'];

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
    const values = await this.#valuesOf(device);
    for (let attempt = 0; attempt < ATTEMPTS; attempt += 1) {
      const newest = await this.#registry.policy(device);
      const policy = (version: number): Uint8Array =>
        encodeWith(policySchema, { ...values, device, licensee, customers, version });
      const last = newest?.version ?? 0;
      if (newest !== null && last >= above) {
        const envelope = parseEnvelope(newest.policy);
        if (envelope.ok && sameBytes(envelope.value.payload, policy(newest.version))) return accept(newest.policy);
      }
      // An order to close comes once, and nobody may take it for a policy that a restored server has forgotten.
      const next = values.closing === true ? FORGOTTEN_MOST + 1 : 1;
      const version = Math.max(last, Math.min(above, last + FORGOTTEN_MOST)) + next;
      const signed = await this.#cryptographicDevice.signPolicy(policy(version));
      if (!signed.ok) return signed;
      // Another request may have made this version meanwhile: then it is looked at again.
      if (await this.#registry.addPolicy(device, version, signed.value)) return signed;
    }
    return refuse(rejection('try-again', { reason: 'the policy is being changed by others' }));
  }

  /** What the device's policy says now: the server's values, what operators chose for it, and its end where it has one. */
  async #valuesOf(device: DeviceId): Promise<Omit<Policy, 'device' | 'licensee' | 'version' | 'customers'>> {
    const { inspection, ...common } = this.#values;
    const { profile, inspectedAtMs } = await this.#registry.setting(device);
    // Before its first inspection here the days run from its enrolment.
    const since = inspectedAtMs ?? (await this.#registry.certificate(device, 1))?.message.issuedAtMs;
    const withdrawn = (await this.#registry.withdrawal(device)) !== null;
    const closing = await this.#registry.isClosing(device);
    return {
      ...common,
      ...PROFILES[profile],
      ...(inspection === undefined || since === undefined
        ? {}
        : { inspection: { ...inspection, inspectedAtMs: since } }),
      ...(withdrawn || closing ? { maxUnconfirmedPostageMills: mills(0n) } : {}),
      // One that was withdrawn gives nothing back by its own statement.
      ...(closing && !withdrawn ? { closing } : {}),
    };
  }
}

/** Policy values from the configuration: `profile` for both deadlines, amounts as texts, the rest as numbers; what is not given is the default. */
export function policyValues(given: Readonly<Record<string, unknown>>): Result<PolicyValues> {
  const invalid = (name: string) =>
    refuse(rejection('config-invalid', { file: 'of the server', reason: `the policy's ${name} is not valid` }));
  const values: Record<string, unknown> = { ...DEFAULT_POLICY };
  const { profile, ...settings } = given;
  if (profile !== undefined) {
    if (typeof profile !== 'string' || !Object.hasOwn(PROFILES, profile)) return invalid('profile');
    Object.assign(values, PROFILES[profile]);
  }
  for (const [name, value] of Object.entries(settings)) {
    if (!Object.hasOwn(DEFAULT_POLICY, name) && !OPTIONAL.includes(name)) return invalid(name);
    if (name.endsWith('Mills')) {
      if (typeof value !== 'string' || !/^\d{1,18}$/.test(value)) return invalid(name);
      values[name] = mills(BigInt(value));
    } else values[name] = value;
  }
  // It would withdraw every device for good: that is said of one device, by an operator.
  if (values['maxUnconfirmedPostageMills'] === 0n) return invalid('maxUnconfirmedPostageMills');
  const { inspection } = values;
  const inspected = typeof inspection === 'object' ? { inspection: { ...inspection, inspectedAtMs: 1 } } : {};
  const probe = {
    ...(values as PolicyValues),
    ...inspected,
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
