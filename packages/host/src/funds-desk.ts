/**
 * The desk of the funds: what the device holds, and funds asked for by the operator.
 *
 * Guarantees: amounts are those of the device's registers; a refusal of the server is an answer, not a failure.
 */
import type { FundsAnswer, RefillAnswer } from '@countermark/protocol/interfaces/host';
import { mills, parseDecimalMills } from '@countermark/protocol/money';
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import type { DeviceLink } from './device-link.ts';
import type { Funds } from './funds.ts';
import type { RatedParts } from './host-parts.ts';
import { statusOf } from './psd-client.ts';
import { registersReport } from './report.ts';

export class FundsDesk {
  readonly #parts: RatedParts;
  readonly #link: DeviceLink;
  readonly #funds: Funds;

  constructor(parts: RatedParts, link: DeviceLink, funds: Funds) {
    this.#parts = parts;
    this.#link = link;
    this.#funds = funds;
  }

  async show(): Promise<FundsAnswer> {
    const { psd, tariff } = this.#parts;
    const device = await statusOf(psd);
    const { code, exponent } = device.currency ?? tariff.tariff.currency;
    return {
      ...registersReport(device.registers),
      receivedMills: String(device.funds.receivedMills),
      returnedMills: String(device.funds.returnedMills),
      lastGrant: device.funds.lastGrant,
      pendingRequest: device.pendingFundsRequest ?? null,
      currency: code,
      exponent,
    };
  }

  /** Asks for funds: an amount in currency units, or in mills. */
  async refill(amount: string | undefined, amountMills: string | undefined): Promise<Result<RefillAnswer>> {
    const { tariff, journal } = this.#parts;
    const { exponent } = tariff.tariff.currency;
    const asked = amountMills === undefined ? parseDecimalMills(amount ?? '', exponent) : mills(BigInt(amountMills));
    if (asked === null) {
      return refuse(rejection('usage', { reason: `${amount ?? ''} is no amount such as 250.00.` }));
    }
    const enrolled = await this.#link.enrolled();
    if (!enrolled.ok) return enrolled;
    const granted = await this.#funds.request(asked, journal.jobs.last());
    if (!granted.ok) return granted;
    const { amountMills: grantedMills, draws, refusal } = granted.value;
    return accept({
      grantedMills: String(grantedMills),
      draws: draws.map((draw) => ({ customer: draw.customer ?? null, amountMills: String(draw.amountMills) })),
      refusal: refusal ?? null,
      funds: await this.show(),
    });
  }
}
