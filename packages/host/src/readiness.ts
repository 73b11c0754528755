/**
 * What must be so before the first piece of a mailing is franked: no other job's batch open, customers known, funds there.
 *
 * Guarantees: what can be seen to without franking is seen to first. Funds may still run out: that is said before, and franking
 * then asks for more, or stops.
 */
import { Fault } from '@countermark/node-platform/fault';
import type { JobId } from '@countermark/protocol/id';
import type { DeviceStatus } from '@countermark/protocol/interfaces/psd';
import type { Currency } from '@countermark/protocol/money';
import { type Rejection, rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import type { DeviceLink } from './device-link.ts';
import type { Funds } from './funds.ts';
import { fundsWarnings } from './funds-outlook.ts';
import type { HostParts } from './host-parts.ts';
import type { Journal } from './journal.ts';
import { statusOf } from './psd-client.ts';
import type { StagedRun } from './staging.ts';

/** The batch that is open at the device and not of this job, as a refusal. */
export function foreignBatch(journal: Journal, device: DeviceStatus, job: string): Rejection | null {
  const open = device.batch;
  if (open === undefined) return null;
  const batch = journal.batches.get(open.batch);
  if (batch !== undefined && journal.batches.jobOf(batch) === job && batch.state !== 'sealed') return null;
  return rejection('batch-open', { batch: open.batch });
}

export class Readiness {
  readonly #parts: Pick<HostParts, 'config' | 'psd' | 'server'>;
  readonly #config: HostParts['config'];
  readonly #link: DeviceLink;
  readonly #funds: Funds;

  constructor(parts: Pick<HostParts, 'config' | 'psd' | 'server'>, link: DeviceLink, funds: Funds) {
    this.#parts = parts;
    this.#config = parts.config;
    this.#link = link;
    this.#funds = funds;
  }

  /**
   * Sees to customers and first funds. Rejections: `unknown-customer`, `customer-missing`, those of the server and of the PSD.
   */
  async readyFor(device: DeviceStatus, staged: StagedRun, job: JobId): Promise<Result<null>> {
    const { firstRefillMills } = this.#config;
    const customers = await this.customers(device, [...new Set(staged.groups.map(({ customer }) => customer))]);
    if (!customers.ok) return customers;
    if (device.funds.receivedMills === 0n && firstRefillMills > 0n) {
      const granted = await this.#funds.request(firstRefillMills, job);
      if (!granted.ok) return granted;
    }
    return accept(null);
  }

  /** What is to be said of the funds for a mailing that costs so much, in sentences for people. Changes nothing. */
  async fundsWarnings(neededMills: bigint, currency: Currency): Promise<readonly string[]> {
    const { config, psd, server } = this.#parts;
    const availableMills = (await statusOf(psd)).registers.descendingMills;
    if (neededMills <= availableMills) return [];
    const deposit = await server.deposit(config.licensee).catch((error: unknown) => {
      if (!(error instanceof Fault)) throw error;
      return null;
    });
    return fundsWarnings({
      neededMills,
      availableMills,
      depositMills: deposit?.ok === true ? deposit.value : null,
      highestMills: this.#link.policy()?.highestFundsMills ?? null,
      automatic: config.automaticRefill || config.refillBelowMills > 0n,
      currency,
    });
  }

  /**
   * Sees to the customers that a mailing names; null where a piece has none. Rejections: `unknown-customer`, `customer-missing`,
   * those of the server and of the PSD.
   */
  async customers(device: DeviceStatus, named: readonly (string | null)[]): Promise<Result<null>> {
    const customers = named.filter((customer) => customer !== null);
    let registered: readonly string[] = device.customers;
    const unknown = customers.filter((customer) => !registered.includes(customer));
    if (unknown.length > 0) {
      const updated = this.#config.registerCustomers
        ? await this.#link.register(device.device, unknown)
        : await this.#link.refreshPolicy(device.device);
      if (!updated.ok) return updated;
      registered = updated.value.customers;
      const still = unknown.find((customer) => !registered.includes(customer));
      if (still !== undefined) return refuse(rejection('unknown-customer', { customer: still }));
    }
    if (named.includes(null) && registered.length > 0) return refuse(rejection('customer-missing', {}));
    return accept(null);
  }
}
