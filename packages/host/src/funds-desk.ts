/**
 * The desk of the funds: what the device holds, and funds asked for by the operator.
 *
 * Guarantees: amounts are those of the device's registers; a refusal of the server is an answer, not a failure. The report answers
 * also where the PSD is away, and says so; its receipts are those that this host has: one that lost its store has only later ones.
 */
import { errorText, Fault } from '@countermark/node-platform/fault';
import type { FundsAnswer, FundsReceipt, FundsReportAnswer, RefillAnswer } from '@countermark/protocol/interfaces/host';
import type { DeviceStatus } from '@countermark/protocol/interfaces/psd';
import { mills, parseDecimalMills } from '@countermark/protocol/money';
import { rejection } from '@countermark/protocol/rejection';
import { accept, type Result, refuse } from '@countermark/protocol/result';
import type { AutomaticRefill } from './automatic-refill.ts';
import type { DeviceLink } from './device-link.ts';
import { type Funds, fundsGrantOf } from './funds.ts';
import type { FundsGrantRow } from './grant-table.ts';
import type { RatedParts } from './host-parts.ts';
import { statusOf } from './psd-client.ts';
import { registersReport } from './report.ts';

const DEVICE_PATIENCE_MS = 1_000;
/** Receipts in one answer, and the draws in them. */
const RECEIPTS_AT_ONCE = 200;
const DRAWS_AT_ONCE = 4_000;

export class FundsDesk {
  readonly #parts: RatedParts;
  readonly #link: DeviceLink;
  readonly #funds: Funds;
  readonly #automatic: AutomaticRefill;

  constructor(parts: RatedParts, link: DeviceLink, funds: Funds, automatic: AutomaticRefill) {
    this.#parts = parts;
    this.#link = link;
    this.#funds = funds;
    this.#automatic = automatic;
  }

  async show(): Promise<FundsAnswer> {
    return this.#shown(await statusOf(this.#parts.psd));
  }

  /** Registers and receipts: a page of them, those of numbers after this one. */
  async report(after: number): Promise<FundsReportAnswer> {
    const { psd, journal, tariff } = this.#parts;
    const device = await statusOf(psd, DEVICE_PATIENCE_MS).catch((error: unknown) => {
      if (!(error instanceof Fault)) throw error;
      return errorText(error);
    });
    const known = typeof device === 'string' ? null : this.#shown(device);
    const { code, exponent } = tariff.tariff.currency;
    const rows = journal.grants.fundsAfter(after, RECEIPTS_AT_ONCE);
    const receipts: FundsReceipt[] = [];
    let draws = 0;
    for (const row of rows) {
      const receipt = receiptOf(row);
      draws += receipt.draws.length;
      if (receipts.length > 0 && draws > DRAWS_AT_ONCE) break;
      receipts.push(receipt);
    }
    const last = receipts.at(-1);
    const more = last !== undefined && (receipts.length < rows.length || rows.length === RECEIPTS_AT_ONCE);
    return {
      currency: known?.currency ?? code,
      exponent: known?.exponent ?? exponent,
      funds: known,
      ...(typeof device === 'string' ? { unreachable: device } : {}),
      automatic: this.#automatic.report(),
      receipts,
      next: more ? last.number : null,
    };
  }

  #shown(device: DeviceStatus): FundsAnswer {
    const { tariff } = this.#parts;
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
    if (refusal === undefined) this.#automatic.renew();
    return accept({
      grantedMills: String(grantedMills),
      draws: draws.map((draw) => ({ customer: draw.customer ?? null, amountMills: String(draw.amountMills) })),
      refusal: refusal ?? null,
      funds: await this.show(),
    });
  }
}

function receiptOf({ number, job, bytes, taken }: FundsGrantRow): FundsReceipt {
  const grant = fundsGrantOf(bytes);
  if (grant === null) throw new TypeError('An archived funds grant no longer parses.');
  const drawnMills = grant.draws.reduce((sum, draw) => sum + draw.amountMills, 0n);
  return {
    number,
    grantedAtMs: grant.grantedAtMs,
    amountMills: String(grant.amountMills),
    depositMills: String(grant.amountMills - drawnMills),
    draws: grant.draws.map((draw) => ({ customer: draw.customer ?? null, amountMills: String(draw.amountMills) })),
    refusal: grant.refusal ?? null,
    job,
    taken,
  };
}
